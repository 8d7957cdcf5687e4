//! What an SA sends with: the engine's SA, and what another one is made of when its numbers are to go on elsewhere.

use std::ops::RangeInclusive;
use std::sync::Arc;

use culvert_engine::esp::{IvRange, Key, OutboundSa, Router};

use super::sa::Sa;
use crate::config::{Secret, Suite};
use crate::plan;
use crate::sync::marks::Outlet;

/// See the module page.
#[derive(Debug)]
pub struct Outbound {
    engine: Arc<OutboundSa>,
    router: Router,
    spi: u32,
    suite: Suite,
    key: Secret,
    esn: bool,
    /// Packets after which nothing is sent with it.
    most: u64,
}

impl Outbound {
    /// For `sa`, with all its numbers, as `router` of a pair.
    ///
    /// # Errors
    /// The engine does not take it, in words.
    pub fn all(sa: &Sa, router: Router) -> Result<Outbound, String> {
        let most = sa.limits.packets.unwrap_or(u64::MAX);
        let (spi, suite, key, esn) = (sa.id.spi, sa.suite, sa.key.clone(), sa.esn);
        let engine = Arc::new(engine((spi, suite, &key, esn), router, most)?);
        Ok(Outbound { engine, router, spi, suite, key, esn, most })
    }

    /// The same, with no number.
    ///
    /// # Errors
    /// As [`Outbound::all`].
    pub fn none(sa: &Sa, router: Router) -> Result<Outbound, String> {
        let mut outbound = Outbound::all(sa, router)?;
        outbound.engine = Arc::new(outbound.anew()?.within(1, 0));
        Ok(outbound)
    }

    fn anew(&self) -> Result<OutboundSa, String> {
        engine((self.spi, self.suite, &self.key, self.esn), self.router, self.most)
    }

    /// The engine's SA.
    pub fn engine(&self) -> &Arc<OutboundSa> {
        &self.engine
    }
}

/// The engine's SA. Its IVs count with its numbers: where two routers have disjoint numbers, so has each router before its restart
/// and after, and they have disjoint IVs.
fn engine(
    (spi, suite, key, esn): (u32, Suite, &Secret, bool),
    router: Router,
    most: u64,
) -> Result<OutboundSa, String> {
    let key = Key::new(plan::suite(suite), key.expose()).map_err(|error| error.to_string())?;
    let iv = IvRange::of_run(router, 0).ok_or("no IVs are left")?;
    Ok(OutboundSa::new(spi, key, esn, iv, 1).limited(most))
}

impl Outlet for Outbound {
    fn limit(&mut self, last: u64) -> u64 {
        self.engine.limit(last)
    }

    fn extend(&mut self, last: u64) {
        self.engine.extend(last);
    }

    /// By another SA in the engine: a worker that still has the one before goes on to its limit at most, and loses nothing until it
    /// has the other one. The two have no number in common.
    fn move_to(&mut self, numbers: RangeInclusive<u64>) {
        let (first, last) = numbers.into_inner();
        if let Ok(engine) = self.anew() {
            self.engine = Arc::new(engine.within(first, last));
        }
    }

    fn next(&self) -> u64 {
        self.engine.numbers().end
    }

    fn last(&self) -> u64 {
        self.engine.last()
    }

    fn end(&self) -> u64 {
        self.engine.end()
    }
}

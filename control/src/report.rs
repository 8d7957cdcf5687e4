//! What commands report of a tunnel: its counters, and where its SAs stand.

use std::sync::Arc;

use culvert_engine::counters::{TunnelCounterSet, TunnelCounters};
use culvert_engine::esp::{InboundSa, OutboundSa};
use serde::{Deserialize, Serialize};

use crate::config::{Direction, ManualSa, Protect, Suite, Tunnel};

/// Packets and bytes of inner packets, all workers' added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[allow(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub in_packets: u64,
    pub in_bytes: u64,
    pub out_packets: u64,
    pub out_bytes: u64,
}

impl Counts {
    /// The counts so far.
    pub fn of(counters: &TunnelCounterSet) -> Counts {
        let mut counts = Counts::default();
        counters.workers().for_each(|worker| counts.add(worker));
        counts
    }

    /// Adds what one worker has counted for one tunnel.
    pub fn add(&mut self, counters: &TunnelCounters) {
        let TunnelCounters { in_packets, in_bytes, out_packets, out_bytes } = counters;
        self.in_packets += in_packets.get();
        self.in_bytes += in_bytes.get();
        self.out_packets += out_packets.get();
        self.out_bytes += out_bytes.get();
    }
}

/// What strongSwan was told of a tunnel, beside what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeReport {
    /// Its version; null where it is not there.
    pub strongswan: Option<String>,
    /// The connection as it was told, in the form of swanctl.conf(5).
    pub generated: String,
    /// What it was given of secrets and keys: what kind, and whose. Not what they are.
    pub credentials: Vec<String>,
    /// The connection as strongSwan lists it; null where it has not answered.
    pub loaded: Option<String>,
    /// How the two differ.
    pub differences: Vec<String>,
    /// It has been asked, and will have answered if this is asked for again.
    pub waiting: bool,
}

/// An SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SaReport {
    /// `in` or `out`.
    pub direction: String,
    /// Its number.
    pub spi: u32,
    /// Its cipher suite.
    pub suite: String,
    /// Its sequence numbers.
    #[serde(flatten)]
    pub numbers: Numbers,
    /// `live` or `exhausted`.
    pub state: String,
    /// Where its keys come from: `manual`, `plugin`, `xfrm`, `pfkey`, or `partner`, the other router of a pair.
    #[serde(default)]
    pub source: String,
}

/// The sequence numbers of an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Numbers {
    /// Of one that sends.
    Out {
        /// How many were used.
        used: u64,
        /// How many are left.
        remaining: u64,
    },
    /// Of one that receives.
    In {
        /// The highest that was received.
        highest: u64,
    },
}

/// The SAs of a protected tunnel, in the configuration's order; `None` where it has no fixed ones.
pub fn sas<'a>(
    config: &Tunnel,
    outbound: impl Iterator<Item = &'a OutboundSa>,
    inbound: &[Arc<InboundSa>],
) -> Option<Vec<SaReport>> {
    let manual = match &config.protect {
        Protect::Manual(manual) => manual,
        Protect::None | Protect::Ike(_) => return None,
    };
    let outbound: Vec<&OutboundSa> = outbound.collect();
    let report = |sa: &ManualSa| {
        let numbers = match sa.direction {
            Direction::Out => outbound
                .iter()
                .find(|own| own.spi() == sa.spi)
                .map(|sa| Numbers::Out { used: sa.highest(), remaining: sa.until_end() }),
            Direction::In => inbound
                .iter()
                .find(|inbound| inbound.spi() == sa.spi)
                .map(|inbound| Numbers::In { highest: inbound.window().highest() }),
        }?;
        Some(sa_report(sa.direction, (sa.spi, sa.suite, sa.esn), numbers, "manual"))
    };
    Some(manual.sas.iter().filter_map(report).collect())
}

/// What is reported of an SA (its SPI, its suite, whether it has ESN) whose sequence numbers stand there, and whose keys come from `source`.
pub fn sa_report(
    direction: Direction,
    (spi, suite, esn): (u32, Suite, bool),
    numbers: Numbers,
    source: &str,
) -> SaReport {
    let last = if esn { u64::MAX } else { u64::from(u32::MAX) };
    let exhausted = match numbers {
        Numbers::Out { remaining, .. } => remaining == 0,
        Numbers::In { highest } => highest == last,
    };
    let direction = match direction {
        Direction::Out => "out",
        Direction::In => "in",
    };
    SaReport {
        direction: direction.to_owned(),
        spi,
        suite: suite.name().to_owned(),
        numbers,
        state: if exhausted { "exhausted" } else { "live" }.to_owned(),
        source: source.to_owned(),
    }
}

//! When negotiated SAs are replaced, and when they end: the settings `rekey`, `life`, `ike_rekey`, `reauth` and those beside them
//! in a tunnel's `ike` table.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::model::Profile;
use super::reader::Table;
use super::report::{Fault, Report};
use super::values::{self, quoted};

/// The part of what is said, in per cent, that an SA is replaced earlier by chance at most, where nothing is said.
const JITTER: u8 = 15;

/// Bytes after which an SA may be replaced. strongSwan reads at most 15 digits.
const BYTES: RangeInclusive<i128> = 1_000_000..=800_000_000_000_000;
/// Packets after which an SA may be replaced.
const PACKETS: RangeInclusive<i128> = 1_000..=800_000_000_000_000;

/// How much of something an SA is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life<T> {
    /// It is replaced after this, or earlier by chance.
    pub rekey: T,
    /// It ends after this, replaced or not. More than `rekey`.
    pub end: T,
}

/// When the SAs of a tunnel are replaced, and when they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Time for the tunnel's own SAs, in whole seconds.
    pub time: Life<Duration>,
    /// Bytes that each of them protects; `None`: any number.
    pub bytes: Option<Life<u64>>,
    /// Packets that each of them protects; `None`: as many as there are sequence numbers.
    pub packets: Option<Life<u64>>,
    /// Time for the IKE SA, in whole seconds.
    pub ike: Life<Duration>,
    /// Time until the routers prove anew who they are; `None`: never while they are connected.
    pub reauth: Option<Duration>,
    /// By how much of each, in per cent, it is done earlier by chance at most: 0 to 50.
    pub jitter: u8,
}

impl Lifetimes {
    /// What a profile has where nothing is said.
    #[must_use]
    pub fn of(profile: Profile) -> Lifetimes {
        let (ike, child) = profile.rekeys();
        Lifetimes {
            time: longer(child),
            bytes: None,
            packets: None,
            ike: longer(ike),
            reauth: None,
            jitter: JITTER,
        }
    }

    /// That part of `whole` which is up to chance.
    #[must_use]
    pub fn chance(&self, whole: u64) -> u64 {
        // Not in 64 bits at once: a hundred times the largest limit.
        u64::try_from(u128::from(whole) * u128::from(self.jitter) / 100).unwrap_or(0)
    }
}

/// A life that ends a fifth after the time for the rekey, as long as nothing else is said.
fn longer(rekey: Duration) -> Life<Duration> {
    Life { rekey, end: Duration::from_secs(rekey.as_secs() + rekey.as_secs() / 5) }
}

/// Reads the settings. What is wrong is noted.
pub(super) fn read(table: &mut Table<'_>, profile: Profile, report: &mut Report) -> Lifetimes {
    let default = Lifetimes::of(profile);
    let rekey = table.text("rekey", report, values::lifetime).unwrap_or(default.time.rekey);
    let time = Life { end: read_end(table, "life", rekey, report), rekey };
    let rekey = table.text("ike_rekey", report, values::lifetime).unwrap_or(default.ike.rekey);
    let reauth = table.text("reauth", report, values::lifetime);
    // The end comes when what is due first has not been done.
    let first = reauth.map_or(rekey, |reauth| reauth.min(rekey));
    let ike = Life { end: read_end(table, "ike_life", first, report), rekey };
    Lifetimes {
        time,
        bytes: read_count(table, ("rekey_bytes", "life_bytes"), BYTES, report),
        packets: read_count(table, ("rekey_packets", "life_packets"), PACKETS, report),
        ike,
        reauth,
        jitter: table.text("jitter", report, jitter).unwrap_or(default.jitter),
    }
}

/// `key`: a time that is longer than `rekey`; by a fifth, where nothing is said.
fn read_end(table: &mut Table<'_>, key: &'static str, rekey: Duration, report: &mut Report) -> Duration {
    let end = table.text(key, report, |text| {
        let end = values::lifetime(text)?;
        if end <= rekey {
            let why = format!(
                "{} is over before SAs are to be replaced, which is after {} s",
                quoted(text),
                rekey.as_secs()
            );
            return Err(Fault::new(why, "make it longer, so that there is time to negotiate"));
        }
        Ok(end)
    });
    end.unwrap_or(longer(rekey).end)
}

/// Two numbers, of which the second is larger than the first; by a fifth, where it is not said.
fn read_count(
    table: &mut Table<'_>,
    (rekey, life): (&'static str, &'static str),
    range: RangeInclusive<i128>,
    report: &mut Report,
) -> Option<Life<u64>> {
    let count: Option<u64> = table.number(rekey, range.clone(), report);
    let most = *range.end() + *range.end() / 5;
    let end: Option<u64> = table.convert(life, report, |value| {
        let end = super::reader::number(&value, *range.start()..=most)?;
        match count {
            None => Err(Fault::new(
                "there is no number for it to be larger than",
                format!("say `{rekey}` as well"),
            )),
            Some(count) if end <= count => {
                let why = format!("{end} is reached before SAs are to be replaced, which is after {count}");
                Err(Fault::new(why, "make it larger, so that there is time to negotiate"))
            }
            Some(_) => Ok(end),
        }
    });
    count.map(|rekey| Life { rekey, end: end.unwrap_or(rekey + rekey / 5) })
}

/// `jitter`: per cent.
fn jitter(text: &str) -> Result<u8, Fault> {
    let percent =
        text.strip_suffix('%').and_then(|number| number.parse().ok()).filter(|percent| *percent <= 50);
    percent.ok_or_else(|| {
        let why = format!("{} is no part that can be left to chance", quoted(text));
        Fault::new(why, "write per cent, from \"0%\" to \"50%\"")
    })
}

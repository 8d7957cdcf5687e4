//! Every SA that a process has made from a fixed key, so that none of them is ever made twice.
//!
//! A configuration may take an SA away and bring it back, in the same tunnel or another, by one change or by a rollback. Were
//! it made anew, it would number its packets from 1 again: the far end would take none until they are beyond what it has seen,
//! and, what is worse, with the same IVs nonces would repeat. So:
//!
//! - *Sending.* An SA with the key, SPI and extent of sequence numbers of an earlier one **is** that one: the same counter,
//!   shared by every table that has it, also by one that a worker has not let go of yet. So no number, and no IV, is given out
//!   twice however often a configuration changes.
//! - A key that comes back with another SPI, or with or without ESN, makes a new SA. Its IVs are drawn from the part of runs
//!   that keep no record, again and again until they are disjoint from those of every other SA with that key.
//! - *Receiving.* An SA with the same parameters is the same one, with its window: what was received cannot be replayed. With
//!   another size of the window, it goes on beyond the highest number received.
//!
//! SAs that no table has any more are kept too, the latest [`RETIRED`] of them. One that is forgotten draws its IVs at random
//! when it comes back, as it would in a new process: the two overlap with a chance of (packets of both) / 2^61.
//!
//! What an earlier process may have used, [`super::record`] knows.

use std::collections::HashMap;
use std::sync::Arc;

use culvert_engine::esp::replay::ReplayWindow;
use culvert_engine::esp::{InboundSa, IvRange, Key, OutboundSa, Router};
use ring::rand::{SecureRandom, SystemRandom};

use crate::config::{self, Digest, ManualSa, Suite, UdpEncap};
use crate::plan;

/// SAs without a table that are remembered.
const RETIRED: usize = 65_536;

/// Why there is no SA.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The engine does not take it, and why.
    Unusable(String),
    /// The system gives no random numbers.
    Random,
}

/// For SAs, by what [`Ledger::recorded`] calls them, the highest number that may have been used.
pub type Marks = HashMap<Digest, u64>;

/// The SAs of a process. See the module page.
pub struct Ledger {
    /// What earlier processes may have used; `None` where nothing is recorded.
    earlier: Option<Marks>,
    /// Whose IVs they have.
    router: Router,
    /// By their keys, which are not kept beside those in the SAs.
    outbound: HashMap<Digest, Vec<Outbound>>,
    inbound: HashMap<Digest, Vec<Inbound>>,
    /// Counts what is asked for, so that it is known what was long ago.
    asked: u64,
}

struct Outbound {
    sa: Arc<OutboundSa>,
    /// What it is called where its numbers are recorded.
    name: Option<Digest>,
    suite: Suite,
    esn: bool,
    asked: u64,
}

struct Inbound {
    sa: Arc<InboundSa>,
    suite: Suite,
    esn: bool,
    window: u32,
    udp_encap: Option<UdpEncap>,
    asked: u64,
}

impl Ledger {
    /// Without any SA, on that router of a pair. Nothing is recorded: SAs begin with number 1.
    #[must_use]
    pub fn new(router: config::Router) -> Ledger {
        Ledger {
            earlier: None,
            router: plan::router(router),
            outbound: HashMap::new(),
            inbound: HashMap::new(),
            asked: 0,
        }
    }

    /// As [`Ledger::new`], for a process that goes on where earlier ones have been. An SA sends nothing before it is recorded
    /// how far it may ([`super::record::Record::keep_ahead`]).
    #[must_use]
    pub fn beyond(router: config::Router, earlier: Marks) -> Ledger {
        Ledger { earlier: Some(earlier), ..Ledger::new(router) }
    }

    /// The SAs that send whose numbers are recorded, and what they are called there.
    pub fn recorded(&self) -> impl Iterator<Item = (Digest, &OutboundSa)> {
        let all = self.outbound.values().flatten();
        all.filter_map(|known| Some((known.name?, known.sa.as_ref())))
    }

    /// The SA that sends by this entry of the configuration.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn outbound(&mut self, wanted: &ManualSa) -> Result<Arc<OutboundSa>, Refused> {
        self.asked += 1;
        let known = self.outbound.entry(Digest::of(wanted.key.expose())).or_default();
        let same = |known: &&mut Outbound| {
            (known.sa.spi(), known.suite, known.esn) == (wanted.spi, wanted.suite, wanted.esn)
        };
        if let Some(known) = known.iter_mut().find(same) {
            known.asked = self.asked;
            return Ok(Arc::clone(&known.sa));
        }
        let key = key(wanted)?;
        let ivs = loop {
            let ivs = IvRange::unrecorded(self.router, random()?);
            if known.iter().all(|known| !known.sa.ivs().overlaps(&ivs)) {
                break ivs;
            }
        };
        let sa = OutboundSa::new(wanted.spi, key, wanted.esn, ivs, 1);
        let (sa, name) = match &self.earlier {
            Some(earlier) => {
                let name = name(wanted);
                let used = earlier.get(&name).copied().unwrap_or(0);
                (sa.within(used.saturating_add(1), used), Some(name))
            }
            None => (sa, None),
        };
        let sa = Arc::new(sa);
        let made =
            Outbound { sa: Arc::clone(&sa), name, suite: wanted.suite, esn: wanted.esn, asked: self.asked };
        known.push(made);
        Ok(sa)
    }

    /// The SA that receives by this entry of the configuration.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn inbound(&mut self, wanted: &ManualSa) -> Result<Arc<InboundSa>, Refused> {
        self.asked += 1;
        let known = self.inbound.entry(Digest::of(wanted.key.expose())).or_default();
        let ManualSa { spi, suite, esn, replay_window, udp_encap, .. } = *wanted;
        let same_numbers = |known: &Inbound| (known.sa.spi(), known.suite, known.esn) == (spi, suite, esn);
        let same = |known: &&mut Inbound| {
            same_numbers(known) && (known.window, known.udp_encap) == (replay_window, udp_encap)
        };
        // The highest among those with these numbers: of several, only one was in use at a time.
        let highest =
            known.iter().filter(|known| same_numbers(known)).map(|known| known.sa.window().highest());
        let highest = highest.max();
        if let Some(known) = known.iter_mut().find(same)
            && Some(known.sa.window().highest()) == highest
        {
            known.asked = self.asked;
            return Ok(Arc::clone(&known.sa));
        }
        let window = match highest {
            Some(highest) => ReplayWindow::beyond(replay_window, esn, highest),
            None => ReplayWindow::new(replay_window, esn),
        };
        let window = window.map_err(|error| Refused::Unusable(error.to_string()))?;
        let sa = InboundSa::new(spi, key(wanted)?, esn, window);
        let sa = Arc::new(match udp_encap {
            Some(udp) => sa.in_udp(udp.destination),
            None => sa,
        });
        // One with these numbers that nobody has is never of use again.
        known.retain(|known| !same_numbers(known) || Arc::strong_count(&known.sa) > 1);
        known.push(Inbound {
            sa: Arc::clone(&sa),
            suite,
            esn,
            window: replay_window,
            udp_encap,
            asked: self.asked,
        });
        Ok(sa)
    }

    /// Forgets SAs that nobody has any more, but for the latest.
    pub fn forget_some(&mut self) {
        self.forget_beyond(RETIRED);
    }

    pub(super) fn forget_beyond(&mut self, most: usize) {
        if let Some(earlier) = &mut self.earlier {
            let gone = self.outbound.values().flatten().filter(|known| Arc::strong_count(&known.sa) == 1);
            earlier.extend(gone.filter_map(|known| Some((known.name?, known.sa.last()))));
        }
        forget(&mut self.outbound, most, |known| (Arc::strong_count(&known.sa), known.asked));
        forget(&mut self.inbound, most, |known| (Arc::strong_count(&known.sa), known.asked));
    }
}

/// Forgets all but the latest `most` of those that only the ledger holds. `holders` says how many hold one, and when it was
/// asked for.
fn forget<T>(known: &mut HashMap<Digest, Vec<T>>, most: usize, holders: impl Fn(&T) -> (usize, u64)) {
    let retired = |entry: &T| (holders(entry).0 == 1).then_some(holders(entry).1);
    let mut asked: Vec<u64> = known.values().flatten().filter_map(retired).collect();
    let Some(excess) = asked.len().checked_sub(most).filter(|excess| *excess > 0) else { return };
    let (_, last, _) = asked.select_nth_unstable(excess - 1);
    let last = *last;
    for entries in known.values_mut() {
        entries.retain(|entry| retired(entry).is_none_or(|asked| asked > last));
    }
    known.retain(|_, entries| !entries.is_empty());
}

/// What tells an SA that sends from all others: its key, and what else makes its numbers its own.
fn name(wanted: &ManualSa) -> Digest {
    let spi = wanted.spi.to_be_bytes();
    let form = [plan::suite(wanted.suite) as u8, u8::from(wanted.esn)];
    let whole = zeroize::Zeroizing::new([&spi[..], &form, wanted.key.expose()].concat());
    Digest::of(&whole)
}

fn key(wanted: &ManualSa) -> Result<Key, Refused> {
    Key::new(plan::suite(wanted.suite), wanted.key.expose())
        .map_err(|error| Refused::Unusable(error.to_string()))
}

fn random() -> Result<u64, Refused> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Refused::Random)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::config::{Direction, Position, Secret};

    fn sa(spi: u32, key: u8, esn: bool, replay_window: u32) -> ManualSa {
        ManualSa {
            direction: Direction::Out,
            spi,
            suite: Suite::Aes128Gcm16,
            esn,
            key: Secret::new(Zeroizing::new(vec![key; 20])),
            udp_encap: None,
            replay_window,
            at: Position::nowhere(),
        }
    }

    #[test]
    fn each_process_has_ivs_of_its_own() {
        let firsts: Vec<u64> = (0..4)
            .map(|_| {
                let sa = Ledger::new(config::Router::First).outbound(&sa(256, 1, false, 64)).expect("an SA");
                u64::from_be_bytes(sa.iv(1))
            })
            .collect();
        for (place, first) in firsts.iter().enumerate() {
            // Engine, first router, no record.
            assert_eq!(first >> 61, 0b101);
            assert!(!firsts[..place].contains(first));
        }
    }

    /// Design, rule 1: both routers of a pair may send with one key.
    #[test]
    fn the_routers_of_a_pair_have_no_iv_in_common() {
        let [first, second] = [config::Router::First, config::Router::Second].map(|router| {
            let sa = Ledger::new(router).outbound(&sa(256, 1, false, 64)).expect("an SA");
            u64::from_be_bytes(sa.iv(1)) >> 61
        });
        assert_eq!((first, second), (0b101, 0b111));
    }

    #[test]
    fn an_sa_that_comes_back_is_the_same() {
        let mut ledger = Ledger::new(config::Router::First);
        let first = ledger.outbound(&sa(256, 1, false, 64)).expect("an SA");
        assert_eq!(first.take(10).expect("numbers").first, 1);
        drop(first);
        let again = ledger.outbound(&sa(256, 1, false, 64)).expect("an SA");
        assert_eq!(again.take(1).expect("a number").first, 11);
        let other = ledger.outbound(&sa(257, 1, false, 64)).expect("an SA");
        assert!(!other.ivs().overlaps(again.ivs()) && other.take(1).expect("a number").first == 1);
    }

    #[test]
    fn what_was_received_cannot_be_replayed_after_a_change() {
        let mut ledger = Ledger::new(config::Router::First);
        let first = ledger.inbound(&sa(256, 1, false, 64)).expect("an SA");
        first.window().accept(100).expect("new");
        let same = ledger.inbound(&sa(256, 1, false, 64)).expect("an SA");
        assert!(same.window().accept(100).is_err() && same.window().accept(99).is_ok());
        let wider = ledger.inbound(&sa(256, 1, false, 1024)).expect("an SA");
        assert!(wider.window().accept(100).is_err() && wider.window().accept(98).is_err());
        wider.window().accept(200).expect("new");
        // Back again, by a rollback.
        let back = ledger.inbound(&sa(256, 1, false, 64)).expect("an SA");
        assert!(back.window().accept(100).is_err() && back.window().accept(200).is_err());
        assert!(back.window().accept(201).is_ok());
    }

    #[test]
    fn only_the_latest_that_nobody_has_are_remembered() {
        let mut ledger = Ledger::new(config::Router::First);
        let held = ledger.outbound(&sa(256, 1, false, 64)).expect("an SA");
        for key in 2..10 {
            drop(ledger.outbound(&sa(256, key, false, 64)).expect("an SA"));
            drop(ledger.inbound(&sa(256, key, false, 64)).expect("an SA"));
        }
        ledger.forget_beyond(3);
        assert_eq!((ledger.outbound.len(), ledger.inbound.len()), (4, 3));
        assert!(Arc::ptr_eq(&held, &ledger.outbound(&sa(256, 1, false, 64)).expect("an SA")));
        assert!(ledger.outbound.contains_key(&Digest::of(&[9; 20])));
    }

    proptest! {
        /// However SAs go and come back, with whatever parameters, no key ever sees a nonce twice.
        #[test]
        fn no_key_sees_a_nonce_twice(
            steps in proptest::collection::vec((256..259_u32, 0..3_u8, any::<bool>(), 1..5_u64, 0..8_usize), 1..200)
        ) {
            let mut ledger = Ledger::new(config::Router::First);
            let (mut seen, mut held) = (HashSet::new(), std::collections::VecDeque::new());
            for (spi, key, esn, packets, tables) in steps {
                let sa = ledger.outbound(&sa(spi, key, esn, 64)).expect("an SA");
                // Some are in tables for a while, and go on sending; some are forgotten, as after many changes or a restart.
                held.push_back((key, Arc::clone(&sa)));
                held.drain(..held.len().saturating_sub(tables));
                ledger.forget_beyond(tables);
                let older = held.front().filter(|_| packets % 2 == 0).cloned();
                let (key, sa) = older.unwrap_or((key, sa));
                let lease = sa.take(packets).expect("numbers");
                for number in lease.first..lease.first + lease.count {
                    prop_assert!(seen.insert((key, sa.iv(number))), "key {key}, SPI {spi}, number {number}");
                }
            }
        }
    }
}

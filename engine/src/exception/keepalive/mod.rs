//! GRE keepalives: is the far end of a tunnel there, told by a packet that it sends back ([`Ends`] says what it looks like).
//! Either end alone may ask, or both; the other needs to do nothing but forward.
//!
//! Asking, for tunnels that are set to:
//! 1. Each period a keepalive goes into the tunnel like any packet, so through ESP where the tunnel is protected.
//! 2. One that comes back, within as many periods as there are retries, with the nonce it was sent with, shows the far end
//!    alive.
//! 3. When as many as there are retries are unanswered, and the next is due, the tunnel is down. It goes on asking, and the
//!    first that comes back takes the tunnel up again. Until the first verdict it counts as up, so that a restart takes no
//!    tunnel down.
//!
//! Answering, for all tunnels: the far end's keepalive is not forwarded as it stands, but made anew: a GRE packet of protocol
//! 0 with what it carried goes into the tunnel, with the tunnel's own headers, and ESP where it is protected.
//!
//! What the packet path lets through for this, where an exception thread is there to take it:
//! - a packet out of tunnel N, accepted (ESP, GRE and inner header checked, the replay window moved on), that would be dropped as
//!   `nested`, and for which [`Ends::may_ask`] of tunnel N holds: to [`Keepalives::came_out`]; what is refused there is
//!   dropped as `nested` after all;
//! - a GRE packet of tunnel N of protocol type 0, accepted likewise but for the sequence number, which is not asked for and
//!   changes nothing (a peer that only forwards counts none): its payload to [`Keepalives::came_back`]; without an exception
//!   thread it is dropped as `gre-unknown`.
//!
//! Why that cannot be abused: an answer goes to the tunnel's far end and nowhere else, whatever the packet says; it is shorter
//! than what it answers, by an IP header; [`ANSWERS_PER_SECOND`] bounds them for each tunnel; and an answer is of protocol type 0, which
//! is never answered or forwarded, so nothing goes round.
//!
//! Not defined, and so neither sent nor answered: tunnels that carry Ethernet frames, and GRE in UDP.

mod packet;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::allowance::Allowance;
pub use packet::{Ends, MAX_PAYLOAD, NONCE_LEN, PROTOCOL};

/// Answers to one tunnel's far end in a second: as many as the shortest period that can be set asks for.
pub const ANSWERS_PER_SECOND: u64 = 10;

/// How a tunnel asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Between two keepalives, in nanoseconds; not 0.
    pub period: u64,
    /// How many may be unanswered before the tunnel is down; not 0.
    pub retries: u8,
}

/// What the keepalives of a tunnel have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Nothing yet. The tunnel counts as up.
    Unknown,
    /// The far end answers.
    Up {
        /// Since when, in nanoseconds.
        since: u64,
    },
    /// The far end does not answer.
    Down {
        /// Since when, in nanoseconds.
        since: u64,
        /// When a keepalive last came back; `None`: never.
        last_heard: Option<u64>,
        /// How many were sent since then, when it was taken down.
        unanswered: u32,
    },
}

impl Liveness {
    /// May the tunnel be used?
    #[must_use]
    pub const fn is_up(self) -> bool {
        !matches!(self, Liveness::Down { .. })
    }
}

/// What is to be done. Whoever embeds [`Keepalives`] empties it after each call.
#[derive(Debug, Default)]
pub struct Output {
    /// IP packets, each to go into the tunnel of that number, whatever its route would be.
    pub probes: Vec<(u32, Vec<u8>)>,
    /// Payloads, each to go into the tunnel of that number as a GRE packet of protocol type [`PROTOCOL`].
    pub answers: Vec<(u32, Vec<u8>)>,
    /// Tunnels that came up or went down, or showed the first time that they are up.
    pub changes: Vec<(u32, Liveness)>,
}

/// What happened to a tunnel's keepalives so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent.
    pub sent: u64,
    /// Came back.
    pub heard: u64,
    /// Came back, but with a nonce that is not awaited.
    pub foreign: u64,
    /// The far end's, answered.
    pub answered: u64,
    /// The far end's, not answered: too many.
    pub excess: u64,
}

/// A tunnel that asks.
#[derive(Debug)]
struct Watch {
    settings: Settings,
    liveness: Liveness,
    last_heard: Option<u64>,
    /// Keepalives sent since the last that came back.
    unanswered: u32,
    /// The nonces awaited, the oldest first; as many as there are retries.
    awaited: VecDeque<u64>,
    /// When the next goes out.
    due: u64,
}

/// A tunnel.
#[derive(Debug)]
struct Tunnel {
    ends: Ends,
    watch: Option<Watch>,
    answers: Allowance,
    counters: Counters,
}

/// The keepalives of all tunnels that carry IP packets, by numbers of the embedder's choice.
#[derive(Debug, Default)]
pub struct Keepalives {
    tunnels: HashMap<u32, Tunnel>,
    timers: BTreeSet<(u64, u32)>,
}

impl Keepalives {
    /// For no tunnels yet.
    #[must_use]
    pub fn new() -> Keepalives {
        Keepalives::default()
    }

    /// The tunnels, with their settings where they ask; these replace those before. One that is as before, number, ends and
    /// settings, keeps its state. `random` gives numbers that nobody can guess: new tunnels start at different times.
    pub fn set_tunnels(
        &mut self,
        now: u64,
        tunnels: impl IntoIterator<Item = (u32, Ends, Option<Settings>)>,
        mut random: impl FnMut() -> u64,
    ) {
        let mut before = std::mem::take(&mut self.tunnels);
        self.timers.clear();
        for (number, ends, settings) in tunnels {
            let same = before.remove(&number).filter(|tunnel| tunnel.ends == ends);
            let (watch, answers, counters) = match same {
                Some(same) => (same.watch, same.answers, same.counters),
                None => (None, Allowance::new(ANSWERS_PER_SECOND), Counters::default()),
            };
            let watch = settings.map(|settings| match watch.filter(|watch| watch.settings == settings) {
                Some(watch) => watch,
                None => Watch::new(now, settings, random()),
            });
            if let Some(watch) = &watch {
                self.timers.insert((watch.due, number));
            }
            self.tunnels.insert(number, Tunnel { ends, watch, answers, counters });
        }
    }

    /// What has been shown of a tunnel; `None` for one that does not ask.
    #[must_use]
    pub fn liveness(&self, tunnel: u32) -> Option<Liveness> {
        self.tunnels.get(&tunnel)?.watch.as_ref().map(|watch| watch.liveness)
    }

    /// What happened to a tunnel's keepalives so far.
    #[must_use]
    pub fn counters(&self, tunnel: u32) -> Option<Counters> {
        self.tunnels.get(&tunnel).map(|tunnel| tunnel.counters)
    }

    /// When [`Self::tick`] has something to do next.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Sends what is due, and takes down what did not answer. `random` as in [`Self::set_tunnels`].
    pub fn tick(&mut self, now: u64, mut random: impl FnMut() -> u64, out: &mut Output) {
        while let Some((due, number)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.pop_first();
            let Some(tunnel) = self.tunnels.get_mut(&number) else { continue };
            let Some(watch) = &mut tunnel.watch else { continue };
            out.changes.extend(watch.missed(now).map(|liveness| (number, liveness)));
            let nonce = random();
            if let Some(packet) = tunnel.ends.probe(nonce) {
                tunnel.counters.sent += 1;
                out.probes.push((number, packet));
            }
            watch.sent(now, nonce);
            self.timers.insert((watch.due, number));
        }
    }

    /// A packet that came out of a tunnel towards that tunnel's own far end. Returns whether it was the far end's keepalive;
    /// it is answered, unless there were too many.
    pub fn came_out(&mut self, now: u64, tunnel: u32, packet: &[u8], out: &mut Output) -> bool {
        let number = tunnel;
        let Some(tunnel) = self.tunnels.get_mut(&number) else { return false };
        let Some(payload) = tunnel.ends.asked(packet) else { return false };
        if tunnel.answers.take(now) {
            tunnel.counters.answered += 1;
            out.answers.push((number, payload.to_vec()));
        } else {
            tunnel.counters.excess += 1;
        }
        true
    }

    /// The payload of a GRE packet of protocol type 0 that a tunnel received. Returns whether it is a keepalive of ours that
    /// was awaited.
    pub fn came_back(&mut self, now: u64, tunnel: u32, payload: &[u8], out: &mut Output) -> bool {
        let number = tunnel;
        let Some(tunnel) = self.tunnels.get_mut(&number) else { return false };
        let nonce = payload.try_into().map(u64::from_be_bytes).ok();
        let found = nonce.zip(tunnel.watch.as_mut()).and_then(|(nonce, watch)| {
            let place = watch.awaited.iter().position(|awaited| *awaited == nonce)?;
            Some(watch.heard(now, place))
        });
        match found {
            Some(change) => {
                tunnel.counters.heard += 1;
                out.changes.extend(change.map(|liveness| (number, liveness)));
                true
            }
            None => {
                tunnel.counters.foreign += 1;
                false
            }
        }
    }
}

impl Watch {
    fn new(now: u64, settings: Settings, random: u64) -> Watch {
        Watch {
            settings,
            liveness: Liveness::Unknown,
            last_heard: None,
            unanswered: 0,
            awaited: VecDeque::with_capacity(usize::from(settings.retries.max(1))),
            // Thousands of tunnels do not all ask at once.
            due: now.saturating_add(random % settings.period.max(1)),
        }
    }

    /// The next is due: were there too many that did not come back?
    fn missed(&mut self, now: u64) -> Option<Liveness> {
        if self.unanswered < u32::from(self.settings.retries.max(1)) || !self.liveness.is_up() {
            return None;
        }
        let (last_heard, unanswered) = (self.last_heard, self.unanswered);
        self.liveness = Liveness::Down { since: now, last_heard, unanswered };
        Some(self.liveness)
    }

    fn sent(&mut self, now: u64, nonce: u64) {
        if self.awaited.len() >= usize::from(self.settings.retries.max(1)) {
            self.awaited.pop_front();
        }
        self.awaited.push_back(nonce);
        self.unanswered = self.unanswered.saturating_add(1);
        // From now on, not from when it was due: a thread that was late sends no burst.
        self.due = now.saturating_add(self.settings.period.max(1));
    }

    /// The keepalive at `place` came back. Those before it are awaited no more.
    fn heard(&mut self, now: u64, place: usize) -> Option<Liveness> {
        self.awaited.drain(..=place);
        self.unanswered = self.awaited.len() as u32;
        self.last_heard = Some(now);
        if matches!(self.liveness, Liveness::Up { .. }) {
            return None;
        }
        self.liveness = Liveness::Up { since: now };
        Some(self.liveness)
    }
}

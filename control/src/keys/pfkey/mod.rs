//! SAs that stock strongSwan installs in FreeBSD's kernel, followed over PF_KEY, keys included.
//!
//! One socket, that answers come to as well as what everybody is told.
//! 1. It is registered for ESP, to hear when SAs end; then all SAs are asked for.
//! 2. An SA that comes or changes is told of without its keys: it is asked for. Those that go are told. One that is given other
//!    addresses (MOBIKE) is told of by the old ones, with the new ones beside them, and is known by the new ones at once.
//! 3. A socket without room for more loses messages, in silence on older kernels, and so the end of a list that is longer than there
//!    is room for: all SAs are asked for again from time to time, and as soon as something was lost. A list counts down; one that
//!    has a gap, or does not come to its end, is true and not whole. What is missing in a whole one is asked for once more before it
//!    is taken away. What is new in any of them may be older than we are and is not sent with, unless we were told that it was added.
//! 4. The kernel makes a list while we ask for it, and always in the same order: where one was cut, the next most likely is. After
//!    some that were, this is said ([`Change::Cut`]), so that tunnels without SAs have new ones negotiated and the operator hears
//!    what is to be done. An SA that no list has told of is asked for when it changes, or its time comes to an end.
//!
//! The kernel uses none of these SAs: charon is told to install no policies for them ([`super::connection`]). Only the calls of
//! [`KeySocket`] are FreeBSD's; the rest runs anywhere.

#[cfg(target_os = "freebsd")]
mod freebsd;
mod message;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netmap_sys::{
    SADB_ADD, SADB_DELETE, SADB_DUMP, SADB_EXPIRE, SADB_FLUSH, SADB_GET, SADB_SATYPE_ESP, SADB_UPDATE,
};
use zeroize::Zeroizing;

#[cfg(target_os = "freebsd")]
pub use self::freebsd::follow;
use self::message::{Found, Message};
use super::kernel::Ledger;
use super::sa::{Change, Ends, Id, Origin, Sa};
use crate::datagram::Damaged;

/// How often all SAs are asked for, in case something was lost in silence.
const AUDIT: Duration = Duration::from_secs(30);
/// How long the next part of a list is waited for, and how long after one that was cut the next is asked for.
const PAUSE: Duration = Duration::from_secs(1);
/// So many lists in a row are cut before it is taken for granted that the next will be.
const TRIES: u32 = 3;
/// How often a socket is asked for that there was none of.
const RETRY: Duration = Duration::from_secs(5);
/// Room for a message: the longest, with eight extensions and their addresses, is a fraction of it.
const MESSAGE: usize = 8 << 10;

/// That the kernel cuts its lists short, and what is to be done. A list has to fit in the socket, which `kern.ipc.maxsockbuf`
/// bounds: an SA takes five mbufs (1,280 bytes) of it.
pub const CUT: &str = "the kernel has more SAs than it can tell of at once: raise the sysctl kern.ipc.maxsockbuf, to 1,300 bytes for each \
                       SA at least (16777216 does for 12,000)";

/// That there is no PF_KEY socket, and what is to be done.
#[must_use]
pub fn words(error: &io::Error) -> String {
    let remedy = match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
            "; is the kernel's IPsec loaded (`kldload ipsec`)?"
        }
        Some(libc::EPERM | libc::EACCES) => "; is the daemon root, and not in a jail without raw sockets?",
        Some(libc::ENOBUFS) => "; is the sysctl net.key.recvspace higher than kern.ipc.maxsockbuf allows?",
        _ => "",
    };
    format!("the kernel gives no PF_KEY socket, and is asked again: {error}{remedy}")
}

/// What a source asks of the kernel.
pub trait KeySocket {
    /// Sends a message.
    ///
    /// # Errors
    /// What the kernel says.
    fn send(&mut self, message: &[u8]) -> io::Result<()>;

    /// The next message, into `buffer`; how long it is. Waits for it as long as `patience`.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. `ENOBUFS`: messages were lost.
    fn receive(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize>;

    /// Takes as much room for messages that wait as the kernel allows now.
    fn make_room(&mut self);
}

/// See the module page.
pub struct PfKeySource<S> {
    socket: S,
    sequence: u32,
    ledger: Ledger,
    /// SAs that were asked for, by the numbers of the questions.
    asked: HashMap<u32, Id>,
    /// SAs that somebody has told us were added, and whose keys we do not have yet.
    added: HashSet<Id>,
    list: List,
    /// How many lists in a row were cut.
    cut: u32,
    /// There are keys in it.
    buffer: Zeroizing<Vec<u8>>,
}

/// How far the list of all SAs is.
enum List {
    /// It is asked for then.
    Due(Instant),
    /// It is being told, and waited for until then. What of it has come, how many the last part said are left, and whether
    /// something of it is missing.
    Told { until: Instant, sequence: u32, all: Vec<Sa>, left: Option<u32>, cut: bool },
}

impl<S: KeySocket> PfKeySource<S> {
    /// Registers with the kernel behind `socket`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(mut socket: S, now: Instant) -> io::Result<PfKeySource<S>> {
        socket.send(&message::register(0))?;
        Ok(PfKeySource {
            socket,
            sequence: 0,
            ledger: Ledger::new(Origin::PfKey),
            asked: HashMap::new(),
            added: HashSet::new(),
            list: List::Due(now),
            cut: 0,
            buffer: Zeroizing::new(vec![0; MESSAGE]),
        })
    }

    /// The same, once `open` gives a socket: the kernel's IPsec may be loaded later. In between, `wait` lets time pass.
    pub fn persist(open: impl Fn() -> io::Result<S>, wait: impl Fn(Duration)) -> PfKeySource<S> {
        loop {
            match open().and_then(|socket| PfKeySource::new(socket, Instant::now())) {
                Ok(source) => return source,
                Err(_) => wait(RETRY),
            }
        }
    }

    /// Waits for something until there is something to do anyway, and says what has become of it. `clock` tells the time.
    pub fn step(&mut self, clock: impl Fn() -> Instant) -> Vec<Change> {
        let now = clock();
        let mut changes = match &self.list {
            List::Due(due) if now >= *due => Vec::from_iter(self.ask_for_all(now)),
            // What is missing of it was lost.
            List::Told { until, .. } if now >= *until => return self.end_list(false, now),
            _ => Vec::new(),
        };
        let (List::Due(due) | List::Told { until: due, .. }) = &self.list;
        let patience = due.saturating_duration_since(now);
        let mut buffer = std::mem::take(&mut self.buffer);
        let received = self.socket.receive(&mut buffer, patience);
        changes.extend(match received {
            Ok(length) => self.take(buffer.get(..length).unwrap_or_default(), clock()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Vec::new()
            }
            // Something was lost, whatever it says, and what was not has been heard before it.
            Err(_) => self.end_list(false, clock()),
        });
        self.buffer = buffer;
        changes
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// The first time, says that it begins.
    fn ask_for_all(&mut self, now: Instant) -> Option<Change> {
        let sequence = self.next();
        // The list says as well what becomes of those that were asked for before and never answered.
        self.asked.clear();
        if self.cut > 0 {
            self.socket.make_room();
        }
        // Where the kernel has no room for all of it, it may say so here, and tells what it can.
        let cut = self.socket.send(&message::dump(sequence)).is_err();
        self.list = List::Told { until: now + PAUSE, sequence, all: Vec::new(), left: None, cut };
        self.ledger.begin()
    }

    fn ask_for(&mut self, id: Id, source: IpAddr, now: Instant) {
        let sequence = self.next();
        match self.socket.send(&message::get(sequence, id, source)) {
            Ok(()) => drop(self.asked.insert(sequence, id)),
            Err(_) => self.missed(now + PAUSE),
        }
    }

    /// Something was not heard: all are asked for then, or after the list that is being told. Where lists are cut anyway, haste
    /// makes them no longer.
    fn missed(&mut self, then: Instant) {
        match &mut self.list {
            List::Due(due) if self.cut < TRIES => *due = then.min(*due),
            List::Due(_) => {}
            List::Told { cut, .. } => *cut = true,
        }
    }

    /// Takes in what was received. Damage leaves what was there before, and has all SAs asked for.
    fn take(&mut self, bytes: &[u8], now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for message in message::messages(bytes) {
            match message.and_then(|message| self.event(message, now)) {
                Ok(more) => changes.extend(more),
                Err(Damaged) => self.missed(now),
            }
        }
        changes
    }

    fn event(&mut self, message: Message<'_>, now: Instant) -> Result<Vec<Change>, Damaged> {
        let header = message.header;
        if !message.is_about_esp() {
            return Ok(Vec::new());
        }
        let done = header.sadb_msg_errno == 0;
        Ok(match header.sadb_msg_type {
            SADB_ADD | SADB_UPDATE if done => {
                let parts = message.parts()?;
                let (id, source) = parts.id().ok_or(Damaged)?;
                match parts.moved() {
                    Some(ends) => self.moved(id, ends, now),
                    None => {
                        if header.sadb_msg_type == SADB_ADD {
                            self.added.insert(id);
                        }
                        self.ask_for(id, source, now);
                        Vec::new()
                    }
                }
            }
            SADB_GET if header.sadb_msg_pid == std::process::id() => {
                match self.asked.remove(&header.sadb_msg_seq) {
                    Some(id) if done => self.found(message, id)?,
                    // It has no room for the answer.
                    Some(_) if i32::from(header.sadb_msg_errno) == libc::ENOBUFS => {
                        self.missed(now + PAUSE);
                        Vec::new()
                    }
                    Some(id) => self.gone(id),
                    // A question of before.
                    None => Vec::new(),
                }
            }
            SADB_DUMP if header.sadb_msg_pid == std::process::id() => self.listed(message, now),
            SADB_DELETE if done => {
                let (id, _) = message.parts()?.id().ok_or(Damaged)?;
                self.gone(id)
            }
            SADB_EXPIRE => {
                let parts = message.parts()?;
                let (id, source) = parts.id().ok_or(Damaged)?;
                if parts.hard.is_some() {
                    return Ok(self.gone(id));
                }
                // A soft one is charon's affair, but for what it tells of.
                if !self.ledger.knows(id) {
                    self.ask_for(id, source, now);
                }
                Vec::new()
            }
            SADB_FLUSH if done => {
                self.asked.clear();
                self.added.clear();
                if let List::Told { all, .. } = &mut self.list {
                    all.clear();
                }
                vec![self.ledger.flushed()]
            }
            _ => Vec::new(),
        })
    }

    fn gone(&mut self, id: Id) -> Vec<Change> {
        self.added.remove(&id);
        self.outdate(id);
        self.ledger.gone(id).into_iter().collect()
    }

    /// What was asked of it is answered with what was, and so is the list, as far as it has come.
    fn outdate(&mut self, id: Id) {
        self.asked.retain(|_, asked| *asked != id);
        if let List::Told { all, .. } = &mut self.list {
            all.retain(|sa| sa.id != id);
        }
    }

    /// An SA has other addresses from now on: the kernel knows it by these alone.
    fn moved(&mut self, id: Id, ends: Ends, now: Instant) -> Vec<Change> {
        self.outdate(id);
        let moved = Id { at: ends.destination, ..id };
        // One that nobody was told of yet is as new as it was.
        if self.added.remove(&id) {
            self.added.insert(moved);
        }
        let change = self.ledger.moved(id, ends);
        self.ask_for(moved, ends.source, now);
        change.into_iter().collect()
    }

    fn found(&mut self, message: Message<'_>, id: Id) -> Result<Vec<Change>, Damaged> {
        let found = message.parts()?.sa()?;
        let added = self.added.remove(&id);
        Ok(match found {
            Found::Sa(sa) => self.ledger.came(sa, added).into_iter().collect(),
            Found::Unusable(reqid, why) => vec![Change::Unusable { reqid, why }],
            Found::Nothing => Vec::new(),
        })
    }

    /// One SA of all, or that there is none.
    fn listed(&mut self, message: Message<'_>, now: Instant) -> Vec<Change> {
        let List::Told { all, left, sequence, until, cut } = &mut self.list else { return Vec::new() };
        let mut changes = Vec::new();
        let header = message.header;
        let rest = match header.sadb_msg_errno {
            0 => header.sadb_msg_seq,
            code if i32::from(code) == libc::ENOENT && header.sadb_msg_seq == *sequence => 0,
            _ => return self.end_list(false, now),
        };
        // They count down to 0: one that is missing was lost.
        *cut |= left.is_some_and(|left| left != rest.wrapping_add(1));
        (*left, *until) = (Some(rest), now + PAUSE);
        if header.sadb_msg_errno == 0 && header.sadb_msg_satype == SADB_SATYPE_ESP {
            match message.parts().and_then(|parts| parts.sa()) {
                Ok(Found::Sa(sa)) => all.push(sa),
                Ok(Found::Unusable(reqid, why)) => changes.push(Change::Unusable { reqid, why }),
                Ok(Found::Nothing) => {}
                Err(Damaged) => *cut = true,
            }
        }
        let whole = !*cut;
        if rest == 0 {
            changes.extend(self.end_list(whole, now));
        }
        changes
    }

    /// Nothing more comes of a list, if one is being told, and what there is of it is taken in. The next is asked for in a while,
    /// or soon where something is missing.
    fn end_list(&mut self, whole: bool, now: Instant) -> Vec<Change> {
        let List::Told { all, .. } = &mut self.list else {
            self.missed(now + PAUSE);
            return Vec::new();
        };
        let all = std::mem::take(all);
        self.cut = if whole { 0 } else { self.cut.saturating_add(1) };
        let hopeless = self.cut >= TRIES;
        self.list = List::Due(now + if whole || hopeless { AUDIT } else { PAUSE });
        if whole {
            for (id, source) in self.ledger.missing(&all) {
                self.ask_for(id, source, now);
            }
        }
        let mut changes = self.ledger.list(all, |id| self.added.remove(&id));
        if whole || hopeless {
            changes.extend(self.ledger.settle(whole));
        }
        changes
    }
}

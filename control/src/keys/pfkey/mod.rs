//! SAs that stock strongSwan installs in FreeBSD's kernel, followed over PF_KEY, keys included.
//!
//! One socket, that answers come to as well as what everybody is told.
//! 1. It is registered for ESP, to hear when SAs end; then all SAs are asked for.
//! 2. An SA that comes or changes is told of without its keys: it is asked for. Those that go are told. One that is given other
//!    addresses (MOBIKE) is told of by the old ones, with the new ones beside them, and is known by the new ones at once.
//! 3. A socket without room for more loses messages, in silence on older kernels, and lists are cut short: all SAs are asked
//!    for again from time to time, and as soon as something was lost. A list counts down; one that does not come to its end in order is
//!    not taken. What is not in it is asked for once more before it is taken away, and what is new in it is not sent with: the
//!    first list may have been cut as well.
//!
//! The kernel uses none of these SAs: charon is told to install no policies for them ([`super::connection`]). Only the calls of
//! [`KeySocket`] are FreeBSD's; the rest runs anywhere.

#[cfg(target_os = "freebsd")]
mod freebsd;
mod message;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
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
/// How long a list may take, and how long after one that failed the next is asked for.
const PAUSE: Duration = Duration::from_secs(1);
/// Room for a message: the longest, with eight extensions and their addresses, is a fraction of it.
const MESSAGE: usize = 8 << 10;

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
}

/// See the module page.
pub struct PfKeySource<S> {
    socket: S,
    sequence: u32,
    ledger: Ledger,
    /// SAs that were asked for, by the numbers of the questions; and whether somebody has told that they were added.
    asked: HashMap<u32, (Id, bool)>,
    list: List,
    /// There are keys in it.
    buffer: Zeroizing<Vec<u8>>,
}

/// How far the list of all SAs is.
enum List {
    /// It is asked for then.
    Due(Instant),
    /// It is being told, until then. What of it has come, and how many the last part said are left.
    Told { until: Instant, sequence: u32, all: Vec<Sa>, left: Option<u32> },
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
            list: List::Due(now),
            buffer: Zeroizing::new(vec![0; MESSAGE]),
        })
    }

    /// Waits for something until there is something to do anyway, and says what has become of it. `clock` tells the time.
    pub fn step(&mut self, clock: impl Fn() -> Instant) -> Vec<Change> {
        let now = clock();
        match &self.list {
            List::Due(due) if now >= *due => self.ask_for_all(now),
            // What is missing of it was lost.
            List::Told { until, .. } if now >= *until => self.list = List::Due(now + PAUSE),
            _ => {}
        }
        let (List::Due(due) | List::Told { until: due, .. }) = &self.list;
        let patience = due.saturating_duration_since(now);
        let mut buffer = std::mem::take(&mut self.buffer);
        let received = self.socket.receive(&mut buffer, patience);
        let changes = match received {
            Ok(length) => self.take(buffer.get(..length).unwrap_or_default(), clock()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Vec::new()
            }
            // Something was lost, whatever it says.
            Err(_) => {
                self.list = List::Due(clock() + PAUSE);
                Vec::new()
            }
        };
        self.buffer = buffer;
        changes
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn ask_for_all(&mut self, now: Instant) {
        let sequence = self.next();
        // The list says as well what becomes of those that were asked for before and never answered.
        self.asked.clear();
        self.list = match self.socket.send(&message::dump(sequence)) {
            Ok(()) => List::Told { until: now + PAUSE, sequence, all: Vec::new(), left: None },
            Err(_) => List::Due(now + PAUSE),
        };
    }

    fn ask_for(&mut self, id: Id, source: IpAddr, added: bool, now: Instant) {
        let sequence = self.next();
        match self.socket.send(&message::get(sequence, id, source)) {
            Ok(()) => drop(self.asked.insert(sequence, (id, added))),
            Err(_) => self.list = List::Due(now + PAUSE),
        }
    }

    /// Takes in what was received. Damage leaves what was there before, and has all SAs asked for.
    fn take(&mut self, bytes: &[u8], now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for message in message::messages(bytes) {
            match message.and_then(|message| self.event(message, now)) {
                Ok(more) => changes.extend(more),
                Err(Damaged) => self.list = List::Due(now),
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
                        self.ask_for(id, source, header.sadb_msg_type == SADB_ADD, now);
                        Vec::new()
                    }
                }
            }
            SADB_GET if header.sadb_msg_pid == std::process::id() => {
                match self.asked.remove(&header.sadb_msg_seq) {
                    Some((_, added)) if done => self.found(message, added)?,
                    Some((id, _)) => self.gone(id),
                    // A question of before.
                    None => Vec::new(),
                }
            }
            SADB_DUMP if header.sadb_msg_pid == std::process::id() => self.listed(message, now)?,
            SADB_DELETE if done => {
                let (id, _) = message.parts()?.id().ok_or(Damaged)?;
                self.gone(id)
            }
            SADB_EXPIRE => {
                let parts = message.parts()?;
                let (id, _) = parts.id().ok_or(Damaged)?;
                // A soft one is charon's affair.
                if parts.hard.is_some() { self.gone(id) } else { Vec::new() }
            }
            SADB_FLUSH if done => {
                self.asked.clear();
                if let List::Told { all, .. } = &mut self.list {
                    all.clear();
                }
                vec![self.ledger.flushed()]
            }
            _ => Vec::new(),
        })
    }

    fn gone(&mut self, id: Id) -> Vec<Change> {
        // What is asked of it is answered with what was.
        self.asked.retain(|_, (asked, _)| *asked != id);
        if let List::Told { all, .. } = &mut self.list {
            all.retain(|sa| sa.id != id);
        }
        self.ledger.gone(id).into_iter().collect()
    }

    /// An SA has other addresses from now on: the kernel knows it by these alone.
    fn moved(&mut self, id: Id, ends: Ends, now: Instant) -> Vec<Change> {
        // Whoever asked for it where it was finds none, and one that nobody was told of yet is as new as it was.
        let added = self.asked.values().any(|(asked, added)| *asked == id && *added);
        self.asked.retain(|_, (asked, _)| *asked != id);
        let change = self.ledger.moved(id, ends);
        self.ask_for(Id { at: ends.destination, ..id }, ends.source, added, now);
        change.into_iter().collect()
    }

    fn found(&mut self, message: Message<'_>, added: bool) -> Result<Vec<Change>, Damaged> {
        Ok(match message.parts()?.sa()? {
            Found::Sa(sa) => self.ledger.came(sa, added).into_iter().collect(),
            Found::Unusable(reqid, why) => vec![Change::Unusable { reqid, why }],
            Found::Nothing => Vec::new(),
        })
    }

    /// One SA of all, or that there is none.
    fn listed(&mut self, message: Message<'_>, now: Instant) -> Result<Vec<Change>, Damaged> {
        let List::Told { all, left, sequence, .. } = &mut self.list else { return Ok(Vec::new()) };
        let mut changes = Vec::new();
        let header = message.header;
        let rest = match header.sadb_msg_errno {
            0 => header.sadb_msg_seq,
            code if i32::from(code) == libc::ENOENT && header.sadb_msg_seq == *sequence => 0,
            _ => return Err(Damaged),
        };
        // They count down to 0: one that is missing was lost.
        if left.is_some_and(|left| left != rest.wrapping_add(1)) {
            return Err(Damaged);
        }
        *left = Some(rest);
        if header.sadb_msg_errno == 0 && header.sadb_msg_satype == SADB_SATYPE_ESP {
            match message.parts()?.sa()? {
                Found::Sa(sa) => all.push(sa),
                Found::Unusable(reqid, why) => changes.push(Change::Unusable { reqid, why }),
                Found::Nothing => {}
            }
        }
        if rest == 0 {
            let all = std::mem::take(all);
            self.list = List::Due(now + AUDIT);
            for (id, source) in self.ledger.missing(&all) {
                self.ask_for(id, source, false, now);
            }
            changes.extend(self.ledger.list(all, false));
        }
        Ok(changes)
    }
}

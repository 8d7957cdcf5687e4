//! SAs that stock strongSwan installs in a Linux kernel with ESP, followed over XFRM netlink, keys included.
//!
//! Two sockets: one that events come from, one for lists of all SAs.
//! 1. Events are subscribed to before all SAs are listed, so nothing falls in between.
//! 2. Events are told as they come. Where the kernel had no room for all of them (`ENOBUFS`), or one could not be read, all SAs are
//!    listed again, and the difference is told.
//!
//! The kernel uses none of these SAs: charon is told to install no policies for them ([`super::connection`]), without which
//! nothing is sent by them, and packets to a tunnel's end come to the engine, not to the kernel.

mod message;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_XFRM;
use netmap_sys::{XFRMNLGRP_EXPIRE, XFRMNLGRP_SA};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zeroize::Zeroizing;

use self::message::Event;
use super::kernel::Ledger;
use super::sa::{Change, Origin};
use super::source::Ear;
use crate::datagram::Damaged;
use crate::netlink::{DATAGRAM, Requests, message as netlink, receive};

/// Bytes asked for as room for events; the kernel may give less (`net.core.rmem_max`).
const RECEIVE_BUFFER: i32 = 4 << 20;
/// How long after a list that failed the next is tried.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows the kernel's SAs from now on, in a thread of its own, as long as somebody listens.
///
/// # Errors
/// The kernel has no XFRM, or not for us; or there is no thread.
pub fn follow(ear: Ear) -> io::Result<()> {
    let mut source = Source::open(RECEIVE_BUFFER)?;
    let follow = move || while source.step(&mut |change| ear.say(change)) {};
    thread::Builder::new().name("keys-xfrm".to_owned()).spawn(follow).map(drop)
}

/// See the module page.
struct Source {
    events: Socket,
    requests: Requests,
    /// There are keys in it.
    datagram: Zeroizing<Vec<u8>>,
    follower: Follower,
}

/// What becomes of what is received; there is no socket in it.
#[derive(Debug)]
pub struct Follower {
    ledger: Ledger,
    /// Something is not known, and all SAs are to be listed.
    stale: bool,
}

impl Default for Follower {
    fn default() -> Follower {
        Follower { ledger: Ledger::new(Origin::Xfrm), stale: true }
    }
}

impl Follower {
    /// Takes in a datagram of events. Damage ends it, and has all listed.
    pub fn take(&mut self, datagram: &[u8]) -> Vec<Change> {
        let mut changes = Vec::new();
        for message in netlink::messages(datagram) {
            match message.and_then(message::event) {
                Ok(Some(Event::Came(sa))) => changes.extend(self.ledger.came(sa, true)),
                Ok(Some(Event::Unusable(reqid, why))) => changes.push(Change::Unusable { reqid, why }),
                Ok(Some(Event::Gone(id))) => changes.extend(self.ledger.gone(id)),
                Ok(Some(Event::Flushed)) => changes.push(self.ledger.flushed()),
                Ok(None) => {}
                Err(Damaged) => self.stale = true,
            }
        }
        changes
    }

    /// Takes in all SAs.
    fn replace(&mut self, all: Vec<Event>) -> Vec<Change> {
        self.stale = false;
        let (mut sas, mut changes) = (Vec::new(), Vec::new());
        for event in all {
            match event {
                Event::Came(sa) => sas.push(sa),
                Event::Unusable(reqid, why) => changes.push(Change::Unusable { reqid, why }),
                Event::Gone(_) | Event::Flushed => {}
            }
        }
        let missing = self.ledger.missing(&sas);
        changes.extend(missing.into_iter().filter_map(|(id, _)| self.ledger.gone(id)));
        changes.extend(self.ledger.begin());
        changes.extend(self.ledger.list(sas, |_| true));
        changes.extend(self.ledger.settle(true));
        changes
    }
}

impl Source {
    fn open(receive_buffer: i32) -> io::Result<Source> {
        let mut events = Socket::new(NETLINK_XFRM)?;
        events.set_rx_buf_sz(receive_buffer)?;
        events.bind_auto()?;
        for group in [XFRMNLGRP_SA, XFRMNLGRP_EXPIRE] {
            events.add_membership(group)?;
        }
        Ok(Source {
            events,
            requests: Requests::open(NETLINK_XFRM)?,
            datagram: Zeroizing::new(Vec::with_capacity(DATAGRAM)),
            follower: Follower::default(),
        })
    }

    /// Waits for something, and tells of it. False: nobody listens any more.
    fn step(&mut self, tell: &mut dyn FnMut(Change) -> bool) -> bool {
        let mut changes = Vec::new();
        if self.follower.stale {
            match self.list() {
                Ok(all) => changes = self.follower.replace(all),
                Err(_) => thread::sleep(PAUSE),
            }
        } else {
            let mut waited = [PollFd::new(self.events.as_fd(), PollFlags::POLLIN)];
            // Whatever it says: what there is is looked for.
            let _ = poll(&mut waited, PollTimeout::NONE);
            match receive(&self.events, &mut self.datagram) {
                Ok(true) => changes = self.follower.take(&self.datagram),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Ok(false) | Err(_) => self.follower.stale = true,
            }
        }
        changes.into_iter().all(tell)
    }

    /// All SAs of now.
    fn list(&mut self) -> io::Result<Vec<Event>> {
        self.requests.list(&mut self.datagram, message::dump_request, |all: &mut Vec<Event>, message| {
            all.extend(message::event(message)?);
            Ok(())
        })
    }
}

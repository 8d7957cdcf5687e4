//! What a network card does to frames by itself (checksums, joining and cutting of TCP segments, VLAN tags): switched off
//! while the engine has the card's frames, and put back afterwards.
//!
//! With netmap the host's frames would leave without their checksums, and with any kind of port joined segments arrive that
//! are longer than the link allows.
//!
//! 1. [`OffloadGuard::clear`] reads which of them are on, and switches them off;
//! 2. dropping the guard switches the same ones on again.
//!
//! A process that is killed drops nothing. Who wants them back after that writes [`active`] down (it has a text form) before
//! the port is opened, and at the next start gives it to [`restore`] before the port is opened again.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use netmap_sys::IFNAMSIZ;

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(test)]
mod tests;

#[cfg(target_os = "freebsd")]
pub(super) use freebsd::Interface;
#[cfg(target_os = "freebsd")]
use freebsd::NAMES;
#[cfg(target_os = "linux")]
pub(super) use linux::Interface;
#[cfg(target_os = "linux")]
use linux::NAMES;

/// Why offloads could not be read or set.
#[derive(Debug, thiserror::Error)]
#[error("{interface}: cannot {doing} its offloads: {source}")]
pub struct OffloadError {
    interface: String,
    doing: &'static str,
    source: io::Error,
}

/// A set of offloads, of those that this system names. Its text is those names, with commas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads(u32);

impl Offloads {
    /// All that the system names.
    fn all() -> Offloads {
        Offloads(NAMES.iter().fold(0, |all, (bit, _)| all | bit))
    }

    /// Is there none?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are in both sets.
    pub fn and(self, other: Offloads) -> Offloads {
        Offloads(self.0 & other.0)
    }

    fn without(self, other: Offloads) -> Offloads {
        Offloads(self.0 & !other.0)
    }
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (_, name) in NAMES.iter().filter(|(bit, _)| self.0 & bit != 0) {
            write!(f, "{separator}{name}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// A name that stands for no offload of this system.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no offload that this system knows")]
pub struct UnknownOffload(String);

impl FromStr for Offloads {
    type Err = UnknownOffload;

    fn from_str(text: &str) -> Result<Offloads, UnknownOffload> {
        text.split(',').filter(|word| !word.is_empty()).try_fold(Offloads::default(), |set, word| {
            let known = NAMES.iter().find(|(_, name)| *name == word);
            known.map(|(bit, _)| Offloads(set.0 | bit)).ok_or_else(|| UnknownOffload(word.to_owned()))
        })
    }
}

/// A name as requests carry it: ended by a zero.
///
/// # Errors
/// `InvalidInput` for one that no interface can have.
fn interface_name(name: &str) -> io::Result<[u8; IFNAMSIZ]> {
    let mut field = [0; IFNAMSIZ];
    if name.is_empty() || name.len() >= IFNAMSIZ || name.bytes().any(|byte| byte == 0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    Ok(field)
}

/// An interface whose offloads can be read and set. A trait, so that tests can play one.
trait Card: Send + Sync {
    /// The offloads that are on.
    fn active(&self) -> io::Result<Offloads>;

    /// Switches those given, and no others. What the driver refuses stays as it is.
    fn switch(&self, offloads: Offloads, on: bool) -> io::Result<()>;
}

/// Keeps an interface's offloads switched off; dropping it switches on again what was on before.
pub struct OffloadGuard {
    card: Box<dyn Card>,
    cleared: Offloads,
    stuck: Offloads,
    given_up: AtomicBool,
}

impl OffloadGuard {
    /// Switches off all offloads of the interface that are on.
    ///
    /// # Errors
    /// [`OffloadError`] where there is no such interface, or its offloads may not be changed; nothing stays changed then.
    pub fn clear(interface: &str) -> Result<OffloadGuard, OffloadError> {
        Self::clear_some(interface, Offloads::all())
    }

    /// Switches off those of `offloads` that are on, and leaves the others alone.
    ///
    /// # Errors
    /// As [`OffloadGuard::clear`].
    pub fn clear_some(interface: &str, offloads: Offloads) -> Result<OffloadGuard, OffloadError> {
        let failed = |doing| move |source| OffloadError { interface: interface.to_owned(), doing, source };
        let card = Interface::open(interface).map_err(failed("reach"))?;
        Self::clear_on(Box::new(card), offloads).map_err(failed("clear"))
    }

    fn clear_on(card: Box<dyn Card>, offloads: Offloads) -> io::Result<OffloadGuard> {
        let before = card.active()?.and(offloads);
        // From here on, also when something below fails, the guard puts back what was on.
        let (stuck, given_up) = (Offloads::default(), AtomicBool::new(false));
        let mut guard = OffloadGuard { card, cleared: before, stuck, given_up };
        if !before.is_empty() {
            guard.card.switch(before, false)?;
            guard.stuck = guard.card.active()?.and(before);
        }
        guard.cleared = before.without(guard.stuck);
        Ok(guard)
    }

    /// The interface has gone: another of its name is let be.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Those that the guard keeps off.
    pub fn cleared(&self) -> Offloads {
        self.cleared
    }

    /// Those that the driver would not switch off.
    pub fn stuck(&self) -> Offloads {
        self.stuck
    }
}

impl Drop for OffloadGuard {
    fn drop(&mut self) {
        if !self.cleared.is_empty() && !self.given_up.load(Ordering::Relaxed) {
            // The interface may be gone, and nobody is left to be told.
            let _ = self.card.switch(self.cleared, true);
        }
    }
}

/// The offloads of an interface that are on, of those that a guard would clear.
///
/// # Errors
/// [`OffloadError`] where there is no such interface.
pub fn active(interface: &str) -> Result<Offloads, OffloadError> {
    let failed = |doing| move |source| OffloadError { interface: interface.to_owned(), doing, source };
    let card = Interface::open(interface).map_err(failed("reach"))?;
    Ok(card.active().map_err(failed("read"))?.and(Offloads::all()))
}

/// Switches offloads on that an earlier run of the program has cleared and could not put back.
///
/// # Errors
/// [`OffloadError`] where there is no such interface, or its offloads may not be changed.
pub fn restore(interface: &str, offloads: Offloads) -> Result<(), OffloadError> {
    let failed = |doing| move |source| OffloadError { interface: interface.to_owned(), doing, source };
    let card = Interface::open(interface).map_err(failed("reach"))?;
    card.switch(offloads, true).map_err(failed("restore"))
}

//! What the host knows of a tunnel's interface: its MTU, that it is up, our address on it and the peer's. The interface itself
//! is the engine's ([`culvert_engine::ring::TunSet`]); this follows the configuration.
//!
//! [`HostInterfaces::configure`]:
//! 1. reads what the interface has;
//! 2. takes away what an earlier configuration gave it and this one does not;
//! 3. sets what differs, and leaves what is right, with the routes and sessions that hang on it, as well as what others
//!    have put on the interface;
//! 4. reads it again, and says what the system made otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;

use culvert_engine::fib::Prefix;

#[cfg(any(target_os = "freebsd", test))]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(test)]
mod tests;

#[cfg(target_os = "freebsd")]
use freebsd::System;
#[cfg(target_os = "freebsd")]
pub use freebsd::switch;
#[cfg(target_os = "linux")]
use linux::System;

/// Why an interface is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// There is no such interface.
    #[error("interface {0}: there is none")]
    Missing(String),
    /// The system refuses.
    #[error("interface {name}: cannot {what}: {source}")]
    Refused {
        /// The interface.
        name: String,
        /// What was tried.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The system agreed, and did something else.
    #[error("interface {name}: {what} was set, and is not there")]
    Otherwise {
        /// The interface.
        name: String,
        /// What is missing.
        what: String,
    },
}

/// Our address on an interface, and the peer's where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inner {
    /// Our address.
    pub local: IpAddr,
    /// Bits of the prefix that the interface leads to: around the peer's address, or ours where there is no peer.
    pub prefix_len: u8,
    /// The peer's address, of the same family.
    pub peer: Option<IpAddr>,
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "address {} with peer {peer}/{}", self.local, self.prefix_len),
            None => write!(f, "address {}/{}", self.local, self.prefix_len),
        }
    }
}

/// What an interface has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The largest IP packet that the host sends through it, in bytes.
    pub mtu: u32,
    /// Has somebody brought it up?
    pub up: bool,
    /// Its addresses, others' too.
    pub addresses: BTreeSet<Inner>,
}

/// The host's side of the tunnels' interfaces.
pub struct HostInterfaces {
    system: System,
    /// What we gave to each interface.
    given: BTreeMap<String, BTreeSet<Inner>>,
    /// The routes that we led into each interface.
    routes: BTreeMap<String, BTreeSet<Prefix>>,
}

impl HostInterfaces {
    /// Opens what the system is asked through, in the network namespace (Linux) or jail (FreeBSD) of the caller.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<HostInterfaces> {
        Ok(HostInterfaces { system: System::open()?, given: BTreeMap::new(), routes: BTreeMap::new() })
    }

    /// Makes the interface up, with this MTU and these addresses. What is right already is not touched. Addresses that others
    /// gave to the interface stay.
    ///
    /// # Errors
    /// [`ConfigureError`]. What has been set until then stays; calling again goes on.
    pub fn configure(&mut self, name: &str, mtu: u32, addresses: &[Inner]) -> Result<(), ConfigureError> {
        let wanted: BTreeSet<Inner> = addresses.iter().copied().map(canonical).collect();
        let present = self.read(name)?;
        let given = self.given.remove(name).unwrap_or_default();
        let refused =
            |what: String| move |source| ConfigureError::Refused { name: name.to_owned(), what, source };
        for old in given.difference(&wanted).filter(|old| present.addresses.contains(old)) {
            let removed = self.system.remove_address(name, *old);
            removed.map_err(refused(format!("remove {old}")))?;
        }
        // Known as ours from here on, so that it is taken away again should the rest fail.
        self.given.insert(name.to_owned(), wanted.clone());
        if present.mtu != mtu || !present.up {
            let set = self.system.set_link(name, mtu);
            set.map_err(refused(format!("bring it up with an MTU of {mtu}")))?;
        }
        let missing: Vec<Inner> = wanted.difference(&present.addresses).copied().collect();
        for new in &missing {
            self.system.add_address(name, *new).map_err(refused(format!("add {new}")))?;
        }
        if missing.is_empty() && present.mtu == mtu && present.up {
            return Ok(());
        }
        let present = self.read(name)?;
        let otherwise = |what: String| Err(ConfigureError::Otherwise { name: name.to_owned(), what });
        if !present.up || present.mtu != mtu {
            return otherwise(format!("up with an MTU of {mtu}"));
        }
        wanted.difference(&present.addresses).next().map_or(Ok(()), |missing| otherwise(missing.to_string()))
    }

    /// Makes the host send packets to these prefixes into the interface, and none to those of an earlier call that are not
    /// among them. A prefix that the host routes already, whoever said so, is left as it is.
    ///
    /// # Errors
    /// [`ConfigureError::Refused`]. What has been set until then stays; calling again goes on.
    pub fn set_routes(&mut self, name: &str, wanted: &BTreeSet<Prefix>) -> Result<(), ConfigureError> {
        let HostInterfaces { system, routes, .. } = self;
        let refused = |verb: &str, prefix: Prefix| {
            let what = format!("{verb} the route to {prefix}");
            move |source| ConfigureError::Refused { name: name.to_owned(), what, source }
        };
        let routes = routes.entry(name.to_owned()).or_default();
        for old in routes.difference(wanted).copied().collect::<Vec<_>>() {
            system.remove_route(name, old).map_err(refused("remove", old))?;
            routes.remove(&old);
        }
        for new in wanted.difference(routes).copied().collect::<Vec<_>>() {
            system.add_route(name, new).map_err(refused("add", new))?;
            routes.insert(new);
        }
        Ok(())
    }

    /// What the interface has.
    ///
    /// # Errors
    /// [`ConfigureError::Missing`], and what the system refuses.
    pub fn read(&mut self, name: &str) -> Result<Present, ConfigureError> {
        match self.system.read(name) {
            Ok(Some(present)) => Ok(present),
            Ok(None) => Err(ConfigureError::Missing(name.to_owned())),
            Err(source) => {
                Err(ConfigureError::Refused { name: name.to_owned(), what: "read it".to_owned(), source })
            }
        }
    }

    /// The interface is gone, or no tunnel's any more.
    pub fn forget(&mut self, name: &str) {
        self.given.remove(name);
        self.routes.remove(name);
    }

    /// Deletes these interfaces, all at once. One by one they go by themselves with [`culvert_engine::ring::TunSet`], which takes
    /// Linux some 20 ms for each: too long for the end of a daemon that has thousands. FreeBSD has no such call, and no such
    /// need.
    ///
    /// # Errors
    /// [`ConfigureError`]; some of them are there still.
    pub fn delete_all(&mut self, names: &[&str]) -> Result<(), ConfigureError> {
        names.iter().for_each(|name| self.forget(name));
        self.system.delete_all(names).map_err(|(name, source)| ConfigureError::Refused {
            name,
            what: "delete it".to_owned(),
            source,
        })
    }
}

/// As the systems give it back: an interface that leads to ourselves has no peer.
fn canonical(inner: Inner) -> Inner {
    Inner { peer: inner.peer.filter(|peer| *peer != inner.local), ..inner }
}

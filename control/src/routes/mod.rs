//! What the host knows of its network, followed live: links, addresses, routes and neighbours. One trait, [`HostSource`],
//! has a backend for Linux ([`netlink`]), one for FreeBSD ([`pfroute`]) and one that tests drive by hand ([`scripted`]);
//! [`merge`](mod@merge) makes of the state what the engine's tables are built from.
//!
//! How a thread follows a host:
//! 1. [`HostSource::snapshot`] gives the whole state;
//! 2. the thread sleeps until [`HostSource::wait_fd`] is readable, or [`HostSource::deadline`] has come;
//! 3. [`HostSource::changes`] gives what has become otherwise, each thing once, to be put into the state with
//!    [`HostState::apply`]; then step 2 again.
//!
//! A source that has lost messages, or is told something that does not fit what it knows, reads the tables again and
//! tells the difference: the thread need not know. Where the host's rules send some packets to other tables than the
//! main one, only the main one is followed.

mod ledger;
pub mod merge;
#[cfg(target_os = "linux")]
pub mod netlink;
pub mod pfroute;
pub mod scripted;
mod stale;
mod state;
#[cfg(test)]
mod suite;

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Instant;

pub use merge::{Hop, HostTables, Interfaces, MergedRoute, PortNeighbour, Way, merge};
pub use state::{
    Address, Change, HostState, Link, LinkIndex, Neighbour, NeighbourKey, NextHop, Route, RouteKey,
    RouteKind, prefix_around,
};

/// Where a host's links, addresses, routes and neighbours are learned from.
pub trait HostSource {
    /// The whole state, read afresh. Changes up to here are not told again.
    ///
    /// # Errors
    /// The host does not answer, or not as it should; what was known before stays known.
    fn snapshot(&mut self) -> Result<HostState, SourceError>;

    /// What has become otherwise since the last report; empty: nothing. Never waits for something to happen.
    ///
    /// # Errors
    /// The host does not answer, or not as it should. Nothing is lost: the source tries again when it is asked again, and
    /// [`HostSource::deadline`] says when that makes sense.
    fn changes(&mut self) -> Result<Changes, SourceError>;

    /// A descriptor that is readable when there may be changes.
    fn wait_fd(&self) -> BorrowedFd<'_>;

    /// When to ask for changes although the descriptor is silent; `None`: no need to.
    fn deadline(&self) -> Option<Instant>;

    /// Asks the host to find the station with that address on that link. The answer comes as a change. Asked again while the
    /// station is in use (every few seconds will do), the host keeps it fresh, as if it were using it itself.
    ///
    /// # Errors
    /// [`ResolveError::Unsupported`]: this host takes no such requests; resolve it yourself.
    fn resolve(&mut self, link: LinkIndex, address: IpAddr) -> Result<(), ResolveError>;
}

/// A report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// What is otherwise. Links come first.
    pub list: Vec<Change>,
    /// The source had lost track (messages were dropped, or were damaged) and has read everything again. Nothing is missing from
    /// the list.
    pub resynchronised: bool,
}

/// A source failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It could not be opened.
    #[error("cannot follow the host's network: {0}")]
    Open(#[source] io::Error),
    /// Its messages could not be read.
    #[error("cannot read what the host says of its network: {0}")]
    Read(#[source] io::Error),
    /// A table could not be read.
    #[error("cannot read the host's table of {table}: {error}")]
    Table {
        /// Which: `links`, `addresses`, `next hops`, `routes`, `neighbours`.
        table: &'static str,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// A neighbour cannot be resolved by the host.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// This host takes no such requests.
    #[error("this system resolves no neighbours on request")]
    Unsupported,
    /// The host refused: no such link, or it is down.
    #[error("the host does not resolve {address} on link {link}: {error}")]
    Refused {
        /// The link.
        link: LinkIndex,
        /// The address.
        address: IpAddr,
        /// Why.
        #[source]
        error: io::Error,
    },
}

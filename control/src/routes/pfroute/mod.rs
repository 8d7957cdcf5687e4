//! FreeBSD: links, addresses, routes and neighbours, by the sysctls below `net.route` and a routing socket (route(4)).
//!
//! [`PfRouteSource::changes`]:
//! 1. take in the messages that have come: a route that comes or goes is entered as it is, if the message says all there is
//!    to know;
//! 2. whatever else has happened (a link or an address, a changed route, several next hops of one destination), the
//!    sysctls are read again; all of them where messages were lost;
//! 3. report what is otherwise.
//!
//! The kernel does not tell of stations that it has found, and may drop messages in silence before they reach a socket
//! (`net.route.netisr_maxqlen`), so every few seconds the stations are read, and the routes as well if messages have come.
//!
//! There is no request to resolve a station, but the kernel resolves those that it sends packets to, and keeps them fresh: it
//! is given an empty datagram. Only the calls of [`RoutingSocket`] are FreeBSD's; the rest runs anywhere.

#[cfg(target_os = "freebsd")]
mod freebsd;
mod message;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use netmap_sys::{
    RTF_DONE, RTF_LLINFO, RTM_ADD, RTM_CHANGE, RTM_DELADDR, RTM_DELETE, RTM_GET, RTM_IFANNOUNCE, RTM_IFINFO,
    RTM_LOSING, RTM_NEWADDR, RTM_REDIRECT,
};

#[cfg(target_os = "freebsd")]
pub use self::freebsd::KernelSocket;
use self::message::{Message, RoutePart};
use super::ledger::Ledger;
use super::stale::Stale;
use super::state::{Address, HostState, Link, LinkIndex, Neighbour, NeighbourKey, Route, RouteKey};
use super::{Changes, HostSource, ResolveError, SourceError};
use crate::datagram::Damaged;

/// How often stations are read, and what may have been lost is looked for.
const AUDIT: Duration = Duration::from_secs(5);
/// When stations are read after one was asked for: on a link, it has answered by then.
const ANSWER: Duration = Duration::from_millis(100);
/// Messages taken in before a report, so that a host that never stops talking is reported on nevertheless.
const BATCH: usize = 16_384;
/// Room for a message; the kernel's longest, a header and eight addresses, has a quarter of it.
const MESSAGE: usize = 8 << 10;
/// FreeBSD has several tables (FIBs), and shows each program its own one.
const TABLE: u32 = 0;

/// A table of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysctlTable {
    /// Interfaces and their addresses (`NET_RT_IFLISTL`).
    Interfaces,
    /// Routes (`NET_RT_DUMP`).
    Routes,
    /// Stations of IPv4 (`NET_RT_FLAGS`, `RTF_LLINFO`).
    Arp,
    /// Stations of IPv6.
    Ndp,
}

/// What a source asks of the kernel.
pub trait RoutingSocket {
    /// The next message, into `buffer`; how long it is. Never waits.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. `ENOBUFS`: messages were lost.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// A whole table.
    ///
    /// # Errors
    /// What the kernel says.
    fn table(&mut self, table: SysctlTable) -> io::Result<Vec<u8>>;

    /// Makes the kernel send something to a station on that link, which it has to find for that.
    ///
    /// # Errors
    /// What the kernel says.
    fn poke(&mut self, link: LinkIndex, address: IpAddr) -> io::Result<()>;

    /// A descriptor that is readable when there is a message.
    fn wait_fd(&self) -> BorrowedFd<'_>;
}

/// The network that a routing socket shows.
#[derive(Debug)]
pub struct PfRouteSource<S> {
    socket: S,
    ledger: Ledger,
    stale: Stale,
    /// When to look for what was not told, and how often.
    audit: Instant,
    audit_every: Duration,
    /// Messages have come since the last look.
    stirred: bool,
    buffer: Vec<u8>,
}

impl<S: RoutingSocket> PfRouteSource<S> {
    /// Follows what `socket` shows, which must have been opened before.
    #[must_use]
    pub fn new(socket: S) -> PfRouteSource<S> {
        PfRouteSource {
            socket,
            ledger: Ledger::default(),
            stale: Stale::default(),
            audit: Instant::now(),
            audit_every: AUDIT,
            stirred: false,
            buffer: vec![0; MESSAGE],
        }
    }

    /// Step 1.
    fn take_messages(&mut self) -> Result<(), SourceError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut result = Ok(());
        for _ in 0..BATCH {
            match self.socket.receive(&mut buffer) {
                Ok(length) => self.take(buffer.get(..length).unwrap_or_default(), Instant::now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.stale.everything = true,
                Err(error) => {
                    result = Err(SourceError::Read(error));
                    break;
                }
            }
        }
        self.buffer = buffer;
        result
    }

    /// Takes in what was received. Damage leaves what was there before, and has everything read again.
    fn take(&mut self, bytes: &[u8], now: Instant) {
        self.stirred = true;
        for message in message::messages(bytes) {
            if message.and_then(|message| self.event(message, now)).is_err() {
                self.stale.everything = true;
            }
        }
    }

    fn event(&mut self, message: Message<'_>, now: Instant) -> Result<(), Damaged> {
        match message.kind {
            RTM_ADD | RTM_DELETE => self.added_or_deleted(message)?,
            RTM_CHANGE | RTM_REDIRECT => self.stale.routes = true,
            RTM_LOSING => self.stale.everything = true,
            RTM_NEWADDR | RTM_DELADDR | RTM_IFINFO | RTM_IFANNOUNCE => self.stale.unsettled(now),
            _ => {}
        }
        Ok(())
    }

    fn added_or_deleted(&mut self, message: Message<'_>) -> Result<(), Damaged> {
        let header = message::route_header(message)?;
        // A request that failed is shown to all.
        if header.rtm_errno != 0 || header.rtm_flags & RTF_DONE == 0 {
            return Ok(());
        }
        let added = message.kind == RTM_ADD;
        if header.rtm_flags & RTF_LLINFO != 0 {
            if let Some((key, neighbour)) = message::neighbour(message)? {
                self.ledger.neighbours.set(key, added.then_some(neighbour));
            }
        } else if let Some(part) = message::route(message)? {
            self.route(part, added);
        }
        Ok(())
    }

    fn route(&mut self, part: RoutePart, added: bool) {
        let key = key_of(&part);
        let new = route_of(vec![part]);
        match self.ledger.routes.get(&key) {
            // Told again.
            None if !added => {}
            Some(known) if added && *known == new => {}
            None => self.ledger.routes.set(key, Some(new)),
            Some(known) if !added && *known == new => self.ledger.routes.set(key, None),
            // One of several next hops, or a message that leaves them open.
            Some(_) => self.stale.routes = true,
        }
    }

    /// Step 2. On failure everything stays as it was, and as stale as it was.
    fn read_again(&mut self, everything: bool) -> Result<(), SourceError> {
        let read = self.read_tables(everything);
        if read.is_err() {
            self.stale.failed(Instant::now());
        }
        read
    }

    fn read_tables(&mut self, everything: bool) -> Result<(), SourceError> {
        let neighbours = if everything { Some(self.read_neighbours()?) } else { None };
        let interfaces = self.table("links", SysctlTable::Interfaces, Interfaces::take)?;
        let routes = self.table("routes", SysctlTable::Routes, take_route)?;
        self.ledger.links.replace(interfaces.links);
        self.ledger.addresses.replace(interfaces.addresses);
        self.ledger.routes.replace(routes.into_iter().map(|(key, parts)| (key, route_of(parts))).collect());
        if let Some(neighbours) = neighbours {
            self.ledger.neighbours.replace(neighbours);
        }
        self.stale.clear();
        Ok(())
    }

    fn read_neighbours(&mut self) -> Result<Neighbours, SourceError> {
        let mut neighbours = self.table("neighbours", SysctlTable::Arp, take_neighbour)?;
        neighbours.extend(self.table("neighbours", SysctlTable::Ndp, take_neighbour)?);
        Ok(neighbours)
    }

    fn table<T: Default>(
        &mut self,
        name: &'static str,
        table: SysctlTable,
        take: impl Fn(&mut T, Message<'_>) -> Result<(), Damaged>,
    ) -> Result<T, SourceError> {
        let failed = |error| SourceError::Table { table: name, error };
        let damaged = |_| failed(io::Error::new(io::ErrorKind::InvalidData, "it is damaged"));
        let bytes = match self.socket.table(table) {
            // A kernel without this protocol.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Vec::new(),
            result => result.map_err(failed)?,
        };
        let mut found = T::default();
        for message in message::messages(&bytes) {
            message.and_then(|message| take(&mut found, message)).map_err(damaged)?;
        }
        Ok(found)
    }

    /// Looks for what was not told, where it is time to.
    fn look(&mut self, now: Instant) -> Result<(), SourceError> {
        if now < self.audit {
            return Ok(());
        }
        self.audit = now.checked_add(self.audit_every).unwrap_or(now);
        self.stale.routes |= std::mem::take(&mut self.stirred);
        let neighbours = self.read_neighbours()?;
        self.ledger.neighbours.replace(neighbours);
        Ok(())
    }
}

/// Interfaces while they are being read; an interface's addresses follow it.
#[derive(Debug, Default)]
struct Interfaces {
    links: BTreeMap<LinkIndex, Link>,
    addresses: BTreeMap<Address, ()>,
    flags: i32,
}

impl Interfaces {
    fn take(&mut self, message: Message<'_>) -> Result<(), Damaged> {
        match message.kind {
            RTM_IFINFO => {
                self.flags = message::link_flags(message)?;
                self.links.extend([message::link(message)?]);
            }
            RTM_NEWADDR => {
                let address = message::address(message, self.flags)?;
                self.addresses.extend(address.map(|address| (address, ())));
            }
            _ => {}
        }
        Ok(())
    }
}

type Neighbours = BTreeMap<NeighbourKey, Neighbour>;

fn take_neighbour(neighbours: &mut Neighbours, message: Message<'_>) -> Result<(), Damaged> {
    if message.kind == RTM_GET {
        neighbours.extend(message::neighbour(message)?);
    }
    Ok(())
}

fn take_route(routes: &mut BTreeMap<RouteKey, Vec<RoutePart>>, message: Message<'_>) -> Result<(), Damaged> {
    if message.kind == RTM_GET
        && let Some(part) = message::route(message)?
    {
        routes.entry(key_of(&part)).or_default().push(part);
    }
    Ok(())
}

fn key_of(part: &RoutePart) -> RouteKey {
    RouteKey { table: TABLE, prefix: part.prefix, metric: 0 }
}

/// The parts of one destination are next hops of one route. The weight of a single one means nothing.
fn route_of(parts: Vec<RoutePart>) -> Vec<Route> {
    let Some(kind) = parts.first().map(|part| part.kind) else { return Vec::new() };
    let mut hops: Vec<_> = parts.into_iter().map(|part| part.hop).collect();
    if let [only] = hops.as_mut_slice() {
        only.weight = 1;
    }
    vec![Route { kind, hops, source: None, selective: false }]
}

impl<S: RoutingSocket> HostSource for PfRouteSource<S> {
    fn snapshot(&mut self) -> Result<HostState, SourceError> {
        self.read_again(true)?;
        self.audit = Instant::now().checked_add(self.audit_every).unwrap_or(self.audit);
        Ok(self.ledger.snapshot())
    }

    fn changes(&mut self) -> Result<Changes, SourceError> {
        self.take_messages()?;
        let now = Instant::now();
        self.look(now)?;
        self.stale.tick(now);
        let everything = self.stale.everything;
        if everything || self.stale.routes {
            self.read_again(everything)?;
        }
        Ok(Changes { list: self.ledger.report(), resynchronised: everything })
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.socket.wait_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.stale.deadline().map_or(self.audit, |due| due.min(self.audit)))
    }

    fn resolve(&mut self, link: LinkIndex, address: IpAddr) -> Result<(), ResolveError> {
        let poked = self.socket.poke(link, address);
        poked.map_err(|error| ResolveError::Refused { link, address, error })?;
        self.audit = self.audit.min(Instant::now() + ANSWER);
        Ok(())
    }
}

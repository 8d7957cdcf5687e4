//! Linux: links, addresses, routes of the main table, next hop objects and neighbours, over rtnetlink (RFC 3549). Two
//! sockets: one that events come from, one for requests and their answers.
//!
//! [`NetlinkSource::changes`]:
//! 1. take in the events that have come;
//! 2. where the kernel had no room for all of them (`ENOBUFS`), or one could not be read, read all tables again; where
//!    they leave routes open, read the routes again;
//! 3. report what is otherwise.
//!
//! Events are subscribed to before the first table is read, so nothing falls in between; one that a table already
//! contains is entered twice, which changes nothing.

mod follow;
mod message;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use self::follow::{Follower, Tables};
use super::state::{HostState, LinkIndex};
use super::{Changes, HostSource, ResolveError, SourceError};
use crate::netlink::{DATAGRAM, Requests, receive};

/// Groups of events (linux/rtnetlink.h, `RTNLGRP_*`): links, neighbours, addresses and routes of both families, next
/// hop objects.
const GROUPS: [u32; 7] = [1, 3, 5, 7, 9, 11, GROUP_NEXTHOP];
/// Kernels before 5.3 have no next hop objects, and no such group.
const GROUP_NEXTHOP: u32 = 32;
/// Bytes asked for as room for events; the kernel may give less (`net.core.rmem_max`).
const RECEIVE_BUFFER: usize = 8 << 20;
/// Datagrams taken in before a report, so that a host that never stops talking is reported on nevertheless.
const BATCH: usize = 4096;

/// The network of the namespace that the source was opened in.
#[derive(Debug)]
pub struct NetlinkSource {
    events: Socket,
    requests: Requests,
    datagram: Vec<u8>,
    follower: Follower,
}

impl NetlinkSource {
    /// Opens the sockets and subscribes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open() -> Result<NetlinkSource, SourceError> {
        NetlinkSource::with_receive_buffer(RECEIVE_BUFFER).map_err(SourceError::Open)
    }

    fn with_receive_buffer(bytes: usize) -> io::Result<NetlinkSource> {
        let mut events = Socket::new(NETLINK_ROUTE)?;
        events.set_rx_buf_sz(i32::try_from(bytes).unwrap_or(i32::MAX))?;
        events.bind_auto()?;
        for group in GROUPS {
            match events.add_membership(group) {
                Err(error) if group != GROUP_NEXTHOP => return Err(error),
                _ => {}
            }
        }
        Ok(NetlinkSource {
            events,
            requests: Requests::open(NETLINK_ROUTE)?,
            datagram: Vec::with_capacity(DATAGRAM),
            follower: Follower::new(message::RT_TABLE_MAIN),
        })
    }

    /// Step 1. What the kernel had no room for, and what this side had none for, is lost.
    fn take_events(&mut self) -> Result<(), SourceError> {
        for _ in 0..BATCH {
            match receive(&self.events, &mut self.datagram) {
                Ok(true) => self.follower.take(&self.datagram, Instant::now()),
                Ok(false) => self.follower.stale.everything = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.follower.stale.everything = true;
                }
                Err(error) => return Err(SourceError::Read(error)),
            }
        }
        Ok(())
    }

    /// Step 2. On failure everything stays as it was, and as stale as it was.
    fn read_again(&mut self, everything: bool) -> Result<(), SourceError> {
        match self.read_tables(everything) {
            Ok(tables) => {
                self.follower.replace(tables, everything);
                Ok(())
            }
            Err(error) => {
                self.follower.stale.failed(Instant::now());
                Err(error)
            }
        }
    }

    fn read_tables(&mut self, everything: bool) -> Result<Tables, SourceError> {
        let all = [
            ("links", message::RTM_GETLINK),
            ("addresses", message::RTM_GETADDR),
            ("neighbours", message::RTM_GETNEIGH),
        ];
        let routes = [("next hops", message::RTM_GETNEXTHOP), ("routes", message::RTM_GETROUTE)];
        let mut tables = Tables::default();
        for &(table, kind) in all.iter().filter(|_| everything).chain(&routes) {
            let request = |sequence| message::dump_request(kind, sequence);
            match self.requests.list(&mut self.datagram, request, Tables::take) {
                // A kernel without next hop objects: no route names one.
                Err(error)
                    if kind == message::RTM_GETNEXTHOP && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(SourceError::Table { table, error }),
                Ok(table) => tables.extend(table),
            }
        }
        Ok(tables)
    }
}

impl HostSource for NetlinkSource {
    fn snapshot(&mut self) -> Result<HostState, SourceError> {
        self.read_again(true)?;
        Ok(self.follower.ledger.snapshot())
    }

    fn changes(&mut self) -> Result<Changes, SourceError> {
        self.take_events()?;
        let stale = &mut self.follower.stale;
        stale.tick(Instant::now());
        let everything = stale.everything;
        if everything || stale.routes {
            self.read_again(everything)?;
        }
        Ok(Changes { list: self.follower.ledger.report(), resynchronised: everything })
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        self.follower.stale.deadline()
    }

    /// The kernel takes it as a packet to that station: it asks for the address if it does not know it, and checks one
    /// that is stale.
    fn resolve(&mut self, link: LinkIndex, address: IpAddr) -> Result<(), ResolveError> {
        let request = |sequence| message::use_request(link, address, sequence);
        self.requests.ask(&mut self.datagram, request).map_err(|error| ResolveError::Refused {
            link,
            address,
            error,
        })
    }
}

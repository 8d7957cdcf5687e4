//! Interfaces on Linux, over rtnetlink (RFC 3549, linux/rtnetlink.h). A message is a netlink header, a header of fixed length for
//! its kind, and attributes. All is in the machine's byte order, but for addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use culvert_engine::fib::Prefix;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::{Inner, Present, canonical};
use crate::netlink::DATAGRAM;
use crate::netlink::message::{self, address_of, attributes, error_code, messages};

/// Bytes of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// Bytes of `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// Groups of interfaces to be deleted have this in their upper half, and the process's number in the lower.
const GROUP: u32 = 0x6376_0000;

/// A netlink socket and what it needs.
pub(super) struct System {
    socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
}

/// A message of the kernel's: its kind, and what follows the netlink header.
struct Message {
    kind: u16,
    payload: Vec<u8>,
}

impl System {
    pub(super) fn open() -> io::Result<System> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // With it the kernel lists the addresses of one interface, and not those of ten thousand. Refused before Linux 4.20,
        // which lists all.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(System { socket, sequence: 0, datagram: Vec::with_capacity(DATAGRAM) })
    }

    pub(super) fn read(&mut self, name: &str) -> io::Result<Option<Present>> {
        let Some(link) = self.link(name)? else { return Ok(None) };
        let mut addresses = BTreeSet::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut request = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP);
            request.header(&address_header(family, 0, 0, link.index));
            let answers = self.ask(request)?;
            addresses.extend(answers.iter().filter_map(|message| address(message, link.index)));
        }
        Ok(Some(Present { mtu: link.mtu, up: link.flags & libc::IFF_UP as u32 != 0, addresses }))
    }

    pub(super) fn set_link(&mut self, name: &str, mtu: u32) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        let mut request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_ACK);
        request.header(&link_header(up, up));
        request.attribute(libc::IFLA_IFNAME, &zero_ended(name));
        request.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        self.ask(request).map(drop)
    }

    pub(super) fn add_address(&mut self, name: &str, inner: Inner) -> io::Result<()> {
        self.change_address(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, name, inner)
    }

    pub(super) fn remove_address(&mut self, name: &str, inner: Inner) -> io::Result<()> {
        self.change_address(libc::RTM_DELADDR, 0, name, inner)
    }

    fn change_address(&mut self, kind: u16, flags: i32, name: &str, inner: Inner) -> io::Result<()> {
        let link = self.link(name)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        let family = if inner.local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let mut request = Request::new(kind, libc::NLM_F_ACK | flags);
        // No duplicate detection: nobody else is on the link.
        request.header(&address_header(family, inner.prefix_len, libc::IFA_F_NODAD, link.index));
        request.address(libc::IFA_LOCAL, inner.local);
        request.address(libc::IFA_ADDRESS, inner.peer.unwrap_or(inner.local));
        self.ask(request).map(drop)
    }

    pub(super) fn add_route(&mut self, name: &str, prefix: Prefix) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        match self.change_route(libc::RTM_NEWROUTE, flags, name, prefix) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            result => result,
        }
    }

    pub(super) fn remove_route(&mut self, name: &str, prefix: Prefix) -> io::Result<()> {
        match self.change_route(libc::RTM_DELROUTE, 0, name, prefix) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            result => result,
        }
    }

    fn change_route(&mut self, kind: u16, flags: i32, name: &str, prefix: Prefix) -> io::Result<()> {
        let link = self.link(name)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        let mut request = Request::new(kind, libc::NLM_F_ACK | flags);
        request.header(&route_header(prefix));
        if prefix.prefix_len() > 0 {
            request.address(libc::RTA_DST, prefix.addr());
        }
        request.attribute(libc::RTA_OIF, &link.index.to_ne_bytes());
        self.ask(request).map(drop)
    }

    /// The kernel ends the members of a group together. A group that only this process uses.
    pub(super) fn delete_all(&mut self, names: &[&str]) -> Result<(), (String, io::Error)> {
        let group = (GROUP | std::process::id() & 0xffff).to_ne_bytes();
        let mut members = 0;
        for name in names {
            let mut request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_ACK);
            request.header(&link_header(0, 0));
            request.attribute(libc::IFLA_IFNAME, &zero_ended(name));
            request.attribute(libc::IFLA_GROUP, &group);
            match self.ask(request) {
                Ok(_) => members += 1,
                // It is gone: all the better.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(((*name).to_owned(), error)),
            }
        }
        if members == 0 {
            return Ok(());
        }
        let mut request = Request::new(libc::RTM_DELLINK, libc::NLM_F_ACK);
        request.header(&link_header(0, 0));
        request.attribute(libc::IFLA_GROUP, &group);
        self.ask(request).map(drop).map_err(|error| (names.join(", "), error))
    }

    fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut request = Request::new(libc::RTM_GETLINK, 0);
        request.header(&link_header(0, 0));
        request.attribute(libc::IFLA_IFNAME, &zero_ended(name));
        match self.ask(request) {
            Ok(answers) => answers.iter().find_map(link).map(Some).ok_or_else(damaged),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request and takes in all of the answer.
    fn ask(&mut self, request: Request) -> io::Result<Vec<Message>> {
        self.sequence = self.sequence.wrapping_add(1);
        let dump = request.flags & libc::NLM_F_DUMP == libc::NLM_F_DUMP;
        self.socket.send(&request.finish(self.sequence), 0)?;
        let mut answers = Vec::new();
        loop {
            self.datagram.clear();
            // The kernel has the answer ready, or its next part, when the request has been taken.
            self.socket.recv(&mut self.datagram, libc::MSG_DONTWAIT)?;
            let mut ours = false;
            for message in messages(&self.datagram) {
                let message = message.map_err(|_| damaged())?;
                ours = message.sequence == self.sequence;
                if !ours {
                    continue;
                }
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(answers),
                    libc::NLMSG_ERROR => match error_code(message.payload).map_err(|_| damaged())? {
                        0 => return Ok(answers),
                        code => return Err(io::Error::from_raw_os_error(code)),
                    },
                    _ => answers.push(Message { kind: message.kind, payload: message.payload.to_vec() }),
                }
            }
            // What asks for one thing, and no acknowledgement, is answered by it.
            if !dump && ours {
                return Ok(answers);
            }
        }
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is damaged")
}

/// A request while it is being made.
struct Request {
    kind: u16,
    flags: i32,
    body: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: i32) -> Request {
        Request { kind, flags, body: Vec::new() }
    }

    fn header(&mut self, header: &[u8]) {
        self.body.extend(header);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        // Names and addresses: far from the field's bounds.
        self.body.extend((4 + value.len() as u16).to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    fn finish(self, sequence: u32) -> Vec<u8> {
        message::request(self.kind, self.flags as u16, sequence, &self.body)
    }
}

/// A name as C has it.
fn zero_ended(name: &str) -> Vec<u8> {
    name.bytes().chain([0]).collect()
}

/// `struct ifinfomsg`: family, type, index, flags, and which flags to change.
fn link_header(flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![0; 8];
    header.extend(flags.to_ne_bytes());
    header.extend(change.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
fn address_header(family: i32, prefix_len: u8, flags: u32, index: u32) -> Vec<u8> {
    let mut header = vec![family as u8, prefix_len, flags as u8, 0];
    header.extend(index.to_ne_bytes());
    header
}

/// `struct rtmsg`: family, lengths of the destination and the source, type of service, table, protocol, scope, type; flags.
fn route_header(prefix: Prefix) -> Vec<u8> {
    let family = if prefix.addr().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let (table, protocol) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC);
    let scope = libc::RT_SCOPE_LINK;
    vec![family as u8, prefix.prefix_len(), 0, 0, table, protocol, scope, libc::RTN_UNICAST, 0, 0, 0, 0]
}

/// What is asked of a link.
struct Link {
    index: u32,
    flags: u32,
    mtu: u32,
}

fn link(message: &Message) -> Option<Link> {
    let payload = Some(&message.payload).filter(|_| message.kind == libc::RTM_NEWLINK)?;
    let mtu = attributes(payload.get(LINK_HEADER..)?).find(|(kind, _)| *kind == libc::IFLA_MTU)?.1;
    Some(Link { index: u32_at(payload, 4)?, flags: u32_at(payload, 8)?, mtu: u32_at(mtu, 0)? })
}

/// An address of the interface `index`. Without an address of its own (`IFA_LOCAL`), the one of the prefix is ours.
fn address(message: &Message, index: u32) -> Option<Inner> {
    let payload = Some(&message.payload).filter(|_| message.kind == libc::RTM_NEWADDR)?;
    if u32_at(payload, 4)? != index {
        return None;
    }
    let (mut local, mut around) = (None, None);
    for (kind, value) in attributes(payload.get(ADDRESS_HEADER..)?) {
        match kind {
            libc::IFA_LOCAL => local = address_of(value),
            libc::IFA_ADDRESS => around = address_of(value),
            _ => {}
        }
    }
    let (local, peer) = (local.or(around)?, around);
    Some(canonical(Inner { local, prefix_len: *payload.get(1)?, peer }))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

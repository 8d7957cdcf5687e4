//! A FreeBSD kernel played by hand: it keeps tables, and writes its messages byte by byte from the layouts of its headers,
//! as FreeBSD 14's `sys/net/rtsock.c` and `sys/netinet/in.c` lay them out. Every source's suite runs over it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;

use bytemuck::{Zeroable, bytes_of};
use culvert_engine::fib::Prefix;
use netmap_sys::{
    AF_INET, AF_INET6, AF_LINK, IFF_UP, IFT_ETHER, RTA_BRD, RTA_DST, RTA_GATEWAY, RTA_IFA, RTA_IFP,
    RTA_NETMASK, RTF_BLACKHOLE, RTF_GATEWAY, RTF_HOST, RTF_PINNED, RTF_REJECT, RTF_STATIC, RTF_UP,
    RTM_VERSION, if_data, if_msghdrl, ifa_msghdrl, rt_metrics, rt_msghdr, sockaddr_dl, sockaddr_in,
    sockaddr_in6,
};
use proptest::prelude::*;

use super::*;
use crate::routes::prefix_around;
use crate::routes::state::{NextHop, RouteKind};
use crate::routes::suite::{self, Hand, HopText, Watcher, follows_truly, forward, ip, port, prefix, way};

/// A socket address, with its padding.
fn padded(mut address: Vec<u8>) -> Vec<u8> {
    address.resize(address.len().max(1).next_multiple_of(8), 0);
    address
}

fn sockaddr(address: IpAddr, scope: LinkIndex) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => {
            let (sin_len, sin_family) = (16, AF_INET);
            let it = sockaddr_in { sin_len, sin_family, sin_addr: address.octets(), ..Zeroable::zeroed() };
            bytes_of(&it).to_vec()
        }
        IpAddr::V6(address) => {
            let (sin6_len, sin6_family, sin6_addr) = (28, AF_INET6, address.octets());
            let sin6_scope_id = if address.is_unicast_link_local() { scope } else { 0 };
            let it = sockaddr_in6 { sin6_len, sin6_family, sin6_addr, sin6_scope_id, ..Zeroable::zeroed() };
            bytes_of(&it).to_vec()
        }
    }
}

fn mask(family: IpAddr, length: u8) -> Vec<u8> {
    let ones = |bits: u32| u128::MAX.checked_shl(bits - u32::from(length)).unwrap_or(0);
    match family {
        IpAddr::V4(_) => sockaddr(std::net::Ipv4Addr::from(ones(32) as u32).into(), 0),
        IpAddr::V6(_) => sockaddr(std::net::Ipv6Addr::from(ones(128)).into(), 0),
    }
}

fn sockaddr_link(index: LinkIndex, name: &str, mac: &[u8]) -> Vec<u8> {
    let mut it = sockaddr_dl {
        sdl_len: 54,
        sdl_family: AF_LINK,
        sdl_index: index as u16,
        sdl_type: IFT_ETHER,
        sdl_nlen: name.len() as u8,
        sdl_alen: mac.len() as u8,
        ..Zeroable::zeroed()
    };
    it.sdl_data[..name.len()].copy_from_slice(name.as_bytes());
    it.sdl_data[name.len()..name.len() + mac.len()].copy_from_slice(mac);
    bytes_of(&it).to_vec()
}

/// A header and the addresses behind it, in the order of their bits; the first two bytes of the header say how long all of
/// it is.
fn message(header: &[u8], addresses: Vec<Vec<u8>>) -> Vec<u8> {
    let mut bytes = header.to_vec();
    addresses.into_iter().for_each(|address| bytes.extend(padded(address)));
    let length = (bytes.len() as u16).to_ne_bytes();
    bytes[..2].copy_from_slice(&length);
    bytes
}

fn link_message(index: LinkIndex, name: &str, up: bool) -> Vec<u8> {
    let header = if_msghdrl {
        ifm_version: RTM_VERSION,
        ifm_type: RTM_IFINFO,
        ifm_addrs: RTA_IFP,
        ifm_flags: if up { IFF_UP } else { 0 },
        ifm_index: index as u16,
        ifm_len: 176,
        ifm_data_off: 24,
        ifm_data: if_data { ifi_type: IFT_ETHER, ifi_mtu: 1500, ifi_link_state: 2, ..Zeroable::zeroed() },
        ..Zeroable::zeroed()
    };
    message(bytes_of(&header), vec![sockaddr_link(index, name, &[2, 0, 0, 0, 0, index as u8])])
}

fn address_message(address: &Address) -> Vec<u8> {
    let header = ifa_msghdrl {
        ifam_version: RTM_VERSION,
        ifam_type: RTM_NEWADDR,
        ifam_addrs: RTA_NETMASK | RTA_IFA | RTA_BRD,
        ifam_index: address.link as u16,
        ifam_len: 176,
        ifam_data_off: 24,
        ..Zeroable::zeroed()
    };
    let own = sockaddr(address.address, address.link);
    let broadcast = sockaddr(ip("192.0.2.255"), 0);
    message(bytes_of(&header), vec![mask(address.address, address.prefix_len), own, broadcast])
}

/// A route by one of its hops; `flags` beside those that the hop and the prefix ask for.
fn route_message(kind: u8, to: Prefix, hop: &NextHop, flags: i32) -> Vec<u8> {
    let host = to == to.addr().into();
    let flags = flags | if host { RTF_HOST } else { 0 } | if hop.gateway.is_some() { RTF_GATEWAY } else { 0 };
    let header = rt_msghdr {
        rtm_version: RTM_VERSION,
        rtm_type: kind,
        rtm_index: hop.link as u16,
        rtm_flags: flags,
        rtm_addrs: RTA_DST | RTA_GATEWAY | if host { 0 } else { RTA_NETMASK },
        // Only tables say it.
        rtm_rmx: rt_metrics {
            rmx_weight: if kind == RTM_GET { hop.weight.into() } else { 0 },
            ..Zeroable::zeroed()
        },
        ..Zeroable::zeroed()
    };
    let gateway = hop.gateway.map_or(sockaddr_link(hop.link, "", &[]), |via| sockaddr(via, hop.link));
    let mut addresses = vec![sockaddr(to.addr(), hop.link), gateway];
    if !host {
        addresses.push(mask(to.addr(), to.prefix_len()));
    }
    message(bytes_of(&header), addresses)
}

/// As the sysctl has it: the last address without padding, but for that of the structure around it.
fn neighbour_message(link: LinkIndex, address: IpAddr, mac: &[u8], flags: i32) -> Vec<u8> {
    let header = rt_msghdr {
        rtm_version: RTM_VERSION,
        rtm_type: RTM_GET,
        rtm_index: link as u16,
        rtm_flags: RTF_UP | RTF_HOST | RTF_LLINFO | flags,
        rtm_addrs: RTA_DST | RTA_GATEWAY,
        ..Zeroable::zeroed()
    };
    message(bytes_of(&header), vec![sockaddr(address, link), sockaddr_link(link, "", mac)])
}

/// The kernel.
#[derive(Debug, Default)]
struct Kernel {
    links: BTreeMap<LinkIndex, (String, bool)>,
    addresses: Vec<Address>,
    routes: BTreeMap<Prefix, Vec<NextHop>>,
    neighbours: BTreeMap<(LinkIndex, IpAddr), [u8; 6]>,
    last_index: LinkIndex,
    lost: bool,
    /// Stations that it was made to send to.
    poked: Vec<(LinkIndex, IpAddr)>,
    /// Bytes that its tables lack at their ends.
    cut: usize,
}

impl Kernel {
    fn link(&self, name: &str) -> LinkIndex {
        self.links.iter().find(|(_, link)| link.0 == name).map(|(index, _)| *index).expect(name)
    }
}

/// The hand that drives it.
struct FreeBsd {
    kernel: Rc<RefCell<Kernel>>,
    sockets: RefCell<Vec<UnixDatagram>>,
}

/// Its routing socket.
#[derive(Debug)]
struct FakeSocket {
    kernel: Rc<RefCell<Kernel>>,
    socket: UnixDatagram,
}

impl RoutingSocket for FakeSocket {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.kernel.borrow_mut().lost) {
            return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
        }
        self.socket.recv(buffer)
    }

    fn table(&mut self, table: SysctlTable) -> io::Result<Vec<u8>> {
        let kernel = self.kernel.borrow();
        let mut bytes = Vec::new();
        match table {
            SysctlTable::Interfaces => {
                for (index, (name, up)) in &kernel.links {
                    bytes.extend(link_message(*index, name, *up));
                    let own = kernel.addresses.iter().filter(|address| address.link == *index);
                    own.for_each(|address| bytes.extend(address_message(address)));
                }
            }
            SysctlTable::Routes => {
                for (to, hops) in &kernel.routes {
                    hops.iter().for_each(|hop| bytes.extend(route_message(RTM_GET, *to, hop, RTF_UP)));
                }
            }
            SysctlTable::Arp | SysctlTable::Ndp => {
                let v4 = table == SysctlTable::Arp;
                for ((link, address), mac) in kernel.neighbours.iter().filter(|it| it.0.1.is_ipv4() == v4) {
                    bytes.extend(neighbour_message(*link, *address, mac, RTF_STATIC));
                }
            }
        }
        bytes.truncate(bytes.len().saturating_sub(kernel.cut));
        Ok(bytes)
    }

    fn poke(&mut self, link: LinkIndex, address: IpAddr) -> io::Result<()> {
        let mut kernel = self.kernel.borrow_mut();
        if !kernel.links.iter().any(|(index, _)| *index == link) {
            return Err(io::Error::from_raw_os_error(libc::EHOSTUNREACH));
        }
        kernel.poked.push((link, address));
        Ok(())
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl FreeBsd {
    fn tell(&self, message: &[u8]) {
        for socket in &*self.sockets.borrow() {
            drop(socket.send(message));
        }
    }

    /// A message that only says that something has happened to a link.
    fn stir(&self, kind: u8) {
        self.tell(&message(&[0, 0, RTM_VERSION, kind, 0, 0, 0, 0], vec![]));
    }

    fn put(&self, to: Prefix, hop: NextHop) {
        self.kernel.borrow_mut().routes.entry(to).or_default().push(hop);
        self.tell(&route_message(RTM_ADD, to, &hop, RTF_UP | RTF_DONE));
    }

    fn take(&self, to: Prefix, hop: NextHop) {
        let mut kernel = self.kernel.borrow_mut();
        let hops = kernel.routes.entry(to).or_default();
        hops.retain(|it| (it.link, it.gateway) != (hop.link, hop.gateway));
        if hops.is_empty() {
            kernel.routes.remove(&to);
        }
        self.tell(&route_message(RTM_DELETE, to, &hop, RTF_DONE));
    }

    fn hop(&self, (link, via, weight): HopText<'_>) -> NextHop {
        NextHop { weight, ..NextHop::new(self.kernel.borrow().link(link), via.map(ip)) }
    }

    /// Routes fall with their link in silence.
    fn drop_routes(&self, link: LinkIndex) {
        for hops in self.kernel.borrow_mut().routes.values_mut() {
            hops.retain(|hop| hop.link != link);
        }
        self.kernel.borrow_mut().routes.retain(|_, hops| !hops.is_empty());
    }

    fn own_prefix(address: &str) -> (IpAddr, u8, Prefix) {
        let (address, length) = address.split_once('/').expect("a prefix");
        let (address, length) = (ip(address), length.parse().expect("a length"));
        (address, length, prefix_around(address, length).expect("a prefix"))
    }
}

impl Hand for FreeBsd {
    type Source = PfRouteSource<FakeSocket>;

    fn source(&self) -> Self::Source {
        let (ours, theirs) = UnixDatagram::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a mode");
        theirs.set_nonblocking(true).expect("a mode");
        self.sockets.borrow_mut().push(ours);
        let mut source = PfRouteSource::new(FakeSocket { kernel: Rc::clone(&self.kernel), socket: theirs });
        source.audit_every = Duration::from_millis(800);
        source
    }

    fn add_link(&self, name: &str) {
        {
            let mut kernel = self.kernel.borrow_mut();
            kernel.last_index += 1;
            let index = kernel.last_index;
            kernel.links.insert(index, (name.into(), true));
        }
        self.stir(RTM_IFANNOUNCE);
    }

    fn remove_link(&self, name: &str) {
        let index = self.kernel.borrow().link(name);
        self.drop_routes(index);
        let mut kernel = self.kernel.borrow_mut();
        kernel.links.remove(&index);
        kernel.addresses.retain(|address| address.link != index);
        kernel.neighbours.retain(|(link, _), _| *link != index);
        self.stir(RTM_IFANNOUNCE);
        // It does not tell of stations: they are found to be gone.
    }

    fn set_up(&self, name: &str, up: bool) {
        let index = self.kernel.borrow().link(name);
        self.kernel.borrow_mut().links.insert(index, (name.into(), up));
        self.stir(RTM_IFINFO);
        if !up {
            self.drop_routes(index);
        }
    }

    fn add_address(&self, link: &str, address: &str) {
        let index = self.kernel.borrow().link(link);
        let (address, prefix_len, subnet) = FreeBsd::own_prefix(address);
        self.kernel.borrow_mut().addresses.push(Address { link: index, address, prefix_len, peer: None });
        self.stir(RTM_NEWADDR);
        if subnet != address.into() {
            self.put(subnet, NextHop::new(index, None));
        }
    }

    fn remove_address(&self, link: &str, address: &str) {
        let index = self.kernel.borrow().link(link);
        let (address, _, subnet) = FreeBsd::own_prefix(address);
        self.kernel.borrow_mut().addresses.retain(|it| (it.link, it.address) != (index, address));
        self.stir(RTM_DELADDR);
        self.take(subnet, NextHop::new(index, None));
    }

    fn add_route(&self, to: &str, _: u32, hops: &[HopText<'_>]) {
        hops.iter().for_each(|hop| self.put(prefix(to), self.hop(*hop)));
    }

    fn remove_route(&self, to: &str, _: u32, hops: &[HopText<'_>]) {
        hops.iter().for_each(|hop| self.take(prefix(to), self.hop(*hop)));
    }

    fn set_neighbour(&self, link: &str, address: &str, mac: Option<&str>) {
        let key = (self.kernel.borrow().link(link), ip(address));
        let mac = mac.map(|mac| mac.parse::<culvert_engine::wire::ethernet::MacAddr>().expect(mac).0);
        let mut kernel = self.kernel.borrow_mut();
        match mac {
            Some(mac) => kernel.neighbours.insert(key, mac),
            None => kernel.neighbours.remove(&key),
        };
    }
}

fn new_host<T>(_: &str, _: &str, body: impl FnOnce(&FreeBsd) -> T) -> T {
    body(&FreeBsd { kernel: Rc::default(), sockets: RefCell::default() })
}

// FreeBSD has no metrics; for the metric 500 in some of these, it does as for 0.
suite::suite!(new_host: addresses_come_and_go, several_hops_keep_their_weights, a_router_outside_any_subnet,
    link_local_routers_carry_their_link, neighbours_come_change_and_go, a_link_bounces,
    everything_goes_and_comes_back, the_descriptor_wakes);

fn with_wan(hand: &FreeBsd) -> Watcher<PfRouteSource<FakeSocket>> {
    hand.add_link("wan");
    hand.add_address("wan", "192.0.2.1/24");
    let mut watcher = Watcher::new(hand.source());
    watcher.settle();
    watcher
}

/// Where there is no need to, tables are not read: a full table of the Internet is too long for that.
#[test]
fn single_routes_are_entered_without_reading_tables() {
    new_host("", "", |hand| {
        let mut watcher = with_wan(hand);
        let gone = std::mem::take(&mut hand.kernel.borrow_mut().routes);
        let hop = NextHop::new(1, Some(ip("192.0.2.2")));
        hand.tell(&route_message(RTM_ADD, prefix("10.2.0.0/16"), &hop, RTF_UP | RTF_DONE));
        watcher.step();
        assert_eq!(way(&watcher.state, "10.2.0.0/16"), forward(port(0, Some("192.0.2.2"))));
        hand.tell(&route_message(RTM_DELETE, prefix("10.2.0.0/16"), &hop, RTF_DONE));
        watcher.step();
        assert_eq!(way(&watcher.state, "10.2.0.0/16"), None);
        assert!(way(&watcher.state, "192.0.2.0/24").is_some(), "the table was read");
        hand.kernel.borrow_mut().routes = gone;
    });
}

#[test]
fn what_was_lost_is_found() {
    new_host("", "", |hand| {
        let mut watcher = with_wan(hand);
        let put = |to: &str| {
            let hop = NextHop::new(1, Some(ip("192.0.2.2")));
            hand.kernel.borrow_mut().routes.insert(prefix(to), vec![hop]);
        };
        put("10.2.0.0/16");
        hand.kernel.borrow_mut().lost = true;
        watcher.step();
        assert!(way(&watcher.state, "10.2.0.0/16").is_some() && watcher.resynchronised == 1);
        // Lost before it came to the socket: nobody says so.
        put("10.3.0.0/16");
        hand.stir(0x7f);
        watcher.until("a look", |state| way(state, "10.3.0.0/16").is_some());
        assert_eq!(watcher.resynchronised, 1);
        follows_truly(hand, &mut watcher);
    });
}

#[test]
fn failed_requests_and_other_protocols_change_nothing() {
    new_host("", "", |hand| {
        let mut watcher = with_wan(hand);
        let hop = NextHop::new(1, None);
        let mut failed = route_message(RTM_DELETE, prefix("192.0.2.0/24"), &hop, RTF_UP);
        hand.tell(&failed);
        failed[24] = 3;
        hand.tell(&failed);
        let group = route_message(RTM_ADD, prefix("224.0.0.0/4"), &hop, RTF_DONE);
        hand.tell(&group);
        let mut other = route_message(RTM_ADD, prefix("10.7.0.0/16"), &hop, RTF_DONE);
        other[153] = 77;
        hand.tell(&other);
        assert_eq!(watcher.step().list, []);
    });
}

#[test]
fn the_kernel_is_made_to_find_a_station() {
    new_host("", "", |hand| {
        hand.add_link("em0");
        let link = hand.kernel.borrow().link("em0");
        let mut source = hand.source();
        assert!(source.resolve(link, ip("192.0.2.2")).is_ok());
        assert_eq!(hand.kernel.borrow().poked, [(link, ip("192.0.2.2"))]);
        // The answer is not waited for as long as otherwise.
        assert!(source.deadline().is_some_and(|due| due <= Instant::now() + ANSWER));
        let answer = source.resolve(link + 7, ip("192.0.2.2"));
        assert!(matches!(answer, Err(ResolveError::Refused { .. })), "{answer:?}");
    });
}

fn parsed(bytes: &[u8]) -> Option<RoutePart> {
    let only = message::messages(bytes).next().expect("a message").expect("a whole one");
    message::route(only).expect("a route")
}

#[test]
fn masks_may_be_cut_short() {
    let hop = NextHop::new(1, Some(ip("192.0.2.2")));
    let header = |to: &str| {
        let whole = route_message(RTM_GET, prefix(to), &hop, RTF_UP);
        whole[..152 + 16 + 16].to_vec()
    };
    let cases: [(&str, &[u8]); 4] = [
        ("0.0.0.0/0", &[0]),
        ("10.0.0.0/8", &[5, 0, 0, 0, 0xff]),
        ("10.128.0.0/9", &[6, AF_INET, 0, 0, 0xff, 0x80]),
        ("10.2.0.0/16", &[7, 0xff, 0xff, 0xff, 0xff, 0xff, 0]),
    ];
    for (to, mask) in cases {
        let bytes = message(&header(to), vec![mask.to_vec()]);
        assert_eq!(parsed(&bytes).map(|part| part.prefix), Some(prefix(to)));
    }
    let holes = message(&header("10.0.0.0/8"), vec![vec![8, 0, 0, 0, 0xff, 0, 0xff, 0]]);
    let only = message::messages(&holes).next().expect("a message").expect("a whole one");
    assert_eq!(message::route(only), Err(Damaged));
}

#[test]
fn links_inside_addresses_are_taken_out() {
    let via = ip("fe80:7::1");
    let part = parsed(&route_message(RTM_GET, prefix("2001:db8::/32"), &NextHop::new(7, Some(via)), RTF_UP));
    assert_eq!(part.expect("a route").hop, NextHop::new(7, Some(ip("fe80::1"))));
}

#[test]
fn routes_that_refuse() {
    let hop = NextHop::new(2, Some(ip("127.0.0.1")));
    for (flag, kind) in [(RTF_REJECT, RouteKind::Unreachable), (RTF_BLACKHOLE, RouteKind::Blackhole)] {
        let part = parsed(&route_message(RTM_GET, prefix("10.2.0.0/16"), &hop, RTF_UP | flag));
        assert_eq!(part.map(|part| part.kind), Some(kind));
    }
}

#[test]
fn stations_of_the_host_itself_and_those_not_found() {
    let read = |bytes: &[u8]| {
        let only = message::messages(bytes).next().expect("a message").expect("a whole one");
        message::neighbour(only).expect("a station")
    };
    assert_eq!(read(&neighbour_message(1, ip("192.0.2.1"), &[2, 0, 0, 0, 0, 1], RTF_PINNED)), None);
    let searched = read(&neighbour_message(1, ip("192.0.2.9"), &[], 0));
    assert_eq!(searched, Some(((1, ip("192.0.2.9")), Neighbour { mac: None, permanent: false })));
    // The structure of `in_lltable_dump_entry` ends two bytes behind its last address.
    let mut cut = neighbour_message(1, ip("192.0.2.9"), &[2, 0, 0, 0, 0, 9], 0);
    cut.truncate(152 + 16 + 54);
    cut[..2].copy_from_slice(&222_u16.to_ne_bytes());
    assert!(read(&cut).is_some_and(|(_, it)| it.mac.is_some()));
}

#[test]
fn a_far_end_is_one_where_the_link_has_one() {
    let own = Address { link: 1, address: ip("172.27.27.252"), prefix_len: 32, peer: None };
    let bytes = address_message(&own);
    let only = message::messages(&bytes).next().expect("a message").expect("a whole one");
    assert_eq!(message::address(only, 0), Ok(Some(own)));
    let far = Some(ip("192.0.2.255"));
    assert_eq!(message::address(only, netmap_sys::IFF_POINTOPOINT), Ok(Some(Address { peer: far, ..own })));
}

proptest! {
    /// Whatever comes, what is known stays, unless a message says that it has gone.
    #[test]
    fn damaged_messages_lose_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        cut in 0_usize..400,
        place in 0_usize..400,
        value: u8,
    ) {
        new_host("", "", |hand| {
            let mut watcher = with_wan(hand);
            let known = watcher.state.clone();
            // Raw noise, noise behind a good start, and a good message cut short or with a byte changed.
            hand.tell(&bytes);
            let good = route_message(RTM_ADD, prefix("10.2.0.0/16"), &NextHop::new(1, None), RTF_UP | RTF_DONE);
            hand.tell(&good[..cut.min(good.len() - 1)]);
            let mut changed = good.clone();
            changed[4 + place % (good.len() - 4)] = value;
            hand.tell(&changed);
            let mut noise = good;
            noise.extend(&bytes);
            hand.tell(&noise);
            watcher.source.take_messages().expect("messages");
            let followed = watcher.source.ledger.clone().snapshot();
            prop_assert!(known.links.iter().all(|(index, link)| followed.links.get(index) == Some(link)));
            prop_assert!(known.addresses.is_subset(&followed.addresses));
            prop_assert!(known.routes.iter().all(|(key, route)| followed.routes.get(key) == Some(route)));
            Ok(())
        })?;
    }

    #[test]
    fn damaged_tables_are_errors_and_lose_nothing(cut in 1_usize..120) {
        new_host("", "", |hand| {
            let mut watcher = with_wan(hand);
            let known = watcher.state.clone();
            hand.add_link("lan");
            hand.kernel.borrow_mut().cut = cut;
            prop_assert!(watcher.source.changes().is_err());
            prop_assert!(watcher.source.deadline().is_some());
            prop_assert!(watcher.source.snapshot().is_err());
            prop_assert_eq!(&watcher.source.ledger.clone().snapshot(), &known);
            hand.kernel.borrow_mut().cut = 0;
            watcher.until("the link", |state| state.link_named("lan").is_some());
            Ok(())
        })?;
    }

    #[test]
    fn noise_is_read_without_a_panic(kind: u8, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut whole = vec![0, 0, RTM_VERSION, kind];
        whole.extend(bytes);
        let length = (whole.len() as u16).to_ne_bytes();
        whole[..2].copy_from_slice(&length);
        for message in message::messages(&whole).flatten() {
            let _ = (message::link(message), message::address(message, 0), message::route(message));
            let _ = message::neighbour(message);
        }
    }
}

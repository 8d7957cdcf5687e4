//! What every source must do, whatever stands behind it. A backend's tests give a [`Hand`] that drives its host, and call
//! these.

use std::fmt::Debug;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use culvert_engine::fib::Prefix;
use culvert_engine::wire::ethernet::MacAddr;

use super::merge::{Hop, HostTables, Interfaces, Way, merge};
use super::state::{Address, HostState, LinkIndex, RouteKey};
use super::{Changes, HostSource};

/// Drives a host.
pub(crate) trait Hand {
    type Source: HostSource;

    /// A new source.
    fn source(&self) -> Self::Source;
    /// A link comes, up and with a signal.
    fn add_link(&self, name: &str);
    fn remove_link(&self, name: &str);
    /// Switches a link on or off. Going off, its routes go.
    fn set_up(&self, name: &str, up: bool);
    /// An address comes, and with it the route to its subnet.
    fn add_address(&self, link: &str, address: &str);
    fn remove_address(&self, link: &str, address: &str);
    /// A route by hops (link, router, weight).
    fn add_route(&self, prefix: &str, metric: u32, hops: &[HopText<'_>]);
    fn remove_route(&self, prefix: &str, metric: u32, hops: &[HopText<'_>]);
    fn set_neighbour(&self, link: &str, address: &str, mac: Option<&str>);
}

pub(crate) type HopText<'a> = (&'a str, Option<&'a str>, u32);

/// Follows a source as the daemon does.
pub(crate) struct Watcher<S> {
    pub(crate) source: S,
    pub(crate) state: HostState,
    pub(crate) resynchronised: usize,
}

impl<S: HostSource> Watcher<S> {
    pub(crate) fn new(mut source: S) -> Watcher<S> {
        let state = source.snapshot().expect("a snapshot");
        Watcher { source, state, resynchronised: 0 }
    }

    /// A short sleep. The descriptor is left alone: looking at it takes away what it has to say of lost messages.
    fn wait(&self) {
        std::thread::sleep(Duration::from_millis(2));
    }

    /// Whether the descriptor is readable, or becomes so within `wait`.
    fn woken(&self, wait: Duration) -> bool {
        let descriptor = self.source.wait_fd().try_clone_to_owned().expect("a descriptor");
        // Any socket can be waited for in this way.
        let socket = UdpSocket::from(descriptor);
        socket.set_read_timeout(Some(wait)).expect("a time limit");
        socket.peek(&mut [0]).is_ok()
    }

    pub(crate) fn step(&mut self) -> Changes {
        let changes = self.source.changes().expect("changes");
        self.resynchronised += usize::from(changes.resynchronised);
        changes.list.iter().cloned().for_each(|change| self.state.apply(change));
        changes
    }

    /// Follows until `condition` holds.
    pub(crate) fn until(&mut self, what: &str, condition: impl Fn(&HostState) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            self.step();
            if condition(&self.state) {
                return;
            }
            assert!(Instant::now() < end, "{what} did not come about: {:#?}", self.state);
            self.wait();
        }
    }

    /// Follows until nothing is left to come.
    pub(crate) fn settle(&mut self) {
        // Deadlines further away are for what nobody expects.
        let soon = |due: Instant| due < Instant::now() + Duration::from_millis(400);
        while !self.step().list.is_empty() || self.source.deadline().is_some_and(soon) {
            self.wait();
        }
    }

    fn link(&self, name: &str) -> LinkIndex {
        self.state.link_named(name).expect(name).0
    }
}

/// What was followed is what a new look gives. Stations are the host's to change at any time.
pub(crate) fn follows_truly<H: Hand>(hand: &H, watcher: &mut Watcher<H::Source>) {
    watcher.settle();
    let mut fresh = Watcher::new(hand.source()).state;
    fresh.neighbours.clone_from(&watcher.state.neighbours);
    equal(&watcher.state, &fresh);
}

#[track_caller]
fn equal<T: PartialEq + Debug>(one: &T, other: &T) {
    assert!(one == other, "{one:#?}\nis not\n{other:#?}");
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().expect(text)
}

/// Port 0 is `wan`, port 1 `lan`, tunnel 0 `oslo`.
pub(crate) fn interfaces() -> Interfaces {
    let named =
        |names: &[&str]| names.iter().enumerate().map(|(place, name)| ((*name).into(), place)).collect();
    Interfaces { ports: named(&["wan", "lan"]), tunnels: named(&["oslo"]) }
}

pub(crate) fn way(state: &HostState, to: &str) -> Option<Way> {
    let tables = merge(state, &interfaces());
    tables.routes.into_iter().find(|route| route.prefix == prefix(to)).map(|route| route.way)
}

pub(crate) fn port(port: usize, via: Option<&str>) -> Hop {
    Hop::Port { port, via: via.map(ip) }
}

pub(crate) fn forward(hop: Hop) -> Option<Way> {
    Some(Way::Forward(vec![(hop, 1)]))
}

fn has_route(state: &HostState, to: &str, metric: u32) -> bool {
    state.routes.keys().any(|key: &RouteKey| key.prefix == prefix(to) && key.metric == metric)
}

/// A router with two links, addresses of both families, and routes: what the merged tables then are.
fn set_up<H: Hand>(hand: &H) -> Watcher<H::Source> {
    let mut watcher = Watcher::new(hand.source());
    hand.add_link("wan");
    hand.add_link("lan");
    furnish(hand);
    watcher.until("the router", furnished);
    watcher
}

fn furnish<H: Hand>(hand: &H) {
    hand.add_address("wan", "192.0.2.1/24");
    hand.add_address("wan", "2001:db8:1::1/64");
    hand.add_address("lan", "10.1.0.1/16");
    hand.add_route("0.0.0.0/0", 0, &[("wan", Some("192.0.2.254"), 1)]);
    hand.add_route("2001:db8:2::/48", 500, &[("wan", Some("2001:db8:1::fe"), 1)]);
    hand.add_route("10.9.0.0/16", 0, &[("lan", None, 1)]);
    hand.set_neighbour("wan", "192.0.2.254", Some("02:00:00:00:00:fe"));
}

fn furnished(state: &HostState) -> bool {
    let tables = merge(state, &interfaces());
    way(state, "0.0.0.0/0") == forward(port(0, Some("192.0.2.254")))
        && way(state, "2001:db8:2::/48") == forward(port(0, Some("2001:db8:1::fe")))
        && way(state, "10.9.0.0/16") == forward(port(1, None))
        && way(state, "192.0.2.0/24") == forward(port(0, None))
        && way(state, "2001:db8:1::/64") == forward(port(0, None))
        && way(state, "192.0.2.1/32") == Some(Way::Host)
        && tables.port_addresses.contains(&(0, ip("192.0.2.1"), 24))
        && tables.port_addresses.contains(&(1, ip("10.1.0.1"), 16))
        && tables.neighbours.iter().any(|it| it.port == 0 && it.address == ip("192.0.2.254"))
}

fn tables(state: &HostState) -> HostTables {
    merge(state, &interfaces())
}

pub(crate) fn addresses_come_and_go<H: Hand>(hand: &H) {
    let mut watcher = set_up(hand);
    let wan = watcher.link("wan");
    let second = Address { link: wan, address: ip("198.51.100.9"), prefix_len: 29, peer: None };
    hand.add_address("wan", "198.51.100.9/29");
    watcher.until("an address", |state| state.addresses.contains(&second));
    watcher.until("its subnet", |state| way(state, "198.51.100.8/29") == forward(port(0, None)));
    follows_truly(hand, &mut watcher);
    hand.remove_address("wan", "198.51.100.9/29");
    watcher.until("its end", |state| {
        !state.addresses.contains(&second)
            && way(state, "198.51.100.8/29").is_none()
            && way(state, "198.51.100.9/32").is_none()
    });
    assert!(furnished(&watcher.state));
    follows_truly(hand, &mut watcher);
}

pub(crate) fn the_lowest_metric_wins_and_the_other_returns<H: Hand>(hand: &H) {
    let mut watcher = set_up(hand);
    let (good, other) = (("wan", Some("192.0.2.2"), 1), ("lan", Some("10.1.0.2"), 1));
    hand.add_route("10.2.0.0/16", 200, &[other]);
    watcher.until("the first", |state| way(state, "10.2.0.0/16") == forward(port(1, Some("10.1.0.2"))));
    hand.add_route("10.2.0.0/16", 100, &[good]);
    watcher.until("the better", |state| way(state, "10.2.0.0/16") == forward(port(0, Some("192.0.2.2"))));
    assert!(has_route(&watcher.state, "10.2.0.0/16", 200), "the other is kept");
    follows_truly(hand, &mut watcher);
    hand.remove_route("10.2.0.0/16", 100, &[good]);
    watcher.until("the other", |state| way(state, "10.2.0.0/16") == forward(port(1, Some("10.1.0.2"))));
    hand.remove_route("10.2.0.0/16", 200, &[other]);
    watcher.until("none", |state| way(state, "10.2.0.0/16").is_none());
    follows_truly(hand, &mut watcher);
}

pub(crate) fn several_hops_keep_their_weights<H: Hand>(hand: &H) {
    let mut watcher = set_up(hand);
    let hops = [("wan", Some("192.0.2.2"), 1), ("wan", Some("192.0.2.3"), 3), ("lan", Some("10.1.0.2"), 1)];
    hand.add_route("10.2.0.0/16", 0, &hops);
    let expected = Way::Forward(vec![
        (port(0, Some("192.0.2.2")), 1),
        (port(0, Some("192.0.2.3")), 3),
        (port(1, Some("10.1.0.2")), 1),
    ]);
    watcher.until("three ways", |state| way(state, "10.2.0.0/16").is_some_and(|way| sorted(way) == expected));
    let v6 = [("wan", Some("2001:db8:1::2"), 1), ("wan", Some("2001:db8:1::3"), 2)];
    hand.add_route("2001:db8:3::/48", 500, &v6);
    let expected_v6 =
        Way::Forward(vec![(port(0, Some("2001:db8:1::2")), 1), (port(0, Some("2001:db8:1::3")), 2)]);
    watcher.until("two ways of IPv6", |state| {
        way(state, "2001:db8:3::/48").is_some_and(|way| sorted(way) == expected_v6)
    });
    follows_truly(hand, &mut watcher);
    hand.set_up("lan", false);
    watcher.until("two ways left", |state| {
        matches!(way(state, "10.2.0.0/16"), None | Some(Way::Forward(_)))
            && !uses_port(way(state, "10.2.0.0/16"), 1)
    });
    follows_truly(hand, &mut watcher);
}

fn sorted(way: Way) -> Way {
    match way {
        Way::Forward(mut hops) => {
            hops.sort_unstable();
            Way::Forward(hops)
        }
        other => other,
    }
}

fn uses_port(way: Option<Way>, number: usize) -> bool {
    match way {
        Some(Way::Forward(hops)) => {
            hops.iter().any(|(hop, _)| matches!(hop, Hop::Port { port, .. } if *port == number))
        }
        _ => false,
    }
}

/// As with failover addresses of hosting providers: the router is in no subnet of ours.
pub(crate) fn a_router_outside_any_subnet<H: Hand>(hand: &H) {
    let mut watcher = Watcher::new(hand.source());
    hand.add_link("wan");
    hand.add_address("wan", "203.0.113.230/32");
    hand.add_route("198.51.100.254/32", 0, &[("wan", None, 1)]);
    hand.add_route("0.0.0.0/0", 0, &[("wan", Some("198.51.100.254"), 1)]);
    watcher
        .until("the router's own route", |state| way(state, "198.51.100.254/32") == forward(port(0, None)));
    watcher.until("the default route", |state| {
        way(state, "0.0.0.0/0") == forward(port(0, Some("198.51.100.254")))
    });
    assert_eq!(way(&watcher.state, "203.0.113.230/32"), Some(Way::Host));
    follows_truly(hand, &mut watcher);
}

/// Two routers with the same link-local address on two links are two.
pub(crate) fn link_local_routers_carry_their_link<H: Hand>(hand: &H) {
    let mut watcher = set_up(hand);
    hand.add_route("2001:db8:a::/48", 500, &[("wan", Some("fe80::1"), 1)]);
    hand.add_route("2001:db8:b::/48", 500, &[("lan", Some("fe80::1"), 1)]);
    watcher.until("both", |state| {
        way(state, "2001:db8:a::/48") == forward(port(0, Some("fe80::1")))
            && way(state, "2001:db8:b::/48") == forward(port(1, Some("fe80::1")))
    });
    let merged = tables(&watcher.state);
    assert!(merged.routes.iter().all(|it| !it.prefix.to_string().starts_with("fe80")), "{merged:?}");
    follows_truly(hand, &mut watcher);
}

pub(crate) fn neighbours_come_change_and_go<H: Hand>(hand: &H) {
    let mut watcher = set_up(hand);
    let mac = |state: &HostState| {
        let tables = tables(state);
        tables.neighbours.iter().find(|it| it.address == ip("192.0.2.2")).map(|it| (it.port, it.mac))
    };
    for last in [2, 0x22] {
        hand.set_neighbour("wan", "192.0.2.2", Some(&format!("02:00:00:00:00:{last:02x}")));
        let expected = Some((0, MacAddr([2, 0, 0, 0, 0, last])));
        watcher.until("the station", |state| mac(state) == expected);
    }
    hand.set_neighbour("wan", "192.0.2.2", None);
    watcher.until("its end", |state| mac(state).is_none());
    hand.set_neighbour("wan", "2001:db8:1::2", Some("02:00:00:00:00:02"));
    watcher.until("one of IPv6", |state| {
        tables(state).neighbours.iter().any(|it| it.address == ip("2001:db8:1::2") && it.port == 0)
    });
}

pub(crate) fn a_link_bounces<H: Hand>(hand: &H) {
    let mut watcher = set_up(hand);
    hand.set_up("wan", false);
    watcher.until("wan down", |state| {
        state.link_named("wan").is_some_and(|(_, link)| !link.up)
            && way(state, "0.0.0.0/0").is_none()
            && way(state, "192.0.2.0/24").is_none()
            && way(state, "10.9.0.0/16").is_some()
    });
    follows_truly(hand, &mut watcher);
    hand.set_up("wan", true);
    for address in ["192.0.2.1/24", "2001:db8:1::1/64"] {
        hand.remove_address("wan", address);
        hand.add_address("wan", address);
    }
    hand.add_route("0.0.0.0/0", 0, &[("wan", Some("192.0.2.254"), 1)]);
    hand.add_route("2001:db8:2::/48", 500, &[("wan", Some("2001:db8:1::fe"), 1)]);
    hand.set_neighbour("wan", "192.0.2.254", Some("02:00:00:00:00:fe"));
    watcher.until("as before", furnished);
    follows_truly(hand, &mut watcher);
}

/// As when the network is restarted: nothing of the configuration's own changes.
pub(crate) fn everything_goes_and_comes_back<H: Hand>(hand: &H) {
    let mut watcher = set_up(hand);
    follows_truly(hand, &mut watcher);
    let wan = watcher.link("wan");
    for link in ["wan", "lan"] {
        hand.remove_link(link);
    }
    watcher.until("nothing left", |state| {
        state.link_named("wan").is_none() && tables(state).port_addresses.is_empty()
    });
    assert!(tables(&watcher.state).neighbours.is_empty());
    assert!(!uses_port(way(&watcher.state, "0.0.0.0/0"), 0));
    follows_truly(hand, &mut watcher);
    hand.add_link("lan");
    hand.add_link("wan");
    furnish(hand);
    watcher.until("all of it again", furnished);
    assert_ne!(watcher.link("wan"), wan, "another link by the same name");
    follows_truly(hand, &mut watcher);
}

pub(crate) fn the_descriptor_wakes<H: Hand>(hand: &H) {
    let mut watcher = set_up(hand);
    watcher.settle();
    assert!(!watcher.woken(Duration::from_millis(20)), "nothing has happened");
    hand.add_route("10.2.0.0/16", 0, &[("wan", Some("192.0.2.2"), 1)]);
    assert!(watcher.woken(Duration::from_secs(5)));
    watcher.until("the route", |state| way(state, "10.2.0.0/16").is_some());
    watcher.settle();
    assert!(!watcher.woken(Duration::from_millis(20)), "all has been read");
}

/// Runs all of it, each on a host of its own.
macro_rules! suite {
    ($on_a_new_host:path) => {
        $crate::routes::suite::suite!($on_a_new_host: addresses_come_and_go, the_lowest_metric_wins_and_the_other_returns,
            several_hops_keep_their_weights, a_router_outside_any_subnet, link_local_routers_carry_their_link,
            neighbours_come_change_and_go, a_link_bounces, everything_goes_and_comes_back, the_descriptor_wakes);
    };
    ($on_a_new_host:path: $($name:ident),+) => {
        $(#[test]
        fn $name() {
            $on_a_new_host(module_path!(), stringify!($name), |hand| $crate::routes::suite::$name(hand));
        })+
    };
}
pub(crate) use suite;

//! Against the kernel: each test in a network namespace of its own, which `ip` changes and a source follows. They need root.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::netlink::message as netlink;
use crate::routes::merge::Way;
use crate::routes::state::{Change, NextHop, RouteKey};
use crate::routes::suite::{self, Hand, HopText, Watcher, follows_truly, forward, ip, port, prefix, way};

/// Runs `body` in a network namespace of its own: the test's binary, started again by `unshare`. The namespace ends with it.
fn in_namespace(module: &str, name: &str, body: impl FnOnce(&Ip)) {
    const INSIDE: &str = "CULVERT_TEST_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        // IPv6 addresses count at once, not a random time later.
        fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").expect("a setting");
        return body(&Ip);
    }
    // Tests know themselves by their path in the crate.
    let path = format!("{module}::{name}");
    let path = path.split_once("::").expect("a path").1;
    let mut command = Command::new("unshare");
    command.arg("--net").arg(std::env::current_exe().expect("a binary"));
    command.args(["--exact", path, "--nocapture"]).env(INSIDE, "1");
    let output = command.output().expect("unshare");
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "(this test needs root)\n{told}");
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect(program);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {told}", arguments.join(" "));
}

/// Many commands at once.
fn batch(lines: impl Iterator<Item = String>) {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip");
    let text: String = lines.map(|line| line + "\n").collect();
    ip.stdin.take().expect("its input").write_all(text.as_bytes()).expect("to be read");
    assert!(ip.wait().expect("its end").success());
}

/// The hand that drives the kernel.
struct Ip;

impl Ip {
    fn run(&self, command: &str) {
        run("ip", &command.split_whitespace().collect::<Vec<_>>());
    }

    fn route(&self, verb: &str, prefix: &str, metric: u32, hops: &[HopText<'_>]) {
        let way = |link: &str, via: Option<&str>| {
            format!("{} dev {link}", via.map(|via| format!("via {via}")).unwrap_or_default())
        };
        let ways = match hops {
            [(link, via, _)] => way(link, *via),
            several => several
                .iter()
                .map(|(link, via, weight)| format!(" nexthop {} weight {weight}", way(link, *via)))
                .collect(),
        };
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        self.run(&format!("{family} route {verb} {prefix} metric {metric} {ways}"));
    }
}

impl Hand for Ip {
    type Source = NetlinkSource;

    fn source(&self) -> NetlinkSource {
        NetlinkSource::open().expect("a source")
    }

    fn add_link(&self, name: &str) {
        self.run(&format!("link add {name} up type veth peer name {name}-peer"));
        self.run(&format!("link set {name}-peer up"));
    }

    fn remove_link(&self, name: &str) {
        self.run(&format!("link delete {name}"));
    }

    fn set_up(&self, name: &str, up: bool) {
        self.run(&format!("link set {name} {}", if up { "up" } else { "down" }));
    }

    fn add_address(&self, link: &str, address: &str) {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.run(&format!("address add {address} dev {link} {nodad}"));
    }

    fn remove_address(&self, link: &str, address: &str) {
        // IPv6 addresses go with the link; IPv4 ones stay.
        let arguments = ["address", "delete", address, "dev", link];
        let output = Command::new("ip").args(arguments).output().expect("ip");
        assert!(output.status.success() || address.contains(':'), "{output:?}");
    }

    fn add_route(&self, prefix: &str, metric: u32, hops: &[HopText<'_>]) {
        self.route("add", prefix, metric, hops);
    }

    fn remove_route(&self, prefix: &str, metric: u32, hops: &[HopText<'_>]) {
        self.route("delete", prefix, metric, hops);
    }

    fn set_neighbour(&self, link: &str, address: &str, mac: Option<&str>) {
        match mac {
            Some(mac) => self.run(&format!("neighbour replace {address} lladdr {mac} dev {link}")),
            None => self.run(&format!("neighbour delete {address} dev {link}")),
        }
    }
}

suite::suite!(in_namespace);

/// Runs a test of this file in a namespace.
macro_rules! namespaced {
    ($($name:ident($hand:ident) $body:block)+) => {
        $(#[test]
        fn $name() {
            in_namespace(module_path!(), stringify!($name), |$hand: &Ip| $body);
        })+
    };
}

/// `wan` with 192.0.2.1/24.
fn with_wan(hand: &Ip) -> Watcher<NetlinkSource> {
    hand.add_link("wan");
    hand.add_address("wan", "192.0.2.1/24");
    hand.add_address("wan", "2001:db8:1::1/64");
    Watcher::new(hand.source())
}

/// Names the routes 10.A.B.0/24, as many as asked for.
fn many(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("10.{}.{}.0/24", number / 250, number % 250))
}

fn count_many(state: &HostState) -> usize {
    state.routes.keys().filter(|key| key.prefix.to_string().starts_with("10.")).count()
}

namespaced! {
    a_burst_that_overruns_the_socket_is_followed_nevertheless(hand) {
        drop(with_wan(hand));
        let source = NetlinkSource::with_receive_buffer(4096).expect("a source");
        let mut watcher = Watcher::new(source);
        batch(many(5000).map(|route| format!("route add {route} via 192.0.2.2")));
        watcher.until("all routes", |state| count_many(state) == 5000);
        assert!(watcher.resynchronised > 0, "the socket had room for all of it");
        follows_truly(hand, &mut watcher);
        batch(many(4999).map(|route| format!("route delete {route}")));
        watcher.until("one route", |state| count_many(state) == 1);
        follows_truly(hand, &mut watcher);
    }

    a_burst_that_fits_needs_no_second_look(hand) {
        let mut watcher = with_wan(hand);
        watcher.settle();
        batch(many(5000).map(|route| format!("route add {route} via 192.0.2.2")));
        watcher.until("all routes", |state| count_many(state) == 5000);
        assert_eq!(watcher.resynchronised, 0);
        follows_truly(hand, &mut watcher);
    }

    what_comes_and_goes_between_two_looks_is_not_told(hand) {
        let mut watcher = with_wan(hand);
        watcher.settle();
        for _ in 0..3 {
            hand.run("route add 10.2.0.0/16 via 192.0.2.2");
            hand.run("route delete 10.2.0.0/16");
        }
        assert_eq!(watcher.step().list, []);
        hand.run("route add 10.2.0.0/16 via 192.0.2.2");
        hand.run("route replace 10.2.0.0/16 via 192.0.2.3");
        let changes = watcher.step().list;
        assert!(matches!(changes.as_slice(), [Change::Routes(..)]), "{changes:?}");
        assert_eq!(way(&watcher.state, "10.2.0.0/16"), forward(port(0, Some("192.0.2.3"))));
    }

    ways_of_a_route_come_and_go_one_by_one(hand) {
        let mut watcher = with_wan(hand);
        let hops = |state: &HostState, to: &str| match way(state, to) {
            Some(Way::Forward(hops)) => hops.len(),
            _ => 0,
        };
        for host in 2..5 {
            hand.run(&format!("-6 route append 2001:db8:3::/48 via 2001:db8:1::{host} dev wan"));
            hand.run(&format!("route append 10.3.0.0/16 via 192.0.2.{host}"));
        }
        watcher.until("three ways", |state| hops(state, "2001:db8:3::/48") == 3);
        // IPv4 puts routes of one metric beside each other, and takes the first.
        watcher.until("the first", |state| way(state, "10.3.0.0/16") == forward(port(0, Some("192.0.2.2"))));
        follows_truly(hand, &mut watcher);
        hand.run("-6 route delete 2001:db8:3::/48 via 2001:db8:1::3 dev wan");
        hand.run("route delete 10.3.0.0/16 via 192.0.2.2");
        watcher.until("two ways", |state| hops(state, "2001:db8:3::/48") == 2);
        watcher.until("the second", |state| way(state, "10.3.0.0/16") == forward(port(0, Some("192.0.2.3"))));
        follows_truly(hand, &mut watcher);
        hand.run("-6 route delete 2001:db8:3::/48");
        watcher.until("none", |state| way(state, "2001:db8:3::/48").is_none());
        follows_truly(hand, &mut watcher);
    }

    next_hop_objects_are_looked_into(hand) {
        // The kernel then names objects without saying what is in them.
        fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0").expect("a setting");
        let mut watcher = with_wan(hand);
        hand.run("nexthop add id 1 via 192.0.2.2 dev wan");
        hand.run("nexthop add id 2 via 192.0.2.3 dev wan");
        hand.run("nexthop add id 10 group 1/2,5");
        hand.run("nexthop add id 20 blackhole");
        hand.run("route add 10.2.0.0/16 nhid 10");
        hand.run("route add 10.3.0.0/16 nhid 1");
        hand.run("route add 10.4.0.0/16 nhid 20");
        let both = |first| Way::Forward(vec![(port(0, Some(first)), 1), (port(0, Some("192.0.2.3")), 5)]);
        watcher.until("a group", |state| way(state, "10.2.0.0/16") == Some(both("192.0.2.2")));
        watcher.until("one", |state| way(state, "10.3.0.0/16") == forward(port(0, Some("192.0.2.2"))));
        watcher.until("none", |state| way(state, "10.4.0.0/16") == Some(Way::Blackhole));
        hand.run("nexthop replace id 1 via 192.0.2.4 dev wan");
        watcher.until("another", |state| {
            way(state, "10.2.0.0/16") == Some(both("192.0.2.4"))
                && way(state, "10.3.0.0/16") == forward(port(0, Some("192.0.2.4")))
        });
        follows_truly(hand, &mut watcher);
        hand.run("nexthop delete id 1");
        watcher.until("less", |state| way(state, "10.3.0.0/16").is_none());
        follows_truly(hand, &mut watcher);
    }

    routes_of_every_kind(hand) {
        let mut watcher = with_wan(hand);
        hand.run("route add blackhole 10.2.0.0/16");
        hand.run("route add unreachable 10.3.0.0/16");
        hand.run("route add prohibit 10.4.0.0/16");
        hand.run("-6 route add blackhole 2001:db8:4::/48");
        hand.run("route add 10.5.0.0/16 via 192.0.2.2 tos 0x10");
        hand.run("route add 10.6.0.0/16 via 203.0.113.1 dev wan onlink");
        hand.run("route add 10.7.0.0/16 via inet6 fe80::7 dev wan");
        hand.run("route add 10.8.0.0/16 via 192.0.2.2 table 100");
        hand.run("route add 10.9.0.0/16 dev lo");
        let expected = [
            ("10.2.0.0/16", Some(Way::Blackhole)),
            ("10.3.0.0/16", Some(Way::Unreachable)),
            ("10.4.0.0/16", Some(Way::Prohibit)),
            ("2001:db8:4::/48", Some(Way::Blackhole)),
            ("10.5.0.0/16", Some(Way::Host)),
            ("10.6.0.0/16", forward(port(0, Some("203.0.113.1")))),
            ("10.7.0.0/16", forward(port(0, Some("fe80::7")))),
            ("10.8.0.0/16", None),
            ("10.9.0.0/16", Some(Way::Host)),
        ];
        watcher.until("all", |state| way(state, "10.9.0.0/16").is_some());
        for (to, expected) in expected {
            assert_eq!(way(&watcher.state, to), expected, "{to}");
        }
        let key = watcher.state.routes.iter().find(|(key, _)| key.prefix == prefix("10.6.0.0/16"));
        assert!(key.expect("a route").1[0].hops[0].onlink);
        follows_truly(hand, &mut watcher);
    }

    a_link_without_a_signal_carries_nothing(hand) {
        let mut watcher = with_wan(hand);
        hand.run("route add 10.2.0.0/16 via 192.0.2.2 metric 10");
        hand.add_link("lan");
        hand.add_address("lan", "10.1.0.1/16");
        hand.run("route add 10.2.0.0/16 via 10.1.0.2 metric 20");
        watcher.until("by wan", |state| way(state, "10.2.0.0/16") == forward(port(0, Some("192.0.2.2"))));
        hand.run("link set wan-peer down");
        watcher.until("by lan", |state| way(state, "10.2.0.0/16") == forward(port(1, Some("10.1.0.2"))));
        hand.run("link set wan-peer up");
        watcher.until("by wan", |state| way(state, "10.2.0.0/16") == forward(port(0, Some("192.0.2.2"))));
        follows_truly(hand, &mut watcher);
    }

    links_say_what_they_are(hand) {
        let mut watcher = with_wan(hand);
        hand.run("link set wan address 02:00:00:00:00:77 mtu 1400");
        watcher.until("its new face", |state| {
            state.link_named("wan").is_some_and(|(_, link)| {
                link.mtu == 1400 && link.mac.is_some_and(|mac| mac.0[5] == 0x77) && link.kind.as_deref() == Some("veth")
            })
        });
        hand.run("link add br0 type bridge");
        hand.run("link set wan master br0");
        hand.run("link set wan nomaster");
        hand.run("link set wan down");
        hand.run("link set wan name outside");
        watcher.until("its new name", |state| {
            state.link_named("outside").is_some() && state.link_named("wan").is_none()
        });
        follows_truly(hand, &mut watcher);
    }

    the_kernel_resolves_on_request(hand) {
        let mut watcher = with_wan(hand);
        let far = Far::new();
        hand.run(&format!("link set wan-peer netns {}", far.pid()));
        far.run("ip link set wan-peer address 02:00:00:00:00:99 up");
        far.run("ip address add 192.0.2.2/24 dev wan-peer");
        far.run("ip address add 2001:db8:1::2/64 dev wan-peer nodad");
        watcher.until("a signal", |state| state.link_named("wan").is_some_and(|(_, link)| link.carrier));
        let wan = watcher.state.link_named("wan").expect("wan").0;
        for address in ["192.0.2.2", "2001:db8:1::2"].map(ip) {
            watcher.source.resolve(wan, address).expect("to be asked");
            watcher.until("the answer", |state| {
                let found = state.neighbours.get(&(wan, address));
                found.and_then(|it| it.mac).is_some_and(|mac| mac.0[5] == 0x99)
            });
            // Again, for one that is known.
            watcher.source.resolve(wan, address).expect("to be asked again");
        }
        let nobody = ip("192.0.2.77");
        watcher.source.resolve(wan, nobody).expect("to be asked");
        watcher.until("no answer", |state| state.neighbours.get(&(wan, nobody)).is_some_and(|it| it.mac.is_none()));
        let refused = watcher.source.resolve(4242, nobody);
        assert!(matches!(refused, Err(ResolveError::Refused { link: 4242, .. })), "{refused:?}");
    }

    a_source_looks_at_its_own_namespace_only_and_ends_cleanly(hand) {
        let before = fs::read_dir("/proc/self/fd").expect("descriptors").count();
        for _ in 0..50 {
            drop(Watcher::new(hand.source()));
        }
        assert_eq!(fs::read_dir("/proc/self/fd").expect("descriptors").count(), before);
        let watcher = Watcher::new(hand.source());
        let names: Vec<&str> = watcher.state.links.values().map(|link| link.name.as_str()).collect();
        assert_eq!(names, ["lo"]);
    }
}

/// Another host: a process in a namespace of its own, ended with the test.
struct Far(Child);

impl Far {
    fn new() -> Far {
        let child = Command::new("unshare").args(["--net", "sleep", "60"]).spawn().expect("unshare");
        let far = Far(child);
        let ours = fs::read_link("/proc/self/ns/net").expect("our namespace");
        while fs::read_link(format!("/proc/{}/ns/net", far.pid())).is_ok_and(|theirs| theirs == ours) {
            std::thread::sleep(Duration::from_millis(1));
        }
        far
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn run(&self, command: &str) {
        let pid = self.pid().to_string();
        let words = command.split_whitespace();
        run("nsenter", &["-t", &pid, "-n"].into_iter().chain(words).collect::<Vec<_>>());
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A message of these parts, as the kernel would send it.
fn event(kind: u16, header: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut payload = header.to_vec();
    for (kind, value) in attributes {
        payload.extend((value.len() as u16 + 4).to_ne_bytes());
        payload.extend(kind.to_ne_bytes());
        payload.extend(*value);
        payload.resize(payload.len().next_multiple_of(4), 0);
    }
    let mut message = (payload.len() as u32 + 16).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend([0; 10]);
    message.extend(payload);
    message
}

fn link_event(index: u8, extra: &[(u16, &[u8])]) -> Vec<u8> {
    let header = [0, 0, 1, 0, index, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0];
    let own: [(u16, &[u8]); 3] = [(3, b"wan\0"), (4, &[0xdc, 5, 0, 0]), (1, &[2, 0, 0, 0, 0, 1])];
    event(message::RTM_NEWLINK, &header, &[extra, &own].concat())
}

fn address_event(index: u8, extra: &[(u16, &[u8])]) -> Vec<u8> {
    let own: [(u16, &[u8]); 2] = [(1, &[192, 0, 2, 1]), (2, &[192, 0, 2, 1])];
    event(message::RTM_NEWADDR, &[2, 24, 0, 0, index, 0, 0, 0], &[extra, &own].concat())
}

fn route_event(third: u8, extra: &[(u16, &[u8])]) -> Vec<u8> {
    let own: [(u16, &[u8]); 3] = [(1, &[10, third, 0, 0]), (5, &[192, 0, 2, 2]), (4, &[1, 0, 0, 0])];
    let header = [2, 16, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    event(message::RTM_NEWROUTE, &header, &[extra, &own].concat())
}

fn neighbour_event(extra: &[(u16, &[u8])]) -> Vec<u8> {
    let own: [(u16, &[u8]); 2] = [(1, &[192, 0, 2, 2]), (2, &[2, 0, 0, 0, 0, 2])];
    event(message::RTM_NEWNEIGH, &[2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0], &[extra, &own].concat())
}

fn all_events(extra: &[(u16, &[u8])]) -> Vec<Vec<u8>> {
    vec![link_event(1, extra), address_event(1, extra), route_event(1, extra), neighbour_event(extra)]
}

fn follower(events: &[Vec<u8>]) -> Follower {
    let mut follower = Follower::new(message::RT_TABLE_MAIN);
    events.iter().for_each(|event| follower.take(event, Instant::now()));
    follower.stale.clear();
    follower
}

/// Is everything of `known` still there?
fn contains(now: &HostState, known: &HostState) -> bool {
    fn within<K: Ord, V: PartialEq>(now: &BTreeMap<K, V>, known: &BTreeMap<K, V>) -> bool {
        known.iter().all(|(key, value)| now.get(key) == Some(value))
    }
    within(&now.links, &known.links)
        && known.addresses.is_subset(&now.addresses)
        && within(&now.routes, &known.routes)
        && within(&now.neighbours, &known.neighbours)
}

#[test]
fn events_say_what_they_say() {
    let state = follower(&all_events(&[])).ledger.snapshot();
    let (index, link) = state.link_named("wan").expect("wan");
    assert_eq!(
        (index, link.mtu, link.up, link.carrier, link.mac.map(|mac| mac.0[5])),
        (1, 1500, true, true, Some(1))
    );
    let key = RouteKey { table: 254, prefix: prefix("10.1.0.0/16"), metric: 0 };
    assert_eq!(state.routes[&key][0].hops, [NextHop::new(1, Some(ip("192.0.2.2")))]);
    assert_eq!(state.addresses.first().map(|it| (it.address, it.prefix_len)), Some((ip("192.0.2.1"), 24)));
    assert!(state.neighbours[&(1, ip("192.0.2.2"))].mac.is_some());
}

#[test]
fn a_bridge_s_view_of_a_port_is_not_the_link() {
    let mut follower = follower(&all_events(&[]));
    let mut left_the_bridge = link_event(1, &[]);
    left_the_bridge[4..6].copy_from_slice(&message::RTM_DELLINK.to_ne_bytes());
    left_the_bridge[16] = 7;
    follower.take(&left_the_bridge, Instant::now());
    assert!(follower.ledger.snapshot().link_named("wan").is_some());
}

/// The end of a route that was replaced before the table was read comes after the table.
#[test]
fn the_end_of_another_route_is_not_the_end_of_this_one() {
    let mut follower = follower(&all_events(&[]));
    let mut other = route_event(1, &[]);
    other[4..6].copy_from_slice(&message::RTM_DELROUTE.to_ne_bytes());
    let via = other.windows(4).rposition(|bytes| bytes == [192, 0, 2, 2]).expect("its router");
    other[via + 3] = 3;
    follower.take(&other, Instant::now());
    assert!(follower.stale.routes, "the table is read again");
    assert_eq!(follower.ledger.snapshot().routes.len(), 1);
}

#[test]
fn an_address_that_may_be_another_s_is_not_used() {
    let flags = 0x40_u32.to_ne_bytes();
    let tentative: &[(u16, &[u8])] = &[(8, &flags)];
    let mut follower = follower(&[address_event(1, tentative)]);
    assert!(follower.ledger.snapshot().addresses.is_empty());
    follower.take(&address_event(1, &[]), Instant::now());
    assert_eq!(follower.ledger.snapshot().addresses.len(), 1);
}

proptest! {
    /// Attributes that nobody knows, and some whose length is wrong, cost nothing but themselves.
    #[test]
    fn unknown_attributes_are_stepped_over(
        kind in 200_u16..0x3fff,
        value in prop::collection::vec(any::<u8>(), 0..40),
        flags in prop::sample::select(vec![0_u16, 0x4000, 0x8000]),
    ) {
        let plain = follower(&all_events(&[])).ledger.snapshot();
        let more = follower(&all_events(&[(kind | flags, &value)])).ledger.snapshot();
        prop_assert_eq!(more, plain);
    }

    #[test]
    fn repeated_events_change_nothing(order in prop::collection::vec(0_usize..4, 0..12)) {
        let events = all_events(&[]);
        let mut follower = follower(&events);
        let plain = follower.ledger.snapshot();
        order.iter().for_each(|place| follower.take(&events[*place], Instant::now()));
        prop_assert!(!follower.stale.everything && !follower.stale.routes);
        prop_assert_eq!(follower.ledger.report(), []);
        prop_assert_eq!(follower.ledger.snapshot(), plain);
    }

    /// A datagram that ends too early has everything read again, and takes nothing away.
    #[test]
    fn cut_datagrams_lose_nothing(cut in 1_usize..400, noise in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut follower = follower(&all_events(&[]));
        let known = follower.ledger.snapshot();
        let datagram = [link_event(2, &[]), address_event(2, &[]), route_event(2, &[])].concat();
        let cut = cut.min(datagram.len() - 1);
        follower.take(&datagram[..cut], Instant::now());
        let boundaries = [link_event(2, &[]).len(), link_event(2, &[]).len() + address_event(2, &[]).len()];
        prop_assert_eq!(follower.stale.everything, !boundaries.contains(&cut));
        follower.take(&noise, Instant::now());
        prop_assert!(contains(&follower.ledger.snapshot(), &known));
    }

    /// Any bytes behind a sound header, of any kind: no panic.
    #[test]
    fn noise_is_read_without_a_panic(
        kind in prop::sample::select(vec![2_u16, 3, 4, 16, 17, 20, 21, 24, 25, 28, 29, 104, 105, 999]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let datagram = event(kind, &bytes, &[]);
        follower(&all_events(&[])).take(&datagram, Instant::now());
        let mut tables = Tables::default();
        for message in netlink::messages(&datagram).flatten() {
            let _ = tables.take(message);
            let _ = (message::object(message.payload), netlink::error_code(message.payload));
        }
    }
}

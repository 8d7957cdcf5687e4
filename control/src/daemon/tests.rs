//! Tables made of a configuration and a host that is played.

mod hold;
mod model;
mod packets;
mod router;
mod transact;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use culvert_engine::drops::Reason;
use culvert_engine::tables::{Gateway, Stack, To};
use culvert_engine::wire::ethernet::MacAddr;

use super::assemble::{self, Built, Known, Link};
use super::hold::Holds;
use super::{carp, steering};
use crate::carp::Role;
use crate::config::Config;
use crate::plan::Kept;
use crate::routes::{self, Hop, HostTables, MergedRoute, PortNeighbour, Way};

/// The configuration of that text.
pub(super) fn config(text: &str) -> Config {
    try_config(text).expect("a configuration")
}

/// The configuration of that text, if it is one.
fn try_config(text: &str) -> Option<Config> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("culvert-daemon-{}-{number}.toml", std::process::id()));
    std::fs::write(&path, text).expect("a file");
    // It may have keys in it.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    let loaded = Config::load(&path);
    std::fs::remove_file(&path).expect("ours");
    Some(loaded.ok()?.0)
}

/// A link that is up, with a MAC that ends with `last`.
pub(super) fn link(name: &str, last: u32) -> routes::Link {
    let mac = Some(MacAddr([2, 0, 0, 0, 0, last as u8]));
    routes::Link { name: name.to_owned(), mac, mtu: 1500, up: true, carrier: true, kind: None }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn route(prefix: &str, way: Way) -> MergedRoute {
    MergedRoute { prefix: prefix.parse().expect("a prefix"), way }
}

fn forward(hop: Hop) -> Way {
    Way::Forward(vec![(hop, 1)])
}

const WAN: usize = 0;
const LAN: usize = 1;
const CONFIG: &str = r#"
[[port]]
name = "wan"
device = "xdp:eth0"
[[port]]
name = "lan"
device = "tap:tap0"
addresses = ["10.1.0.1/24"]
[[tunnel]]
name = "oslo"
local = "192.0.2.1"
remote = "198.51.100.2"
inner = "172.27.27.1/32"
peer = "172.27.27.2"
routes = ["10.2.0.0/16"]
protect = "none"
[[tunnel]]
name = "paris"
local = "192.0.2.1"
remote = "198.51.100.3"
protect = "none"
"#;

/// A router whose WAN has its address and its default route from the host.
fn host() -> HostTables {
    HostTables {
        routes: vec![
            route("0.0.0.0/0", forward(Hop::Port { port: WAN, via: Some(ip("192.0.2.254")) })),
            route("192.0.2.0/24", forward(Hop::Port { port: WAN, via: None })),
            route("192.0.2.1", Way::Host),
            route("203.0.113.0/24", Way::Blackhole),
        ],
        neighbours: vec![PortNeighbour {
            port: WAN,
            address: ip("192.0.2.254"),
            mac: MacAddr([2, 0, 0, 0, 0, 0xfe]),
        }],
        port_addresses: vec![(WAN, ip("192.0.2.1"), 24), (WAN, ip("fe80::1"), 64)],
        tunnel_addresses: vec![],
    }
}

struct World {
    config: Config,
    kept: Kept,
    host: HostTables,
    links: Vec<Link>,
    found: BTreeMap<(usize, IpAddr), MacAddr>,
    path_mtus: Vec<Option<u16>>,
    holds: Holds,
    now: Instant,
}

impl World {
    fn new() -> World {
        let config = config(CONFIG);
        let kept = Kept::new(&config, 1).expect("no SAs");
        let links = vec![
            Link { mac: Some(MacAddr([2, 0, 0, 0, 0, 7])), mtu: Some(1400) },
            Link { mac: Some(MacAddr([2, 0, 0, 0, 0, 8])), mtu: Some(1500) },
        ];
        World {
            config,
            kept,
            host: host(),
            links,
            found: BTreeMap::new(),
            path_mtus: vec![None, Some(1300)],
            holds: Holds::default(),
            now: Instant::now(),
        }
    }

    fn known(&self) -> Known<'_> {
        Known {
            config: &self.config,
            kept: &self.kept,
            links: &self.links,
            host: &self.host,
            found: &self.found,
            path_mtus: &self.path_mtus,
            holds: &self.holds,
            now: self.now,
        }
    }

    fn build(&mut self) -> Built {
        let built = assemble::build(&self.known()).expect("tables");
        self.holds.remember(&built.placed, self.now);
        built
    }
}

fn to(built: &Built, address: &str) -> Option<To> {
    built.tables.route(ip(address)).map(|hop| hop.to)
}

#[test]
fn the_host_gives_what_the_configuration_leaves_out() {
    let built = World::new().build();
    let router = To::Station { port: 0, mac: MacAddr([2, 0, 0, 0, 0, 0xfe]) };
    assert_eq!(to(&built, "198.51.100.2"), Some(router));
    assert_eq!(to(&built, "192.0.2.1"), Some(To::Host));
    assert_eq!(to(&built, "192.0.2.77"), Some(To::Unresolved { port: 0 }));
    assert_eq!(to(&built, "10.2.3.4"), Some(To::Tunnel(0)));
    assert_eq!(to(&built, "203.0.113.9"), Some(To::Nowhere));
    // 1400 bytes of the link less 24 of the headers; 1300 of the path.
    let mtus: Vec<usize> = built.tables.tunnels().iter().map(|tunnel| tunnel.mtu()).collect();
    assert_eq!(mtus, [1376, 1276]);
    let wan = &built.setup.ports[WAN];
    assert!(wan.host_resolves && wan.mac == MacAddr([2, 0, 0, 0, 0, 7]));
    // Addresses of the link alone are not forwarded to.
    assert_eq!(wan.addresses, [(ip("192.0.2.1"), 24)]);
    assert!(!built.setup.ports[LAN].host_resolves);
}

#[test]
fn the_configuration_comes_before_the_host() {
    let mut world = World::new();
    world.host.routes.push(route("10.2.0.0/16", Way::Host));
    world.host.routes.push(route("10.3.0.0/16", forward(Hop::Tunnel(1))));
    let built = world.build();
    assert_eq!(to(&built, "10.2.3.4"), Some(To::Tunnel(0)));
    assert_eq!(to(&built, "10.3.0.1"), Some(To::Tunnel(1)));
}

/// The host has an address on the TAP's link: there, it is a station like any other.
#[test]
fn the_host_behind_a_tap_is_a_neighbour() {
    let mut world = World::new();
    world.host.routes.push(route("10.1.0.0/24", Way::Host));
    world.host.routes.push(route("10.1.0.2", Way::Host));
    world.found.insert((LAN, ip("10.1.0.2")), MacAddr([6, 0, 0, 0, 0, 1]));
    let built = world.build();
    assert_eq!(to(&built, "10.1.0.2"), Some(To::Station { port: 1, mac: MacAddr([6, 0, 0, 0, 0, 1]) }));
    assert_eq!(to(&built, "10.1.0.3"), Some(To::Unresolved { port: 1 }));
    assert_eq!(to(&built, "10.1.0.1"), Some(To::Host));
}

#[test]
fn several_ways_are_a_group() {
    let mut world = World::new();
    let hops = vec![(Hop::Tunnel(0), 1), (Hop::Tunnel(1), 300_000)];
    world.host.routes.push(route("10.4.0.0/16", Way::Forward(hops)));
    let built = world.build();
    assert_eq!(to(&built, "10.4.0.1"), Some(To::Group(0)));
    let group = Gateway::Group(vec![(Gateway::Tunnel(0), 1), (Gateway::Tunnel(1), u16::MAX)]);
    assert_eq!(built.routes.get(&"10.4.0.0/16".parse().expect("a prefix")), Some(&group));
}

#[test]
fn ports_take_what_leads_into_tunnels_and_nothing_else() {
    let mut world = World::new();
    world.host.routes.extend([
        route("10.0.0.0/8", forward(Hop::Tunnel(1))),
        route("10.9.0.0/16", Way::Host),
        route("10.9.1.0/24", forward(Hop::Tunnel(0))),
        route("198.51.0.0/16", forward(Hop::Tunnel(0))),
    ]);
    world.build();
    let built = world.build();
    let steered = steering::steered(&world.config, &built.routes);
    let told = |prefix: &str, ours| {
        let prefix: culvert_engine::fib::Prefix = prefix.parse().expect("a prefix");
        steered.contains(&(prefix.addr(), prefix.prefix_len(), ours))
    };
    for (prefix, ours) in [
        ("10.0.0.0/8", true),
        ("10.9.0.0/16", false),
        ("10.9.1.0/24", true),
        ("10.2.0.0/16", true),
        ("10.1.0.0/24", false),
        ("172.27.27.2/32", true),
        ("198.51.0.0/16", true),
        ("198.51.100.2/32", false),
        ("198.51.100.3/32", false),
    ] {
        assert!(told(prefix, ours), "{prefix} {steered:?}");
    }
    assert!(steered.iter().all(|(address, _, _)| *address != ip("192.0.2.0")), "the host has it unasked");
}

#[test]
fn ports_take_esp_on_the_udp_ports_that_far_ends_send_to() {
    let key = "00112233445566778899aabbccddeeff0102030";
    let sa = |direction: &str, last: u32, ports: &str| {
        format!(
            "[[tunnel.protect.manual]]\ndirection = \"{direction}\"\nspi = {}\nsuite = \"aes128gcm16\"\n\
             key = \"{key}{last}\"\nudp_encap = {{ {ports} }}\n",
            4096 + last
        )
    };
    let text = CONFIG.replacen("protect = \"none\"\n", "[tunnel.protect]\nmode = \"transport\"\nSAS", 1);
    let sas =
        sa("out", 1, "source = 5500, destination = 6500") + &sa("in", 2, "source = 6500, destination = 5501");
    let config = config(&text.replace("SAS", &sas));
    assert_eq!(steering::esp_ports(&config).into_iter().collect::<Vec<_>>(), [4500, 5500, 5501]);
    assert_eq!(steering::local_ends(&config), [ip("192.0.2.1"), ip("192.0.2.1")]);
}

/// Where another router holds the near end, nothing goes out and nothing is taken in, and the address is not ours.
#[test]
fn a_tunnel_is_silent_while_its_near_end_is_another_router_s() {
    let mut world = World::new();
    let shared = "[carp]\nrouter = \"second\"\n[[carp.group]]\nvhid = 2\ninterface = \"eth0\"\naddress = \"192.0.2.9\"\n";
    world.config = config(&(shared.to_owned() + &CONFIG.replacen("\"192.0.2.1\"", "\"carp:2@eth0\"", 1)));
    let (script, of) = (crate::carp::scripted::Script::default(), "2@eth0".parse().expect("a group"));
    let mut followed = crate::carp::Followed::new(Box::new(script.clone()));
    followed.steer(&world.config.carp, world.now);
    let mut host = crate::routes::HostState::default();
    host.links.insert(1, link("eth0", 1));
    let roles =
        [(Role::Backup, Err(Reason::Backup)), (Role::Master, Ok(WAN)), (Role::Init, Err(Reason::Backup))];
    for (role, way_out) in roles {
        script.set(&of, role);
        followed.look(&host, |_| None, world.now);
        world.kept.masters = carp::masters(&followed);
        carp::assign(&world.kept.masters, &world.config.tunnels, &mut world.kept.tunnels);
        let built = world.build();
        let shared: Vec<_> =
            assemble::specification(&world.known()).ports.iter().map(|port| port.shared.clone()).collect();
        let own = vec![MacAddr([0, 0, 0x5e, 0, 1, 2]); usize::from(role == Role::Master)];
        assert_eq!((&shared[WAN], shared.concat().len()), (&own, own.len()), "{role}");
        assert_eq!(built.tables.tunnels()[0].way_out(), way_out, "{role}");
        assert_eq!(built.tables.tunnels()[1].way_out(), Ok(WAN), "its neighbour does not care");
        let ours = role == Role::Master;
        assert_eq!(to(&built, "192.0.2.9") == Some(To::Host), ours);
        assert_eq!(built.routes.contains_key(&"192.0.2.9/32".parse().expect("a prefix")), ours);
        for (left, first) in [(vec![], ours), (vec![&of], true)] {
            let negotiated = carp::negotiated(&world.config.tunnels, &world.kept.tunnels, &left);
            let enabled: Vec<bool> = negotiated.iter().map(|tunnel| tunnel.enabled).collect();
            assert_eq!(enabled, [first, true], "what is left as it is stays");
        }
    }
}

/// The host must reach far ends itself, for IKE.
#[test]
fn the_host_is_not_led_into_a_tunnel_on_its_way_to_a_far_end() {
    let config = config(&CONFIG.replace("routes = [", "routes = [\"198.51.100.0/24\", "));
    let routes: Vec<String> = assemble::host_routes(&config, 0).iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["10.2.0.0/16", "172.27.27.2/32"]);
}

/// What worker 0 has beyond the ports of the configuration is the host's side of netmap ports.
#[test]
fn netmap_ports_have_the_host_behind_ports_of_its_own() {
    let mut world = World::new();
    world.config = config(&CONFIG.replace("tap:tap0", "netmap:em0"));
    let of = |world: &World| assemble::specification(&world.known()).ports;
    let [_, lan, side] = of(&world).try_into().expect("three ports");
    assert_eq!((lan.stack, side.host_of), (Stack::Port(2), Some(1)));
    assert_eq!((side.mtu, side.mac, side.addresses), (lan.mtu, lan.mac, vec![]));
    world.build();

    let alone = "[engine]\nhost_port = false\n".to_owned() + &CONFIG.replace("tap:tap0", "netmap:em0");
    world.config = config(&alone);
    let [_, lan] = of(&world).try_into().expect("two ports");
    assert_eq!((lan.stack, lan.host_of), (Stack::Own, None));
    world.build();
}

//! Tunnels kept out of tunnels, whatever the routes do.

use std::time::Duration;

use culvert_engine::drops::Reason;
use culvert_engine::tables::{Gateway, To};

use super::super::hold::RETURN;
use super::{Built, LAN, WAN, World, forward, ip, route, to};
use crate::plan::Kept;
use crate::routes::{Hop, PortNeighbour, Way};

const GATEWAY: &str = "192.0.2.254";

fn held(built: &Built) -> Vec<usize> {
    built.placed.held.keys().copied().collect()
}

fn nested(built: &Built) -> Vec<usize> {
    built.placed.nested.keys().copied().collect()
}

fn way(port: usize, via: &str) -> Gateway {
    Gateway::Port { port, via: Some(ip(via)) }
}

/// The route that a routing daemon learns by the mistake: the underlay, through tunnel `oslo`.
fn into_oslo(prefix: &str) -> crate::routes::MergedRoute {
    route(prefix, forward(Hop::Tunnel(0)))
}

impl World {
    /// The configuration with another setting in a tunnel, the one of that number.
    fn with(tunnels: &str) -> World {
        let mut world = World::new();
        world.config = super::config(&(super::CONFIG.to_owned() + tunnels));
        world.kept = Kept::new(&world.config, 1).expect("no SAs");
        world
    }

    fn after(&mut self, time: Duration) -> Built {
        self.now += time;
        self.build()
    }
}

/// A tunnel whose ends are the inner addresses of `oslo`.
fn inside(lines: &str) -> String {
    format!(
        "[[tunnel]]\nname = \"inside\"\nlocal = \"172.27.27.1\"\nremote = \"172.27.27.2\"\nroutes = [\"10.7.0.0/16\"]\n\
         protect = \"none\"\n{lines}\n"
    )
}

#[test]
fn a_tunnel_keeps_its_way_out() {
    let mut world = World::new();
    let before = world.build();
    assert!(held(&before).is_empty() && nested(&before).is_empty());
    let router = to(&before, "198.51.100.3");
    world.host.routes.push(into_oslo("198.51.100.0/28"));
    let during = world.build();
    assert_eq!((held(&during), nested(&during)), (vec![0, 1], vec![]));
    assert_eq!((to(&during, "198.51.100.2"), to(&during, "198.51.100.3")), (router, router));
    assert_eq!(to(&during, "198.51.100.4"), Some(To::Tunnel(0)));
    assert!(during.tables.tunnels().iter().all(|tunnel| tunnel.way_out() == Ok(WAN)));
    // Again, from what was held.
    assert_eq!(held(&world.build()), [0, 1]);
    // What the operator reads.
    assert_eq!(
        during.placed.held[&1].detour.why(&world.config),
        "the host's route 198.51.100.0/28 leads its far end 198.51.100.3 into tunnel \"oslo\": paris -> oslo -> oslo, \
         which never ends"
    );
    assert_eq!(
        during.placed.held[&0].detour.why(&world.config),
        "the host's route 198.51.100.0/28 leads its far end 198.51.100.2 into tunnel \"oslo\": oslo -> oslo, \
         which never ends"
    );
}

/// A route that comes and goes does not move the tunnel, and one that stays right is followed.
#[test]
fn a_flapping_route_does_not_move_the_tunnel() {
    let mut world = World::new();
    world.build();
    // The way out is another one from now on, but there is the wrong route more often than not.
    let other = forward(Hop::Port { port: WAN, via: Some(ip("192.0.2.253")) });
    world.host.neighbours.push(PortNeighbour {
        port: WAN,
        address: ip("192.0.2.253"),
        mac: culvert_engine::wire::ethernet::MacAddr([2, 0, 0, 0, 0, 0xfd]),
    });
    for _ in 0..20 {
        world.host.routes.push(into_oslo("198.51.100.3"));
        let bad = world.after(Duration::from_secs(3));
        assert_eq!(held(&bad), [1]);
        assert!(!bad.placed.held[&1].returning);
        *world.host.routes.last_mut().expect("a route") = route("198.51.100.3", other.clone());
        let good = world.after(Duration::from_secs(3));
        assert_eq!(good.placed.held[&1].way, way(WAN, GATEWAY));
        assert!(good.placed.held[&1].returning);
        assert_eq!(to(&bad, "198.51.100.3"), to(&good, "198.51.100.3"));
        world.host.routes.pop();
    }
    world.host.routes.push(route("198.51.100.3", other));
    assert_eq!(held(&world.after(Duration::ZERO)), [1]);
    let due = world.holds.deadline().expect("a way to go back to");
    // No sooner, and then for good.
    world.now = due - Duration::from_millis(1);
    assert_eq!(held(&world.build()), [1]);
    world.now = due;
    let after = world.build();
    assert!(held(&after).is_empty() && world.holds.deadline().is_none());
    let last = after.tables.route(ip("198.51.100.3")).map(|hop| hop.to);
    assert!(matches!(last, Some(To::Station { mac, .. }) if mac.0[5] == 0xfd), "{last:?}");
}

/// Everything vanishes and comes back, the route into the tunnel first.
#[test]
fn the_last_way_out_is_remembered_while_there_is_none() {
    let mut world = World::new();
    world.build();
    let whole = std::mem::take(&mut world.host);
    assert!(held(&world.build()).is_empty());
    world.host.routes = vec![into_oslo("0.0.0.0/0")];
    let built = world.build();
    assert_eq!((held(&built), nested(&built)), (vec![0, 1], vec![]));
    world.host = whole;
    assert_eq!(held(&world.build()), [0, 1], "for a while");
    assert!(held(&world.after(RETURN)).is_empty());
}

#[test]
fn a_tunnel_without_any_way_out_stays_down_rather_than_nest() {
    let mut world = World::new();
    world.host.routes = vec![into_oslo("0.0.0.0/0")];
    let built = world.build();
    assert_eq!((held(&built), nested(&built)), (vec![], vec![0, 1]));
    assert!(built.tables.tunnels().iter().all(|tunnel| tunnel.way_out() == Err(Reason::Nested)));
    // The route leaves, and the tunnel is up at once: nothing is lost by following it.
    world.host = super::host();
    let after = world.build();
    assert_eq!((held(&after), nested(&after)), (vec![], vec![]));
    assert!(after.tables.tunnels().iter().all(|tunnel| tunnel.way_out() == Ok(WAN)));
}

/// The daemon starts while the wrong route is there: the default route is a way out that nobody had to remember.
#[test]
fn a_wider_route_out_of_a_port_is_taken_at_the_start() {
    let mut world = World::new();
    world.host.routes.push(into_oslo("198.51.100.2"));
    let built = world.build();
    assert_eq!((held(&built), nested(&built)), (vec![0], vec![]));
    assert_eq!(built.placed.held[&0].way, way(WAN, GATEWAY));
}

/// A way that is kept follows the route that it came from; where that is gone, what can be reached counts.
#[test]
fn a_kept_way_follows_its_gateway() {
    let mut world = World::new();
    world.build();
    world.host.routes.push(into_oslo("198.51.100.3"));
    world.build();
    // The default route moves to another router.
    world.host.routes[0] = route("0.0.0.0/0", forward(Hop::Port { port: WAN, via: Some(ip("192.0.2.253")) }));
    assert_eq!(world.build().placed.held[&1].way, way(WAN, "192.0.2.253"));
    // It goes altogether: the way that there was, as long as that router can be there.
    world.host.routes.remove(0);
    assert_eq!(world.build().placed.held[&1].way, way(WAN, GATEWAY));
    // The network that the router is on goes, and a wider route is there.
    world.host.routes.push(route("198.0.0.0/8", forward(Hop::Port { port: LAN, via: Some(ip("10.1.0.9")) })));
    world.host.neighbours.clear();
    world.host.port_addresses.clear();
    world.host.routes.retain(|route| !route.prefix.to_string().starts_with("192.0.2."));
    assert_eq!(world.build().placed.held[&1].way, way(LAN, "10.1.0.9"));
    // That goes as well: down, and said to be; back with the first.
    world.host.routes.retain(|route| route.prefix.to_string() != "198.0.0.0/8");
    let built = world.build();
    assert_eq!(built.placed.held[&1].way, way(WAN, GATEWAY));
    assert_eq!(built.tables.tunnels()[1].way_out(), Err(Reason::NoNeighbour));
}

/// One of several ways leads into a tunnel: the others are taken.
#[test]
fn several_ways_without_those_into_tunnels() {
    let mut world = World::new();
    let hops = vec![(Hop::Tunnel(0), 1), (Hop::Port { port: WAN, via: Some(ip(GATEWAY)) }, 1)];
    world.host.routes.push(route("198.51.100.0/24", Way::Forward(hops)));
    let built = world.build();
    assert_eq!((held(&built), nested(&built)), (vec![0, 1], vec![]));
    assert_eq!(built.placed.held[&1].way, way(WAN, GATEWAY));
    assert!(built.tables.tunnels().iter().all(|tunnel| tunnel.way_out() == Ok(WAN)));
    assert!(matches!(to(&built, "198.51.100.2"), Some(To::Station { .. })));
    // For all others the ways are what they are.
    assert!(matches!(to(&built, "198.51.100.9"), Some(To::Group(_))));
}

/// The incident: the ends of the second tunnel are the inner addresses of the first.
#[test]
fn a_tunnel_on_top_of_another_is_down_and_the_first_one_stays() {
    let mut world = World::with(&inside(""));
    let built = world.build();
    assert_eq!((held(&built), nested(&built)), (vec![], vec![2]));
    assert_eq!(
        built.placed.nested[&2].why(&world.config),
        "the route 172.27.27.2/32 leads its far end 172.27.27.2 into tunnel \"oslo\": inside -> oslo, 2 tunnels where \
         max_depth allows 1"
    );
    assert_eq!(built.tables.tunnels()[2].way_out(), Err(Reason::Nested));
    assert_eq!(built.tables.tunnels()[0].way_out(), Ok(WAN));
    // Not even while there is a way past the tunnel: nothing of it ever went there, perhaps unprotected.
    world.host.routes.push(route("172.27.0.0/16", forward(Hop::Port { port: WAN, via: Some(ip(GATEWAY)) })));
    assert_eq!(nested(&world.build()), [2]);
}

#[test]
fn a_tunnel_lies_in_another_where_that_is_allowed() {
    let mut world = World::with(&inside("max_depth = 2"));
    let built = world.build();
    assert_eq!((held(&built), nested(&built)), (vec![], vec![]));
    let tunnels = built.tables.tunnels();
    assert_eq!((tunnels[2].way_out(), tunnels[2].carrier()), (Ok(WAN), Some(0)));
    // 1400 bytes of the link, less 24 for each.
    assert_eq!((tunnels[0].mtu(), tunnels[2].mtu()), (1376, 1352));
    // Never round in a circle: the first one keeps its way, and carries the second.
    world.host.routes.push(route("198.51.100.2", forward(Hop::Tunnel(2))));
    let built = world.build();
    assert_eq!((held(&built), nested(&built)), (vec![0], vec![]));
    assert_eq!(built.tables.tunnels()[2].carrier(), Some(0));
    assert_eq!(
        built.placed.held[&0].detour.why(&world.config),
        "the host's route 198.51.100.2/32 leads its far end 198.51.100.2 into tunnel \"inside\": oslo -> inside -> oslo, \
         which never ends"
    );
}

/// What lies in a tunnel stays there while that one keeps its way, also if it had a way past it once.
#[test]
fn a_tunnel_stays_in_one_that_keeps_its_way() {
    let text = "[[tunnel]]\nname = \"inside\"\nlocal = \"172.27.27.1\"\nremote = \"10.2.0.9\"\nprotect = \"none\"\nmax_depth = 2\n";
    let mut world = World::with(text);
    assert_eq!(world.build().tables.tunnels()[2].carrier(), Some(0));
    let past = route("10.2.0.9/32", forward(Hop::Port { port: WAN, via: Some(ip(GATEWAY)) }));
    world.host.routes.push(past);
    assert_eq!(world.build().tables.tunnels()[2].carrier(), None);
    world.host.routes.pop();
    world.host.routes.push(into_oslo("198.51.100.2"));
    let built = world.build();
    assert_eq!((held(&built), nested(&built)), (vec![0], vec![]));
    assert_eq!(built.tables.tunnels()[2].carrier(), Some(0));
}

/// What a tunnel may lie in does not make it the deeper for what that one lies in.
#[test]
fn depth_is_counted_through_all_tunnels() {
    let text = inside("max_depth = 3\ninner = \"172.28.0.1/32\"\npeer = \"172.28.0.2\"")
        + "[[tunnel]]\nname = \"top\"\nlocal = \"172.28.0.1\"\nremote = \"172.28.0.2\"\nprotect = \"none\"\nmax_depth = 2\n";
    let mut world = World::with(&text);
    let built = world.build();
    assert_eq!(nested(&built), [3]);
    assert_eq!(
        built.placed.nested[&3].why(&world.config),
        "the route 172.28.0.2/32 leads its far end 172.28.0.2 into tunnel \"inside\": top -> inside -> oslo, \
         3 tunnels where max_depth allows 2"
    );
    assert_eq!(built.tables.tunnels()[3].way_out(), Err(Reason::Nested));
    assert_eq!(built.tables.tunnels()[2].carrier(), Some(0));
}

/// One route leads thousands into one of them, and it takes no longer than the tables themselves.
#[test]
fn thousands_keep_their_ways_at_once() {
    const COUNT: usize = 3000;
    let many: String = (0..COUNT)
        .map(|n| {
            format!(
                "[[tunnel]]\nname = \"n{n}\"\nlocal = \"192.0.2.1\"\nremote = \"203.0.{}.{}\"\nprotect = \"none\"\n",
                n / 250,
                n % 250 + 1
            )
        })
        .collect();
    let mut world = World::with(&many);
    world.path_mtus = vec![None; COUNT + 2];
    // The default route alone leads there; in the world there is a network of that name which nobody reaches.
    world.host.routes.retain(|route| route.way != Way::Blackhole);
    let start = std::time::Instant::now();
    world.build();
    let quiet = start.elapsed();
    world.host.routes.push(into_oslo("203.0.0.0/16"));
    let start = std::time::Instant::now();
    let built = world.build();
    let held_all = start.elapsed();
    assert_eq!(held(&built).len(), COUNT);
    assert!(held_all < quiet * 10 + Duration::from_secs(1), "{held_all:?}, and {quiet:?} without");
}

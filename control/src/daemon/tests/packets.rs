//! Packets of tunnels in tunnels, through the tables that the daemon builds and a worker.

use culvert_engine::drops::Reason;

use super::router::{Place, Router, datagram, gre, ip_packet, layers, read};
use super::{LAN, Link, WAN, World, ip, route};
use crate::config::Config;
use crate::plan::Kept;
use crate::routes::{Hop, HostTables, PortNeighbour};
use culvert_engine::wire::ethernet::MacAddr;

/// A router of two, by its number: 1 or 2.
struct Side {
    config: Config,
    router: Router,
}

fn mac(site: u8, port: u8) -> [u8; 6] {
    [2, 0, 0, 0, site, port]
}

/// How a tunnel's packets are protected, at that site. `number` tells SAs apart.
fn protected(form: &str, site: u8, number: u32) -> String {
    let sa = |direction: &str, sender: u8| {
        let spi = 0x1000 * u32::from(sender) + number;
        format!(
            "[[tunnel.protect.manual]]\ndirection = \"{direction}\"\nspi = {spi}\nsuite = \"aes128gcm16\"\nesn = false\n\
             key = \"{spi:040x}\"\n"
        )
    };
    match form {
        "clear" => "protect = \"none\"\n".to_owned(),
        "udp" => "protect = \"none\"\nencapsulation = \"udp\"\n".to_owned(),
        mode => format!("[tunnel.protect]\nmode = \"{mode}\"\n{}{}", sa("out", site), sa("in", 3 - site)),
    }
}

/// Site `site` of two with tunnel `first` between their ports, and `second` between their addresses in that one.
fn side(site: u8, first: &str, second: &str, lines: &str, v6: bool) -> Side {
    shared(site, first, second, lines, v6, 1)
}

/// The same with several workers.
fn shared(site: u8, first: &str, second: &str, lines: &str, v6: bool, workers: usize) -> Side {
    let far = 3 - site;
    let outer = |site: u8| if v6 { format!("2001:db8::{site}") } else { format!("192.0.2.{site}") };
    let text = format!(
        "[[port]]\nname = \"wan\"\ndevice = \"xdp:eth0\"\n[[port]]\nname = \"lan\"\ndevice = \"xdp:eth1\"\n\
         [[tunnel]]\nname = \"first\"\nlocal = \"{}\"\nremote = \"{}\"\ninner = \"172.27.0.{site}/32\"\n\
         peer = \"172.27.0.{far}\"\nroutes = [\"10.{}.0.0/16\"]\nkey = 1\n{}\
         [[tunnel]]\nname = \"second\"\nlocal = \"172.27.0.{site}\"\nremote = \"172.27.0.{far}\"\nroutes = [\"10.{far}.0.0/16\"]\n\
         key = 2\n{lines}\n{}",
        outer(site),
        outer(far),
        10 + far,
        protected(first, site, 1),
        protected(second, site, 2),
    );
    let config = super::config(&text);
    let kept = Kept::new(&config, workers).expect("SAs");
    let macs = vec![mac(site, 0), mac(site, 1)];
    let links = macs.iter().map(|mac| Link { mac: Some(MacAddr(*mac)), mtu: Some(1500) }).collect();
    let station = |port, address: &str, mac| PortNeighbour { port, address: ip(address), mac: MacAddr(mac) };
    let host = HostTables {
        routes: vec![],
        neighbours: vec![
            station(WAN, &outer(far), mac(far, 0)),
            station(LAN, &format!("10.{site}.0.5"), mac(9, 9)),
        ],
        port_addresses: vec![
            (WAN, ip(&outer(site)), if v6 { 64 } else { 24 }),
            (LAN, ip(&format!("10.{site}.0.1")), 24),
        ],
        tunnel_addresses: vec![],
    };
    let mut world = World { config, kept, host, links, ..World::new() };
    world.path_mtus = vec![None; 2];
    let tables = world.build().tables;
    Side { router: Router::with_workers(tables, macs, workers), config: world.config }
}

fn from_lan(site: u8, dst: &str, len: usize) -> Vec<u8> {
    ip_packet(ip(&format!("10.{site}.0.5")), ip(dst), 17, &datagram(7, 7, &vec![0x5a; len - 28]))
}

/// A tunnel in a tunnel, of every form: what goes in at one side comes out whole at the other, in both directions, up to the
/// MTU and not beyond.
#[test]
fn a_tunnel_in_a_tunnel_carries_packets() {
    for first in ["clear", "udp", "transport", "tunnel"] {
        for second in ["clear", "udp", "transport", "tunnel"] {
            for v6 in [false, true] {
                let what = format!("{second} in {first}, v6 {v6}");
                let mut sides = [1, 2].map(|site| side(site, first, second, "max_depth = 2", v6));
                let mtu = sides[0].router.tables().tunnels()[1].mtu();
                for (from, to) in [(0, 1), (1, 0), (0, 1)] {
                    let dst = format!("10.{}.0.5", to + 1);
                    for len in [60, 577, mtu] {
                        let sent = from_lan(from as u8 + 1, &dst, len);
                        let out = sides[from].router.take(Place::Port(LAN), &sent);
                        assert_eq!(out.len(), 1, "{what}, {len} bytes");
                        assert_eq!(layers(&sides[from].config, &out[0].bytes), [0, 1], "{what}");
                        assert!(out[0].bytes.len() <= 1500, "{what}: {}", out[0].bytes.len());
                        let arrived = sides[to].router.take(Place::Port(WAN), &out[0].bytes);
                        assert_eq!(arrived.len(), 1, "{what}, {len} bytes");
                        assert_eq!(arrived[0].place, Place::Port(LAN));
                        // Two hops: TTL and checksum are otherwise.
                        assert_eq!(arrived[0].bytes[8], 62, "{what}");
                        assert_eq!(arrived[0].bytes[12..], sent[12..], "{what}");
                    }
                    let long = from_lan(from as u8 + 1, &dst, mtu + 1);
                    assert!(sides[from].router.take(Place::Port(LAN), &long).is_empty(), "{what}");
                    assert!(sides[from].router.drops(Reason::TooBig) > 0, "{what}");
                }
            }
        }
    }
}

/// Each SA's packets are opened by one worker, whoever receives them: those of either tunnel may be another one's.
#[test]
fn workers_hand_over_what_lies_in_a_tunnel() {
    for (first, second) in [("transport", "transport"), ("clear", "transport"), ("tunnel", "udp")] {
        for workers in [2, 3] {
            let mut near = side(1, first, second, "max_depth = 2", false);
            let mut far = shared(2, first, second, "max_depth = 2", false, workers);
            for worker in 0..workers {
                let sent = from_lan(1, "10.2.0.5", 300);
                let out = near.router.take(Place::Port(LAN), &sent);
                let arrived = far.router.take_by(worker, Place::Port(WAN), &out[0].bytes);
                assert_eq!(arrived.len(), 1, "{second} in {first}, worker {worker} of {workers}");
                assert_eq!((arrived[0].place, &arrived[0].bytes[12..]), (Place::Port(LAN), &sent[12..]));
            }
        }
    }
}

/// Only what came out of the first is taken for the second: outside of it, anybody could have sent it.
#[test]
fn a_carried_tunnel_takes_nothing_from_a_port() {
    let mut side = side(1, "transport", "clear", "max_depth = 2", false);
    let inner = ip_packet(ip("10.2.0.5"), ip("10.1.0.5"), 17, &datagram(7, 7, b"forged"));
    let forged = ip_packet(ip("172.27.0.2"), ip("172.27.0.1"), 47, &gre(2, &inner));
    assert!(side.router.take(Place::Port(WAN), &forged).is_empty());
    assert_eq!(side.router.drops(Reason::GreKey), 1);
}

/// The incident: the second tunnel may not lie in the first, and is down. The first goes on, and with it what its ends say to
/// each other by the addresses that are the second one's ends.
#[test]
fn the_first_tunnel_goes_on_below_one_that_is_down() {
    let mut sides = [1, 2].map(|site| side(site, "clear", "clear", "", false));
    let ping = ip_packet(ip("172.27.0.1"), ip("172.27.0.2"), 1, &[8, 0, 0, 0, 0, 0, 0, 0]);
    let out = sides[0].router.take(Place::Interface(0), &ping);
    assert_eq!(layers(&sides[0].config, &out[0].bytes), [0]);
    let arrived = sides[1].router.take(Place::Port(WAN), &out[0].bytes);
    assert_eq!((arrived.len(), arrived[0].place), (1, Place::Interface(0)));
    // So does what is behind it.
    let out = sides[0].router.take(Place::Port(LAN), &from_lan(1, "10.12.0.5", 100));
    assert_eq!(layers(&sides[0].config, &out[0].bytes), [0]);
    // The second is down, and its packets are told as what they are.
    assert!(sides[0].router.take(Place::Port(LAN), &from_lan(1, "10.2.0.5", 100)).is_empty());
    assert!(sides[0].router.take(Place::Interface(1), &from_lan(1, "203.0.113.1", 100)).is_empty());
    assert_eq!(sides[0].router.drops(Reason::Nested), 2);
    // A kernel's GRE between the same addresses, as in the incident: neither in nor out.
    let kernels = ip_packet(ip("172.27.0.1"), ip("172.27.0.2"), 47, &gre(2, &ping));
    assert!(sides[0].router.take(Place::Interface(0), &kernels).is_empty());
    let wrapped = ip_packet(ip("192.0.2.1"), ip("192.0.2.2"), 47, &gre(1, &kernels));
    assert!(sides[1].router.take(Place::Port(WAN), &wrapped).is_empty());
    assert_eq!((sides[0].router.drops(Reason::Nested), sides[1].router.drops(Reason::Nested)), (3, 1));
}

/// The host's route to the far end points into the tunnel. What it says from the near end goes by the way that the tunnel
/// takes, and nothing else does.
#[test]
fn the_host_goes_on_speaking_with_the_far_end() {
    for form in ["clear", "udp", "transport"] {
        let mut side = side(1, form, "clear", "", false);
        let ike = ip_packet(ip("192.0.2.1"), ip("192.0.2.2"), 17, &datagram(500, 500, b"IKE"));
        let out = side.router.take(Place::Interface(0), &ike);
        assert_eq!((out.len(), out[0].place), (1, Place::Port(WAN)));
        assert_eq!(out[0].bytes, ike, "as it was");
        let (_, _, protocol, payload) = read(&out[0].bytes).expect("a packet");
        assert_eq!((protocol, &payload[8..]), (17, &b"IKE"[..]));
        let other = ip_packet(ip("10.1.0.1"), ip("192.0.2.2"), 17, &datagram(7, 7, b"secret"));
        let tunnel_s = ip_packet(ip("192.0.2.1"), ip("192.0.2.2"), 47, &gre(1, &other));
        let udp = ip_packet(ip("192.0.2.1"), ip("192.0.2.2"), 17, &datagram(60000, 4754, &gre(1, &other)));
        let expected = if form == "udp" { vec![&other, &tunnel_s, &udp] } else { vec![&other, &tunnel_s] };
        for (nth, packet) in (1..).zip(expected) {
            assert!(side.router.take(Place::Interface(0), packet).is_empty(), "{form}");
            assert_eq!(side.router.drops(Reason::Nested), nth, "{form}");
        }
    }
}

/// Several ways lead to a far end, one of them into a tunnel: none of the packets to it takes that.
#[test]
fn no_packet_to_an_end_takes_a_shared_way_into_a_tunnel() {
    let mut world = World::new();
    world.links = vec![
        Link { mac: Some(MacAddr(mac(1, 0))), mtu: Some(1500) },
        Link { mac: Some(MacAddr(mac(1, 1))), mtu: Some(1500) },
    ];
    let ways = vec![(Hop::Tunnel(0), 1), (Hop::Port { port: WAN, via: Some(ip("192.0.2.254")) }, 1)];
    world.host.routes.push(route("198.51.100.0/24", crate::routes::Way::Forward(ways)));
    world.path_mtus = vec![None; 2];
    let mut router = Router::new(world.build().tables, vec![mac(1, 0), mac(1, 1)]);
    for port in 0..32 {
        let packet = ip_packet(ip("10.1.0.5"), ip("198.51.100.3"), 17, &datagram(port, 9, b"to an end"));
        let out = router.take(Place::Port(LAN), &packet);
        assert_eq!((out.len(), out[0].place), (1, Place::Port(WAN)));
        let (_, dst, protocol, _) = read(&out[0].bytes).expect("a packet");
        assert_eq!((dst, protocol), (ip("198.51.100.3"), 17));
    }
}

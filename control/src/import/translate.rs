//! From interfaces and routes to ports, tunnels and routes of a configuration.
//!
//! 1. Interfaces of hardware that have addresses are ports; `gre` interfaces are tunnels; others stay as they are.
//! 2. Static routes whose gateway lies behind a tunnel are that tunnel's; the host keeps the others, and Culvert follows them.
//! 3. A route that would lead a tunnel's own packets into a tunnel is left out. A tunnel whose far end is another one's inner
//!    address lies in that one on purpose: it is written as a comment, since nobody should come into that by an import.
//! 4. A far end that a tunnel's route covers gets a route of its own, out of its port.
//! 5. What is risky is told.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use super::ifconfig::{Address, Gateway, Left};
use super::report::{Carried, Notes, Place};
use super::shell::Shell;
use super::variables::{self, Interface, StaticRoute};
use crate::config::{Position, Prefix};
use crate::plan::covers;

/// What is written.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) ports: Vec<Port>,
    pub(super) tunnels: Vec<Tunnel>,
    pub(super) routes: Vec<PortRoute>,
}

#[derive(Debug)]
pub(super) struct Port {
    pub(super) name: String,
    /// What the host has on it, for a comment.
    pub(super) addresses: Vec<Prefix>,
}

#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) local: IpAddr,
    /// CARP's virtual host that `local` belongs to, and its interface.
    pub(super) carp: Option<(u8, String)>,
    pub(super) remote: IpAddr,
    pub(super) inner: Option<Prefix>,
    pub(super) peer: Option<IpAddr>,
    pub(super) routes: Vec<Prefix>,
    pub(super) key: Option<u32>,
    pub(super) checksum: bool,
    pub(super) sequence: bool,
    pub(super) udp: bool,
    pub(super) mtu: Option<u16>,
    /// The tunnel that it lies in.
    pub(super) inside: Option<String>,
    pub(super) at: Position,
}

/// A route out of a port.
#[derive(Debug)]
pub(super) struct PortRoute {
    pub(super) prefix: Prefix,
    pub(super) port: String,
    pub(super) via: Option<IpAddr>,
    /// The tunnel whose far end it is.
    pub(super) tunnel: String,
}

/// Kinds of interfaces that rc makes and that are tunnels of another kind.
const OTHER_TUNNELS: [(&str, &str); 8] = [
    ("gif", "gif(4) puts IP into IP, and Culvert speaks GRE"),
    ("ipsec", "if_ipsec(4) puts IP into ESP, and Culvert speaks GRE in ESP"),
    ("stf", "stf(4) is 6to4, and Culvert speaks GRE"),
    ("vxlan", "vxlan(4) puts Ethernet into UDP, and Culvert speaks GRE"),
    ("wg", "wg(4) is WireGuard, and Culvert speaks GRE"),
    ("ovpn", "ovpn(4) is OpenVPN, and Culvert speaks GRE"),
    ("me", "me(4) is minimal encapsulation, and Culvert speaks GRE"),
    ("ng", "a netgraph(4) node is set up by other programs"),
];

/// Kinds of interfaces that are none of hardware, beside the tunnels.
const SOFTWARE: [&str; 16] = [
    "bridge", "disc", "edsc", "enc", "epair", "faith", "lagg", "lo", "pflog", "pfsync", "ppp", "tap", "tun",
    "vlan", "vmnet", "wlan",
];

/// Is it a piece of hardware, as far as its name tells?
fn is_hardware(interface: &Interface) -> bool {
    let driver = interface.driver();
    !interface.cloned
        && !interface.is_gre()
        && !interface.made_as.contains('.')
        && !SOFTWARE.contains(&driver)
        && !OTHER_TUNNELS.iter().any(|(other, _)| *other == driver)
}

/// Makes the configuration of what the files say.
pub(super) fn translate(shell: &Shell, notes: &mut Notes) -> Draft {
    let interfaces = variables::interfaces(shell, notes);
    let routes = variables::routes(shell, notes);
    let mut draft = Draft::default();
    for interface in &interfaces {
        if interface.is_gre() {
            draft.tunnels.extend(tunnel(interface, &interfaces, &draft.tunnels, notes));
        } else {
            other(interface, &mut draft, notes);
        }
    }
    let mut ways = Ways::of(&interfaces, &draft, &routes);
    own_routes(&mut draft, &ways, &routes, notes);
    keep_apart(&mut draft, &mut ways, notes);
    pin(&mut draft, &ways, notes);
    for tunnel in draft.tunnels.iter().filter(|tunnel| tunnel.inside.is_none()) {
        tunnel_risks(tunnel, &interfaces, notes);
    }
    risks_of_all(&draft, shell, notes);
    let written = |interface: &&Interface| {
        draft.tunnels.iter().any(|tunnel| tunnel.name == interface.name && tunnel.inside.is_none())
    };
    for interface in interfaces.iter().filter(written) {
        let what = format!("tunnel {}", interface.name);
        notes.carried.push(Carried { what, from: interface.variables.clone() });
    }
    draft
}

/// Step 1, of what is no GRE.
fn other(interface: &Interface, draft: &mut Draft, notes: &mut Notes) {
    let Interface { name, settings, at, .. } = interface;
    if let Some((_, why)) = OTHER_TUNNELS.iter().find(|(driver, _)| *driver == interface.driver()) {
        return notes.left(name, *why, "it can stay in rc.conf", at);
    }
    let speaks_ip = !settings.addresses.is_empty() || settings.dynamic;
    if !is_hardware(interface) || settings.jailed || !speaks_ip {
        return;
    }
    if !port_name(name) {
        return notes.left(
            name,
            "a port cannot have this name",
            "add a [[port]] for it under another one",
            at,
        );
    }
    let addresses = settings.addresses.iter().map(|address| address.prefix).collect();
    draft.ports.push(Port { name: name.clone(), addresses });
}

/// Names that ports and tunnels can have.
fn port_name(name: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name != "host" && name.bytes().all(byte)
}

/// Step 1, of a GRE interface.
fn tunnel(
    interface: &Interface,
    interfaces: &[Interface],
    others: &[Tunnel],
    notes: &mut Notes,
) -> Option<Tunnel> {
    let Interface { name, settings, at, .. } = interface;
    let what = format!("tunnel {name}");
    leftovers(&what, &settings.left, notes);
    if settings.jailed {
        notes.left(
            what,
            "it is given to a jail (vnet)",
            "run Culvert in there with a configuration of its own",
            at,
        );
        return None;
    }
    let Some((local, remote)) = settings.ends else {
        let why = "nothing says between which addresses it runs (tunnel A B)";
        notes.left(what, why, "write the tunnel by hand", at);
        return None;
    };
    let fault = if !port_name(name) {
        Some("a tunnel cannot have this name")
    } else if !is_host(local) || !is_host(remote) || local == remote {
        Some("its ends are not the addresses of two hosts")
    } else {
        None
    };
    if let Some(why) = fault {
        notes.left(what, why, "write the tunnel by hand", at);
        return None;
    }
    let key = Some(settings.key).filter(|key| *key != 0);
    if let Some(twin) =
        others.iter().find(|other| (other.local, other.remote, other.key) == (local, remote, key))
    {
        let why = format!("tunnel {} has the same ends and key", twin.name);
        notes.left(what, why, "give each of them a key of its own", at);
        return None;
    }
    if !interface.cloned {
        let why = "rc does not make it: cloned_interfaces does not name it";
        notes.risk(&what, why, "take the tunnel out, if nothing else makes it", at);
    }
    let (inner, peer) = inner(&what, settings.addresses.as_slice(), others, notes);
    let mtu = settings.mtu.and_then(|mtu| {
        let least = if inner.is_some_and(|inner| inner.addr.is_ipv6()) { 1280 } else { 576 };
        let fits = u16::try_from(mtu).ok().filter(|mtu| *mtu >= least);
        if fits.is_none() {
            let why = format!("an MTU of {mtu} bytes is out of the range of {least} to 65535");
            notes.left(format!("{what}, mtu"), why, "it is computed in place of that", at);
        }
        fits
    });
    Some(Tunnel {
        name: name.clone(),
        description: settings.description.clone(),
        local,
        carp: carp(local, interfaces),
        remote,
        inner,
        peer,
        routes: Vec::new(),
        key,
        checksum: settings.checksum,
        sequence: settings.sequence,
        udp: settings.udp,
        mtu,
        inside: None,
        at: at.clone(),
    })
}

fn leftovers(what: &str, left: &[(Left, Position)], notes: &mut Notes) {
    for (left, at) in left {
        match left {
            Left::Option(option) => {
                let why = format!("`{option}` has no counterpart");
                notes.left(what, why, "make sure that the tunnel does without", at);
            }
            Left::Unreadable(keyword) => {
                let why = format!("what stands behind `{keyword}` cannot be read: addresses and numbers can");
                notes.left(what, why, "write it into the configuration by hand", at);
            }
            Left::Unknown => {
                let why = "a word is not known here, and so neither is what stands behind it";
                notes.left(what, why, "write what it means into the configuration by hand", at);
            }
        }
    }
}

/// Can it be the address of one host?
fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

/// A tunnel's inner address and its far end's: the first of them.
fn inner(
    what: &str,
    addresses: &[Address],
    others: &[Tunnel],
    notes: &mut Notes,
) -> (Option<Prefix>, Option<IpAddr>) {
    let mut usable = addresses.iter().filter(|address| is_host(address.prefix.addr));
    let Some(first) = usable.next() else { return (None, None) };
    for more in usable {
        let why = format!("{} is another inner address, and the configuration has one", more.prefix);
        let remedy = "give it to the tunnel's interface on the host: Culvert follows that";
        notes.left(format!("{what}, inner"), why, remedy, &more.at);
    }
    // Two tunnels that lead to one address would be one route that goes two ways.
    let peer = first.peer.filter(|peer| is_host(*peer) && *peer != first.prefix.addr);
    let taken = peer.and_then(|peer| others.iter().find(|other| other.peer == Some(peer)));
    if let Some(other) = taken {
        let why = format!("its far end's inner address is that of tunnel {} as well", other.name);
        notes.left(
            format!("{what}, peer"),
            why,
            "let a routing daemon choose, or give each its own",
            &first.at,
        );
    }
    (Some(first.prefix), peer.filter(|_| taken.is_none()))
}

/// The virtual host that an address belongs to, where that has no other address of its family.
fn carp(local: IpAddr, interfaces: &[Interface]) -> Option<(u8, String)> {
    interfaces.iter().filter(|interface| is_hardware(interface)).find_map(|interface| {
        let of_host =
            |vhid| interface.settings.addresses.iter().filter(move |address| address.vhid == Some(vhid));
        let vhid = interface.settings.addresses.iter().find(|address| address.prefix.addr == local)?.vhid?;
        let alone =
            of_host(vhid).filter(|address| address.prefix.addr.is_ipv4() == local.is_ipv4()).count() == 1;
        alone.then(|| (vhid, interface.name.clone()))
    })
}

/// Where packets go, as far as the files say.
struct Ways(BTreeMap<Prefix2, Way>);

/// A prefix that can be sorted.
type Prefix2 = (u8, IpAddr);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Way {
    /// Into a tunnel, by its place; whether by its own inner addresses.
    Tunnel(usize, bool),
    /// Out of a port.
    Port(String, Option<IpAddr>),
    /// Somewhere else.
    Host,
}

impl Ways {
    fn of(interfaces: &[Interface], draft: &Draft, routes: &[StaticRoute]) -> Ways {
        let mut ways = Ways(BTreeMap::new());
        for (place, tunnel) in draft.tunnels.iter().enumerate() {
            if let Some(inner) = tunnel.inner {
                ways.add(inner.network(), Way::Tunnel(place, true));
            }
            if let Some(peer) = tunnel.peer {
                ways.add(host_prefix(peer), Way::Tunnel(place, true));
            }
        }
        for interface in interfaces.iter().filter(|interface| !interface.is_gre()) {
            let port = draft.ports.iter().any(|port| port.name == interface.name);
            for address in &interface.settings.addresses {
                let way = if port { Way::Port(interface.name.clone(), None) } else { Way::Host };
                ways.0.insert(key(address.prefix.network()), way);
            }
            for address in &interface.settings.addresses {
                ways.0.insert(key(host_prefix(address.prefix.addr)), Way::Host);
            }
        }
        for route in routes {
            let way = ways.through(&route.route.gateway, interfaces, draft);
            ways.add(route.route.prefix, way);
        }
        ways
    }

    /// The way by a gateway.
    fn through(&self, gateway: &Gateway, interfaces: &[Interface], draft: &Draft) -> Way {
        match gateway {
            Gateway::Discard => Way::Host,
            Gateway::Interface(name) => {
                let tunnel = draft.tunnels.iter().position(|tunnel| tunnel.name == *name);
                let port = interfaces.iter().find(|other| other.name == *name && is_hardware(other));
                match (tunnel, port) {
                    (Some(tunnel), _) => Way::Tunnel(tunnel, false),
                    (None, Some(port)) => Way::Port(port.name.clone(), None),
                    (None, None) => Way::Host,
                }
            }
            Gateway::Address(address) => match self.to(*address) {
                Some((_, Way::Tunnel(tunnel, _))) => Way::Tunnel(*tunnel, false),
                Some((_, Way::Port(port, None))) => Way::Port(port.clone(), Some(*address)),
                Some((_, way)) => way.clone(),
                None => Way::Host,
            },
        }
    }

    /// What was there first stays.
    fn add(&mut self, prefix: Prefix, way: Way) {
        self.0.entry(key(prefix)).or_insert(way);
    }

    /// The longest prefix that holds an address.
    fn to(&self, address: IpAddr) -> Option<(Prefix, &Way)> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (0..=bits).rev().find_map(|len| {
            let prefix = Prefix { addr: address, len }.network();
            Some((prefix, self.0.get(&key(prefix))?))
        })
    }
}

fn key(prefix: Prefix) -> Prefix2 {
    (prefix.len, prefix.addr)
}

fn host_prefix(addr: IpAddr) -> Prefix {
    Prefix { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
}

/// Step 2.
fn own_routes(draft: &mut Draft, ways: &Ways, routes: &[StaticRoute], notes: &mut Notes) {
    let mut taken: HashSet<Prefix> =
        draft.tunnels.iter().filter_map(|tunnel| tunnel.peer.map(host_prefix)).collect();
    for StaticRoute { variable, route, at } in routes {
        let Some(Way::Tunnel(place, _)) = ways.0.get(&key(route.prefix)) else { continue };
        let Some(tunnel) = draft.tunnels.get_mut(*place) else { continue };
        let to_it = match &route.gateway {
            Gateway::Interface(name) => *name == tunnel.name,
            Gateway::Address(address) => {
                matches!(ways.to(*address), Some((_, Way::Tunnel(to, _))) if to == place)
            }
            Gateway::Discard => false,
        };
        if !to_it || taken.contains(&route.prefix) {
            let why = format!("{} is routed otherwise already", route.prefix);
            notes.left(variable, why, "keep one of the two", at);
            continue;
        }
        if route.prefix.addr.is_ipv6() && tunnel.mtu.is_some_and(|mtu| mtu < 1280) {
            let why = format!(
                "{} cannot go through tunnel {}, whose MTU is too small for IPv6",
                route.prefix, tunnel.name
            );
            notes.left(
                variable,
                why,
                "raise the tunnel's mtu to 1280 or more, and add it to its `routes`",
                at,
            );
            continue;
        }
        taken.insert(route.prefix);
        tunnel.routes.push(route.prefix);
        notes.carried.push(Carried {
            what: route_of(&tunnel.name, route.prefix),
            from: vec![Place { variable: variable.clone(), at: at.clone() }],
        });
    }
}

/// Step 3.
fn keep_apart(draft: &mut Draft, ways: &mut Ways, notes: &mut Notes) {
    loop {
        let bad = draft.tunnels.iter().find_map(|tunnel| match ways.to(tunnel.remote) {
            Some((prefix, Way::Tunnel(into, false))) => Some((tunnel.name.clone(), prefix, *into)),
            _ => None,
        });
        let Some((name, prefix, into)) = bad else { break };
        ways.0.remove(&key(prefix));
        let Some(tunnel) = draft.tunnels.get_mut(into) else { continue };
        let why = format!("{prefix} would lead the far end of tunnel {name} into tunnel {}", tunnel.name);
        let remedy =
            "add a [[route]] to that far end out of its port, and then this to the tunnel's `routes`";
        leave_route(tunnel, prefix, why, remedy, notes);
    }
    let inside: Vec<(usize, usize)> = draft
        .tunnels
        .iter()
        .enumerate()
        .filter_map(|(number, tunnel)| match ways.to(tunnel.remote) {
            Some((_, Way::Tunnel(into, true))) => Some((number, *into)),
            _ => None,
        })
        .collect();
    for (number, into) in inside {
        if let Some(outer) = draft.tunnels.get(into).map(|tunnel| tunnel.name.clone()) {
            lies_inside(draft, number, outer, notes);
        }
    }
}

/// Step 4.
fn pin(draft: &mut Draft, ways: &Ways, notes: &mut Notes) {
    let mut pinned = BTreeSet::new();
    for number in 0..draft.tunnels.len() {
        let Some(tunnel) = draft.tunnels.get(number).filter(|tunnel| tunnel.inside.is_none()) else {
            continue;
        };
        let (name, remote) = (tunnel.name.clone(), tunnel.remote);
        let by_routes = |other: &Tunnel| other.routes.iter().any(|route| covers(*route, remote));
        let by_inner = |other: &Tunnel| {
            other.peer == Some(remote) || other.inner.is_some_and(|inner| covers(inner.network(), remote))
        };
        let mut live = draft.tunnels.iter().filter(|other| other.inside.is_none());
        if !live.clone().any(|other| by_routes(other) || by_inner(other)) {
            continue;
        }
        let out = match ways.to(remote) {
            Some((_, Way::Port(port, via))) if draft.ports.iter().any(|known| known.name == *port) => via
                .is_none_or(|via| is_host(via) && via.is_ipv4() == remote.is_ipv4())
                .then(|| (port.clone(), *via)),
            _ => None,
        };
        if let Some((port, via)) = out {
            if pinned.insert(remote) {
                draft.routes.push(PortRoute { prefix: host_prefix(remote), port, via, tunnel: name });
            }
        } else if let Some(other) = live.find(|other| by_inner(other)).map(|other| other.name.clone()) {
            lies_inside(draft, number, other, notes);
        } else {
            for other in draft.tunnels.iter_mut().filter(|other| other.inside.is_none()) {
                let covered: Vec<Prefix> =
                    other.routes.iter().copied().filter(|route| covers(*route, remote)).collect();
                for prefix in covered {
                    let why = format!(
                        "{prefix} covers the far end of tunnel {name}, and nothing here says how else that is reached"
                    );
                    let remedy =
                        "add a [[route]] to the far end out of its port, and this to the tunnel's `routes`";
                    leave_route(other, prefix, why, remedy, notes);
                }
            }
        }
    }
}

/// Takes a route out of a tunnel again.
fn leave_route(tunnel: &mut Tunnel, prefix: Prefix, why: String, remedy: &str, notes: &mut Notes) {
    tunnel.routes.retain(|route| *route != prefix);
    notes.carried.retain(|carried| carried.what != route_of(&tunnel.name, prefix));
    notes.left(format!("tunnel {}, routes", tunnel.name), why, remedy, &tunnel.at);
}

/// What a tunnel's route is called.
fn route_of(tunnel: &str, prefix: Prefix) -> String {
    format!("tunnel {tunnel}, route {prefix}")
}

/// A tunnel in another one is written as a comment.
fn lies_inside(draft: &mut Draft, number: usize, outer: String, notes: &mut Notes) {
    let Some(tunnel) = draft.tunnels.get_mut(number) else { return };
    let why = format!(
        "its far end {} lies behind tunnel {outer}: its packets would go into that one",
        tunnel.remote
    );
    let remedy = "give it ends outside of tunnels; if that is meant, uncomment it, with its max_depth";
    notes.left(format!("tunnel {}", tunnel.name), why, remedy, &tunnel.at);
    tunnel.inside = Some(outer);
}

/// Step 5, of one tunnel.
fn tunnel_risks(tunnel: &Tunnel, interfaces: &[Interface], notes: &mut Notes) {
    let Tunnel { name, local, at, .. } = tunnel;
    let what = |key: &str| format!("tunnel {name}, {key}");
    let holder = interfaces.iter().find_map(|interface| {
        let address = interface.settings.addresses.iter().find(|address| address.prefix.addr == *local)?;
        Some((interface, address))
    });
    match holder {
        None if interfaces.iter().any(|interface| interface.settings.dynamic && !interface.is_gre()) => {}
        None => {
            let why = format!("no interface in these files has its near end {local}");
            notes.risk(what("local"), why, "make sure that the host has it before Culvert starts", at);
        }
        Some((interface, address)) if address.vhid.is_some() => {
            let why = format!(
                "its near end {local} is a CARP address of {}: only the master may send from it",
                interface.name
            );
            let remedy = "let Culvert follow CARP (local = \"carp:VHID@IF\"), or give it an address of this router alone";
            notes.risk(what("local"), why, remedy, &address.at);
        }
        Some((interface, _)) if interface.is_gre() => {}
        Some((interface, address)) if !is_hardware(interface) => {
            let why = format!(
                "its near end {local} is on {}, which is no piece of hardware: netmap would only be emulated there",
                interface.name
            );
            let remedy = "take an address of a hardware interface; or add a [[port]] with unsafe_emulation = true, and read about it first";
            notes.risk(what("local"), why, remedy, &address.at);
        }
        Some((interface, address)) if address.alias => {
            let why = format!(
                "its near end {local} is an alias of {}: without it the tunnel is down",
                interface.name
            );
            let remedy = "make sure that the alias is there before Culvert starts, and whenever it runs";
            notes.risk(what("local"), why, remedy, &address.at);
        }
        Some(_) => {}
    }
    if let Some(mtu) = tunnel.mtu.filter(|mtu| usize::from(*mtu) > fitting(tunnel)) {
        let why = format!(
            "{mtu} bytes let packets in that do not fit a path of 1500 bytes once wrapped; {} do",
            fitting(tunnel)
        );
        notes.risk(what("mtu"), why, "take the line out here, and the forced MTU at the far end", at);
    }
}

/// The longest inner packet over a path of 1500 bytes, without ESP.
fn fitting(tunnel: &Tunnel) -> usize {
    let ip = if tunnel.local.is_ipv4() { 20 } else { 40 };
    let options =
        [tunnel.checksum, tunnel.key.is_some(), tunnel.sequence].into_iter().filter(|there| *there).count();
    1500 - ip - 4 - 4 * options - if tunnel.udp { 8 } else { 0 }
}

/// Step 5, of all together.
fn risks_of_all(draft: &Draft, shell: &Shell, notes: &mut Notes) {
    let live = || draft.tunnels.iter().filter(|tunnel| tunnel.inside.is_none());
    let Some(first) = live().next() else { return };
    let names = |which: &dyn Fn(&Tunnel) -> bool| -> String {
        let names: Vec<&str> =
            live().filter(|tunnel| which(tunnel)).map(|tunnel| tunnel.name.as_str()).collect();
        names.join(", ")
    };
    let why = "rc.conf holds no keys: their packets can be read and forged on the way";
    let remedy = "give each a [tunnel.protect] where the path is not trusted";
    notes.risk(names(&|_| true), why, remedy, &first.at);
    let computed = names(&|tunnel| tunnel.mtu.is_none());
    if !computed.is_empty() {
        let why = "FreeBSD has 1476 bytes for their MTU, and far ends often force 1500 (Linux): long packets of one side get lost";
        let remedy = "Culvert computes the MTU, less with ESP: let the far ends have the same";
        notes.risk(format!("{computed}, mtu"), why, remedy, &first.at);
    }
    let yes = |name: &&str| shell.get(name).filter(|variable| is_yes(&variable.value));
    for name in ["ipsec_enable", "strongswan_enable", "racoon_enable"] {
        if let Some(variable) = yes(&name) {
            let why =
                "the kernel's IPsec does not see packets that Culvert sends: what it protected goes in clear";
            notes.risk(
                name,
                why,
                "give the tunnels a [tunnel.protect] before you start Culvert",
                &variable.at,
            );
            break;
        }
    }
    for (name, filter) in [("pf_enable", "pf"), ("firewall_enable", "ipfw"), ("ipfilter_enable", "ipf")] {
        if let Some(variable) = yes(&name) {
            let why =
                format!("{filter} does not see packets that Culvert forwards between its ports and tunnels");
            notes.risk(
                name,
                why,
                "filter on the hosts or routers behind, or leave that port out",
                &variable.at,
            );
        }
    }
}

/// rc's yes.
fn is_yes(value: &str) -> bool {
    ["YES", "TRUE", "ON", "1"].iter().any(|yes| value.trim().eq_ignore_ascii_case(yes))
}

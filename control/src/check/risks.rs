//! What can be put to work but will hardly do what was meant.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use culvert_engine::tables::{Tables, To};

use super::report::{PathReport, ProtectionReport, TunnelReport};
use crate::config::{Config, Payload, Port, Prefix, Problem, Protect, RouteTarget, Tunnel};
use crate::plan::{self, TunnelRoute};

/// Windows below this are a risk: at a million packets a second, so many are reordered by a quarter of a millisecond.
const SMALL_WINDOW: u32 = 256;
/// TTLs below this are a risk: paths through the Internet of up to about thirty routers are ordinary.
const SMALL_TTL: u8 = 32;
/// The least that a link must carry for IPv6 (RFC 8200 section 5).
const MIN_MTU_IPV6: usize = 1280;
/// Names that one message lists.
const LISTED: usize = 3;

/// Collects the risks of one tunnel.
struct Risks<'c> {
    tunnel: &'c Tunnel,
    found: Vec<Problem>,
}

impl Risks<'_> {
    fn add(&mut self, key: &str, why: String, remedy: impl Into<String>) {
        let what = format!("tunnel {:?}, {key}", self.tunnel.name);
        self.found.push(Problem { what, why, remedy: remedy.into(), at: Some(self.tunnel.at.clone()) });
    }
}

/// All risks of one tunnel.
pub(super) fn risks(config: &Config, tunnel: &Tunnel, report: &TunnelReport) -> Vec<Problem> {
    let mut risks = Risks { tunnel, found: Vec::new() };
    match &report.protection {
        None => risks.add(
            "protect",
            "its packets can be read and forged on the way".to_owned(),
            "protect it with [tunnel.protect] where the path is not trusted",
        ),
        Some(protection) => window_risk(&mut risks, protection),
    }
    if tunnel.ttl < SMALL_TTL {
        let why = format!("{} may be too few for the routers on the way to {}", tunnel.ttl, tunnel.remote);
        risks.add("ttl", why, "take the line out for 64, or make sure of the distance");
    }
    if report.mtu > report.largest_mtu {
        let (mtu, largest) = (report.mtu, report.largest_mtu);
        let why = format!("{mtu} bytes let packets in that do not fit the path once wrapped; {largest} do");
        risks.add("mtu", why, format!("give {largest} or less, or mtu = \"auto\""));
    }
    if report.mtu < MIN_MTU_IPV6 && carries_ipv6(config, tunnel) {
        let why = format!("{} bytes are too few for the IPv6 inside (RFC 8200 section 5)", report.mtu);
        risks.add("mtu", why, format!("raise the port's mtu, so that {MIN_MTU_IPV6} bytes fit"));
    }
    path_risk(&mut risks, &report.path);
    if tunnel.payload == Payload::Ethernet {
        ethernet_risks(&mut risks, config);
    }
    risks.found
}

fn window_risk(risks: &mut Risks<'_>, protection: &ProtectionReport) {
    let windows: Vec<u32> = match &risks.tunnel.protect {
        Protect::Manual(manual) => manual.inbound().map(|sa| sa.replay_window).collect(),
        Protect::None | Protect::Ike(_) => protection.replay_window.into_iter().collect(),
    };
    if let Some(window) = windows.into_iter().min().filter(|window| *window < SMALL_WINDOW) {
        let why = format!(
            "at a million packets a second, a packet overtaken for more than {window} microseconds is dropped \
             (esp-replay)"
        );
        risks.add("replay_window", why, "give 1024 or more");
    }
}

fn carries_ipv6(config: &Config, tunnel: &Tunnel) -> bool {
    let own = tunnel.routes.iter().chain(&tunnel.inner).map(|prefix| prefix.addr).chain(tunnel.peer);
    let routed = config.routes.iter().filter_map(|route| match &route.target {
        RouteTarget::Tunnel(name) if *name == tunnel.name => Some(route.prefix.addr),
        _ => None,
    });
    own.chain(routed).any(|address| address.is_ipv6())
}

/// Nesting is an error of its own, and gateways without a MAC have been warned of with their route.
fn path_risk(risks: &mut Risks<'_>, path: &PathReport) {
    let remote = risks.tunnel.remote;
    match (path.problem, path.next_hop) {
        (Some(_), Some(hop)) if hop == remote => {
            let port = path.port.as_deref().unwrap_or("?");
            let remedy = format!("add a [[neighbour]] with address = \"{hop}\" and port = \"{port}\"");
            risks.add(
                "remote",
                format!("nothing gives {hop} on port {port:?} a MAC: packets will be dropped"),
                remedy,
            );
        }
        (Some(problem), None) if problem.contains("no-route") => {
            let remedy = "correct `remote`, or add a [[route]] for it out of a port";
            risks.add("remote", format!("{remote}: {problem}"), remedy);
        }
        _ => {}
    }
}

/// An Ethernet tunnel takes frames from its port alone, and all of them.
fn ethernet_risks(risks: &mut Risks<'_>, config: &Config) {
    let tunnel = risks.tunnel;
    let routed = config.routes.iter().any(|route| route.target == RouteTarget::Tunnel(tunnel.name.clone()));
    if routed || !tunnel.routes.is_empty() || tunnel.peer.is_some() || tunnel.inner.is_some() {
        let why =
            "its routes and inner addresses mean nothing: an Ethernet tunnel carries frames, not IP packets";
        risks.add("payload", why.to_owned(), "take them out, or say payload = \"ip\"");
    }
    let bridged = config.ports.iter().find(|port| Some(&port.name) == tunnel.bridge.as_ref());
    if let Some(port) = bridged.filter(|port| !port.addresses.is_empty()) {
        let why = format!(
            "port {:?} has addresses, but all its frames enter the tunnel: nobody on it reaches them",
            port.name
        );
        risks.add("bridge", why, "take the addresses out, or bridge another port");
    }
}

/// Routes into tunnels that cover a tunnel's far end, which only a longer route keeps out of them.
pub(super) fn covered_ends(config: &Config, tables: &Tables) -> Vec<Problem> {
    let by_prefix: HashMap<Prefix, TunnelRoute<'_>> =
        plan::tunnel_routes(config).map(|route| (route.prefix, route)).collect();
    let mut covered: BTreeMap<(usize, u8, IpAddr), (TunnelRoute<'_>, Vec<&str>)> = BTreeMap::new();
    for tunnel in &config.tunnels {
        if matches!(tables.route(tunnel.remote).map(|hop| hop.to), Some(To::Tunnel(_))) {
            continue;
        }
        let bits = if tunnel.remote.is_ipv4() { 32 } else { 128 };
        for len in 0..=bits {
            let prefix = Prefix { addr: tunnel.remote, len }.network();
            if let Some(route) = by_prefix.get(&prefix) {
                let (_, names) =
                    covered.entry((route.tunnel, len, prefix.addr)).or_insert((*route, Vec::new()));
                names.push(&tunnel.name);
            }
        }
    }
    covered.into_values().filter_map(|(route, ends)| covered_risk(config, &route, &ends)).collect()
}

fn covered_risk(config: &Config, route: &TunnelRoute<'_>, ends: &[&str]) -> Option<Problem> {
    let carrier = config.tunnels.get(route.tunnel)?;
    let mut names: Vec<String> = ends.iter().take(LISTED).map(|name| format!("{name:?}")).collect();
    if let Some(more) = ends.len().checked_sub(LISTED).filter(|more| *more > 0) {
        names.push(format!("{more} more"));
    }
    Some(Problem {
        what: format!("tunnel {:?}, routes", carrier.name),
        why: format!(
            "{} covers the far end of {}: only a longer route keeps their packets out of the tunnel",
            route.prefix,
            names.join(", ")
        ),
        remedy: "add a [[route]] to each such far end out of its port, which stays when others go".to_owned(),
        at: Some(route.at.clone()),
    })
}

/// Networks of ports that a tunnel's route takes from them.
pub(super) fn taken_networks(config: &Config) -> Vec<Problem> {
    let mut networks: HashMap<Prefix, &Port> = HashMap::new();
    for port in &config.ports {
        networks.extend(port.addresses.iter().map(|address| (address.network(), port)));
    }
    let taken = plan::tunnel_routes(config).filter_map(|route| {
        let port = networks.get(&route.prefix)?;
        let tunnel = config.tunnels.get(route.tunnel)?;
        Some(Problem {
            what: format!("tunnel {:?}, routes", tunnel.name),
            why: format!(
                "{} is the network of port {:?}, whose hosts are no longer reached",
                route.prefix, port.name
            ),
            remedy: "route a part of it, or take the route out".to_owned(),
            at: Some(route.at.clone()),
        })
    });
    taken.collect()
}

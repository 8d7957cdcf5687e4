//! What only the whole configuration can show: references to entries that do not exist, entries that collide, and keys
//! that would be used twice.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::model::{Config, Device, Direction, ManualSa, Prefix, Protect, RouteTarget, Tunnel};
use super::reader::nearest;
use super::report::{Fault, Position, Report};
use super::sections::Draft;
use super::values::quoted;

/// Checks the configuration as a whole.
pub(super) fn check(draft: &Draft, report: &mut Report) {
    check_references(draft, report);
    check_bridges(draft, report);
    check_gateways(&draft.config, report);
    check_devices(&draft.config, report);
    check_endpoints(&draft.config, report);
    check_prefixes(&draft.config, report);
    check_neighbours(&draft.config, report);
    check_spis(&draft.config, report);
    check_keys(&draft.config, report);
}

/// Remembers where each key was first seen, and gives that place to whoever comes with it again.
struct Firsts<'c, K>(HashMap<K, &'c Position>);

impl<'c, K: Eq + Hash> Firsts<'c, K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    fn seen(&mut self, key: K, at: &'c Position) -> Option<&'c Position> {
        match self.0.entry(key) {
            Entry::Occupied(first) => Some(first.get()),
            Entry::Vacant(free) => {
                free.insert(at);
                None
            }
        }
    }
}

fn check_references(draft: &Draft, report: &mut Report) {
    for route in &draft.config.routes {
        let what = format!("route {}", route.prefix);
        match &route.target {
            RouteTarget::Port { port, .. } => {
                require_name("port", port, &draft.ports, &what, &route.at, report)
            }
            RouteTarget::Tunnel(tunnel) => {
                require_name("tunnel", tunnel, &draft.tunnels, &what, &route.at, report);
            }
        }
    }
    for neighbour in &draft.config.neighbours {
        let what = format!("neighbour {}", neighbour.address);
        require_name("port", &neighbour.port, &draft.ports, &what, &neighbour.at, report);
    }
}

/// A port gives each of its frames to one tunnel.
fn check_bridges(draft: &Draft, report: &mut Report) {
    let mut firsts = Firsts::new();
    for tunnel in &draft.config.tunnels {
        let Some(port) = &tunnel.bridge else { continue };
        let what = format!("{}, bridge", name_of(tunnel));
        require_name("port", port, &draft.ports, &what, &tunnel.at, report);
        if let Some(first) = firsts.seen(port, &tunnel.at) {
            let why = format!("the tunnel at {first} carries the frames of port {} already", quoted(port));
            report.error(what, &tunnel.at, Fault::new(why, "bridge each port with one tunnel"));
        }
    }
}

/// How many names are tried for a "did you mean": every one of many wrong entries pays for them.
const SUGGESTIONS: usize = 256;

fn require_name(
    kind: &str,
    name: &str,
    names: &HashMap<String, Position>,
    what: &str,
    at: &Position,
    report: &mut Report,
) {
    if names.contains_key(name) {
        return;
    }
    let known: Vec<&str> = names.keys().map(String::as_str).take(SUGGESTIONS).collect();
    let remedy = match nearest(name, &known) {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => format!("add a [[{kind}]] of this name or correct it"),
    };
    report.error(what, at, Fault::new(format!("there is no {kind} {}", quoted(name)), remedy));
}

/// Warns of gateways that nothing gives an Ethernet address, on ports without a host stack that would learn it.
fn check_gateways(config: &Config, report: &mut Report) {
    let synthetic = config.ports.iter().filter(|port| port.device.is_synthetic());
    let synthetic: HashSet<&str> = synthetic.map(|port| port.name.as_str()).collect();
    let known: HashSet<_> =
        config.neighbours.iter().map(|neighbour| (neighbour.port.as_str(), neighbour.address)).collect();
    for route in &config.routes {
        let RouteTarget::Port { port, via: Some(via) } = &route.target else { continue };
        if !known.contains(&(port.as_str(), *via)) && synthetic.contains(port.as_str()) {
            let why = format!(
                "no [[neighbour]] gives {via} on port {} a MAC: packets will be dropped",
                quoted(port)
            );
            let remedy = format!("add a [[neighbour]] with address = \"{via}\" and port = \"{port}\"");
            report.warning(format!("route {}", route.prefix), &route.at, Fault::new(why, remedy));
        }
    }
}

fn check_devices(config: &Config, report: &mut Report) {
    let mut firsts = Firsts::new();
    for port in &config.ports {
        let (Device::Netmap(name) | Device::Xdp(name) | Device::Tap(name)) = &port.device else { continue };
        if let Some(first) = firsts.seen(name, &port.at) {
            let why = format!("the port at {first} has interface {name} already");
            let fault = Fault::new(why, "give each interface to one port");
            report.error(format!("port {}, device", quoted(&port.name)), &port.at, fault);
        }
    }
}

fn check_endpoints(config: &Config, report: &mut Report) {
    let mut firsts = Firsts::new();
    for tunnel in &config.tunnels {
        if let Some(first) = firsts.seen((&tunnel.local, tunnel.remote, tunnel.key), &tunnel.at) {
            let why = format!("the tunnel at {first} has the same `local`, `remote` and `key`");
            report.error(
                name_of(tunnel),
                &tunnel.at,
                Fault::new(why, "give each of them a `key` of its own"),
            );
        }
    }
}

fn name_of(tunnel: &Tunnel) -> String {
    format!("tunnel {}", quoted(&tunnel.name))
}

fn check_prefixes(config: &Config, report: &mut Report) {
    let mut firsts: Firsts<'_, Prefix> = Firsts::new();
    let of_routes =
        config.routes.iter().map(|route| (route.prefix, &route.at, format!("route {}", route.prefix)));
    let of_tunnels = config.tunnels.iter().flat_map(|tunnel| {
        tunnel.routes.iter().map(|prefix| (*prefix, &tunnel.at, format!("{}, routes", name_of(tunnel))))
    });
    for (prefix, at, what) in of_routes.chain(of_tunnels) {
        if let Some(first) = firsts.seen(prefix, at) {
            let why = format!("{prefix} is routed at {first} already");
            report.error(what, at, Fault::new(why, "keep one of the two"));
        }
    }
}

fn check_neighbours(config: &Config, report: &mut Report) {
    let mut firsts = Firsts::new();
    for neighbour in &config.neighbours {
        if let Some(first) = firsts.seen((&neighbour.port, neighbour.address), &neighbour.at) {
            let why = format!("there is an entry for it at {first} already");
            let what = format!("neighbour {}", neighbour.address);
            report.error(what, &neighbour.at, Fault::new(why, "keep one of the two"));
        }
    }
}

/// The manual SAs of all tunnels that use them.
fn manual_sas(config: &Config) -> impl Iterator<Item = (&Tunnel, &ManualSa)> {
    config.tunnels.iter().flat_map(|tunnel| {
        let sas = match &tunnel.protect {
            Protect::Manual(manual) => manual.sas.as_slice(),
            Protect::None | Protect::Ike(_) => &[],
        };
        sas.iter().map(move |sa| (tunnel, sa))
    })
}

/// An inbound packet finds its SA by the SPI alone.
fn check_spis(config: &Config, report: &mut Report) {
    let mut firsts = Firsts::new();
    for (tunnel, sa) in manual_sas(config).filter(|(_, sa)| sa.direction == Direction::In) {
        if let Some(first) = firsts.seen(sa.spi, &sa.at) {
            let why = format!("the inbound SA at {first} has SPI {:#x} as well", sa.spi);
            let fault = Fault::new(why, "give each inbound SA an SPI of its own");
            report.error(format!("{}, spi", name_of(tunnel)), &sa.at, fault);
        }
    }
}

/// Two outbound SAs with one key would use the same nonces, as each counts its IVs from the start: that gives away the
/// plaintext and the authentication key (RFC 4106 section 2). The far router's SA in the other direction may do the
/// same, but need not, so that is only a warning.
fn check_keys(config: &Config, report: &mut Report) {
    let mut outbound = HashMap::new();
    for (tunnel, sa) in manual_sas(config).filter(|(_, sa)| sa.direction == Direction::Out) {
        if let Some(first) = outbound.get(sa.key.expose()) {
            let why = format!("the outbound SA at {first} has the same key, so nonces would repeat");
            report.error(
                format!("{}, key", name_of(tunnel)),
                &sa.at,
                Fault::new(why, "give each SA a key of its own"),
            );
        } else {
            outbound.insert(sa.key.expose(), &sa.at);
        }
    }
    for (tunnel, sa) in manual_sas(config).filter(|(_, sa)| sa.direction == Direction::In) {
        if let Some(first) = outbound.get(sa.key.expose()) {
            let why =
                format!("the outbound SA at {first} has the same key: the two routers may repeat nonces");
            let fault = Fault::new(why, "give each direction a key of its own");
            report.warning(format!("{}, key", name_of(tunnel)), &sa.at, fault);
        }
    }
}

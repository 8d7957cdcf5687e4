//! `culvert check`: everything that is wrong or risky in a configuration, and for each tunnel the way its packets take.
//! Nothing is changed.
//!
//! 1. The configuration is loaded; what is wrong in itself ends the command with code 2, after all of it has been told.
//! 2. The engine's tables are built as for a run, with `--live` of what this host knows too, and asked for the way to each
//!    tunnel's far end.
//! 3. A tunnel whose far end lies deeper in tunnels than it may is an error, told with the whole path.
//! 4. What can be put to work but will hardly do what was meant is a risk.
//! 5. The kernel is asked what it would give for each netmap port.
//!
//! The JSON object: `errors` and `warnings` are lists of objects with `what`, `why`, `file`, `line` and `remedy` (`file` and
//! `line` null where there is none). `tunnels` has an object for each tunnel, in the configuration's order, and none where
//! the configuration could not be read: `local`, `remote`, `payload` (`ip`, `ethernet`), `encapsulation` (`gre`, or
//! `udp` for GRE in UDP); `path` with `port`, `next_hop`
//! (an address) and `mac`, each null where it is not known, and `problem`, null or why packets cannot leave; `protection`,
//! null or `mode`, `suites`, `keys` (`manual`, `ike`), `esn` and `replay_window` (of manual SAs, if all agree; else null);
//! `mtu`, the longest inner IP packet in bytes, and `largest_mtu`, what fits the path; `overhead`, the bytes put around
//! every inner packet, and `padding`, the most that may be added to them; `nesting`, the names of the tunnels that a packet
//! goes through, and `depth`, how many they are, null where there is no end of them. `netmap` has an object for each netmap
//! port: `problem`, null or why nothing is known of it (then all else is null); `mode` (`native`, `emulated`), `driver`, `rings`
//! and `slots` (for each direction, `rx` and `tx`), and `offsets`, whether frames can have room in front; `mode`, `driver` and
//! `offsets` are null where only opening the port would show them.

mod report;
mod risks;

use culvert_engine::esp;
use culvert_engine::ring::netmap;
use culvert_engine::tables::{Tables, To};
use culvert_engine::wire::ethernet;

pub use self::report::{Directions, NetmapReport, PathReport, ProtectionReport, TunnelReport};
use crate::config::{Config, Device, Payload, Problem, Protect, Tunnel, Warning};
use crate::daemon::Live;
use crate::plan;
use crate::{Failure, cli, daemon, replay};

/// Runs the command.
///
/// # Errors
/// Code 2 with everything that is wrong; code 1 where standard output takes no more.
pub fn run(arguments: &cli::Check) -> Result<(), Failure> {
    let findings = match Config::load(&arguments.config) {
        Ok((config, warnings)) => {
            let found = if arguments.live {
                daemon::live(&config).map(|live| examine_live(&config, live))
            } else {
                plan::preview(&config).map(|tables| {
                    let nested = plan::nested(&config, &tables);
                    examine(&config, &tables, follows_host(&config), nested)
                })
            };
            let mut findings = found.unwrap_or_else(|errors| Findings { errors, ..Findings::default() });
            findings.warnings.splice(..0, warnings);
            Findings { netmap: ask_netmap(&config), ..findings }
        }
        Err(errors) => Findings { errors: errors.problems, warnings: errors.warnings, ..Findings::default() },
    };
    report::print(&findings, arguments.json)?;
    if findings.errors.is_empty() { Ok(()) } else { Err(Failure::configuration(&findings.errors)) }
}

/// What the command found out.
#[derive(Debug, Default)]
pub struct Findings {
    /// What is wrong.
    pub errors: Vec<Problem>,
    /// What is risky.
    pub warnings: Vec<Warning>,
    /// The tunnels by name, in the configuration's order.
    pub tunnels: Vec<(String, TunnelReport)>,
    /// The netmap ports by name, in the configuration's order.
    pub netmap: Vec<(String, NetmapReport)>,
}

/// Step 5.
fn ask_netmap(config: &Config) -> Vec<(String, NetmapReport)> {
    let ports = config.ports.iter().filter_map(|port| {
        let Device::Netmap(interface) = &port.device else { return None };
        let offer = netmap::offer(interface, &daemon::netmap_options(config, port));
        Some((port.name.clone(), NetmapReport::of(offer)))
    });
    ports.collect()
}

/// Steps 2 to 4 with what the host says.
fn examine_live(config: &Config, live: Live) -> Findings {
    let mut findings = examine(config, &live.tables, false, live.errors);
    findings.warnings.extend(live.warnings);
    findings
}

/// Steps 2 to 4: examines a configuration, whose tables these are. `unasked`: the host may know ways that they do not.
/// `errors`: tunnels in tunnels.
fn examine(config: &Config, tables: &Tables, unasked: bool, errors: Vec<Problem>) -> Findings {
    let nesting = plan::nesting(config, tables);
    let name = |index: usize| config.tunnels.get(index).map_or("?", |tunnel| &tunnel.name);
    let mut findings = Findings { errors, ..Findings::default() };
    let pairs = config.tunnels.iter().zip(tables.tunnels()).enumerate();
    for (index, (tunnel, engine)) in pairs {
        let path = path(config, index, tables, unasked);
        let through = nesting.path(index);
        let report = TunnelReport {
            local: tunnel.local.to_string(),
            remote: tunnel.remote,
            payload: match tunnel.payload {
                Payload::Ip => "ip",
                Payload::Ethernet => "ethernet",
            },
            encapsulation: tunnel.encapsulation.name(),
            protection: report::protection(&tunnel.protect),
            mtu: replay::inner_mtu(tunnel, engine),
            largest_mtu: largest_mtu(tunnel, index, engine, tables),
            overhead: overhead(tunnel, engine),
            padding: padding(&tunnel.protect),
            nesting: through.tunnels.iter().map(|tunnel| name(*tunnel).to_owned()).collect(),
            depth: nesting.depth(index),
            path,
        };
        findings.warnings.extend(risks::risks(config, tunnel, &report).into_iter().map(Warning));
        findings.tunnels.push((tunnel.name.clone(), report));
    }
    findings.warnings.extend(risks::covered_ends(config, tables).into_iter().map(Warning));
    findings.warnings.extend(risks::taken_networks(config).into_iter().map(Warning));
    findings
}

/// The way to the far end of tunnel number `index`, as the engine takes it; of one that lies in others, that of the last.
fn path(config: &Config, index: usize, tables: &Tables, unasked: bool) -> PathReport {
    let port = |number: u16| config.ports.get(usize::from(number));
    let Some(tunnel) = config.tunnels.get(index) else { return PathReport::default() };
    if let Some(carrier) = tables.tunnels().get(index).and_then(|tunnel| tunnel.carrier()) {
        return path(config, carrier, tables, unasked);
    }
    let next_hop = u32::try_from(index).ok().and_then(|index| Some(tables.station_of(index)?.1));
    match tables.route(tunnel.remote).map(|hop| hop.to) {
        Some(To::Station { port: number, mac }) => {
            let port = port(number);
            PathReport {
                port: port.map(|port| port.name.clone()),
                next_hop,
                mac: Some(mac.to_string()),
                problem: None,
            }
        }
        Some(To::Unresolved { port: number }) => {
            let port = port(number);
            let unknown = port.is_some_and(|port| port.device.is_synthetic());
            PathReport {
                port: port.map(|port| port.name.clone()),
                next_hop,
                mac: None,
                problem: unknown.then_some("no [[neighbour]] gives the next hop's MAC (no-neighbour)"),
            }
        }
        Some(To::Tunnel(_)) => {
            PathReport { problem: Some("through a tunnel (nested)"), ..PathReport::default() }
        }
        Some(To::Host) => PathReport {
            problem: Some("the far end is an address of this router (no-route)"),
            ..PathReport::default()
        },
        Some(To::HostForwards | To::Nowhere | To::Group(_)) | None if unasked => PathReport::default(),
        Some(To::HostForwards | To::Nowhere | To::Group(_)) | None => {
            PathReport { problem: Some("no route leads to the far end (no-route)"), ..PathReport::default() }
        }
    }
}

/// Is there a port whose routes and neighbours the host's tables give?
fn follows_host(config: &Config) -> bool {
    config.ports.iter().any(|port| !port.device.is_synthetic())
}

/// The longest inner IP packet whose outer packet fits the port, or the tunnel that it lies in, or 1500 bytes where neither is
/// known.
fn largest_mtu(
    tunnel: &Tunnel,
    index: usize,
    engine: &culvert_engine::tunnel::Tunnel,
    tables: &Tables,
) -> usize {
    const UNKNOWN: usize = 1500;
    let carrier = engine.carrier().and_then(|carrier| tables.tunnels().get(carrier));
    let link = || {
        let (port, _) = tables.station_of(u32::try_from(index).ok()?)?;
        tables.port_mtu(port)
    };
    let fits = carrier.map(|carrier| carrier.mtu()).or_else(link).unwrap_or(UNKNOWN);
    engine.layout().mtu(fits).saturating_sub(replay::inner_link_header(tunnel))
}

/// Headers in front of the inner IP packet, and the trailer and ICV of ESP behind it.
fn overhead(tunnel: &Tunnel, engine: &culvert_engine::tunnel::Tunnel) -> usize {
    let headers = engine.layout().template().saturating_sub(ethernet::HEADER_LEN);
    let behind = match tunnel.protect {
        Protect::None => 0,
        Protect::Manual(_) | Protect::Ike(_) => esp::TRAILER_LEN + esp::ICV_LEN,
    };
    headers + behind + replay::inner_link_header(tunnel)
}

/// The most bytes of padding that ESP puts behind a packet.
fn padding(protect: &Protect) -> usize {
    let pad = match protect {
        Protect::None => return 0,
        Protect::Manual(manual) => manual.pad,
        Protect::Ike(ike) => ike.pad,
    };
    usize::from(pad).saturating_sub(1)
}

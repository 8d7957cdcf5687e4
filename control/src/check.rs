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

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::net::IpAddr;

use culvert_engine::esp;
use culvert_engine::ring::netmap::{self, NetmapError, NetmapMode, NetmapOffer};
use culvert_engine::tables::{Tables, To};
use culvert_engine::wire::ethernet;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::config::{
    Config, Device, Manual, Mode, Payload, Port, Prefix, Problem, Protect, RouteTarget, Tunnel, Warning,
};
use crate::daemon::Live;
use crate::plan::{self, TunnelRoute};
use crate::{Failure, cli, daemon, replay};

/// Windows below this are a risk: at a million packets a second, so many are reordered by a quarter of a millisecond.
const SMALL_WINDOW: u32 = 256;
/// TTLs below this are a risk: paths through the Internet of up to about thirty routers are ordinary.
const SMALL_TTL: u8 = 32;
/// The least that a link must carry for IPv6 (RFC 8200 section 5).
const MIN_MTU_IPV6: usize = 1280;
/// Names that one message lists.
const LISTED: usize = 3;

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
    print(&findings, arguments.json)?;
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

/// What there is to know about a netmap port. The module page says what the fields mean.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the module page describes the JSON object that this is")]
pub struct NetmapReport {
    pub problem: Option<String>,
    pub mode: Option<&'static str>,
    pub driver: Option<String>,
    pub rings: Option<Directions>,
    pub slots: Option<Directions>,
    pub offsets: Option<bool>,
}

/// A number for each direction.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Directions {
    pub rx: u32,
    pub tx: u32,
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

fn rings_of(rings: u32, slots: u32) -> String {
    format!("{rings} ring{} of {slots} slots", if rings == 1 { "" } else { "s" })
}

impl NetmapReport {
    fn of(offer: Result<NetmapOffer, NetmapError>) -> NetmapReport {
        let offer = match offer {
            Ok(offer) => offer,
            Err(error) => {
                return NetmapReport { problem: Some(error.to_string()), ..NetmapReport::default() };
            }
        };
        let directions = |(rx, tx)| Some(Directions { rx, tx });
        NetmapReport {
            problem: None,
            mode: offer.mode.map(NetmapMode::name),
            rings: directions(offer.rings),
            slots: directions(offer.slots),
            offsets: offer.offsets(),
            driver: offer.driver,
        }
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let (Some(rings), Some(slots)) = (self.rings, self.slots) else {
            let why = self.problem.as_deref().unwrap_or("the kernel does not say");
            return vec![("netmap", format!("not known here: {why}"))];
        };
        let driver = self.driver.as_ref().map_or(String::new(), |driver| format!(", driver {driver}"));
        let offsets = match self.offsets {
            None => "not known before the port is opened",
            Some(true) => "yes: packets are wrapped where they lie",
            Some(false) => "none: wrapping a packet copies it",
        };
        vec![
            ("netmap", format!("{}{driver}", self.mode.unwrap_or("native or emulated, as opening it shows"))),
            ("receive", rings_of(rings.rx, slots.rx)),
            ("transmit", rings_of(rings.tx, slots.tx)),
            ("offsets", offsets.to_owned()),
        ]
    }
}

/// What there is to know about a tunnel. The module page says what the fields mean.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the module page describes the JSON object that this is")]
pub struct TunnelReport {
    pub local: String,
    pub remote: IpAddr,
    pub payload: &'static str,
    pub encapsulation: &'static str,
    pub path: PathReport,
    pub protection: Option<ProtectionReport>,
    pub mtu: usize,
    pub largest_mtu: usize,
    pub overhead: usize,
    pub padding: usize,
    pub nesting: Vec<String>,
    pub depth: Option<usize>,
}

/// How a tunnel's outer packets leave.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the module page describes the JSON object that this is")]
pub struct PathReport {
    pub port: Option<String>,
    pub next_hop: Option<IpAddr>,
    pub mac: Option<String>,
    pub problem: Option<&'static str>,
}

/// How a tunnel is protected.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the module page describes the JSON object that this is")]
pub struct ProtectionReport {
    pub mode: &'static str,
    pub suites: Vec<&'static str>,
    pub keys: &'static str,
    pub esn: Option<bool>,
    pub replay_window: Option<u32>,
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
            protection: protection(&tunnel.protect),
            mtu: replay::inner_mtu(tunnel, engine),
            largest_mtu: largest_mtu(tunnel, index, engine, tables),
            overhead: overhead(tunnel, engine),
            padding: padding(&tunnel.protect),
            nesting: through.tunnels.iter().map(|tunnel| name(*tunnel).to_owned()).collect(),
            depth: nesting.depth(index),
            path,
        };
        findings.warnings.extend(risks(config, tunnel, &report).into_iter().map(Warning));
        findings.tunnels.push((tunnel.name.clone(), report));
    }
    findings.warnings.extend(covered_ends(config, tables).into_iter().map(Warning));
    findings.warnings.extend(taken_networks(config).into_iter().map(Warning));
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

fn protection(protect: &Protect) -> Option<ProtectionReport> {
    let mode = |mode: Mode| match mode {
        Mode::Transport => "transport",
        Mode::Tunnel => "tunnel",
    };
    match protect {
        Protect::None => None,
        Protect::Manual(manual) => Some(ProtectionReport {
            mode: mode(manual.mode),
            suites: manual_suites(manual),
            keys: "manual",
            esn: same(manual.sas.iter().map(|sa| sa.esn)),
            replay_window: same(manual.inbound().map(|sa| sa.replay_window)),
        }),
        Protect::Ike(ike) => Some(ProtectionReport {
            mode: mode(ike.mode),
            suites: ike.suites.iter().map(|suite| suite.name()).collect(),
            keys: "ike",
            esn: Some(ike.esn),
            replay_window: Some(ike.replay_window),
        }),
    }
}

fn manual_suites(manual: &Manual) -> Vec<&'static str> {
    let mut names = Vec::new();
    for sa in &manual.sas {
        if !names.contains(&sa.suite.name()) {
            names.push(sa.suite.name());
        }
    }
    names
}

/// The value that all have, if there is one.
fn same<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
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

fn risks(config: &Config, tunnel: &Tunnel, report: &TunnelReport) -> Vec<Problem> {
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
fn covered_ends(config: &Config, tables: &Tables) -> Vec<Problem> {
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
fn taken_networks(config: &Config) -> Vec<Problem> {
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

impl Serialize for Findings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct ByName<'f, T>(&'f [(String, T)]);
        impl<T: Serialize> Serialize for ByName<'_, T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(name, report)| (name, report)))
            }
        }
        let mut object = serializer.serialize_map(Some(4))?;
        object.serialize_entry("errors", &self.errors)?;
        object.serialize_entry("warnings", &self.warnings)?;
        object.serialize_entry("tunnels", &ByName(&self.tunnels))?;
        object.serialize_entry("netmap", &ByName(&self.netmap))?;
        object.end()
    }
}

fn print(findings: &Findings, json: bool) -> Result<(), Failure> {
    let text = if json {
        let text =
            serde_json::to_string(findings).map_err(|error| Failure::failed(format!("check: {error}")))?;
        text + "\n"
    } else {
        describe(findings)
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::stdout)
}

/// The findings as text. Errors are left to standard error.
fn describe(findings: &Findings) -> String {
    let mut lines = Vec::new();
    let tunnels = findings.tunnels.iter().map(|(name, tunnel)| (format!("tunnel {name}"), tunnel.facts()));
    let ports = findings.netmap.iter().map(|(name, port)| (format!("port {name}"), port.facts()));
    for (title, facts) in tunnels.chain(ports) {
        lines.push(title);
        lines.extend(facts.into_iter().flat_map(|(key, value)| wrapped(&format!("  {key:<12}"), &value)));
        lines.push(String::new());
    }
    for Warning(risk) in &findings.warnings {
        let place = risk.at.as_ref().map_or(String::new(), |at| format!(" ({at})"));
        lines.extend(wrapped("risk: ", &format!("{}: {}{place}; {}", risk.what, risk.why, risk.remedy)));
    }
    lines.push(match (findings.errors.len(), findings.warnings.len()) {
        (0, 0) => "nothing wrong, nothing risky".to_owned(),
        (errors, risks) => format!("{errors} wrong, {risks} risky"),
    });
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

impl TunnelReport {
    fn unprotected(&self) -> String {
        let encapsulation = if self.encapsulation == "udp" { ", GRE in UDP" } else { "" };
        format!("none{encapsulation}")
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let depth = self.depth.map_or("endless".to_owned(), |depth| depth.to_string());
        let way_out = self.path.port.as_ref().map(|port| format!("port {port}"));
        let through = self.nesting.iter().cloned().chain(way_out).collect::<Vec<_>>().join(" -> ");
        let padding = match self.padding {
            0 => String::new(),
            most => format!(", and up to {most} of padding"),
        };
        vec![
            ("outer", format!("{} -> {}", self.local, self.remote)),
            ("path", self.path.describe()),
            (
                "protection",
                self.protection.as_ref().map_or_else(|| self.unprotected(), ProtectionReport::describe),
            ),
            ("mtu", format!("{} bytes ({} fit the path)", self.mtu, self.largest_mtu)),
            ("overhead", format!("{} bytes{padding}", self.overhead)),
            ("nesting", format!("depth {depth}: {through}")),
        ]
    }
}

impl PathReport {
    fn describe(&self) -> String {
        let Some(port) = &self.port else {
            return self.problem.unwrap_or("by the host's routing table").to_owned();
        };
        let hop = self.next_hop.map_or(String::new(), |hop| format!(" to {hop}"));
        let mac = match (&self.mac, self.problem) {
            (Some(mac), _) => mac.clone(),
            (None, Some(problem)) => problem.to_owned(),
            (None, None) => "MAC by the host's neighbour table".to_owned(),
        };
        format!("port {port}{hop}, {mac}")
    }
}

impl ProtectionReport {
    fn describe(&self) -> String {
        let keys = if self.keys == "ike" { "keys from IKE" } else { "fixed keys" };
        let esn = match self.esn {
            Some(true) => ", ESN",
            Some(false) => ", no ESN",
            None => "",
        };
        format!("ESP {} mode, {}{esn}, {keys}", self.mode, self.suites.join(" "))
    }
}

/// `text` behind `first`, in lines of at most 80 columns where words allow, the later ones set in as far.
fn wrapped(first: &str, text: &str) -> Vec<String> {
    const COLUMNS: usize = 80;
    let margin = first.chars().count();
    let mut lines = Vec::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(std::mem::replace(&mut line, " ".repeat(margin)));
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn lines_break_between_words() {
        let text = ["word"; 40].join(" ");
        let lines = wrapped("  key  ", &text);
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
        assert_eq!(lines.iter().map(|line| line.split_whitespace().count()).sum::<usize>(), 41);
        assert!(lines.iter().skip(1).all(|line| line.starts_with("       word")), "{lines:?}");
        // A word is never cut.
        let long = "w".repeat(100);
        assert_eq!(
            wrapped("a: ", &format!("b {long} c")),
            ["a: b".to_owned(), format!("   {long}"), "   c".into()]
        );
        assert_eq!(wrapped("a: ", ""), ["a: "]);
    }
}

//! `culvert explain ADDRESS`: the whole decision for a packet to that address, as the engine's tables make it: route, tunnel, SA, outer
//! way, MTU. Of a running daemon, or of a configuration file as far as that tells.
//!
//! 1. A packet is made of what is asked, and the tables decide ([`Tables::decide`], the look-ups that packets take).
//! 2. Where it would go into a tunnel, the tunnel's own way out and its headers, as they are in the tables, say the rest.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_engine::esp::{self, Mode};
use culvert_engine::tables::{Found, MAX_DEPTH, RouteSource, Tables, To};
use culvert_engine::tunnel::Tunnel;
use culvert_engine::wire::{Ipv4Header, Ipv6Header, ethernet};
use serde::{Deserialize, Serialize};

use crate::api::{Command, Question, client};
use crate::config::{Config, Device, ManualSa, Protect};
use crate::plan;
use crate::text;
use crate::trace::report::{Names, source};
use crate::{Failure, cli, replay};

/// Runs the command.
///
/// # Errors
/// Code 2 where the question or the configuration is wrong; code 1 where no daemon answers, and where standard output takes no more.
pub fn run(arguments: &cli::Explain) -> Result<(), Failure> {
    let question = Question {
        address: arguments.address,
        from: arguments.from,
        protocol: arguments.protocol,
        source_port: arguments.source_port,
        port: arguments.port,
    };
    let about = |failure: Failure| failure.about("explain");
    let explanation = match &arguments.config {
        Some(file) => {
            let (config, _) = Config::load(file)?;
            let tables = plan::preview(&config).map_err(|problems| Failure::configuration(&problems))?;
            explain(&question, &config, &tables, &OfFile).map_err(about)?
        }
        None => {
            let result = client::call(&arguments.socket, &Command::Explain(question)).map_err(about)?;
            serde_json::from_value(result)
                .map_err(|error| about(Failure::failed(format!("the daemon's answer: {error}"))))?
        }
    };
    let text = if arguments.json {
        serde_json::to_string(&explanation).map_err(|error| about(Failure::failed(error.to_string())))? + "\n"
    } else {
        explanation.text()
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::stdout)
}

/// What a daemon knows beside its tables and configuration.
pub(crate) trait Live {
    /// Is the tunnel of that number up? If not, why. `None`: nobody knows.
    fn state(&self, tunnel: usize) -> Option<Result<(), String>>;
    /// Where a route comes from that the configuration does not have.
    fn foreign_routes(&self) -> &'static str;
    /// Do the tables have the SAs that there are?
    fn has_sas(&self) -> bool;
}

/// A file alone.
struct OfFile;

impl Live for OfFile {
    fn state(&self, _: usize) -> Option<Result<(), String>> {
        None
    }

    fn foreign_routes(&self) -> &'static str {
        "given"
    }

    fn has_sas(&self) -> bool {
        false
    }
}

/// The answer. Addresses, lengths in bytes, and names as in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Explanation {
    pub(crate) address: IpAddr,
    /// What becomes of the packet: `forwarded`, `tunnel`, `host`, `several` (as its flow says) or `dropped`.
    pub(crate) verdict: String,
    /// Why it would be dropped, or given to the exception thread: the name of a drop.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) route: Option<RouteReport>,
    /// Of several ways all, each as often as its weight says; the flow chooses.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) ways: Vec<String>,
    /// Where it goes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) to: Option<String>,
    /// Ports on which the kernel takes it before the engine can: AF_XDP ports give up only what is a tunnel's.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) kernel_takes: Vec<String>,
    /// How it leaves, where no tunnel takes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) link: Option<LinkReport>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) tunnel: Option<TunnelReport>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct RouteReport {
    pub(crate) prefix: String,
    /// Where it comes from.
    pub(crate) source: String,
}

/// The way out of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LinkReport {
    pub(crate) port: String,
    /// The router that it goes by.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) via: Option<IpAddr>,
    /// The station that the frame is for; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) mac: Option<String>,
    /// The longest packet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) mtu: Option<usize>,
}

/// A tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TunnelReport {
    pub(crate) name: String,
    /// `up` or `down`; absent where nothing runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) state: Option<String>,
    /// Why it is down.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) why: Option<String>,
    /// Source and destination of the outer header.
    pub(crate) local: String,
    pub(crate) remote: IpAddr,
    /// The outer headers, from the outside: `IPv4`, `UDP`, `ESP`, `GRE`.
    pub(crate) headers: Vec<String>,
    /// The GRE key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) key: Option<u32>,
    /// ESP's mode: `transport` or `tunnel`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) mode: Option<String>,
    /// The SAs that send, each worker with one of them.
    pub(crate) sas: Vec<SaReport>,
    /// The route to the far end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) route: Option<RouteReport>,
    /// The tunnel that its packets go into, where that was allowed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) carrier: Option<String>,
    /// How outer packets leave; absent: they do not, and `problem` says why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) link: Option<LinkReport>,
    /// The name of a drop.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) problem: Option<String>,
    /// The longest inner packet.
    pub(crate) mtu: usize,
    /// How it is computed: what is taken from the path's MTU, the first entry, for what.
    pub(crate) arithmetic: Vec<(String, i64)>,
    /// What happens to longer ones.
    pub(crate) too_long: String,
    /// How many tunnels packets are in when they leave; absent: there is no end of them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) depth: Option<usize>,
}

/// An SA that sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SaReport {
    pub(crate) spi: u32,
    pub(crate) suite: String,
    /// Packets numbered, and numbers left; absent where nothing runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) used: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) remaining: Option<u64>,
}

/// Answers a question.
///
/// # Errors
/// It contradicts itself (code 2).
pub(crate) fn explain(
    question: &Question,
    config: &Config,
    tables: &Tables,
    live: &dyn Live,
) -> Result<Explanation, Failure> {
    let packet = packet(question)?;
    let decision = tables.decide(&packet);
    let names = Names {
        ports: config.ports.iter().map(|port| port.name.clone()).collect(),
        tunnels: config.tunnels.iter().map(|tunnel| tunnel.name.clone()).collect(),
    };
    let mut explanation = Explanation {
        address: question.address,
        verdict: "dropped".to_owned(),
        reason: decision.refused.map(|reason| reason.name().to_owned()),
        route: decision.found.map(|found| route(&found, config, live)),
        ways: Vec::new(),
        to: None,
        kernel_takes: Vec::new(),
        link: None,
        tunnel: None,
    };
    if let Some(To::Group(group)) = decision.found.map(|found| found.next.to) {
        explanation.ways = tables.members(group).map(|next| names.to(next)).collect();
        if !is_flow(question) {
            explanation.verdict = "several".to_owned();
            explanation.reason = None;
            return Ok(explanation);
        }
    }
    let Some(next) = decision.next else { return Ok(explanation) };
    explanation.to = Some(names.to(&next));
    let verdict = match next.to {
        To::Host | To::HostForwards => "host",
        _ if decision.refused.is_some() => "dropped",
        To::Tunnel(_) => "tunnel",
        _ => "forwarded",
    };
    explanation.verdict = verdict.to_owned();
    if !matches!(next.to, To::Tunnel(_)) {
        let taken = config.ports.iter().filter(|port| matches!(port.device, Device::Xdp(_)));
        explanation.kernel_takes = taken.map(|port| port.name.clone()).collect();
        if !config.ports.is_empty() && explanation.kernel_takes.len() == config.ports.len() {
            explanation.verdict = "host".to_owned();
            explanation.reason = None;
        }
    }
    match next.to {
        To::Station { port, mac } => {
            let link = link(config, usize::from(port), tables.port_mtu(port));
            explanation.link = Some(LinkReport { via: decision.via, mac: Some(mac.to_string()), ..link });
        }
        To::Unresolved { port } => {
            let link = link(config, usize::from(port), tables.port_mtu(port));
            explanation.link = Some(LinkReport { via: decision.via, ..link });
        }
        To::Tunnel(number) => {
            let report = tunnel(number as usize, config, tables, live);
            if let Some(problem) = report.as_ref().and_then(|tunnel| tunnel.problem.clone()) {
                explanation.verdict = "dropped".to_owned();
                explanation.reason = Some(problem);
            }
            explanation.tunnel = report;
        }
        To::Host | To::HostForwards | To::Group(_) | To::Nowhere => {}
    }
    Ok(explanation)
}

/// Step 1: enough of a packet to be looked up and told from other flows.
fn packet(question: &Question) -> Result<Vec<u8>, Failure> {
    let Question { address, from, protocol, source_port, port } = question;
    let wrong = |why: &str| Err(Failure::usage(format!("{address}: {why}")));
    if from.is_some_and(|from| from.is_ipv4() != address.is_ipv4()) {
        return wrong("--from is of another family");
    }
    let has_ports = matches!(protocol, Some(6 | 17 | 33 | 132 | 136));
    if !has_ports && (source_port.is_some() || port.is_some()) {
        return wrong("ports go with --protocol tcp, udp or sctp");
    }
    let upper = protocol.unwrap_or(59);
    let ports =
        [source_port.unwrap_or_default().to_be_bytes(), port.unwrap_or_default().to_be_bytes()].concat();
    let mut packet;
    match (address, from) {
        (IpAddr::V4(dst), from) => {
            let src = match from {
                Some(IpAddr::V4(from)) => *from,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            packet = vec![0; culvert_engine::wire::ipv4::HEADER_LEN];
            if let Some(header) = packet.first_chunk_mut() {
                let total_len = 28;
                Ipv4Header {
                    tos: 0,
                    total_len,
                    id: 0,
                    dont_fragment: true,
                    ttl: 64,
                    protocol: upper,
                    src,
                    dst: *dst,
                }
                .emit(header);
            }
        }
        (IpAddr::V6(dst), from) => {
            let src = match from {
                Some(IpAddr::V6(from)) => *from,
                _ => Ipv6Addr::UNSPECIFIED,
            };
            packet = vec![0; culvert_engine::wire::ipv6::HEADER_LEN];
            if let Some(header) = packet.first_chunk_mut() {
                let ends = (src, *dst);
                Ipv6Header {
                    traffic_class: 0,
                    flow_label: 0,
                    payload_len: 8,
                    next_header: upper,
                    hop_limit: 64,
                    src: ends.0,
                    dst: ends.1,
                }
                .emit(header);
            }
        }
    }
    packet.extend(ports);
    packet.extend([0; 4]);
    Ok(packet)
}

/// Is enough said to tell the flow from others?
fn is_flow(question: &Question) -> bool {
    let Question { from, protocol, source_port, port, .. } = question;
    let whole = match protocol {
        Some(6 | 17 | 33 | 132 | 136) => source_port.is_some() && port.is_some(),
        Some(_) => true,
        None => false,
    };
    from.is_some() && whole
}

/// Where a route comes from: the file and line for one of the configuration's.
fn route(found: &Found, config: &Config, live: &dyn Live) -> RouteReport {
    let prefix = found.prefix.to_string();
    let of_config = || {
        let same = |other: crate::config::Prefix| other.network().to_string() == prefix;
        let fixed = config.routes.iter().find(|route| same(route.prefix));
        let fixed = fixed.map(|route| format!("[[route]], {}", route.at));
        let own = || {
            let route = plan::tunnel_routes(config).find(|route| same(route.prefix))?;
            Some(format!("tunnel {}, {}", config.tunnels.get(route.tunnel)?.name, route.at))
        };
        fixed.or_else(own)
    };
    let source = match found.source {
        RouteSource::Given => of_config().unwrap_or_else(|| live.foreign_routes().to_owned()),
        other => source(other),
    };
    RouteReport { prefix, source }
}

fn link(config: &Config, port: usize, mtu: Option<usize>) -> LinkReport {
    let port = config.ports.get(port).map_or("?".to_owned(), |port| port.name.clone());
    LinkReport { port, via: None, mac: None, mtu }
}

/// Step 2.
fn tunnel(number: usize, config: &Config, tables: &Tables, live: &dyn Live) -> Option<TunnelReport> {
    let (of_config, of_tables) = (config.tunnels.get(number)?, tables.tunnels().get(number)?);
    let way_out = of_tables.way_out();
    let via = tables.station_of(number as u32).map(|(_, station)| station);
    // Of tunnels in tunnels, the outermost packet has the link header.
    let carriers = std::iter::successors(Some(of_tables), |tunnel| tables.tunnels().get(tunnel.carrier()?));
    let outermost = carriers.take(MAX_DEPTH).last();
    let mac = outermost.and_then(Tunnel::next_station).map(|mac| mac.to_string());
    let port_mtu = |port: usize| u16::try_from(port).ok().and_then(|port| tables.port_mtu(port));
    let sas = of_tables.outbound().map(|sa| SaReport {
        spi: sa.spi(),
        suite: sa.key().suite().name().to_owned(),
        used: Some(sa.used()),
        remaining: Some(sa.until_end()),
    });
    let sas: Vec<SaReport> = if live.has_sas() { sas.collect() } else { configured_sas(&of_config.protect) };
    let missing = live.has_sas() && of_tables.mode().is_some() && sas.is_empty();
    let no_sa = missing.then_some("no-sa");
    let state = live.state(number);
    Some(TunnelReport {
        name: of_config.name.clone(),
        state: state.as_ref().map(|state| if state.is_ok() { "up" } else { "down" }.to_owned()),
        why: state.and_then(Result::err),
        local: of_config.local.to_string(),
        remote: of_config.remote,
        headers: headers(of_tables),
        key: of_config.key,
        mode: of_tables.mode().map(|mode| {
            match mode {
                Mode::Transport => "transport",
                Mode::Tunnel => "tunnel",
            }
            .to_owned()
        }),
        route: tables.find(of_config.remote).map(|found| route(&found, config, live)),
        carrier: of_tables.carrier().and_then(|carrier| Some(config.tunnels.get(carrier)?.name.clone())),
        link: way_out.ok().map(|port| LinkReport {
            via: via.filter(|via| *via != of_config.remote),
            mac,
            ..link(config, port, port_mtu(port))
        }),
        problem: way_out.err().map(|reason| reason.name()).or(no_sa).map(str::to_owned),
        mtu: replay::inner_mtu(of_config, of_tables),
        arithmetic: arithmetic(of_config, of_tables),
        too_long: too_long(of_config.fragment, replay::inner_mtu(of_config, of_tables)),
        depth: plan::nesting(config, tables).depth(number),
        sas,
    })
}

/// Those that send, as far as the file has them.
fn configured_sas(protect: &Protect) -> Vec<SaReport> {
    let Protect::Manual(manual) = protect else { return Vec::new() };
    let report = |sa: &ManualSa| SaReport {
        spi: sa.spi,
        suite: sa.suite.name().to_owned(),
        used: None,
        remaining: None,
    };
    manual.outbound().into_iter().map(report).collect()
}

fn headers(tunnel: &Tunnel) -> Vec<String> {
    let layout = tunnel.layout();
    let ip = if layout.v6 { "IPv6" } else { "IPv4" };
    let all =
        [(layout.ip, ip), (layout.udp, "UDP"), (layout.esp, "ESP"), (layout.middle, ip), (layout.gre, "GRE")];
    all.into_iter().filter(|(length, _)| *length > 0).map(|(_, name)| name.to_owned()).collect()
}

/// From the path's MTU to the inner one, line by line.
fn arithmetic(config: &crate::config::Tunnel, tunnel: &Tunnel) -> Vec<(String, i64)> {
    let layout = tunnel.layout();
    let ip = if layout.v6 { "IPv6 header" } else { "IPv4 header" };
    let mut left = tunnel.path_mtu();
    let mut lines = vec![("the path takes".to_owned(), left as i64)];
    let mut take = |left: &mut usize, what: &str, bytes: usize| {
        if bytes > 0 {
            *left = left.saturating_sub(bytes);
            lines.push((what.to_owned(), -(bytes as i64)));
        }
    };
    take(&mut left, ip, layout.ip);
    take(&mut left, "UDP header", layout.udp);
    if layout.esp > 0 {
        take(&mut left, "ESP header", esp::HEADER_LEN);
        take(&mut left, "IV", esp::IV_LEN);
        take(&mut left, "ICV", esp::ICV_LEN);
        let over = left % esp::ALIGNMENT;
        take(&mut left, "to a multiple of 4", over);
        take(&mut left, "ESP trailer", esp::TRAILER_LEN);
    }
    take(&mut left, ip, layout.middle);
    take(&mut left, "GRE header", layout.gre);
    take(&mut left, "Ethernet header inside", if config.bridge.is_some() { ethernet::HEADER_LEN } else { 0 });
    let mtu = replay::inner_mtu(config, tunnel);
    if mtu != left {
        lines.push(("as `mtu` is set".to_owned(), mtu as i64 - left as i64));
    }
    lines
}

fn too_long(fragment: bool, mtu: usize) -> String {
    if fragment {
        format!(
            "IPv4: fragmented to {mtu} before it goes in; IPv6: its sender is told {mtu} (packet too big)"
        )
    } else {
        format!(
            "its sender is told {mtu} (fragmentation needed, packet too big); IPv4 without DF is fragmented before it goes in"
        )
    }
}

impl Explanation {
    /// As people read it, within 80 columns where names are short.
    fn text(&self) -> String {
        let mut lines: Vec<(&str, String)> = Vec::new();
        let route = |route: &Option<RouteReport>| match route {
            Some(route) => format!("{} ({})", route.prefix, route.source),
            None => "none".to_owned(),
        };
        lines.push(("route", route(&self.route)));
        lines.extend(self.to.iter().map(|to| ("to", to.clone())));
        if !self.ways.is_empty() {
            lines.extend(self.ways.iter().map(|way| ("way", way.clone())));
            if self.to.is_none() {
                let missing = "one for each flow: give --from, --protocol, and ports where it has such";
                lines.push(("", missing.to_owned()));
            }
        }
        lines.extend(self.link.iter().flat_map(LinkReport::lines));
        if let Some(tunnel) = &self.tunnel {
            tunnel.tell(&mut lines, &route(&tunnel.route));
        }
        if !self.kernel_takes.is_empty() {
            let ports = self.kernel_takes.join(", ");
            lines.push(("", format!("what comes by port {ports} the kernel takes, as it is no tunnel's")));
        }
        let verdict = match (self.verdict.as_str(), &self.reason) {
            ("dropped", Some(reason)) => format!("dropped: {reason}"),
            ("tunnel", _) => "goes through the tunnel".to_owned(),
            ("host", _) => "goes to the host".to_owned(),
            ("several", _) => "forwarded, as its flow says".to_owned(),
            (verdict, _) => verdict.to_owned(),
        };
        lines.push(("verdict", verdict));
        let head = format!("{}\n", self.address);
        lines.into_iter().fold(head, |text, (name, line)| text + &format!("  {name:<9} {line}\n"))
    }
}

impl LinkReport {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let via = self.via.map_or(String::new(), |via| format!(" via {via}"));
        let mac =
            self.mac.as_ref().map_or(", whose address is not known".to_owned(), |mac| format!(", to {mac}"));
        let mtu = self.mtu.map_or(String::new(), |mtu| format!(", mtu {mtu}"));
        vec![("leaves", format!("port {}{via}{mac}{mtu}", self.port))]
    }
}

impl TunnelReport {
    fn tell(&self, lines: &mut Vec<(&'static str, String)>, route: &str) {
        let state = match (&self.state, &self.why) {
            (Some(state), Some(why)) => format!(", {state}: {why}"),
            (Some(state), None) => format!(", {state}"),
            (None, _) => String::new(),
        };
        lines.push(("tunnel", format!("{}{state}", self.name)));
        let key = self.key.map_or(String::new(), |key| format!(", key {key}"));
        let mode = self.mode.as_ref().map_or(String::new(), |mode| format!(", {mode} mode"));
        lines.push(("outer", format!("{} > {}", self.local, self.remote)));
        lines.push(("", format!("{}{key}{mode}", self.headers.join(" | "))));
        for sa in &self.sas {
            let count =
                |count: Option<u64>, what| count.map_or(String::new(), |count| format!(", {count} {what}"));
            let (used, left) = (count(sa.used, "used"), count(sa.remaining, "left"));
            lines.push(("sa", format!("SPI {:#010x}, {}{used}{left}", sa.spi, sa.suite)));
        }
        lines.push(("far end", route.to_owned()));
        lines.extend(self.carrier.iter().map(|carrier| ("", format!("in tunnel {carrier}"))));
        lines.extend(self.link.iter().flat_map(LinkReport::lines));
        lines.extend(self.problem.iter().map(|problem| ("", format!("does not leave: {problem}"))));
        let mut sum = String::new();
        for (what, bytes) in &self.arithmetic {
            sum += &match (sum.is_empty(), bytes) {
                (true, bytes) => format!("{bytes}"),
                (false, bytes) if *bytes < 0 => format!(" - {} {what}", -bytes),
                (false, bytes) => format!(" + {bytes} {what}"),
            };
        }
        let mut name = "mtu";
        for line in text::wrap(&format!("{sum} = {}", self.mtu), 66) {
            lines.push((name, line));
            name = "";
        }
        let mut name = "too long";
        for line in text::wrap(&self.too_long, 66) {
            lines.push((name, line));
            name = "";
        }
        let depth = self.depth.map_or("without end".to_owned(), |depth| depth.to_string());
        lines.push(("depth", depth));
    }
}

//! What `culvert check` reports of tunnels and netmap ports, and how that is printed: as JSON, or as text of 80 columns.

use std::io::{self, Write};
use std::net::IpAddr;

use culvert_engine::ring::netmap::{NetmapError, NetmapMode, NetmapOffer};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::Findings;
use crate::Failure;
use crate::config::{Manual, Mode, Protect, Warning};
use crate::text;

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

fn rings_of(rings: u32, slots: u32) -> String {
    format!("{rings} ring{} of {slots} slots", if rings == 1 { "" } else { "s" })
}

impl NetmapReport {
    pub(super) fn of(offer: Result<NetmapOffer, NetmapError>) -> NetmapReport {
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

pub(super) fn protection(protect: &Protect) -> Option<ProtectionReport> {
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

pub(super) fn print(findings: &Findings, json: bool) -> Result<(), Failure> {
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
        let from_ike = self.protection.as_ref().is_some_and(|protection| protection.keys == "ike");
        let translated = if from_ike { ", 8 of them UDP's, should there be a NAT" } else { "" };
        vec![
            ("outer", format!("{} -> {}", self.local, self.remote)),
            ("path", self.path.describe()),
            (
                "protection",
                self.protection.as_ref().map_or_else(|| self.unprotected(), ProtectionReport::describe),
            ),
            ("mtu", format!("{} bytes ({} fit the path)", self.mtu, self.largest_mtu)),
            ("overhead", format!("{} bytes{translated}{padding}", self.overhead)),
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
    let margin = first.chars().count();
    let lines = text::wrap(text, text::COLUMNS.saturating_sub(margin)).into_iter().enumerate();
    lines.map(|(number, line)| format!("{:margin$}{line}", if number == 0 { first } else { "" })).collect()
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

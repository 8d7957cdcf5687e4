//! Traces and captures for clients: taps of the engine, read by the thread of the client that asked, so that packets that nobody
//! fetches in time cost their own trace, and neither the control thread nor a worker waits for anybody.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use culvert_engine::trace::{self, CaptureReader, SNAP_MAX, Target, TooMany, TraceReader};
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::Daemon;
use super::devices::has_host_rings;
use super::stream::Records;
use crate::Failure;
use crate::api::{CaptureOf, Line, Question};
use crate::config::{Config, Payload};
use crate::explain::{self, Live};
use crate::filter::{self, HeadersAlone};
use crate::plan;
use crate::trace::report::{CaptureStart, Direction, Link, Names, PacketReport, WayReport};

/// How often lanes are looked into: a fraction of the time in which they fill up.
const LOOK: Duration = Duration::from_millis(5);
/// How long a worker may still be filling the last record.
const SETTLE: Duration = Duration::from_millis(20);

/// Names in expressions: the configuration's.
struct Configured<'a>(&'a Config);

/// What is at most listed of names that would have been right.
const LISTED: usize = 5;

fn unknown<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n String>) -> String {
    // A number without a tunnel has no name.
    let known: Vec<&str> = known.map(String::as_str).filter(|name| !name.is_empty()).collect();
    let list = known.iter().take(LISTED).copied().collect::<Vec<_>>().join(", ");
    let more = if known.len() > LISTED { ", .." } else { "" };
    match known.len() {
        0 => format!("there is no {what}"),
        _ => format!("no {what} {name:?}; there is {list}{more}"),
    }
}

impl filter::Names for Configured<'_> {
    fn tunnel(&self, name: &str) -> Result<u32, String> {
        let tunnels = &self.0.tunnels;
        let number = tunnels.iter().position(|tunnel| tunnel.name == name);
        number
            .map(|number| number as u32)
            .ok_or_else(|| unknown("tunnel", name, tunnels.iter().map(|tunnel| &tunnel.name)))
    }

    fn port(&self, name: &str) -> Result<u16, String> {
        let ports = &self.0.ports;
        let number = ports.iter().position(|port| port.name == name);
        number
            .map(|number| number as u16)
            .ok_or_else(|| unknown("port", name, ports.iter().map(|port| &port.name)))
    }

    fn drops(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The configuration's names, and those of the host's sides of ports behind them.
pub(super) fn names(config: &Config) -> Names {
    let sides = config.ports.iter().filter(|port| has_host_rings(config, port));
    let sides = sides.map(|port| format!("{} (host side)", port.name));
    Names {
        ports: config.ports.iter().map(|port| port.name.clone()).chain(sides).collect(),
        tunnels: config.tunnels.iter().map(|tunnel| tunnel.name.clone()).collect(),
    }
}

impl From<TooMany> for Failure {
    fn from(error: TooMany) -> Failure {
        Failure::failed(error.to_string())
    }
}

impl Live for Daemon {
    fn state(&self, tunnel: usize) -> Option<Result<(), String>> {
        Some(Daemon::state(self, tunnel))
    }

    fn foreign_routes(&self) -> &'static str {
        "the host's routing table"
    }

    fn has_sas(&self) -> bool {
        true
    }
}

impl Daemon {
    /// What would become of a packet.
    ///
    /// # Errors
    /// The question contradicts itself.
    pub(super) fn explain(&self, question: &Question) -> Result<Value, Failure> {
        Ok(json!(explain::explain(
            question,
            &plan::as_it_is(&self.config, &self.kept),
            &self.tables.load(),
            self
        )?))
    }

    /// The ways of the next `count` packets that the expression takes.
    ///
    /// # Errors
    /// It is none, or there are too many taps.
    pub(super) fn trace(&mut self, matching: &str, count: u64) -> Result<Records, Failure> {
        if count == 0 {
            return Err(Failure::usage("count: 0 packets are none; give 1 or more".to_owned()));
        }
        let program = filter::compile(matching, &Configured(&self.config))?;
        let reader = self.taps.trace(program, count)?;
        Ok(Records::Taps(Box::new(TapStream::new(Reader::Trace(reader), names(&self.config), None))))
    }

    /// Packets of a port or tunnel.
    ///
    /// # Errors
    /// There is no such, the expression is none, or there are too many taps.
    pub(super) fn capture(&mut self, of: &CaptureOf) -> Result<Records, Failure> {
        let (target, link, interfaces) = self.target(of)?;
        if of.count == Some(0) {
            return Err(Failure::usage("count: 0 packets are none; give 1 or more".to_owned()));
        }
        let program = filter::compile(&of.matching, &HeadersAlone)?;
        let snap = of.snap.map_or(SNAP_MAX, |snap| snap as usize).clamp(1, self.longest_frame());
        let reader = self.taps.capture(target, program, of.count.unwrap_or(u64::MAX), snap)?;
        let start = CaptureStart { link, interfaces, snap: snap as u32 };
        let end = of.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut stream = TapStream::new(Reader::Capture(reader), names(&self.config), end);
        stream.lines.push_back(Line::Record(json!(start)));
        Ok(Records::Taps(Box::new(stream)))
    }

    /// The most bytes that a frame has here, so that records are no longer than they have to be.
    fn longest_frame(&self) -> usize {
        let mtus = self.view.links.iter().map(|(_, mtu)| usize::from(*mtu));
        // With a link header, a VLAN tag, and what a neighbour sends beyond our MTU.
        mtus.max().unwrap_or_default().saturating_add(256).clamp(2048, SNAP_MAX)
    }

    fn target(&self, of: &CaptureOf) -> Result<(Target, Link, Vec<String>), Failure> {
        let config = &self.config;
        let (kind, name) = match of.target.split_once(':') {
            Some((kind @ ("port" | "tunnel"), name)) => (Some(kind), name),
            _ => (None, of.target.as_str()),
        };
        let find = |wanted, place: Option<usize>| place.filter(|_| kind.is_none_or(|kind| kind == wanted));
        let port = find("port", config.ports.iter().position(|port| port.name == name));
        let tunnel = find("tunnel", config.tunnels.iter().position(|tunnel| tunnel.name == name));
        let ports = || config.ports.iter().map(|port| port.name.clone()).collect();
        let wrong = |why: String| Err(Failure::usage(format!("{:?}: {why}", of.target)));
        match (port, tunnel) {
            (Some(_), Some(_)) => {
                wrong(format!("a port and a tunnel have that name; write port:{name} or tunnel:{name}"))
            }
            (Some(_), None) if of.decrypted => wrong("it is a port; --decrypted is for tunnels".to_owned()),
            (Some(port), None) => Ok((Target::Port(port as u32), Link::Ethernet, ports())),
            (None, Some(tunnel)) if of.decrypted => {
                let link = match config.tunnels.get(tunnel).map(|tunnel| tunnel.payload) {
                    Some(Payload::Ethernet) => Link::Ethernet,
                    _ => Link::Ip,
                };
                Ok((Target::Inner(tunnel as u32), link, vec![name.to_owned()]))
            }
            (None, Some(tunnel)) => Ok((Target::Outer(tunnel as u32), Link::Ethernet, ports())),
            (None, None) => {
                let known = config.ports.iter().map(|port| &port.name);
                wrong(unknown(
                    "port or tunnel",
                    name,
                    known.chain(config.tunnels.iter().map(|tunnel| &tunnel.name)),
                ))
            }
        }
    }
}

/// What is read.
#[derive(Debug)]
enum Reader {
    Trace(TraceReader),
    Capture(CaptureReader),
}

/// The records of one trace or capture.
#[derive(Debug)]
pub(super) struct TapStream {
    reader: Reader,
    names: Names,
    /// When it ends, whatever came.
    end: Option<Instant>,
    lines: VecDeque<Line>,
    ended: bool,
}

impl TapStream {
    fn new(reader: Reader, names: Names, end: Option<Instant>) -> TapStream {
        TapStream { reader, names, end, lines: VecDeque::new(), ended: false }
    }

    /// The next line, if one comes within `wait`; an end at the end.
    pub(super) fn next(&mut self, wait: Duration) -> Option<Line> {
        let until = Instant::now() + wait;
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.ended {
                return Some(Line::End("it has ended".to_owned()));
            }
            // Asked before, so that what was filled last is read.
            let done = self.is_done();
            let over = self.end.is_some_and(|end| Instant::now() >= end);
            if done || over {
                thread::sleep(SETTLE);
            }
            self.read();
            if done || over {
                self.ended = true;
                let why = if done { "as many came as were asked for" } else { "its time is over" };
                self.lines.push_back(Line::End(why.to_owned()));
                continue;
            }
            if self.lines.is_empty() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return None;
                }
                let left =
                    self.end.map_or(left, |end| left.min(end.saturating_duration_since(Instant::now())));
                thread::sleep(left.min(LOOK));
            }
        }
    }

    fn is_done(&self) -> bool {
        match &self.reader {
            Reader::Trace(reader) => reader.is_done(),
            Reader::Capture(reader) => reader.is_done(),
        }
    }

    /// Takes what there is.
    fn read(&mut self) {
        let TapStream { reader, names, lines, .. } = self;
        let lost = match reader {
            Reader::Trace(reader) => {
                reader.read(|way| lines.push_back(Line::Record(json!(WayReport::of(way, names)))))
            }
            Reader::Capture(reader) => reader.read(|packet| lines.push_back(Line::Record(captured(packet)))),
        };
        if lost > 0 {
            lines.push_back(Line::Lost(lost));
        }
    }
}

fn captured(packet: &trace::Captured) -> Value {
    json!(PacketReport {
        time: packet.time_ns,
        interface: packet.port.unwrap_or_default(),
        direction: match packet.direction {
            trace::Direction::In => Direction::In,
            trace::Direction::Out => Direction::Out,
        },
        length: packet.original_len,
        data: BASE64.encode(packet.bytes()),
    })
}

//! What a trace and a capture say, as they stand in the API: numbers of the engine with the names of the configuration.

use std::net::IpAddr;

use culvert_engine::tables::{NextHop, RouteSource, To};
use culvert_engine::trace::{EspSeen, Headers, Source, Step, Way};
use serde::{Deserialize, Serialize};

/// The names of ports and tunnels, by their numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) ports: Vec<String>,
    pub(crate) tunnels: Vec<String>,
}

impl Names {
    fn port(&self, number: u32) -> String {
        self.ports.get(number as usize).cloned().unwrap_or_else(|| format!("number {number}"))
    }

    fn tunnel(&self, number: u32) -> String {
        self.tunnels.get(number as usize).cloned().unwrap_or_else(|| format!("number {number}"))
    }

    /// A next hop in words: `port lan`, `tunnel oslo`, `host`.
    pub(crate) fn to(&self, next: &NextHop) -> String {
        match next.to {
            To::Host => "this router".to_owned(),
            To::HostForwards => "host, which forwards it".to_owned(),
            To::Station { port, .. } => format!("port {}", self.port(port.into())),
            To::Unresolved { port } => format!("port {}, station not known", self.port(port.into())),
            To::Tunnel(tunnel) => format!("tunnel {}", self.tunnel(tunnel)),
            To::Group(_) => "several ways".to_owned(),
            To::Nowhere => "nowhere".to_owned(),
        }
    }
}

/// Where a route comes from, in a word or two.
pub(crate) fn source(source: RouteSource) -> String {
    match source {
        RouteSource::Given => "given".to_owned(),
        RouteSource::Connected => "connected".to_owned(),
        RouteSource::Own => "own address".to_owned(),
        RouteSource::Reserved => "never forwarded".to_owned(),
        RouteSource::Neighbour(prefix) => format!("neighbour in {prefix}"),
        RouteSource::TunnelEnd(Some(prefix)) => format!("tunnel end in {prefix}"),
        RouteSource::TunnelEnd(None) => "tunnel end".to_owned(),
    }
}

/// The way of one packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct WayReport {
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub(crate) time: u64,
    /// The worker that had it.
    pub(crate) worker: usize,
    /// What befell it, in this order.
    pub(crate) steps: Vec<StepReport>,
}

/// One thing that befell a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "step", rename_all = "kebab-case")]
pub(crate) enum StepReport {
    /// The worker got it: received by a port (or by another worker, from there), sent into a tunnel's interface by the host, or from
    /// the exception thread.
    Received {
        from: From,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        port: Option<String>,
        /// Counted among those that the worker has of the port.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        queue: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        tunnel: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        source_mac: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        destination_mac: Option<String>,
        packet: HeadersReport,
    },
    /// It is that tunnel's.
    Belongs { tunnel: String },
    /// The routes were asked; without a prefix there is none.
    Route {
        #[serde(skip_serializing_if = "Option::is_none", default)]
        prefix: Option<String>,
        /// Where the route comes from.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        source: Option<String>,
        /// Where it leads.
        to: String,
    },
    /// Of several ways, the one that its flow takes.
    Way { to: String },
    /// ESP was opened, or was to be.
    Open { spi: u32, sequence: u64 },
    /// Its GRE header.
    Gre {
        /// EtherType of what it carries.
        protocol: u16,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        sequence: Option<u32>,
        checksum: bool,
    },
    /// It came out of a tunnel.
    Out { tunnel: String, packet: HeadersReport },
    /// What it held, and was refused for.
    Held { packet: HeadersReport },
    /// It went into a tunnel.
    Into { tunnel: String, packet: HeadersReport },
    /// ESP was sealed.
    Seal { spi: u32, sequence: u64 },
    /// What went around it.
    Outer { packet: HeadersReport },
    /// It left by a port.
    Sent { port: String, mac: String, length: u32 },
    /// Another worker has it now.
    HandedOver { worker: u32 },
    /// It went to the host as it came.
    Host,
    /// It went to the host by a tunnel's interface.
    HostInterface { tunnel: String },
    /// The exception thread has it now.
    Exception { cause: String },
    /// It was dropped.
    Drop { reason: String },
}

/// Where a worker got a packet from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    Port,
    Interface,
    Exceptions,
    Worker,
}

/// What a packet said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct HeadersReport {
    /// Bytes, with the link header where it has one.
    pub(crate) length: u32,
    pub(crate) ethertype: u16,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) destination: Option<IpAddr>,
    /// IPv4's protocol, IPv6's next header.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) protocol: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) destination_port: Option<u16>,
    /// TTL or hop limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) ttl: Option<u8>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(crate) fragment: bool,
}

impl std::convert::From<&Headers> for HeadersReport {
    fn from(headers: &Headers) -> HeadersReport {
        HeadersReport {
            length: headers.len,
            ethertype: headers.ethertype,
            source: headers.ends.map(|(source, _)| source),
            destination: headers.ends.map(|(_, destination)| destination),
            protocol: headers.protocol,
            source_port: headers.ports.map(|(source, _)| source),
            destination_port: headers.ports.map(|(_, destination)| destination),
            ttl: headers.protocol.map(|_| headers.ttl),
            fragment: headers.fragment,
        }
    }
}

impl WayReport {
    pub(crate) fn of(way: &Way, names: &Names) -> WayReport {
        let steps = way.steps.iter().map(|step| StepReport::of(step, names)).collect();
        WayReport { time: way.time_ns, worker: way.worker, steps }
    }
}

impl StepReport {
    fn of(step: &Step, names: &Names) -> StepReport {
        match step {
            Step::Received { from, stations, headers } => {
                let (kind, port, queue, tunnel) = match *from {
                    Source::Port { port, queue } => (From::Port, Some(port), Some(queue), None),
                    Source::Interface(tunnel) => (From::Interface, None, None, Some(tunnel)),
                    Source::Exceptions => (From::Exceptions, None, None, None),
                    Source::Worker(port) => (From::Worker, port, None, None),
                };
                StepReport::Received {
                    from: kind,
                    port: port.map(|port| names.port(port)),
                    queue,
                    tunnel: tunnel.map(|tunnel| names.tunnel(tunnel)),
                    source_mac: stations.map(|(source, _)| source.to_string()),
                    destination_mac: stations.map(|(_, destination)| destination.to_string()),
                    packet: headers.into(),
                }
            }
            Step::Belongs { tunnel } => StepReport::Belongs { tunnel: names.tunnel(*tunnel) },
            Step::Routed(None) => StepReport::Route { prefix: None, source: None, to: "nowhere".to_owned() },
            Step::Routed(Some(found)) => StepReport::Route {
                prefix: Some(found.prefix.to_string()),
                source: Some(source(found.source)),
                to: names.to(&found.next),
            },
            Step::Spread(next) => StepReport::Way { to: names.to(next) },
            Step::Open(EspSeen { spi, sequence }) => StepReport::Open { spi: *spi, sequence: *sequence },
            Step::Gre(gre) => StepReport::Gre {
                protocol: gre.protocol,
                key: gre.key,
                sequence: gre.sequence,
                checksum: gre.checksum,
            },
            Step::CameOut { tunnel, headers } => {
                StepReport::Out { tunnel: names.tunnel(*tunnel), packet: headers.into() }
            }
            Step::Held { headers } => StepReport::Held { packet: headers.into() },
            Step::WentIn { tunnel, headers } => {
                StepReport::Into { tunnel: names.tunnel(*tunnel), packet: headers.into() }
            }
            Step::Seal(EspSeen { spi, sequence }) => StepReport::Seal { spi: *spi, sequence: *sequence },
            Step::Outer { headers } => StepReport::Outer { packet: headers.into() },
            Step::Sent { port, to, len } => {
                StepReport::Sent { port: names.port(*port), mac: to.to_string(), length: *len }
            }
            Step::HandedOver(worker) => StepReport::HandedOver { worker: *worker },
            Step::Host => StepReport::Host,
            Step::HostInner(tunnel) => StepReport::HostInterface { tunnel: names.tunnel(*tunnel) },
            Step::Exception(cause) => StepReport::Exception { cause: cause.name().to_owned() },
            Step::Dropped(reason) => StepReport::Drop { reason: reason.name().to_owned() },
        }
    }
}

/// The first record of a capture: what its packets are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct CaptureStart {
    pub(crate) link: Link,
    /// What packets name by its place here.
    pub(crate) interfaces: Vec<String>,
    /// The most bytes that are kept of each packet.
    pub(crate) snap: u32,
}

/// What captured packets begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Link {
    /// An Ethernet header.
    Ethernet,
    /// The header of IPv4 or IPv6.
    Ip,
}

/// A captured packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct PacketReport {
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub(crate) time: u64,
    /// Its place among the interfaces of the first record.
    pub(crate) interface: u32,
    pub(crate) direction: Direction,
    /// Its length in bytes.
    pub(crate) length: u32,
    /// The bytes that were kept, its first, in base64 (RFC 4648 section 4).
    pub(crate) data: String,
}

/// Which way a packet went: to us, or from us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    In,
    Out,
}

//! What befell a packet, stage by stage.

use arrayvec::ArrayVec;

use super::headers::Headers;
use crate::drops::Reason;
use crate::esp::Spi;
use crate::tables::{Found, NextHop};
use crate::tag::Cause;
use crate::wire::ethernet::MacAddr;

/// Steps of one packet, at most. The longest way, out of as many tunnels as may lie in each other and into as many, takes fewer.
pub const STEPS: usize = 20;

/// Where a worker got a frame from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A port received it, by that receive queue.
    Port {
        /// The port's number.
        port: u32,
        /// Counted among those that the worker has of the port, from 0.
        queue: u32,
    },
    /// The host sent it into that tunnel's interface.
    Interface(u32),
    /// The exception thread made it, or was done with it.
    Exceptions,
    /// Another worker handed it over, which had received it by that port.
    Worker(Option<u32>),
}

/// GRE as a packet carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GreSeen {
    /// EtherType of the payload.
    pub protocol: u16,
    /// Its key.
    pub key: Option<u32>,
    /// Its sequence number.
    pub sequence: Option<u32>,
    /// Has it a checksum?
    pub checksum: bool,
}

/// ESP as a packet carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EspSeen {
    /// Its SPI.
    pub spi: Spi,
    /// The whole sequence number where it is known, else the low half that the packet carries.
    pub sequence: u64,
}

/// One thing that befell a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A worker got it.
    Received {
        /// From where.
        from: Source,
        /// The stations that sent it and are to get it; of a frame, not of a packet.
        stations: Option<(MacAddr, MacAddr)>,
        /// What it said.
        headers: Headers,
    },
    /// It was found to be that tunnel's.
    Belongs {
        /// The tunnel's number.
        tunnel: u32,
    },
    /// The routes were asked; `None`: there is none.
    Routed(Option<Found>),
    /// Of a group of ways, its flow's was taken.
    Spread(NextHop),
    /// ESP was opened with an inbound SA, or was to be.
    Open(EspSeen),
    /// Its GRE header.
    Gre(GreSeen),
    /// It came out of that tunnel.
    CameOut {
        /// The tunnel's number.
        tunnel: u32,
        /// What it said then.
        headers: Headers,
    },
    /// What it held, and was not accepted for.
    Held {
        /// What that said.
        headers: Headers,
    },
    /// It went into that tunnel.
    WentIn {
        /// The tunnel's number.
        tunnel: u32,
        /// What it said before.
        headers: Headers,
    },
    /// ESP was sealed with an outbound SA.
    Seal(EspSeen),
    /// What went around it, once it was whole.
    Outer {
        /// The outer headers.
        headers: Headers,
    },
    /// It left by that port, for that station.
    Sent {
        /// The port's number.
        port: u32,
        /// The station.
        to: MacAddr,
        /// Bytes of the frame.
        len: u32,
    },
    /// It was handed over to that worker.
    HandedOver(u32),
    /// It went to the host, as it came.
    Host,
    /// It went to the host, by that tunnel's interface.
    HostInner(u32),
    /// The exception thread got it.
    Exception(Cause),
    /// It was dropped.
    Dropped(Reason),
}

/// The way of one packet.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// When the worker got it: nanoseconds since 1970-01-01T00:00:00Z.
    pub time_ns: u64,
    /// The worker's number.
    pub worker: usize,
    /// What befell it.
    pub steps: ArrayVec<Step, STEPS>,
}

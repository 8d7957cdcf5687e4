//! What rings between parts of the program say of a frame beside its bytes (see [`crate::ring::Frame::tag`]): why a worker
//! gave a frame away, and what the exception thread wants done with one.
//!
//! A tag is 32 bits: a kind in the upper eight, a number in the others.

use crate::drops::Reason;

const NUMBER_BITS: u32 = 24;
const NUMBER: u32 = (1 << NUMBER_BITS) - 1;
/// Set in the number of an origin that is a tunnel.
const TUNNEL: u32 = 1 << (NUMBER_BITS - 1);
/// Set beside it where the packet was on its way in.
const INTO: u32 = TUNNEL >> 1;

/// Ports and tunnels that tags can tell apart, of each.
pub const MAX_NUMBER: u32 = INTO;

/// Where a packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// By the port of that number.
    Port(u32),
    /// Out of the tunnel of that number.
    Tunnel(u32),
    /// From the host, a bridged port or the exception thread, into the tunnel of that number and no other way: such a packet
    /// is never routed, since its route may lead past the tunnel's protection.
    Into(u32),
}

impl Origin {
    /// The number for a tag.
    #[inline]
    pub const fn encode(self) -> u32 {
        match self {
            Origin::Port(number) => number & (INTO - 1),
            Origin::Tunnel(number) => number & (INTO - 1) | TUNNEL,
            Origin::Into(number) => number & (INTO - 1) | TUNNEL | INTO,
        }
    }

    pub(crate) const fn decode(number: u32) -> Origin {
        let (kind, number) = (number & (TUNNEL | INTO), number & (INTO - 1));
        match kind {
            TUNNEL => Origin::Tunnel(number),
            kind if kind & TUNNEL == 0 => Origin::Port(number),
            _ => Origin::Into(number),
        }
    }
}

/// Why a worker gives a frame to the exception thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)] // as wide as what other verdicts carry (see `crate::path::Next`)
pub enum Cause {
    /// The frame is an IP packet whose TTL or hop limit is used up.
    TtlExceeded,
    /// The frame is an IP packet longer than its way allows.
    TooBig,
    /// The frame is an IP packet to be forwarded, TTL lowered already, to a station whose link address is not known; or one
    /// for a tunnel whose next station is not known.
    NoNeighbour,
    /// The frame is an IP packet that no route leads on.
    NoRoute,
    /// The frame is an Ethernet frame with a fragment of a packet for a tunnel's end.
    Fragment,
    /// The frame is an Ethernet frame with a fragment of a UDP datagram to one of our addresses: a first one that is the host's, or
    /// another, which is a tunnel's if the first is.
    Datagram,
    /// The frame is an Ethernet frame to one of our addresses, or to all stations, on a port that no host stack stands
    /// behind.
    Local,
    /// The frame is an Ethernet frame with an ICMP error to a tunnel's end, which may be about a packet of ours.
    IcmpError,
    /// The frame is an IP packet out of a tunnel, to the tunnel's far end: its keepalive, or nested.
    Keepalive,
    /// The frame is a GRE packet out of a tunnel that carries nothing: a keepalive of ours that came back.
    Returned,
    /// The frame is an Ethernet frame, or an IP packet out of a tunnel, with ESP from a far end by an SA that is not known yet.
    UnknownSpi,
    /// The frame is an Ethernet frame, or an IP packet out of a tunnel, of a tunnel whose near end another router has; or an IP packet
    /// for such a tunnel. This router may just have become master.
    Backup,
}

impl Cause {
    const ALL: [Cause; 12] = [
        Cause::TtlExceeded,
        Cause::TooBig,
        Cause::NoNeighbour,
        Cause::NoRoute,
        Cause::Fragment,
        Cause::Datagram,
        Cause::Local,
        Cause::IcmpError,
        Cause::Keepalive,
        Cause::Returned,
        Cause::UnknownSpi,
        Cause::Backup,
    ];

    /// The name in reports, kebab-case.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::TtlExceeded => "ttl-exceeded",
            Cause::TooBig => "too-big",
            Cause::NoNeighbour => "no-neighbour",
            Cause::NoRoute => "no-route",
            Cause::Fragment => "fragment",
            Cause::Datagram => "datagram-fragment",
            Cause::Local => "local",
            Cause::IcmpError => "icmp-error",
            Cause::Keepalive => "keepalive",
            Cause::Returned => "returned-keepalive",
            Cause::UnknownSpi => "unknown-spi",
            Cause::Backup => "backup",
        }
    }

    /// The cause behind a drop, where the exception thread can do something about it.
    #[inline]
    pub const fn of(reason: Reason) -> Option<Cause> {
        match reason {
            Reason::TtlExceeded => Some(Cause::TtlExceeded),
            Reason::TooBig => Some(Cause::TooBig),
            Reason::NoNeighbour => Some(Cause::NoNeighbour),
            Reason::NoRoute => Some(Cause::NoRoute),
            Reason::Fragment => Some(Cause::Fragment),
            _ => None,
        }
    }

    /// The reason to count where the frame goes no further.
    pub const fn reason(self) -> Reason {
        match self {
            Cause::TtlExceeded => Reason::TtlExceeded,
            Cause::TooBig => Reason::TooBig,
            Cause::NoNeighbour => Reason::NoNeighbour,
            Cause::NoRoute => Reason::NoRoute,
            Cause::Fragment => Reason::Fragment,
            Cause::Datagram | Cause::Local | Cause::IcmpError => Reason::NoHost,
            Cause::Keepalive => Reason::Nested,
            Cause::Returned => Reason::GreUnknown,
            Cause::UnknownSpi => Reason::EspUnknownSpi,
            Cause::Backup => Reason::Backup,
        }
    }

    /// Is the packet lost whatever the exception thread does?
    #[inline]
    pub const fn is_loss(self) -> bool {
        matches!(self, Cause::TtlExceeded | Cause::NoRoute)
    }
}

/// A frame given to the exception thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Why.
    pub cause: Cause,
    /// Where it came in.
    pub origin: Origin,
}

impl Exception {
    /// As a tag.
    #[inline]
    pub const fn encode(self) -> u32 {
        (self.cause as u32) << NUMBER_BITS | self.origin.encode()
    }

    /// From a tag; `None` for one that is none of these.
    pub fn decode(tag: u32) -> Option<Exception> {
        let cause = *Cause::ALL.get((tag >> NUMBER_BITS) as usize)?;
        Some(Exception { cause, origin: Origin::decode(tag & NUMBER) })
    }
}

/// What a worker is to do with a frame from the exception thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// An IP packet of ours: to be routed.
    Route,
    /// A packet that goes into that tunnel.
    IntoTunnel(u32),
    /// What a GRE packet that carries nothing has behind its header, to go into that tunnel (see
    /// [`crate::exception::keepalive`]).
    Answer(u32),
    /// A packet that came out of that tunnel, for the host.
    FromTunnel(u32),
    /// A complete frame, to be sent by that port.
    Send(u32),
    /// A complete frame, to be taken as received by that port.
    Receive(u32),
    /// An IP packet that came out of that tunnel, of a tunnel that lies in it.
    Carried(u32),
    /// A complete frame received by that port, for the host stack.
    Host(u32),
}

impl Injected {
    /// As a tag.
    pub const fn encode(self) -> u32 {
        let (kind, number) = match self {
            Injected::Route => (0, 0),
            Injected::IntoTunnel(number) => (1, number),
            Injected::FromTunnel(number) => (2, number),
            Injected::Send(number) => (3, number),
            Injected::Receive(number) => (4, number),
            Injected::Host(number) => (5, number),
            Injected::Answer(number) => (6, number),
            Injected::Carried(number) => (7, number),
        };
        kind << NUMBER_BITS | number & NUMBER
    }

    /// From a tag; `None` for one that is none of these.
    #[inline]
    pub const fn decode(tag: u32) -> Option<Injected> {
        let number = tag & NUMBER;
        Some(match tag >> NUMBER_BITS {
            0 => Injected::Route,
            1 => Injected::IntoTunnel(number),
            2 => Injected::FromTunnel(number),
            3 => Injected::Send(number),
            4 => Injected::Receive(number),
            5 => Injected::Host(number),
            6 => Injected::Answer(number),
            7 => Injected::Carried(number),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive() {
        for cause in Cause::ALL {
            for origin in [0, 7, MAX_NUMBER - 1]
                .into_iter()
                .flat_map(|number| [Origin::Port(number), Origin::Tunnel(number), Origin::Into(number)])
            {
                let exception = Exception { cause, origin };
                assert_eq!(Exception::decode(exception.encode()), Some(exception));
            }
        }
        for number in [0, 1, MAX_NUMBER - 1] {
            for injected in [
                Injected::Route,
                Injected::IntoTunnel(number),
                Injected::FromTunnel(number),
                Injected::Send(number),
                Injected::Receive(number),
                Injected::Host(number),
                Injected::Answer(number),
                Injected::Carried(number),
            ] {
                assert_eq!(Injected::decode(injected.encode()), Some(injected));
            }
        }
        assert_eq!(Exception::decode(u32::MAX), None);
        assert_eq!(Injected::decode(u32::MAX), None);
    }

    #[test]
    fn causes_and_reasons_agree() {
        for reason in Reason::ALL {
            assert!(Cause::of(*reason).is_none_or(|cause| cause.reason() == *reason));
        }
    }
}

//! The way of a packet through the engine, a batch at a time:
//!
//! 1. [`receive`](self::receive): Ethernet and IP are read, the route is looked up; what is not ours goes to the host;
//! 2. [`inbound`]: ESP is opened, GRE taken off, the inner packet checked and routed;
//!    where it is another tunnel's packet, and that tunnel may lie in this one, once more ([`nested`]);
//! 3. [`outbound`]: GRE and ESP are put in front, the batch is sealed; for a tunnel in a tunnel, once more;
//! 4. [`transmit`]: the Ethernet header, and the buffer into the transmit ring.
//!
//! In the first two, packets like nearly all others go a way of their own, [`common`], and the stage's other code is out of theirs.
//!
//! Each stage looks at every packet of the batch before the next stage starts, so that code stays in the instruction cache
//! and memory asked for in one stage has arrived in the next. What a packet needs next is its [`Next`]; a packet that is to
//! be dropped carries its reason until the end, where it is counted. Nothing here allocates, locks, or panics.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
pub(crate) mod forward;
pub(crate) mod inbound;
pub(crate) mod inject;
pub(crate) mod nested;
pub(crate) mod outbound;
pub(crate) mod receive;
pub(crate) mod transmit;

use arrayvec::ArrayVec;

use crate::drops::Reason;
use crate::ring::{BATCH, Frame};
use crate::tag::Cause;
use crate::wire::ethernet::MacAddr;

/// What a packet needs next. Every variant holds 32 bits or nothing: verdicts are passed in registers then (moves through
/// memory, field by field, cost up to a fifth of the whole path).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// To be dropped and counted.
    Drop(Reason),
    /// To the host stack, as it came.
    Host,
    /// The frame starts with an ESP header: to be opened with the inbound SA of that number.
    Open(u32),
    /// The frame, as it was received, is ESP in UDP for the inbound SA of that number, from elsewhere than the newest that came before.
    Elsewhere(u32),
    /// The frame starts with a GRE header that came unprotected: for the tunnel of that number.
    Gre(u32),
    /// The frame is a packet that came unprotected out of the tunnel of that number, its GRE header checked and gone.
    Inner(u32),
    /// The frame is a packet for the tunnel of that number.
    Tunnel(u32),
    /// The frame is an IP packet that came out of the tunnel of that number, and is one of a tunnel that lies in it.
    Carried(u32),
    /// The frame is an IP packet for a station on a link: the next hop of that number.
    Station(u32),
    /// The frame is an IP packet that came out of the tunnel of that number, for the host stack.
    HostInner(u32),
    /// The exception thread is to look at the frame, for this cause; where there is none, it is the host's.
    Exception(Cause),
    /// The frame is complete, and leaves by the port of that number.
    Send(u32),
    /// The frame, as it was received, is for the worker of that number.
    HandOver(u32),
    /// The frame starts with an ESP header and a number that the window has not seen: any worker may open it, with the inbound
    /// SA of that number (see [`crate::fan_out`]).
    ToOpen(u32),
    /// It was opened, and is genuine: plaintext of the inbound SA of that number, to be accepted in its turn.
    Opened(u32),
    /// The frame is complete but for the cipher: any worker may seal it, for the tunnel of that number.
    ToSeal(u32),
    /// The frame was put aside, so that any worker may do what is to be done.
    Aside,
}

/// Which stages have something to do for the packets of a batch: a stage with nothing to do is not entered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stages {
    /// [`INBOUND`], [`SEALED`] and [`OUTBOUND`].
    bits: u32,
}

/// Something is to come out of a tunnel.
const INBOUND: u32 = 1;
/// Something is to go into one.
const OUTBOUND: u32 = 2;
/// Something is to be opened before.
const SEALED: u32 = 4;

impl Stages {
    /// Takes note of a verdict.
    #[inline(always)]
    pub(crate) fn note(&mut self, next: Next) {
        // Two bits for each variant fit a register, so the compiler makes this a shift; as two questions it was 13 instructions.
        self.bits |= match next {
            Next::Open(_) => INBOUND | SEALED,
            Next::Elsewhere(_) | Next::Gre(_) | Next::Inner(_) => INBOUND,
            Next::Tunnel(_) => OUTBOUND,
            _ => 0,
        };
    }

    /// Is something to come out of a tunnel?
    #[inline(always)]
    pub(crate) fn inbound(self) -> bool {
        self.bits & INBOUND != 0
    }

    /// Is something of that to be opened before?
    #[inline(always)]
    pub(crate) fn sealed(self) -> bool {
        self.bits & SEALED != 0
    }

    /// Is something to go into one?
    #[inline(always)]
    pub(crate) fn outbound(self) -> bool {
        self.bits & OUTBOUND != 0
    }

    /// Takes note of what others found that is to go into a tunnel.
    #[inline]
    pub(crate) fn join_outbound(&mut self, others: Stages) {
        self.bits |= others.bits & OUTBOUND;
    }
}

/// A frame on its way.
pub(crate) struct Packet<'a> {
    pub(crate) frame: Frame<'a>,
    pub(crate) next: Next,
    /// EtherType of what the frame holds, where a tunnel is to carry it.
    pub(crate) protocol: u16,
    /// DSCP and ECN: of the outer header on the way in, of the inner packet on the way out.
    pub(crate) tos: u8,
    /// The sequence number of a packet being opened, or to be sealed by any worker.
    pub(crate) sequence: u64,
    /// The packet goes in a datagram whose checksum is to be computed once it is whole.
    pub(crate) summed: bool,
    /// The station that sent the frame.
    pub(crate) source: MacAddr,
    /// Where the packet came in, as [`crate::tag::Origin`] encodes it.
    pub(crate) origin: u32,
}

impl<'a> Packet<'a> {
    #[inline]
    pub(crate) fn new(frame: Frame<'a>) -> Packet<'a> {
        let next = Next::Drop(Reason::EthernetMalformed);
        Packet {
            frame,
            next,
            protocol: 0,
            tos: 0,
            sequence: 0,
            summed: false,
            source: MacAddr([0; 6]),
            origin: 0,
        }
    }
}

/// Up to [`BATCH`] frames on their way.
pub(crate) type Batch<'a> = ArrayVec<Packet<'a>, BATCH>;

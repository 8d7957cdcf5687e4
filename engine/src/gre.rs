//! GRE (RFC 2784, 2890) as a tunnel checks it on the way in. Building the header on the way out is a matter of the tunnel's
//! template (see [`crate::tunnel`]).
//!
//! 1. The header's own rules: refused flags, version, length ([`crate::wire::Gre::parse`]).
//! 2. The key is the tunnel's.
//! 3. The checksum is there where it must be, and right where it is there.
//! 4. The sequence number is there where it must be, and new; it counts as seen only once the whole packet is accepted.
//! 5. The payload is one that the tunnel carries.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::drops::Reason;
use crate::exception::keepalive;
use crate::wire::Gre;
use crate::wire::ethernet;

/// What a tunnel carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// IPv4 and IPv6 packets.
    Ip,
    /// Ethernet frames, transparently bridged with one port.
    Ethernet,
}

/// A tunnel's GRE settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The key, if there is one (RFC 2890 section 2.1).
    pub key: Option<u32>,
    /// Send a checksum, and insist on one (RFC 2784 section 2.2).
    pub checksum: bool,
    /// Send sequence numbers, and insist on them (RFC 2890 section 2.2).
    pub sequence: bool,
    /// What is carried.
    pub payload: Payload,
}

impl Options {
    /// Is nothing to be checked but the key, and IP packets carried?
    pub const fn is_plain(&self) -> bool {
        !self.checksum && !self.sequence && matches!(self.payload, Payload::Ip)
    }

    /// Bytes of the GRE header.
    pub const fn header_len(&self) -> usize {
        4 + if self.checksum { 4 } else { 0 }
            + if self.key.is_some() { 4 } else { 0 }
            + if self.sequence { 4 } else { 0 }
    }
}

/// A tunnel's sequence numbers (RFC 2890 section 2.2): the next to send, and the last accepted.
#[derive(Debug, Default)]
pub struct Sequences {
    next_out: AtomicU32,
    /// Bit 32: something was accepted; below, its number. Written by the one worker that receives for the tunnel.
    last_in: AtomicU64,
}

const ACCEPTED: u64 = 1 << 32;

impl Sequences {
    /// The number of the next packet sent; the first is 0.
    #[inline]
    pub fn take(&self) -> u32 {
        self.next_out.fetch_add(1, Ordering::Relaxed)
    }

    /// Would a packet with this number be in order? Numbers are compared modulo 2^32; the first may be any.
    #[inline]
    pub fn in_order(&self, sequence: u32) -> bool {
        let last = self.last_in.load(Ordering::Relaxed);
        // RFC 2890 section 2.2: less than or equal to the last, in sequence space, is out of order.
        last & ACCEPTED == 0 || (sequence.wrapping_sub(last as u32) as i32) > 0
    }

    /// Counts a packet with this number as received.
    #[inline]
    pub fn accept(&self, sequence: u32) {
        self.last_in.store(ACCEPTED | u64::from(sequence), Ordering::Relaxed);
    }
}

/// What a packet that passed [`check`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Bytes of the GRE header that are done with; of a keepalive that came back, none.
    pub header_len: usize,
    /// EtherType of the payload.
    pub protocol: u16,
    /// The number to [`Sequences::accept`], where the tunnel uses them.
    pub sequence: Option<u32>,
}

/// Steps 2 to 5 of the module page. Changes no state.
///
/// # Errors
/// The reason to drop the packet for.
#[inline]
pub fn check(gre: &Gre<'_>, options: &Options, sequences: &Sequences) -> Result<Checked, Reason> {
    if gre.key() != options.key {
        return Err(Reason::GreKey);
    }
    match gre.checksum() {
        Some(_) if !gre.checksum_ok() => return Err(Reason::GreChecksum),
        None if options.checksum => return Err(Reason::GreChecksum),
        _ => {}
    }
    // What comes back of a keepalive has no number where the far end only forwards, and changes nothing.
    if gre.protocol() == keepalive::PROTOCOL && options.payload == Payload::Ip {
        return Ok(Checked { header_len: 0, protocol: keepalive::PROTOCOL, sequence: None });
    }
    let sequence = if options.sequence {
        let sequence = gre.sequence().ok_or(Reason::GreSequence)?;
        if !sequences.in_order(sequence) {
            return Err(Reason::GreSequence);
        }
        Some(sequence)
    } else {
        None
    };
    let protocol = gre.protocol();
    let carried = match options.payload {
        Payload::Ip => protocol == ethernet::IPV4 || protocol == ethernet::IPV6,
        Payload::Ethernet => protocol == ethernet::TEB,
    };
    if !carried {
        return Err(Reason::GreUnknown);
    }
    Ok(Checked { header_len: gre.header_len(), protocol, sequence })
}

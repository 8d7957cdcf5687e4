//! ICMPv6 (RFC 4443): echo, and the errors that a router sends about a packet it cannot forward.
//! Parsing: 1. the eight bytes of header; 2. the rest is the body. Emitting: 1. the header in front of a body
//! that is in its place already; 2. the checksum over both and the pseudo header.

use super::{Malformed, Sum, protocol};
use std::net::Ipv6Addr;

/// Length of the header in bytes: type, code, checksum and four bytes that depend on them.
pub const HEADER_LEN: usize = 8;
/// As much of the packet complained about as is quoted: the ICMPv6 packet stays within the minimum MTU of
/// 1280 bytes (RFC 4443 §2.4 c).
pub const MAX_QUOTE: usize = 1280 - super::ipv6::HEADER_LEN - HEADER_LEN;

/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Type: packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type: time exceeded; code 0 is that of the hop limit.
pub const TIME_EXCEEDED: u8 = 3;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type: echo reply.
pub const ECHO_REPLY: u8 = 129;

/// Type: redirect (RFC 4861 §4.5), about which no error is sent, though its number is not an error's.
const REDIRECT: u8 = 137;
/// The lowest type of a message that is not an error (RFC 4443 §2.1).
const INFORMATIONAL: u8 = 128;

/// Whether no error is sent about messages of that type (RFC 4443 §2.4 e).
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    kind < INFORMATIONAL || kind == REDIRECT
}

/// Code of [`UNREACHABLE`]: forbidden by the administrator.
pub const PROHIBITED: u8 = 1;
/// Code of [`UNREACHABLE`]: no route.
pub const NO_ROUTE: u8 = 0;
/// Code of [`UNREACHABLE`]: no way to the address.
pub const ADDRESS_UNREACHABLE: u8 = 3;

/// A message, not yet verified by its checksum.
#[derive(Clone, Copy, Debug)]
pub struct Icmpv6<'a> {
    header: &'a [u8; HEADER_LEN],
    body: &'a [u8],
}

impl<'a> Icmpv6<'a> {
    /// Reads a message: the upper-layer payload of an unfragmented IPv6 packet.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] under eight bytes.
    #[inline]
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let (header, body) = message.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        Ok(Self { header, body })
    }

    /// Type, such as [`ECHO_REQUEST`].
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.header[0]
    }

    /// Code, whose meaning depends on the type.
    #[inline]
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.header[1]
    }

    /// The four bytes behind the checksum: identifier and sequence number of an echo, the MTU of a packet too
    /// big.
    #[inline]
    #[must_use]
    pub const fn rest(&self) -> [u8; 4] {
        let [.., a, b, c, d] = *self.header;
        [a, b, c, d]
    }

    /// What follows the header: the data of an echo, the packet that an error complains about.
    #[inline]
    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Whether the checksum is right in a packet between these addresses (RFC 4443 §2.3).
    #[inline]
    #[must_use]
    pub fn checksum_ok(&self, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        pseudo(src, dst, self.body).with(self.header).with(self.body).is_valid()
    }
}

/// The sum of the pseudo header of a message with this body.
#[inline]
fn pseudo(src: Ipv6Addr, dst: Ipv6Addr, body: &[u8]) -> Sum {
    // A body beyond 4 GiB cannot come out of an IPv6 packet.
    Sum::pseudo_v6(src, dst, protocol::ICMPV6, (HEADER_LEN as u32).wrapping_add(body.len() as u32))
}

/// A message to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmpv6Message {
    /// Echo request; the body is any data.
    EchoRequest {
        /// Which conversation.
        identifier: u16,
        /// Which request of it.
        sequence: u16,
    },
    /// Echo reply; identifier, sequence number and body are those of the request.
    EchoReply {
        /// Which conversation.
        identifier: u16,
        /// Which request of it.
        sequence: u16,
    },
    /// The hop limit ran out on the way; the body is a [`quote`].
    TimeExceeded,
    /// The destination cannot be reached; the body is a [`quote`].
    Unreachable {
        /// Why, such as [`NO_ROUTE`].
        code: u8,
    },
    /// The packet is too big for the next hop; the body is a [`quote`].
    PacketTooBig {
        /// The next hop's MTU in bytes of IP packet (RFC 4443 §3.2).
        mtu: u32,
    },
}

impl Icmpv6Message {
    /// Writes the message, to go from `src` to `dst`: `packet` is room for the header, then the body, already
    /// there.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], with nothing written, when there is no room for the header.
    #[inline]
    pub fn emit(&self, packet: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) -> Result<(), Malformed> {
        let (header, body) = packet.split_first_chunk_mut::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let (kind, code, rest) = match *self {
            Self::EchoRequest { identifier, sequence } => (ECHO_REQUEST, 0, echo(identifier, sequence)),
            Self::EchoReply { identifier, sequence } => (ECHO_REPLY, 0, echo(identifier, sequence)),
            Self::TimeExceeded => (TIME_EXCEEDED, 0, 0),
            Self::Unreachable { code } => (UNREACHABLE, code, 0),
            Self::PacketTooBig { mtu } => (PACKET_TOO_BIG, 0, mtu),
        };
        let [a, b, c, d] = rest.to_be_bytes();
        *header = [kind, code, 0, 0, a, b, c, d];
        let check = pseudo(src, dst, body).with(header).with(body).finish();
        [header[2], header[3]] = check.to_be_bytes();
        Ok(())
    }
}

/// Identifier and sequence number of an echo as one word.
#[inline]
const fn echo(identifier: u16, sequence: u16) -> u32 {
    (identifier as u32) << 16 | sequence as u32
}

/// The part of a packet, from its IPv6 header on, that an error about it carries.
#[inline]
#[must_use]
pub fn quote(packet: &[u8]) -> &[u8] {
    packet.get(..MAX_QUOTE).unwrap_or(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SRC: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const DST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

    /// Identifier 1, sequence number 2, "ab". The pseudo header's words sum to 2 * (0x2001 + 0x0db8) + 1 + 2
    /// + 10 + 58 = 0x5bb9, the message's to 0x8000 + 1 + 2 + 0x6162 = 0xe165; both folded 0x3d1f.
    const ECHO: [u8; 10] = [128, 0, 0xc2, 0xe0, 0, 1, 0, 2, b'a', b'b'];

    #[test]
    fn an_echo_both_ways() {
        let icmp = Icmpv6::parse(&ECHO).unwrap();
        assert_eq!((icmp.kind(), icmp.code(), icmp.rest(), icmp.body()), (128, 0, [0, 1, 0, 2], &b"ab"[..]));
        assert!(icmp.checksum_ok(SRC, DST));
        assert!(!icmp.checksum_ok(SRC, SRC));
        let mut out = *b"xxxxxxxxab";
        Icmpv6Message::EchoRequest { identifier: 1, sequence: 2 }.emit(&mut out, SRC, DST).unwrap();
        assert_eq!(out, ECHO);
    }

    #[test]
    fn headers_are_those_of_the_rfc() {
        for (message, header) in [
            (
                Icmpv6Message::EchoReply { identifier: 0x1234, sequence: 0x5678 },
                [129, 0, 0x12, 0x34, 0x56, 0x78],
            ),
            (Icmpv6Message::TimeExceeded, [3, 0, 0, 0, 0, 0]),
            (Icmpv6Message::Unreachable { code: ADDRESS_UNREACHABLE }, [1, 3, 0, 0, 0, 0]),
            (Icmpv6Message::PacketTooBig { mtu: 1400 }, [2, 0, 0, 0, 0x05, 0x78]),
        ] {
            let mut out = [0x60; 48];
            message.emit(&mut out, SRC, DST).unwrap();
            assert_eq!([&out[..2], &out[4..8]].concat(), header);
            assert!(Icmpv6::parse(&out).unwrap().checksum_ok(SRC, DST) && out[8..] == [0x60; 40]);
        }
    }

    #[test]
    fn truncated() {
        for len in 0..8 {
            assert_eq!(Icmpv6::parse(&ECHO[..len]).err(), Some(Malformed::Truncated), "{len} bytes");
            let mut room = vec![0xaa; len];
            assert_eq!(Icmpv6Message::TimeExceeded.emit(&mut room, SRC, DST), Err(Malformed::Truncated));
            assert!(room.iter().all(|&byte| byte == 0xaa));
        }
        for len in 8..10 {
            assert!(!Icmpv6::parse(&ECHO[..len]).unwrap().checksum_ok(SRC, DST), "{len} bytes");
        }
    }

    #[test]
    fn quotes_keep_the_error_within_the_minimum_mtu() {
        assert_eq!(quote(&[1; 1500]).len() + HEADER_LEN + 40, 1280);
        assert_eq!(quote(&[1; 60]).len(), 60);
    }

    proptest! {
        #[test]
        fn parse_takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(icmp) = Icmpv6::parse(&bytes) {
                prop_assert_eq!(icmp.body().len() + HEADER_LEN, bytes.len());
                let _ = icmp.checksum_ok(SRC, DST);
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            identifier in any::<u16>(), sequence in any::<u16>(),
            data in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut packet = [&[0xee; 8], data.as_slice()].concat();
            Icmpv6Message::EchoReply { identifier, sequence }.emit(&mut packet, SRC, DST).unwrap();
            let icmp = Icmpv6::parse(&packet).unwrap();
            prop_assert_eq!((icmp.kind(), icmp.code(), icmp.body()), (ECHO_REPLY, 0, &data[..]));
            prop_assert_eq!(u32::from_be_bytes(icmp.rest()), echo(identifier, sequence));
            prop_assert!(icmp.checksum_ok(SRC, DST));
        }
    }
}

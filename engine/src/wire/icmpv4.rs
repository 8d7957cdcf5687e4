//! ICMP (RFC 792): echo, and the errors that a router sends about a packet it cannot forward.
//! Parsing: 1. the eight bytes of header; 2. the rest is the body. Emitting: 1. the header in front of a body
//! that is in its place already; 2. the checksum over both.

use super::{Malformed, Sum};

/// Length of the header in bytes: type, code, checksum and four bytes that depend on them.
pub const HEADER_LEN: usize = 8;
/// As much of the packet complained about as is quoted: the ICMP packet stays within 576 bytes (RFC 1812
/// §4.3.2.3).
pub const MAX_QUOTE: usize = 576 - super::ipv4::HEADER_LEN - HEADER_LEN;

/// Type: echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Types that ask or tell, and complain about no packet: echo and its reply, router advertisement and
/// solicitation (RFC 1256), timestamp, information, address mask (RFC 950) and their replies.
const INFORMATIONAL: [u8; 10] = [ECHO_REPLY, ECHO_REQUEST, 9, 10, 13, 14, 15, 16, 17, 18];
/// Type: time exceeded; code 0 is that of the TTL.
pub const TIME_EXCEEDED: u8 = 11;

/// Code of [`UNREACHABLE`]: no route to the network.
pub const NETWORK_UNREACHABLE: u8 = 0;
/// Code of [`UNREACHABLE`]: no way to the host.
pub const HOST_UNREACHABLE: u8 = 1;
/// Code of [`UNREACHABLE`]: too big for the next hop, and must not be fragmented (RFC 1191 §4).
pub const FRAGMENTATION_NEEDED: u8 = 4;

/// Code of [`UNREACHABLE`]: forbidden by the administrator (RFC 1812 §5.2.7.1).
pub const PROHIBITED: u8 = 13;

/// Whether messages of that type are, or may be, errors; about these no error is sent. So are types that are
/// not known here.
#[must_use]
pub fn is_error(kind: u8) -> bool {
    !INFORMATIONAL.contains(&kind)
}

/// A message, not yet verified by its checksum.
#[derive(Clone, Copy, Debug)]
pub struct Icmpv4<'a> {
    header: &'a [u8; HEADER_LEN],
    body: &'a [u8],
}

impl<'a> Icmpv4<'a> {
    /// Reads a message: the payload of an unfragmented IPv4 packet.
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

    /// The four bytes behind the checksum: identifier and sequence number of an echo, the MTU in the last two
    /// where fragmentation is needed.
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

    /// Whether the checksum is right.
    #[inline]
    #[must_use]
    pub fn checksum_ok(&self) -> bool {
        Sum::new().with(self.header).with(self.body).is_valid()
    }
}

/// A message to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmpv4Message {
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
    /// The TTL ran out on the way; the body is a [`quote`].
    TimeExceeded,
    /// The destination cannot be reached; the body is a [`quote`].
    Unreachable {
        /// Why, such as [`HOST_UNREACHABLE`].
        code: u8,
    },
    /// The packet is too big for the next hop; the body is a [`quote`].
    FragmentationNeeded {
        /// The next hop's MTU in bytes of IP packet (RFC 1191 §4).
        mtu: u16,
    },
}

impl Icmpv4Message {
    /// Writes the message: `packet` is room for the header, then the body, already there.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], with nothing written, when there is no room for the header.
    #[inline]
    pub fn emit(&self, packet: &mut [u8]) -> Result<(), Malformed> {
        let (header, body) = packet.split_first_chunk_mut::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let (kind, code, high, low) = match *self {
            Self::EchoRequest { identifier, sequence } => (ECHO_REQUEST, 0, identifier, sequence),
            Self::EchoReply { identifier, sequence } => (ECHO_REPLY, 0, identifier, sequence),
            Self::TimeExceeded => (TIME_EXCEEDED, 0, 0, 0),
            Self::Unreachable { code } => (UNREACHABLE, code, 0, 0),
            Self::FragmentationNeeded { mtu } => (UNREACHABLE, FRAGMENTATION_NEEDED, 0, mtu),
        };
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        *header = [kind, code, 0, 0, a, b, c, d];
        let check = Sum::new().with(header).with(body).finish();
        [header[2], header[3]] = check.to_be_bytes();
        Ok(())
    }
}

/// The part of a packet, from its IPv4 header on, that an error about it carries.
#[inline]
#[must_use]
pub fn quote(packet: &[u8]) -> &[u8] {
    packet.get(..MAX_QUOTE).unwrap_or(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Identifier 1, sequence number 2, "ab": the words sum to 0x0800 + 1 + 2 + 0x6162 = 0x6965.
    const ECHO: [u8; 10] = [8, 0, 0x96, 0x9a, 0, 1, 0, 2, b'a', b'b'];

    #[test]
    fn an_echo_both_ways() {
        let icmp = Icmpv4::parse(&ECHO).unwrap();
        assert_eq!((icmp.kind(), icmp.code(), icmp.rest(), icmp.body()), (8, 0, [0, 1, 0, 2], &b"ab"[..]));
        assert!(icmp.checksum_ok());
        let mut out = *b"xxxxxxxxab";
        Icmpv4Message::EchoRequest { identifier: 1, sequence: 2 }.emit(&mut out).unwrap();
        assert_eq!(out, ECHO);
    }

    #[test]
    fn headers_are_those_of_the_rfcs() {
        for (message, header) in [
            (
                Icmpv4Message::EchoReply { identifier: 0x1234, sequence: 0x5678 },
                [0, 0, 0x12, 0x34, 0x56, 0x78],
            ),
            (Icmpv4Message::TimeExceeded, [11, 0, 0, 0, 0, 0]),
            (Icmpv4Message::Unreachable { code: HOST_UNREACHABLE }, [3, 1, 0, 0, 0, 0]),
            (Icmpv4Message::FragmentationNeeded { mtu: 1400 }, [3, 4, 0, 0, 0x05, 0x78]),
        ] {
            let mut out = [0x45; 28];
            message.emit(&mut out).unwrap();
            assert_eq!([&out[..2], &out[4..8]].concat(), header);
            assert!(Icmpv4::parse(&out).unwrap().checksum_ok() && out[8..] == [0x45; 20]);
        }
    }

    #[test]
    fn truncated() {
        for len in 0..8 {
            assert_eq!(Icmpv4::parse(&ECHO[..len]).err(), Some(Malformed::Truncated), "{len} bytes");
            let mut room = vec![0xaa; len];
            assert_eq!(Icmpv4Message::TimeExceeded.emit(&mut room), Err(Malformed::Truncated));
            assert!(room.iter().all(|&byte| byte == 0xaa));
        }
        for len in 8..10 {
            assert!(!Icmpv4::parse(&ECHO[..len]).unwrap().checksum_ok(), "{len} bytes");
        }
    }

    #[test]
    fn quotes_keep_the_error_within_576_bytes() {
        assert_eq!(quote(&[1; 1500]).len() + HEADER_LEN + 20, 576);
        assert_eq!(quote(&[1; 60]).len(), 60);
    }

    proptest! {
        #[test]
        fn parse_takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(icmp) = Icmpv4::parse(&bytes) {
                prop_assert_eq!(icmp.body().len() + HEADER_LEN, bytes.len());
                let _ = icmp.checksum_ok();
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            identifier in any::<u16>(), sequence in any::<u16>(),
            data in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut packet = [&[0xee; 8], data.as_slice()].concat();
            Icmpv4Message::EchoReply { identifier, sequence }.emit(&mut packet).unwrap();
            let icmp = Icmpv4::parse(&packet).unwrap();
            let [a, b, c, d] = icmp.rest();
            prop_assert_eq!((icmp.kind(), icmp.code(), icmp.body()), (ECHO_REPLY, 0, &data[..]));
            prop_assert_eq!([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])], [identifier, sequence]);
            prop_assert!(icmp.checksum_ok());
        }
    }
}

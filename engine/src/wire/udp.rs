//! UDP (RFC 768), as the wrapping of ESP (RFC 3948), of IKE, and of GRE (RFC 8086).
//! Parsing: 1. the eight bytes of header; 2. the length against the bytes present, cutting off what lies
//! behind it.

use super::{Malformed, Sum};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;
/// Destination port of GRE in UDP (RFC 8086 §3.2.2).
pub const GRE_PORT: u16 = 4754;

/// A checked datagram.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Reads a datagram; bytes behind its length are cut off. The checksum is not verified here: see
    /// [`Self::checksum_ok`].
    ///
    /// # Errors
    /// [`Malformed::Truncated`] under eight bytes, [`Malformed::Length`] when the length is under eight or
    /// beyond the bytes.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = len.checked_sub(HEADER_LEN).and_then(|len| rest.get(..len)).ok_or(Malformed::Length)?;
        Ok(Self { header, payload })
    }

    /// Source port.
    #[inline]
    #[must_use]
    pub const fn source(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    #[inline]
    #[must_use]
    pub const fn destination(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Length of the datagram in bytes, header included.
    #[inline]
    #[must_use]
    pub const fn length(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// The checksum field; 0 where the sender computed none.
    #[inline]
    #[must_use]
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// What follows the header.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the checksum is right, given the sum of the pseudo header ([`Sum::pseudo_v4`],
    /// [`Sum::pseudo_v6`]); true where the sender computed none, which over IPv6 only tunnels may do (RFC
    /// 6935).
    #[inline]
    #[must_use]
    pub fn checksum_ok(&self, pseudo: Sum) -> bool {
        self.checksum() == 0 || pseudo.with(self.header).with(self.payload).is_valid()
    }
}

/// A header to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpHeader {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Length of the datagram in bytes, header included.
    pub length: u16,
    /// The checksum as [`checksum`] gives it; 0 for none, as ESP in UDP is sent (RFC 3948 §2.1, RFC 6935).
    pub checksum: u16,
}

impl UdpHeader {
    /// Writes the header as it stands.
    #[inline]
    pub const fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let ports = (self.source as u64) << 48 | (self.destination as u64) << 32;
        *out = (ports | (self.length as u64) << 16 | self.checksum as u64).to_be_bytes();
    }
}

/// The checksum of a whole datagram whose checksum field is zero, given the sum of its pseudo header
/// ([`Sum::pseudo_v4`], [`Sum::pseudo_v6`]); in host order, and never 0, which would mean none (RFC 768).
#[inline]
#[must_use]
pub fn checksum(datagram: &[u8], pseudo: Sum) -> u16 {
    match pseudo.with(datagram).finish() {
        0 => 0xffff,
        check => check,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::protocol;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    /// Ports 4500 and 4500, "ab!", without a checksum, laid out by hand.
    const DATAGRAM: [u8; 11] = [0x11, 0x94, 0x11, 0x94, 0, 11, 0, 0, b'a', b'b', b'!'];

    fn pseudo(length: u16) -> Sum {
        Sum::pseudo_v4(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), protocol::UDP, length)
    }

    #[test]
    fn a_known_datagram_both_ways() {
        let mut padded = DATAGRAM.to_vec();
        padded.extend([0; 4]);
        let udp = Udp::parse(&padded).unwrap();
        assert_eq!((udp.source(), udp.destination(), udp.length(), udp.checksum()), (4500, 4500, 11, 0));
        assert_eq!((udp.payload(), udp.checksum_ok(pseudo(11))), (&b"ab!"[..], true));
        let mut out = [0xff; 8];
        UdpHeader { source: 4500, destination: 4500, length: 11, checksum: 0 }.emit(&mut out);
        assert_eq!(out, DATAGRAM[..8]);
    }

    /// The words of pseudo header and datagram: 0xc000 + 0x0201 + 0xc000 + 0x0202 + 17 + 11 + 0x1194 + 0x1194
    /// + 11 + 0x6162 + 0x2100 = 0x229b4, folded 0x29b6.
    #[test]
    fn a_known_checksum() {
        let mut datagram = DATAGRAM;
        let check = checksum(&datagram, pseudo(11));
        assert_eq!(check, !0x29b6);
        datagram[6..8].copy_from_slice(&check.to_be_bytes());
        assert!(Udp::parse(&datagram).unwrap().checksum_ok(pseudo(11)));
        datagram[10] ^= 1;
        assert!(!Udp::parse(&datagram).unwrap().checksum_ok(pseudo(11)));
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_ones() {
        let mut datagram = DATAGRAM;
        // The complement of the datagram's own checksum, placed in a source port of zero, makes the sum all
        // ones.
        datagram[..2].fill(0);
        let missing = checksum(&datagram, pseudo(11));
        datagram[..2].copy_from_slice(&missing.to_be_bytes());
        assert_eq!(checksum(&datagram, pseudo(11)), 0xffff);
        datagram[6..8].fill(0xff);
        assert!(Udp::parse(&datagram).unwrap().checksum_ok(pseudo(11)));
    }

    #[test]
    fn lengths() {
        for len in 0..8 {
            assert_eq!(Udp::parse(&DATAGRAM[..len]).err(), Some(Malformed::Truncated), "{len} bytes");
        }
        for len in 8..11 {
            assert_eq!(Udp::parse(&DATAGRAM[..len]).err(), Some(Malformed::Length), "{len} bytes");
        }
        for length in 0..8 {
            let mut wrong = DATAGRAM;
            wrong[5] = length;
            assert_eq!(Udp::parse(&wrong).err(), Some(Malformed::Length), "length {length}");
        }
    }

    proptest! {
        #[test]
        fn parse_takes_any_bytes(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..64), plausible in any::<bool>(),
        ) {
            if let (true, Some(length)) = (plausible, bytes.get_mut(4..6)) {
                (length[0], length[1]) = (0, length[1] & 0x3f);
            }
            if let Ok(udp) = Udp::parse(&bytes) {
                prop_assert_eq!(usize::from(udp.length()), HEADER_LEN + udp.payload().len());
                let _ = udp.checksum_ok(Sum::new());
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            source in any::<u16>(), destination in any::<u16>(),
            payload in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let length = u16::try_from(HEADER_LEN + payload.len()).unwrap();
            let mut header = UdpHeader { source, destination, length, checksum: 0 };
            let mut datagram = [&[0; 8], payload.as_slice()].concat();
            header.emit(datagram.first_chunk_mut().unwrap());
            header.checksum = checksum(&datagram, pseudo(length));
            header.emit(datagram.first_chunk_mut().unwrap());
            let udp = Udp::parse(&datagram).unwrap();
            prop_assert_eq!((udp.source(), udp.destination(), udp.length()), (source, destination, length));
            prop_assert_eq!(udp.payload(), &payload[..]);
            prop_assert!(udp.checksum() != 0 && udp.checksum_ok(pseudo(length)));
        }
    }
}

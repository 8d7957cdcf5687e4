//! Ethernet II frames, with the tags of IEEE 802.1Q and 802.1ad stepped over to find the payload.
//! Parsing: 1. the 14 bytes of addresses and ethertype; 2. up to two tags of four bytes; 3. the rest is the
//! payload, with whatever padding the sender added.

use super::Malformed;
use std::fmt;
use std::str::FromStr;

/// What the payload is (IANA "IEEE 802 Numbers").
pub type EtherType = u16;
/// IPv4 (RFC 894).
pub const IPV4: EtherType = 0x0800;
/// ARP (RFC 826).
pub const ARP: EtherType = 0x0806;
/// Transparent Ethernet bridging: an Ethernet frame inside GRE (RFC 1701, IANA).
pub const TEB: EtherType = 0x6558;
/// A customer tag follows (IEEE 802.1Q).
pub const VLAN: EtherType = 0x8100;
/// IPv6 (RFC 2464 §3).
pub const IPV6: EtherType = 0x86dd;
/// A service tag follows (IEEE 802.1ad).
pub const QINQ: EtherType = 0x88a8;

/// Length of an untagged header in bytes.
pub const HEADER_LEN: usize = 14;
/// Length of a tag in bytes: two of control information, two of the next ethertype.
pub const TAG_LEN: usize = 4;
/// Tags stepped over: a service and a customer one (IEEE 802.1ad). A third stays in the payload, as its
/// ethertype says.
const MAX_TAGS: usize = 2;

/// A 48-bit MAC address, as in the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether this is a group address; broadcast is one (IEEE 802, the I/G bit).
    #[inline]
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is an address that routers share: CARP's and VRRP's (RFC 9568 section 7.3), whose last byte is the group's number.
    #[inline]
    #[must_use]
    pub const fn is_virtual_router(self) -> bool {
        matches!(self.0, [0, 0, 0x5e, 0, 1 | 2, _])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// A text that is not a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a MAC address: six pairs of hexadecimal digits joined by colons are expected, as in 02:00:00:00:00:01"
)]
pub struct InvalidMacAddr;

impl FromStr for MacAddr {
    type Err = InvalidMacAddr;

    /// Reads six pairs of hexadecimal digits joined by colons.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut address = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut address {
            let pair = pairs.next().ok_or(InvalidMacAddr)?;
            // `from_str_radix` alone would take a sign and any number of digits.
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(InvalidMacAddr);
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| InvalidMacAddr)?;
        }
        if pairs.next().is_some() {
            return Err(InvalidMacAddr);
        }
        Ok(Self(address))
    }
}

/// A checked frame.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<'a> {
    header: &'a [u8; HEADER_LEN],
    ethertype: EtherType,
    tags_len: usize,
    payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Reads a frame without its check sequence.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when shorter than its header and tags.
    #[inline]
    pub fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) = frame.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let ethertype = u16::from_be_bytes([header[12], header[13]]);
        let mut parsed = Self { header, ethertype, tags_len: 0, payload };
        if is_tag(ethertype) {
            parsed.step_over_tags()?;
        }
        Ok(parsed)
    }

    #[cold]
    fn step_over_tags(&mut self) -> Result<(), Malformed> {
        while is_tag(self.ethertype) && self.tags_len < MAX_TAGS * TAG_LEN {
            let (tag, payload) = self.payload.split_first_chunk::<TAG_LEN>().ok_or(Malformed::Truncated)?;
            self.ethertype = u16::from_be_bytes([tag[2], tag[3]]);
            self.tags_len += TAG_LEN;
            self.payload = payload;
        }
        Ok(())
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> MacAddr {
        mac_at_front(self.header)
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> MacAddr {
        let [_, _, _, _, _, _, rest @ ..] = self.header;
        mac_at_front(rest)
    }

    /// Ethertype of the payload, behind the tags.
    #[inline]
    #[must_use]
    pub const fn ethertype(&self) -> EtherType {
        self.ethertype
    }

    /// Length of the tags in bytes: 0, 4 or 8. The payload starts at `HEADER_LEN + tags_len()`.
    #[inline]
    #[must_use]
    pub const fn tags_len(&self) -> usize {
        self.tags_len
    }

    /// What follows the header and the tags, padding included.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The first six bytes. Copied as a piece: taken apart and put together again, they are three times as many instructions.
#[inline]
const fn mac_at_front(bytes: &[u8]) -> MacAddr {
    match bytes.first_chunk() {
        Some(address) => MacAddr(*address),
        None => MacAddr([0; 6]),
    }
}

#[inline]
const fn is_tag(ethertype: EtherType) -> bool {
    matches!(ethertype, VLAN | QINQ)
}

/// An untagged header to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHeader {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// What the payload is.
    pub ethertype: EtherType,
}

impl EthernetHeader {
    /// Writes the header.
    #[inline]
    pub const fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        if let Some((dst, rest)) = out.split_first_chunk_mut()
            && let Some((src, rest)) = rest.split_first_chunk_mut()
            && let Some(ethertype) = rest.first_chunk_mut()
        {
            (*dst, *src) = (self.dst.0, self.src.0);
            *ethertype = self.ethertype.to_be_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME: [u8; 18] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0, 0, 20];

    #[test]
    fn untagged() {
        let frame = Ethernet::parse(&FRAME).unwrap();
        assert_eq!((frame.dst(), frame.src()), (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])));
        assert_eq!((frame.ethertype(), frame.tags_len(), frame.payload()), (IPV4, 0, &FRAME[14..]));
    }

    #[test]
    fn tags_are_stepped_over() {
        let mut tagged = FRAME[..12].to_vec();
        tagged.extend([0x88, 0xa8, 0x00, 0x64, 0x81, 0x00, 0x20, 0x07, 0x86, 0xdd, 0x60]);
        let frame = Ethernet::parse(&tagged).unwrap();
        assert_eq!((frame.ethertype(), frame.tags_len(), frame.payload()), (IPV6, 8, &[0x60][..]));
        for len in 0..22 {
            assert_eq!(Ethernet::parse(&tagged[..len]).err(), Some(Malformed::Truncated), "{len} bytes");
        }
    }

    #[test]
    fn a_third_tag_is_left_in_the_payload() {
        let mut tagged = FRAME[..12].to_vec();
        tagged.extend([0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0]);
        let frame = Ethernet::parse(&tagged).unwrap();
        assert_eq!((frame.ethertype(), frame.tags_len(), frame.payload()), (VLAN, 8, &[0, 3, 8, 0][..]));
    }

    #[test]
    fn shorter_than_its_header() {
        for len in 0..HEADER_LEN {
            assert_eq!(Ethernet::parse(&FRAME[..len]).err(), Some(Malformed::Truncated), "{len} bytes");
        }
        assert!(Ethernet::parse(&FRAME[..HEADER_LEN]).unwrap().payload().is_empty());
    }

    #[test]
    fn group_addresses() {
        assert!(MacAddr::BROADCAST.is_multicast());
        assert!(MacAddr([0x01, 0, 0x5e, 0, 0, 5]).is_multicast());
        assert!(!MacAddr([0x02, 0xff, 0xff, 0xff, 0xff, 0xff]).is_multicast());
    }

    #[test]
    fn addresses_as_text() {
        assert_eq!("02:00:5e:10:Fe:ff".parse(), Ok(MacAddr([2, 0, 0x5e, 0x10, 0xfe, 0xff])));
        for wrong in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
            "02:00:00:00:00:0g",
        ] {
            assert_eq!(wrong.parse::<MacAddr>(), Err(InvalidMacAddr), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn parse_takes_any_bytes(
            bytes in proptest::collection::vec(any::<u8>(), 0..64), tag in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if let (true, Some(ethertype)) = (tag, bytes.get_mut(12..14)) {
                ethertype.copy_from_slice(&VLAN.to_be_bytes());
            }
            if let Ok(frame) = Ethernet::parse(&bytes) {
                prop_assert_eq!(HEADER_LEN + frame.tags_len() + frame.payload().len(), bytes.len());
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(dst in any::<[u8; 6]>(), src in any::<[u8; 6]>()) {
            let header = EthernetHeader { dst: MacAddr(dst), src: MacAddr(src), ethertype: TEB };
            let mut out = [0; HEADER_LEN];
            header.emit(&mut out);
            let frame = Ethernet::parse(&out).unwrap();
            let read = EthernetHeader { dst: frame.dst(), src: frame.src(), ethertype: frame.ethertype() };
            prop_assert_eq!(read, header);
        }

        #[test]
        fn addresses_read_back(octets in any::<[u8; 6]>()) {
            prop_assert_eq!(MacAddr(octets).to_string().parse(), Ok(MacAddr(octets)));
        }
    }
}

//! ARP for IPv4 over Ethernet (RFC 826): the payload of an Ethernet frame of ethertype 0x0806.
//! Parsing: 1. at least 28 bytes (padding behind them is normal); 2. hardware Ethernet, protocol IPv4, their
//! lengths.

use super::{MacAddr, Malformed};
use std::net::Ipv4Addr;

/// Length of a message in bytes.
pub const LEN: usize = 28;
/// Operation: who has the target address?
pub const REQUEST: u16 = 1;
/// Operation: the sender has the sender address.
pub const REPLY: u16 = 2;
/// Hardware Ethernet (1), protocol IPv4 (0x0800), lengths 6 and 4: the first six bytes of every message.
const FORMAT: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// A checked message.
#[derive(Clone, Copy, Debug)]
pub struct Arp<'a> {
    message: &'a [u8; LEN],
}

impl<'a> Arp<'a> {
    /// Reads a message; bytes behind it are padding.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when short, [`Malformed::AddressFormat`] when not Ethernet and IPv4.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let message = bytes.first_chunk::<LEN>().ok_or(Malformed::Truncated)?;
        let [a, b, c, d, e, f, ..] = *message;
        if [a, b, c, d, e, f] != FORMAT {
            return Err(Malformed::AddressFormat);
        }
        Ok(Self { message })
    }

    /// Operation: [`REQUEST`], [`REPLY`] or another.
    #[inline]
    #[must_use]
    pub const fn operation(&self) -> u16 {
        u16::from_be_bytes([self.message[6], self.message[7]])
    }

    /// The sender's MAC address.
    #[inline]
    #[must_use]
    pub const fn sender_mac(&self) -> MacAddr {
        let m = self.message;
        MacAddr([m[8], m[9], m[10], m[11], m[12], m[13]])
    }

    /// The sender's IPv4 address.
    #[inline]
    #[must_use]
    pub const fn sender_ip(&self) -> Ipv4Addr {
        let m = self.message;
        Ipv4Addr::new(m[14], m[15], m[16], m[17])
    }

    /// The target's MAC address; meaningless in a request.
    #[inline]
    #[must_use]
    pub const fn target_mac(&self) -> MacAddr {
        let m = self.message;
        MacAddr([m[18], m[19], m[20], m[21], m[22], m[23]])
    }

    /// The target's IPv4 address.
    #[inline]
    #[must_use]
    pub const fn target_ip(&self) -> Ipv4Addr {
        let m = self.message;
        Ipv4Addr::new(m[24], m[25], m[26], m[27])
    }
}

/// A message to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpMessage {
    /// [`REQUEST`] or [`REPLY`].
    pub operation: u16,
    /// The sender's MAC address.
    pub sender_mac: MacAddr,
    /// The sender's IPv4 address.
    pub sender_ip: Ipv4Addr,
    /// The target's MAC address; zero in a request.
    pub target_mac: MacAddr,
    /// The target's IPv4 address.
    pub target_ip: Ipv4Addr,
}

impl ArpMessage {
    /// Writes the message.
    #[inline]
    pub const fn emit(&self, out: &mut [u8; LEN]) {
        let [f0, f1, f2, f3, f4, f5] = FORMAT;
        let [o0, o1] = self.operation.to_be_bytes();
        let [a, b, c, d, e, f] = self.sender_mac.0;
        let [g, h, i, j] = self.sender_ip.octets();
        let [k, l, m, n, o, p] = self.target_mac.0;
        let [q, r, s, t] = self.target_ip.octets();
        *out = [f0, f1, f2, f3, f4, f5, o0, o1, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// "Who has 192.0.2.2? Tell 192.0.2.1", laid out by hand from RFC 826.
    const WHO_HAS: [u8; LEN] =
        [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2];

    const REQUEST_MESSAGE: ArpMessage = ArpMessage {
        operation: REQUEST,
        sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        sender_ip: Ipv4Addr::new(192, 0, 2, 1),
        target_mac: MacAddr([0; 6]),
        target_ip: Ipv4Addr::new(192, 0, 2, 2),
    };

    fn read(arp: &Arp<'_>) -> ArpMessage {
        ArpMessage {
            operation: arp.operation(),
            sender_mac: arp.sender_mac(),
            sender_ip: arp.sender_ip(),
            target_mac: arp.target_mac(),
            target_ip: arp.target_ip(),
        }
    }

    #[test]
    fn a_request_both_ways() {
        let mut padded = WHO_HAS.to_vec();
        padded.resize(46, 0);
        assert_eq!(read(&Arp::parse(&padded).unwrap()), REQUEST_MESSAGE);
        let mut out = [0xaa; LEN];
        REQUEST_MESSAGE.emit(&mut out);
        assert_eq!(out, WHO_HAS);
    }

    #[test]
    fn truncated() {
        for len in 0..LEN {
            assert_eq!(Arp::parse(&WHO_HAS[..len]).err(), Some(Malformed::Truncated), "{len} bytes");
        }
    }

    #[test]
    fn other_hardware_and_protocols_are_refused() {
        for byte in 0..FORMAT.len() {
            let mut other = WHO_HAS;
            other[byte] ^= 0x10;
            assert_eq!(Arp::parse(&other).err(), Some(Malformed::AddressFormat), "byte {byte}");
        }
    }

    proptest! {
        #[test]
        fn parse_takes_any_bytes(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..64), plausible in any::<bool>(),
        ) {
            if let (true, Some(format)) = (plausible, bytes.first_chunk_mut()) {
                *format = FORMAT;
            }
            if let Ok(arp) = Arp::parse(&bytes) {
                prop_assert_eq!(&arp.target_ip().octets(), &bytes[24..28]);
                prop_assert_eq!(&bytes[..6], FORMAT);
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            macs in any::<[[u8; 6]; 2]>(), addresses in any::<[[u8; 4]; 2]>(), operation in any::<u16>(),
        ) {
            let message = ArpMessage {
                operation,
                sender_mac: MacAddr(macs[0]),
                sender_ip: addresses[0].into(),
                target_mac: MacAddr(macs[1]),
                target_ip: addresses[1].into(),
            };
            let mut out = [0; LEN];
            message.emit(&mut out);
            prop_assert_eq!(read(&Arp::parse(&out).unwrap()), message);
        }
    }
}

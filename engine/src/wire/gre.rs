//! GRE (RFC 2784) with key and sequence number (RFC 2890), version 0.
//! Parsing: 1. the four bytes of flags and protocol; 2. version and the flags a receiver must refuse; 3. the
//! optional words in their order: checksum, key, sequence number; 4. the rest is the payload.
//! Emitting: 1. the same in the same order, in front of a payload that is in its place already; 2. the
//! checksum over both.

use super::{Malformed, Sum, ethernet};

/// Checksum and Reserved1 are present: bit 0 (RFC 2784 §2.2).
const CHECKSUM: u16 = 0x8000;
/// The key is present: bit 2 (RFC 2890 §2).
const KEY: u16 = 0x2000;
/// The sequence number is present: bit 3 (RFC 2890 §2).
const SEQUENCE: u16 = 0x1000;
/// Bits 1, 4 and 5, which a receiver without RFC 1701 (routing, strict source route, recursion) must refuse
/// (RFC 2784 §2.3; RFC 2890 §2 gives a meaning to bits 2 and 3). Bits 6 to 12 are ignored.
const REFUSED: u16 = 0x4c00;
/// Bits 13 to 15, the version, which must be 0 (RFC 2784 §2.3.1).
const VERSION: u16 = 0x0007;
/// Length of the fixed part, and of each optional word, in bytes.
const WORD: usize = 4;

/// A header in which nothing but a key is to be checked, as nearly all are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Protocol type: the ethertype of the payload (RFC 2784 §2.4).
    pub protocol: u16,
    /// The key, if present.
    pub key: Option<u32>,
    /// Length of the header in bytes: 4 or 8.
    pub header_len: usize,
}

impl Plain {
    /// Reads the first eight bytes of a packet; `None` where any bit of its flags is set but the key's.
    #[inline(always)] // on the path of every packet
    #[must_use]
    pub const fn parse(front: &[u8; 2 * WORD]) -> Option<Self> {
        let [f0, f1, p0, p1, k0, k1, k2, k3] = *front;
        let protocol = u16::from_be_bytes([p0, p1]);
        match u16::from_be_bytes([f0, f1]) {
            0 => Some(Self { protocol, key: None, header_len: WORD }),
            KEY => {
                let key = Some(u32::from_be_bytes([k0, k1, k2, k3]));
                Some(Self { protocol, key, header_len: 2 * WORD })
            }
            _ => None,
        }
    }
}

/// A checked packet.
#[derive(Clone, Copy, Debug)]
pub struct Gre<'a> {
    packet: &'a [u8],
    protocol: u16,
    checksum: Option<u16>,
    key: Option<u32>,
    sequence: Option<u32>,
    payload: &'a [u8],
}

impl<'a> Gre<'a> {
    /// Reads a packet, which must end where the delivery header says (no link padding). The checksum is not
    /// verified here: see [`Self::checksum_ok`].
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when shorter than its flags say, [`Malformed::Version`] when not 0,
    /// [`Malformed::Flags`] when bit 1, 4 or 5 is set.
    #[inline(always)] // on the path of every packet; a call would hand the view over in memory
    pub fn parse(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, mut payload) = packet.split_first_chunk::<WORD>().ok_or(Malformed::Truncated)?;
        let flags = u16::from_be_bytes([fixed[0], fixed[1]]);
        let protocol = u16::from_be_bytes([fixed[2], fixed[3]]);
        if flags & (REFUSED | VERSION) != 0 {
            return Err(if flags & VERSION != 0 { Malformed::Version } else { Malformed::Flags });
        }
        let checksum = take_word(&mut payload, flags & CHECKSUM != 0)?.map(|word| (word >> 16) as u16);
        let key = take_word(&mut payload, flags & KEY != 0)?;
        let sequence = take_word(&mut payload, flags & SEQUENCE != 0)?;
        Ok(Self { packet, protocol, checksum, key, sequence, payload })
    }

    /// Protocol type: the ethertype of the payload (RFC 2784 §2.4).
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> u16 {
        self.protocol
    }

    /// The checksum field, if present.
    #[inline]
    #[must_use]
    pub const fn checksum(&self) -> Option<u16> {
        self.checksum
    }

    /// The key, if present.
    #[inline]
    #[must_use]
    pub const fn key(&self) -> Option<u32> {
        self.key
    }

    /// The sequence number, if present.
    #[inline]
    #[must_use]
    pub const fn sequence(&self) -> Option<u32> {
        self.sequence
    }

    /// Is this an IP packet behind a header in which nothing but a key is to be checked?
    #[inline]
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.checksum.is_none()
            && self.sequence.is_none()
            && matches!(self.protocol, ethernet::IPV4 | ethernet::IPV6)
    }

    /// Length of the header in bytes: 4 to 16.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.packet.len() - self.payload.len()
    }

    /// What follows the header.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the checksum over header and payload is right (RFC 2784 §2.5); true where none is present.
    #[inline]
    #[must_use]
    pub fn checksum_ok(&self) -> bool {
        self.checksum.is_none() || Sum::new().with(self.packet).is_valid()
    }
}

/// Takes the word at the front of `bytes`, in host order, where it is `present`.
#[inline]
fn take_word(bytes: &mut &[u8], present: bool) -> Result<Option<u32>, Malformed> {
    if !present {
        return Ok(None);
    }
    let (word, rest) = bytes.split_first_chunk::<WORD>().ok_or(Malformed::Truncated)?;
    *bytes = rest;
    Ok(Some(u32::from_be_bytes(*word)))
}

/// A header to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GreHeader {
    /// Protocol type: the ethertype of the payload.
    pub protocol: u16,
    /// Whether to send a checksum over header and payload.
    pub checksum: bool,
    /// The key to send, if any.
    pub key: Option<u32>,
    /// The sequence number to send, if any.
    pub sequence: Option<u32>,
}

#[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
impl GreHeader {
    /// Length of the header in bytes: 4 to 16.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        WORD + WORD
            * (self.checksum as usize + self.key.is_some() as usize + self.sequence.is_some() as usize)
    }

    /// Writes the header at the front of `packet`: room for [`Self::len`] bytes, then the payload, already
    /// there.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], with nothing written, when there is no room for the header.
    #[inline]
    pub fn emit(&self, packet: &mut [u8]) -> Result<(), Malformed> {
        if packet.len() < self.len() {
            return Err(Malformed::Truncated);
        }
        let mut room = &mut *packet;
        put_word(&mut room, Some(u32::from(self.flags()) << 16 | u32::from(self.protocol)))?;
        put_word(&mut room, self.checksum.then_some(0))?;
        put_word(&mut room, self.key)?;
        put_word(&mut room, self.sequence)?;
        if self.checksum {
            let check = Sum::new().with(packet).finish();
            let header = packet.first_chunk_mut::<{ 2 * WORD }>().ok_or(Malformed::Truncated)?;
            [header[4], header[5]] = check.to_be_bytes();
        }
        Ok(())
    }

    #[inline]
    const fn flags(&self) -> u16 {
        let checksum = if self.checksum { CHECKSUM } else { 0 };
        let key = if self.key.is_some() { KEY } else { 0 };
        let sequence = if self.sequence.is_some() { SEQUENCE } else { 0 };
        checksum | key | sequence
    }
}

/// Writes a word at the front of `room` and leaves the rest there; nothing for `None`.
#[inline]
fn put_word(room: &mut &mut [u8], word: Option<u32>) -> Result<(), Malformed> {
    if let Some(word) = word {
        let (slot, rest) =
            std::mem::take(room).split_first_chunk_mut::<WORD>().ok_or(Malformed::Truncated)?;
        *slot = word.to_be_bytes();
        *room = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ethernet;
    use proptest::prelude::*;

    /// Checksum, key 42 and sequence number 7 in front of "ping"; the words sum to 0xb000 + 0x0800 + 42 + 7 +
    /// 0x7069 + 0x6e67 = 0x19701, folded 0x9702, hence the checksum 0x68fd.
    const FULL: [u8; 20] = [0xb0, 0, 8, 0, 0x68, 0xfd, 0, 0, 0, 0, 0, 42, 0, 0, 0, 7, b'p', b'i', b'n', b'g'];

    const FULL_HEADER: GreHeader =
        GreHeader { protocol: ethernet::IPV4, checksum: true, key: Some(42), sequence: Some(7) };

    fn read(gre: &Gre<'_>) -> GreHeader {
        GreHeader {
            protocol: gre.protocol(),
            checksum: gre.checksum().is_some(),
            key: gre.key(),
            sequence: gre.sequence(),
        }
    }

    #[test]
    fn all_fields_both_ways() {
        let gre = Gre::parse(&FULL).unwrap();
        assert_eq!((read(&gre), gre.checksum(), gre.checksum_ok()), (FULL_HEADER, Some(0x68fd), true));
        assert_eq!((gre.header_len(), gre.payload()), (16, &b"ping"[..]));
        let mut out = [0xff; 20];
        out[16..].copy_from_slice(b"ping");
        FULL_HEADER.emit(&mut out).unwrap();
        assert_eq!(out, FULL);
    }

    #[test]
    fn the_plain_header_is_four_bytes() {
        let gre = Gre::parse(&[0, 0, 0x86, 0xdd, 0x60]).unwrap();
        assert_eq!((gre.protocol(), gre.header_len(), gre.payload()), (ethernet::IPV6, 4, &[0x60][..]));
        assert_eq!((gre.checksum(), gre.key(), gre.sequence(), gre.checksum_ok()), (None, None, None, true));
    }

    #[test]
    fn every_truncation_of_every_header_is_refused() {
        for flags in 0..8_u8 {
            let bytes = [(flags & 1) << 7 | (flags & 6) << 3, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let len = 4 + 4 * flags.count_ones() as usize;
            for cut in 0..len {
                assert_eq!(
                    Gre::parse(&bytes[..cut]).err(),
                    Some(Malformed::Truncated),
                    "{flags:03b}: {cut} bytes"
                );
            }
            assert_eq!(Gre::parse(&bytes[..len]).unwrap().header_len(), len);
        }
    }

    /// RFC 2784 §2.3 bit by bit, bit 0 being the most significant.
    #[test]
    fn flag_bits() {
        for bit in 0..16 {
            let mut bytes = [0; 16];
            bytes[..2].copy_from_slice(&(0x8000_u16 >> bit).to_be_bytes());
            let refused = match bit {
                1 | 4 | 5 => Some(Malformed::Flags),
                13..=15 => Some(Malformed::Version),
                _ => None,
            };
            assert_eq!(Gre::parse(&bytes).err(), refused, "bit {bit}");
        }
    }

    #[test]
    fn every_flipped_bit_breaks_the_checksum() {
        for bit in 0..FULL.len() * 8 {
            let mut wrong = FULL;
            wrong[bit / 8] ^= 1 << (bit % 8);
            // Without its flag (bit 0) the checksum is not one any more.
            let unnoticed = Gre::parse(&wrong).is_ok_and(|gre| gre.checksum_ok());
            assert_eq!(unnoticed, bit == 7, "bit {bit}");
        }
    }

    #[test]
    fn reserved1_is_ignored_but_summed() {
        let mut bytes = FULL;
        bytes[6] += 1;
        bytes[4] -= 1;
        assert!(Gre::parse(&bytes).unwrap().checksum_ok());
    }

    #[test]
    fn no_room_for_the_header() {
        for len in 0..16 {
            let mut room = vec![0xaa; len];
            assert_eq!(FULL_HEADER.emit(&mut room), Err(Malformed::Truncated));
            assert!(room.iter().all(|&byte| byte == 0xaa));
        }
    }

    proptest! {
        #[test]
        fn parse_takes_any_bytes(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..64), plausible in any::<bool>(),
        ) {
            if let (true, [first, second, ..]) = (plausible, &mut bytes[..]) {
                (*first, *second) = (*first & 0xb3, *second & 0xf8);
            }
            if let Some(plain) = bytes.first_chunk().and_then(Plain::parse) {
                let gre = Gre::parse(&bytes).unwrap();
                let same = Plain { protocol: gre.protocol(), key: gre.key(), header_len: gre.header_len() };
                prop_assert_eq!((plain, gre.checksum(), gre.sequence()), (same, None, None));
            }
            if let Ok(gre) = Gre::parse(&bytes) {
                prop_assert_eq!(gre.header_len() + gre.payload().len(), bytes.len());
                prop_assert_eq!(gre.header_len(), read(&gre).len());
                let _ = gre.checksum_ok();
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            protocol in any::<u16>(), checksum in any::<bool>(), key in any::<Option<u32>>(),
            sequence in any::<Option<u32>>(), payload in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let header = GreHeader { protocol, checksum, key, sequence };
            let mut packet = vec![0xee; header.len()];
            packet.extend(&payload);
            header.emit(&mut packet).unwrap();
            let gre = Gre::parse(&packet).unwrap();
            prop_assert_eq!((read(&gre), gre.payload()), (header, &payload[..]));
            prop_assert!(gre.checksum_ok());
        }
    }
}

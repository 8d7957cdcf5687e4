//! ESP (RFC 4303) as it lies on the wire with an AEAD of 8-byte IV and 16-byte ICV, which are all the suites
//! there are (RFC 4106, RFC 7634): SPI, sequence number, IV, ciphertext, ICV. The ciphertext holds payload,
//! padding, pad length and next header; the trailer is written before sealing and read after opening. Sealing
//! itself is not done here.

use super::Malformed;

/// Length of SPI and sequence number in bytes (RFC 4303 §2).
pub const HEADER_LEN: usize = 8;
/// Length of the IV in bytes (RFC 4106 §3.1, RFC 7634 §2).
pub const IV_LEN: usize = 8;
/// Length of the integrity check value in bytes (RFC 4106 §6, RFC 7634 §2).
pub const ICV_LEN: usize = 16;
/// Length of the pad length and next header octets that end the plaintext, in bytes (RFC 4303 §2.5, §2.6).
pub const TRAILER_LEN: usize = 2;
/// The ciphertext must be a multiple of this, in bytes (RFC 4303 §2.4).
pub const ALIGNMENT: usize = 4;

/// 1, 2, 3 and so on up to the longest padding (RFC 4303 §2.4).
static PADDING: [u8; 255] = {
    let mut padding = [0; 255];
    let mut rest: &mut [u8] = &mut padding;
    let mut value = 1_u8;
    while let Some((octet, tail)) = rest.split_first_mut() {
        *octet = value;
        value = value.wrapping_add(1);
        rest = tail;
    }
    padding
};
/// The first 16 octets of padding: as much as alignment to 16 ever needs, moved as one word.
const SHORT: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

/// A checked packet, still sealed.
#[derive(Clone, Copy, Debug)]
pub struct Esp<'a> {
    header: &'a [u8; HEADER_LEN],
    iv: &'a [u8; IV_LEN],
    rest: &'a [u8],
}

impl<'a> Esp<'a> {
    /// Reads a packet, which must end where the delivery header says (no link padding).
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when too short for header, IV, trailer and ICV, [`Malformed::Length`] when
    /// the ciphertext is not a multiple of four bytes.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        const { assert!((HEADER_LEN + IV_LEN + ICV_LEN).is_multiple_of(ALIGNMENT)) };
        // A trailer is shorter than the least ciphertext that is aligned. Asked of the whole length, once.
        if bytes.len() < HEADER_LEN + IV_LEN + ALIGNMENT + ICV_LEN || !bytes.len().is_multiple_of(ALIGNMENT) {
            let length = bytes.len() >= HEADER_LEN + IV_LEN + TRAILER_LEN + ICV_LEN;
            return Err(if length { Malformed::Length } else { Malformed::Truncated });
        }
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let (iv, rest) = rest.split_first_chunk::<IV_LEN>().ok_or(Malformed::Truncated)?;
        Ok(Self { header, iv, rest })
    }

    /// Security parameters index.
    #[inline]
    #[must_use]
    pub const fn spi(&self) -> u32 {
        let h = self.header;
        u32::from_be_bytes([h[0], h[1], h[2], h[3]])
    }

    /// Sequence number; with ESN its low half (RFC 4303 §2.2.1).
    #[inline]
    #[must_use]
    pub const fn sequence(&self) -> u32 {
        let h = self.header;
        u32::from_be_bytes([h[4], h[5], h[6], h[7]])
    }

    /// SPI and sequence number as they lie: the associated data without ESN (RFC 4106 §5).
    #[inline]
    #[must_use]
    pub const fn header(&self) -> &'a [u8; HEADER_LEN] {
        self.header
    }

    /// The explicit IV, the last eight bytes of the nonce.
    #[inline]
    #[must_use]
    pub const fn iv(&self) -> &'a [u8; IV_LEN] {
        self.iv
    }

    /// Ciphertext and ICV: what is opened. At least 20 bytes and a multiple of four.
    #[inline]
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// A header to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspHeader {
    /// Security parameters index.
    pub spi: u32,
    /// Sequence number; with ESN its low half.
    pub sequence: u32,
}

impl EspHeader {
    /// Writes SPI and sequence number.
    #[inline]
    pub const fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        *out = ((self.spi as u64) << 32 | self.sequence as u64).to_be_bytes();
    }
}

/// Octets of padding that make a payload of `payload_len` bytes, padding and trailer a multiple of
/// `alignment`: a power of two of at most 256 (RFC 4303 §2.4). Less than `alignment`.
#[inline]
#[must_use]
pub const fn pad_len(payload_len: usize, alignment: usize) -> u8 {
    (payload_len.wrapping_add(TRAILER_LEN).wrapping_neg() & alignment.wrapping_sub(1)) as u8
}

/// Writes `pad_len` octets of padding, the pad length and the next header at the front of `room`, which is
/// everything behind the payload. Up to 16 bytes of `room` are written whatever the padding: the ICV, which
/// comes later, lies there.
///
/// # Errors
/// [`Malformed::Truncated`], with nothing written, when `room` is shorter than padding and trailer.
#[inline]
pub fn write_trailer(room: &mut [u8], pad_len: u8, next_header: u8) -> Result<(), Malformed> {
    let trailer_at = usize::from(pad_len);
    if room.len() < trailer_at + TRAILER_LEN {
        return Err(Malformed::Truncated);
    }
    // One store of fixed size where it fits, as it does in front of an ICV, in place of a call to copy a few
    // bytes.
    match room.first_chunk_mut::<16>() {
        Some(front) if trailer_at <= SHORT.len() => *front = SHORT,
        _ => pad(room, trailer_at),
    }
    let trailer = room.get_mut(trailer_at..).and_then(|rest| rest.first_chunk_mut::<TRAILER_LEN>());
    *trailer.ok_or(Malformed::Truncated)? = [pad_len, next_header];
    Ok(())
}

/// Writes padding of any length, octet by octet.
#[cold]
fn pad(room: &mut [u8], len: usize) {
    for (octet, value) in room.iter_mut().zip(&PADDING).take(len) {
        *octet = *value;
    }
}

/// Splits an opened plaintext into payload and next header, and checks that the padding is 1, 2, 3 and so on
/// (RFC 4303 §2.4 says that a receiver should).
///
/// # Errors
/// [`Malformed::Truncated`] under two bytes, [`Malformed::Padding`] when the padding is longer than the
/// plaintext or holds other octets.
#[inline]
pub fn split_trailer(plaintext: &[u8]) -> Result<(&[u8], u8), Malformed> {
    match plaintext.last_chunk::<{ SHORT.len() + TRAILER_LEN }>() {
        // Nearly all: one look at the end of the plaintext.
        Some(&[ref last @ .., pad_len, next_header]) if usize::from(pad_len) <= SHORT.len() => {
            let payload_len = plaintext.len() - TRAILER_LEN - usize::from(pad_len);
            let payload = plaintext.get(..payload_len).filter(|_| ends_in_padding(*last, pad_len));
            Ok((payload.ok_or(Malformed::Padding)?, next_header))
        }
        _ => split_other_trailer(plaintext),
    }
}

/// The same of a short plaintext or with long padding.
#[cold]
fn split_other_trailer(plaintext: &[u8]) -> Result<(&[u8], u8), Malformed> {
    let (padded, &[pad_len, next_header]) =
        plaintext.split_last_chunk::<TRAILER_LEN>().ok_or(Malformed::Truncated)?;
    let payload_len = padded.len().checked_sub(usize::from(pad_len)).ok_or(Malformed::Padding)?;
    let (payload, padding) = padded.split_at_checked(payload_len).ok_or(Malformed::Padding)?;
    if is_padding(padding) { Ok((payload, next_header)) } else { Err(Malformed::Padding) }
}

/// Whether up to 255 octets are padding, compared octet by octet.
fn is_padding(octets: &[u8]) -> bool {
    octets.iter().zip(&PADDING).all(|(octet, value)| octet == value)
}

/// For each length of padding up to 16: 16 octets that end in it, and which of them it is, as words.
static ENDS: [([u8; 16], [u8; 16]); 17] = {
    let mut ends = [([0; 16], [0; 16]); 17];
    let mut rest: &mut [([u8; 16], [u8; 16])] = &mut ends;
    let mut length = 0;
    while let Some(((octets, mask), longer)) = rest.split_first_mut() {
        let before = u128::BITS - length * 8;
        *octets = u128::from_le_bytes(SHORT).unbounded_shl(before).to_le_bytes();
        *mask = u128::MAX.unbounded_shl(before).to_le_bytes();
        length += 1;
        rest = longer;
    }
    ends
};

/// Whether the last `pad_len` octets (0 to 16) of `last` are padding. From a table: shifts of 128 bits by what is known only at
/// run time are five times as many instructions.
#[inline]
fn ends_in_padding(last: [u8; 16], pad_len: u8) -> bool {
    ENDS.get(usize::from(pad_len)).is_some_and(|(octets, mask)| {
        (u128::from_ne_bytes(last) ^ u128::from_ne_bytes(*octets)) & u128::from_ne_bytes(*mask) == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(ciphertext_len: usize) -> Vec<u8> {
        let mut packet = vec![0, 0, 0x10, 1, 0, 0, 0, 5, 0x80, 1, 2, 3, 4, 5, 6, 7];
        packet.resize(HEADER_LEN + IV_LEN + ciphertext_len + ICV_LEN, 0xcc);
        packet
    }

    #[test]
    fn a_known_packet() {
        let packet = packet(8);
        let esp = Esp::parse(&packet).unwrap();
        assert_eq!((esp.spi(), esp.sequence()), (0x1001, 5));
        assert_eq!(
            (esp.header().as_slice(), esp.iv(), esp.rest()),
            (&packet[..8], &[0x80, 1, 2, 3, 4, 5, 6, 7], &[0xcc; 24][..])
        );
        let mut out = [0; 8];
        EspHeader { spi: 0x1001, sequence: 5 }.emit(&mut out);
        assert_eq!(out, packet[..8]);
    }

    #[test]
    fn lengths() {
        let long = packet(64);
        for len in 0..long.len() {
            let expected = match len {
                0..34 => Some(Malformed::Truncated),
                _ if len % 4 != 0 => Some(Malformed::Length),
                _ => None,
            };
            assert_eq!(Esp::parse(&long[..len]).err(), expected, "{len} bytes");
        }
    }

    #[test]
    fn padding_fills_up_to_the_alignment() {
        assert_eq!([pad_len(0, 4), pad_len(2, 4), pad_len(3, 4), pad_len(1476, 16)], [2, 0, 3, 10]);
        for payload_len in 0..600 {
            for alignment in [4, 16, 256] {
                let pad = usize::from(pad_len(payload_len, alignment));
                assert!(pad < alignment && (payload_len + pad + TRAILER_LEN).is_multiple_of(alignment));
            }
        }
    }

    /// Every length of padding, in a room that is just large enough and in one with space for the ICV.
    #[test]
    fn trailers_of_every_length_read_back() {
        for pad in 0..=u8::MAX {
            for behind in [0, ICV_LEN] {
                let len = usize::from(pad) + TRAILER_LEN;
                let mut packet = vec![0xee; 5 + len + behind];
                write_trailer(&mut packet[5..], pad, 47).unwrap();
                let expected: Vec<u8> = (1..=pad).chain([pad, 47]).collect();
                assert_eq!(packet[5..5 + len], expected, "{pad} octets");
                assert_eq!(split_trailer(&packet[..5 + len]), Ok((&[0xee; 5][..], 47)));
                assert_eq!(split_trailer(&packet[5..5 + len]), Ok((&[][..], 47)));
            }
        }
    }

    #[test]
    fn every_wrong_octet_of_padding_is_found() {
        for payload_len in [0, 40] {
            for pad in 1..=u8::MAX {
                let mut plaintext = vec![0xee; payload_len + usize::from(pad) + TRAILER_LEN];
                write_trailer(&mut plaintext[payload_len..], pad, 47).unwrap();
                for octet in payload_len..payload_len + usize::from(pad) {
                    plaintext[octet] ^= 0x80;
                    assert_eq!(split_trailer(&plaintext), Err(Malformed::Padding), "octet {octet} of {pad}");
                    plaintext[octet] ^= 0x80;
                }
            }
        }
    }

    #[test]
    fn padding_beyond_the_plaintext() {
        assert_eq!(split_trailer(&[]), Err(Malformed::Truncated));
        assert_eq!(split_trailer(&[59]), Err(Malformed::Truncated));
        assert_eq!(split_trailer(&[0, 59]), Ok((&[][..], 59)));
        assert_eq!(split_trailer(&[1, 59]), Err(Malformed::Padding));
        assert_eq!(split_trailer(&[1, 2, 2, 59]), Ok((&[][..], 59)));
        assert_eq!(split_trailer(&[1, 2, 3, 59]), Err(Malformed::Padding));
    }

    #[test]
    fn no_room_for_the_trailer() {
        for pad in [0_u8, 1, 15, 16, 17, 255] {
            let mut room = vec![0xaa; usize::from(pad) + 1];
            assert_eq!(write_trailer(&mut room, pad, 47), Err(Malformed::Truncated));
            assert!(room.iter().all(|&byte| byte == 0xaa));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(esp) = Esp::parse(&bytes) {
                prop_assert_eq!(esp.rest().len() + HEADER_LEN + IV_LEN, bytes.len());
            }
            if let Ok((payload, _)) = split_trailer(&bytes) {
                prop_assert!(payload.len() + TRAILER_LEN <= bytes.len());
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(spi in any::<u32>(), sequence in any::<u32>()) {
            let mut packet = packet(4);
            EspHeader { spi, sequence }.emit(packet.first_chunk_mut().unwrap());
            let esp = Esp::parse(&packet).unwrap();
            prop_assert_eq!((esp.spi(), esp.sequence()), (spi, sequence));
        }
    }
}

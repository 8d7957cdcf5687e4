//! TCP (RFC 9293) as a router meets it: the view of a segment, and the maximum segment size lowered in place.
//! Parsing: 1. the fixed 20 bytes; 2. options as far as the data offset says. [`lower_mss`]: 1. each option in
//! turn, up to the end, or one that contradicts its length; 2. a size above the limit is replaced, and the
//! checksum follows.

use super::{Malformed, checksum};

/// Length of the header without options, in bytes.
pub const HEADER_LEN: usize = 20;
/// Where the flags stand, in bytes from the start of the header.
pub const FLAGS_AT: usize = 13;
/// The flag of a segment that opens a connection, or agrees to (RFC 9293 §3.1).
pub const SYN: u8 = 0x02;
/// Where the checksum stands, in bytes from the start of the header.
const CHECKSUM_AT: usize = 16;

/// Option: end of the list, one byte (RFC 9293 §3.1).
const END: u8 = 0;
/// Option: nothing, one byte.
const NOTHING: u8 = 1;
/// Option: maximum segment size, four bytes.
const MSS: u8 = 2;
/// Length of [`MSS`], kind and length included, in bytes.
const MSS_LEN: u8 = 4;

/// A checked segment.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Reads a segment: the payload of an IP packet. The checksum is not looked at.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] under 20 bytes, [`Malformed::Length`] when the data offset is under 20 or beyond
    /// the bytes.
    pub fn parse(segment: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = segment.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        // The data offset, in words of four bytes, is the upper half of octet 12 (RFC 9293 §3.1).
        let header_len = usize::from(header[12] >> 4) * 4;
        let options_len = header_len.checked_sub(HEADER_LEN).ok_or(Malformed::Length)?;
        let (options, payload) = rest.split_at_checked(options_len).ok_or(Malformed::Length)?;
        Ok(Self { header, options, payload })
    }

    /// Whether it opens a connection, or agrees to.
    #[must_use]
    pub const fn is_syn(&self) -> bool {
        self.header[FLAGS_AT] & SYN != 0
    }

    /// Options, as they are: 0 to 40 bytes.
    #[must_use]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// What follows the header.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The maximum segment size that the sender takes, in bytes, if it says one: the first such option.
    #[must_use]
    pub fn mss(&self) -> Option<u16> {
        Options { bytes: self.options, at: 0 }.find_map(|at| {
            let size = self.options.get(at..)?.first_chunk::<2>()?;
            Some(u16::from_be_bytes(*size))
        })
    }
}

/// The places of all maximum segment sizes among options, in bytes from their start. Ends at the first option that
/// contradicts its length.
struct Options<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Options<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            let rest = self.bytes.get(self.at..)?;
            let (len, found) = match *rest {
                [END, ..] | [] => return None,
                [NOTHING, ..] => (1, false),
                [MSS, MSS_LEN, _, _, ..] => (usize::from(MSS_LEN), true),
                [_, len @ 2..=u8::MAX, ..] => (usize::from(len), false),
                _ => return None,
            };
            let size_at = self.at + 2;
            self.at += len;
            if found {
                return Some(size_at);
            }
        }
    }
}

/// Lowers every maximum segment size option of `segment` that is above `limit` bytes to `limit`, and keeps the
/// checksum as right or wrong as it was. Returns whether something changed; nothing does in what is no segment.
pub fn lower_mss(segment: &mut [u8], limit: u16) -> bool {
    let Ok(tcp) = Tcp::parse(segment) else { return false };
    let options_len = tcp.options.len();
    let Some((header, rest)) = segment.split_first_chunk_mut::<HEADER_LEN>() else { return false };
    let Some(options) = rest.get_mut(..options_len) else { return false };
    let mut at = 0;
    let mut changed = false;
    while let Some(size_at) = (Options { bytes: options, at }).next() {
        at = size_at + 2;
        let Some(size) = options.get_mut(size_at..).and_then(|rest| rest.first_chunk_mut::<2>()) else {
            break;
        };
        let (old, new) = (u16::from_be_bytes(*size), limit);
        if old <= new {
            continue;
        }
        *size = new.to_be_bytes();
        // At an odd place its bytes count in the halves of two words the other way round (RFC 1071 §2 B).
        let (old, new) = if size_at % 2 == 0 { (old, new) } else { (old.swap_bytes(), new.swap_bytes()) };
        let [high, low] = [header[CHECKSUM_AT], header[CHECKSUM_AT + 1]];
        let check = checksum::update(u16::from_be_bytes([high, low]), old, new);
        [header[CHECKSUM_AT], header[CHECKSUM_AT + 1]] = check.to_be_bytes();
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A SYN from port 1024 to port 80 with these options, its checksum that of a pseudo header that sums to
    /// nothing.
    fn syn(options: &[u8]) -> Vec<u8> {
        let words = options.len().div_ceil(4) as u8;
        let mut segment =
            vec![4, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, (5 + words) << 4, SYN, 0xff, 0xff, 0, 0, 0, 0];
        segment.extend(options);
        segment.resize(HEADER_LEN + usize::from(words) * 4, 0);
        let check = checksum::checksum(&segment);
        segment[16..18].copy_from_slice(&check.to_be_bytes());
        segment
    }

    #[test]
    fn sizes_are_lowered_and_never_raised() {
        for (options, limit, after) in [
            (&[2, 4, 0x05, 0xb4][..], 1400, Some(1400)),
            (&[2, 4, 0x05, 0xb4], 1460, Some(1460)),
            (&[2, 4, 0x05, 0xb4], 1461, Some(1460)),
            (&[2, 4, 0x02, 0x18], 1400, Some(536)),
            (&[1, 1, 2, 4, 0x05, 0xb4], 1400, Some(1400)),
            // At an odd place.
            (&[1, 2, 4, 0x05, 0xb4], 1400, Some(1400)),
            (&[3, 3, 7, 2, 4, 0xff, 0xff, 4, 2], 1220, Some(1220)),
            // Behind the end of the list, with a wrong length, cut short, or not there.
            (&[0, 2, 4, 0x05, 0xb4], 1400, None),
            (&[2, 3, 0x05, 0xb4], 1400, None),
            (&[8, 0, 2, 4, 0x05, 0xb4], 1400, None),
            (&[8, 40, 2, 4, 0x05, 0xb4, 0, 0], 1400, None),
            (&[1, 1, 1, 1, 1, 1, 2, 4], 1400, None),
            (&[], 1400, None),
        ] {
            let before = syn(options);
            let mut segment = before.clone();
            let changed = lower_mss(&mut segment, limit);
            assert_eq!(changed, segment != before, "{options:?}");
            assert_eq!(Tcp::parse(&segment).unwrap().mss(), after, "{options:?}");
            assert_eq!(checksum::checksum(&segment), 0, "{options:?}");
        }
    }

    #[test]
    fn each_of_several_is_lowered() {
        let mut segment = syn(&[2, 4, 0x05, 0xb4, 1, 2, 4, 0x05, 0xb4]);
        assert!(lower_mss(&mut segment, 1000));
        assert_eq!(segment[20..29], [2, 4, 0x03, 0xe8, 1, 2, 4, 0x03, 0xe8]);
        assert_eq!(checksum::checksum(&segment), 0);
    }

    #[test]
    fn lengths() {
        let segment = syn(&[2, 4, 0x05, 0xb4]);
        for len in 0..24 {
            let reason = if len < 20 { Malformed::Truncated } else { Malformed::Length };
            assert_eq!(Tcp::parse(&segment[..len]).err(), Some(reason), "{len} bytes");
            assert!(!lower_mss(&mut segment.clone()[..len], 100), "{len} bytes");
        }
        let mut short = segment;
        short[12] = 0x40;
        assert_eq!(Tcp::parse(&short).err(), Some(Malformed::Length));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(
            mut segment in proptest::collection::vec(any::<u8>(), 0..80), limit in any::<u16>(),
        ) {
            let before = segment.clone();
            let changed = lower_mss(&mut segment, limit);
            prop_assert_eq!(changed, segment != before);
            if changed {
                let (old, new) = (Tcp::parse(&before).unwrap(), Tcp::parse(&segment).unwrap());
                prop_assert!(new.mss() <= old.mss() && new.mss() <= Some(limit.max(1)));
                prop_assert_eq!(new.payload(), old.payload());
                // Both zeros of the one's complement are the same sum.
                let sum = |bytes: &[u8]| u32::from(checksum::checksum(bytes)) % 0xffff;
                prop_assert_eq!(sum(&segment), sum(&before));
            }
        }

        #[test]
        fn random_options_keep_the_checksum(
            options in proptest::collection::vec(prop_oneof![0..5_u8, any::<u8>()], 0..=40),
            limit in any::<u16>(),
        ) {
            let mut segment = syn(&options);
            lower_mss(&mut segment, limit);
            prop_assert_eq!(checksum::checksum(&segment), 0);
        }
    }
}

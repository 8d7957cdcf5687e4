//! IPv4 fragmentation (RFC 791 §3.2) of a packet that does not fit a tunnel, before it goes in. Whether "don't fragment"
//! is heeded is for the caller to say; IPv6 packets are never fragmented on the way (RFC 8200 §4.5).
//!
//! 1. The options that every fragment repeats are picked out; the first fragment has them all.
//! 2. The payload is cut into pieces of a multiple of eight bytes, as long as fits.
//! 3. Each gets the header with its own length, offset and checksum. A packet that is a fragment itself keeps its place
//!    in the whole, and says after its last piece what it said before: more follows, or nothing.

use arrayvec::ArrayVec;

use crate::wire::ipv4::{self, Piece};
use crate::wire::{Ipv4, Malformed};

/// The unit of fragment offsets, in bytes (RFC 791 §3.1).
const UNIT: usize = 8;
/// The longest options, in bytes (RFC 791 §3.1).
const MAX_OPTIONS: usize = 40;
/// The highest fragment offset, in bytes: 13 bits of units.
const MAX_OFFSET: usize = 0x1fff * UNIT;
/// Option: end of the list (RFC 791 §3.1).
const END: u8 = 0;
/// Option: nothing (RFC 791 §3.1).
const NOTHING: u8 = 1;
/// The flag in an option's type: copied into every fragment (RFC 791 §3.1).
const COPIED: u8 = 0x80;

/// Why a packet was not fragmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is no IPv4 packet, or its options contradict their lengths.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The MTU leaves no room for eight bytes behind the header.
    #[error("no room for a fragment in {mtu} bytes")]
    Mtu {
        /// The MTU, in bytes.
        mtu: usize,
    },
    /// It is a fragment that reaches beyond the longest packet there can be.
    #[error("a fragment beyond 65,535 bytes")]
    TooLong,
}

/// Identifications for packets that came without a useful one: with "don't fragment" set, an identification means
/// nothing (RFC 6864 §4.1). Each is different from the 65,535 before it.
#[derive(Debug)]
pub struct Ids(u16);

impl Ids {
    /// Starts anywhere: a random number is best, so that a restart does not repeat what is still on its way.
    #[must_use]
    pub const fn new(first: u16) -> Ids {
        Ids(first)
    }

    fn take(&mut self) -> u16 {
        let id = self.0;
        self.0 = id.wrapping_add(1);
        id
    }
}

/// `packet` as fragments of at most `mtu` bytes each, in order: one, unchanged, where it fits. Fragments may be fragmented
/// further on the way; those of a packet that said "don't fragment" carry an identification out of `ids`.
///
/// # Errors
/// [`Unfit`].
pub fn fragment(packet: &[u8], mtu: usize, ids: &mut Ids) -> Result<Vec<Vec<u8>>, Unfit> {
    let ip = Ipv4::parse(packet)?;
    let total_len = usize::from(ip.total_len());
    if total_len <= mtu {
        return Ok(vec![packet.get(..total_len).unwrap_or(packet).to_vec()]);
    }
    let (fixed, _) = packet.split_first_chunk::<{ ipv4::HEADER_LEN }>().ok_or(Malformed::Truncated)?;
    let first = header(fixed, ip.options());
    let later = header(fixed, &copied(ip.options())?);
    let id = if ip.dont_fragment() { ids.take() } else { ip.id() };

    let mut fragments = Vec::new();
    let mut offset = usize::from(ip.fragment_offset());
    let mut rest = ip.payload();
    while !rest.is_empty() {
        let header = if fragments.is_empty() { &first } else { &later };
        let room = mtu.checked_sub(header.len()).filter(|&room| room >= UNIT).ok_or(Unfit::Mtu { mtu })?;
        let len = if rest.len() <= room { rest.len() } else { room / UNIT * UNIT };
        let (payload, following) = rest.split_at_checked(len).ok_or(Malformed::Length)?;
        if offset > MAX_OFFSET {
            return Err(Unfit::TooLong);
        }
        let mut fragment = [header.as_slice(), payload].concat();
        let more = ip.more_fragments() || !following.is_empty();
        ipv4::set_piece(&mut fragment, Piece { id, offset: offset as u16, more })?;
        fragments.push(fragment);
        offset += len;
        rest = following;
    }
    // Options alone, without a payload, can be too long as well.
    if fragments.is_empty() { Err(Unfit::Mtu { mtu }) } else { Ok(fragments) }
}

/// A header with these options, whose length is a multiple of four bytes; length, offset and checksum are yet to come.
fn header(fixed: &[u8; ipv4::HEADER_LEN], options: &[u8]) -> Vec<u8> {
    let mut header = [fixed.as_slice(), options].concat();
    let words = header.len() / 4;
    if let Some(first) = header.first_mut() {
        *first = 0x40 | words as u8;
    }
    header
}

/// The options that every fragment has, padded with ends of the list (RFC 791 §3.1).
fn copied(options: &[u8]) -> Result<ArrayVec<u8, MAX_OPTIONS>, Malformed> {
    let mut copied = ArrayVec::new();
    let mut rest = options;
    while let [kind, following @ ..] = rest {
        let len = match (*kind, following) {
            (END, _) => break,
            (NOTHING, _) => 1,
            (_, [len @ 2..=u8::MAX, ..]) => usize::from(*len),
            _ => return Err(Malformed::Length),
        };
        let (option, following) = rest.split_at_checked(len).ok_or(Malformed::Length)?;
        if kind & COPIED != 0 {
            copied.try_extend_from_slice(option).map_err(|_| Malformed::Length)?;
        }
        rest = following;
    }
    while copied.len() % 4 != 0 {
        copied.try_push(END).map_err(|_| Malformed::Length)?;
    }
    Ok(copied)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exception::samples::{checksum, data, fix_checksum, v4};
    use proptest::prelude::*;

    /// A packet that may be fragmented, with that identification, word of flags and offset, and these options.
    fn packet(id: u16, word: u16, options: &[u8], payload: usize) -> Vec<u8> {
        let mut packet = v4(17, &data(payload));
        packet.splice(20..20, options.iter().copied());
        packet[0] += (options.len() / 4) as u8;
        let total_len = packet.len() as u16;
        packet[2..4].copy_from_slice(&total_len.to_be_bytes());
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6..8].copy_from_slice(&word.to_be_bytes());
        fix_checksum(&mut packet);
        packet
    }

    fn cut(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        fragment(packet, mtu, &mut Ids::new(0xbeef)).unwrap()
    }

    /// Of each fragment: header length, offset, more to follow, payload.
    fn layout(fragments: &[Vec<u8>]) -> Vec<(usize, u16, bool, usize)> {
        fragments
            .iter()
            .map(|fragment| {
                let ip = Ipv4::parse(fragment).unwrap();
                (ip.header_len(), ip.fragment_offset(), ip.more_fragments(), ip.payload().len())
            })
            .collect()
    }

    #[test]
    fn three_pieces() {
        let whole = packet(0x1234, 0, &[], 1400);
        let fragments = cut(&whole, 580);
        assert_eq!(layout(&fragments), [(20, 0, true, 560), (20, 560, true, 560), (20, 1120, false, 280)]);
        for fragment in &fragments {
            assert_eq!((fragment[1], fragment[8], fragment[9]), (0xba, 17, 17), "TOS, TTL, protocol");
            assert_eq!((&fragment[4..6], &fragment[12..20]), (&[0x12, 0x34][..], &whole[12..20]));
        }
        let payload: Vec<u8> = fragments.iter().flat_map(|fragment| &fragment[20..]).copied().collect();
        assert_eq!(payload, whole[20..]);
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let whole = packet(0x1234, 0x4000, &[], 480);
        let padded = [&whole[..], &[0; 9]].concat();
        assert_eq!(cut(&padded, 500), [&whole[..]]);
        assert_eq!(cut(&whole, 499).len(), 2);
    }

    #[test]
    fn fragments_of_fragments_keep_their_place() {
        // More fragments follow, offset 800.
        let middle = packet(9, 0x2000 | 100, &[], 400);
        assert_eq!(layout(&cut(&middle, 220)), [(20, 800, true, 200), (20, 1000, true, 200)]);
        let last = packet(9, 100, &[], 401);
        assert_eq!(layout(&cut(&last, 300)), [(20, 800, true, 280), (20, 1080, false, 121)]);
    }

    #[test]
    fn dont_fragment_is_the_callers_decision_and_asks_for_an_identification() {
        let mut ids = Ids::new(0xffff);
        for (word, id) in [(0x4000, 0xffff), (0, 7), (0x4000, 0)] {
            for fragment in fragment(&packet(7, word, &[], 600), 400, &mut ids).unwrap() {
                let ip = Ipv4::parse(&fragment).unwrap();
                assert_eq!((ip.id(), ip.dont_fragment()), (id, false));
            }
        }
    }

    /// RFC 791 section 3.1: loose source route (131), strict (137) and security (130) are copied, record route (7) and time
    /// stamp (68) are not; router alert (148, RFC 2113) is.
    #[test]
    fn options_by_their_copied_flag() {
        let router_alert = [148, 4, 0, 0];
        let record_route = [7, 7, 4, 0, 0, 0, 0];
        let loose = [131, 7, 4, 10, 0, 0, 1];
        for (options, later) in [
            ([&router_alert[..], &record_route, &[0]].concat(), router_alert.to_vec()),
            ([&record_route[..], &[1]].concat(), vec![]),
            ([&[1][..], &record_route, &[1, 1], &loose, &[0, 0, 0]].concat(), [&loose[..], &[0]].concat()),
            // What follows the end of the list is no option.
            ([&[0][..], &loose].concat(), vec![]),
        ] {
            let fragments = cut(&packet(1, 0, &options, 600), 300);
            for (n, fragment) in fragments.iter().enumerate() {
                let ip = Ipv4::parse(fragment).unwrap();
                assert_eq!(ip.options(), if n == 0 { &options } else { &later }, "fragment {n}");
                assert!(fragment.len() <= 300);
            }
            assert_eq!(fragments.len(), 3);
        }
    }

    #[test]
    fn what_cannot_be_fragmented() {
        let mut ids = Ids::new(0);
        for (packet, mtu, unfit) in [
            (packet(1, 0, &[], 600), 27, Unfit::Mtu { mtu: 27 }),
            (packet(1, 0, &[148, 4, 0, 0], 600), 31, Unfit::Mtu { mtu: 31 }),
            (packet(1, 0, &[148, 4, 0, 0], 0), 23, Unfit::Mtu { mtu: 23 }),
            (packet(1, 0, &[148, 1, 0, 0], 600), 300, Malformed::Length.into()),
            (packet(1, 0, &[148, 5, 0, 0], 600), 300, Malformed::Length.into()),
            (packet(1, 0, &[1, 1, 1, 148], 600), 300, Malformed::Length.into()),
            (packet(1, 0x1ff0, &[], 600), 300, Unfit::TooLong),
            (packet(1, 0, &[], 600)[..19].to_vec(), 300, Malformed::Truncated.into()),
        ] {
            assert_eq!(fragment(&packet, mtu, &mut ids), Err(unfit));
        }
        assert_eq!(cut(&packet(1, 0, &[], 600), 28).len(), 75, "eight bytes each");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(
            mut packet in proptest::collection::vec(any::<u8>(), 0..200), first in 0x45..0x4a_u8, mtu in 0..100_usize,
        ) {
            if let [byte, _, high, low, ..] = &mut packet[..] {
                (*byte, *high, *low) = (first, 0, *low % 200);
            }
            fix_checksum(&mut packet);
            if let Ok(fragments) = fragment(&packet, mtu, &mut Ids::new(1)) {
                prop_assert!(fragments.iter().all(|fragment| fragment.len() <= mtu));
            }
        }

        #[test]
        fn pieces_cover_the_payload_in_order(
            payload in 0..3000_usize, mtu in 28..1600_usize, place in 0..0x1000_u16, more in any::<bool>(),
        ) {
            // Only the last fragment's payload may be no multiple of eight bytes.
            let payload = if more { payload / 8 * 8 } else { payload };
            let whole = packet(5, place | if more { 0x2000 } else { 0 }, &[], payload);
            let fragments = cut(&whole, mtu);
            let mut at = usize::from(place) * 8;
            for (n, fragment) in fragments.iter().enumerate() {
                prop_assert!(fragment.len() <= mtu);
                prop_assert_eq!(checksum(&[&fragment[..20]]), 0);
                let ip = Ipv4::parse(fragment).unwrap();
                let last = n + 1 == fragments.len();
                prop_assert_eq!(usize::from(ip.fragment_offset()), at);
                prop_assert_eq!(ip.more_fragments(), more || !last);
                prop_assert!(last || ip.payload().len().is_multiple_of(8));
                at += ip.payload().len();
            }
            prop_assert_eq!(at, usize::from(place) * 8 + payload);
        }
    }
}

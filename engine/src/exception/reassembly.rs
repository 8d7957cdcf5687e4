//! Reassembly of the outer fragments that tunnels' far ends send to us (RFC 791 §3.2, RFC 8200 §4.5), within hard bounds
//! of packets, fragments and bytes.
//!
//! 1. The fragment is read; one that no packet can be made of is dropped. A whole packet comes back at once, an IPv6
//!    fragment header on it taken off (RFC 6946).
//! 2. What took too long is thrown away; then the packet is looked up that the fragment belongs to, or a place for it
//!    made, if need be by throwing out the oldest: fragments of one packet come close together, so the oldest is the
//!    least likely to be completed. One source has only a share of the places.
//! 3. A fragment that was there already is dropped; one that overlaps another dooms its packet, whose fragments are all
//!    dropped, also those still to come (RFC 5722 §4, and for IPv4 likewise).
//! 4. The rest is put in its place. The last gap closed, the packet comes back as if it had never been fragmented.
//!
//! Every fragment is accounted for: it becomes part of a packet that comes back, is still held, or is counted under the
//! reason of its drop. No ICMP errors are sent about what is not completed.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::drops::Reason;
use crate::wire::ipv4::{self, Piece};
use crate::wire::{Ecn, Ipv4, Ipv6, Malformed, ipv6};

/// The longest IPv4 packet (RFC 791 §3.1), and the longest payload of an IPv6 packet (RFC 8200 §3), in bytes.
const LONGEST: usize = 65_535;
/// The unit of fragment offsets, in bytes (RFC 791 §3.1, RFC 8200 §4.5).
const UNIT: usize = 8;
/// Bytes counted for holding a fragment, beside its own.
const OVERHEAD: usize = 64;

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Packets being reassembled at a time.
    pub packets: usize,
    /// Of these, packets from one source.
    pub packets_per_source: usize,
    /// Fragments of one packet.
    pub fragments: usize,
    /// Bytes held in all: those of fragments, and 64 for each.
    pub bytes: usize,
    /// The time that a packet may take, from its first fragment on.
    pub timeout: Duration,
}

impl Default for Limits {
    /// 256 packets, 32 from one source, in 2 MiB; 128 fragments each, which are enough for 65,535 bytes in pieces of 576
    /// bytes; 60 seconds, which RFC 8200 §4.5 prescribes and RFC 1122 §3.3.2 recommends.
    fn default() -> Limits {
        Limits {
            packets: 256,
            packets_per_source: 32,
            fragments: 128,
            bytes: 2 << 20,
            timeout: Duration::from_secs(60),
        }
    }
}

/// What the fragments of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// RFC 791 §3.2.
    V4 { src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, id: u16 },
    /// RFC 8200 §4.5.
    V6 { src: Ipv6Addr, dst: Ipv6Addr, id: u32 },
}

impl Key {
    pub(super) fn same_source(&self, other: &Key) -> bool {
        match (self, other) {
            (Key::V4 { src, .. }, Key::V4 { src: other, .. }) => src == other,
            (Key::V6 { src, .. }, Key::V6 { src: other, .. }) => src == other,
            _ => false,
        }
    }
}

/// A fragment that has been read.
pub(super) struct Fragment<'a> {
    pub(super) key: Key,
    /// Where the payload stands in that of the whole packet, in bytes.
    pub(super) offset: usize,
    pub(super) more: bool,
    pub(super) payload: &'a [u8],
    ecn: Ecn,
    /// The header of the whole packet, its length fields excepted; used from the first fragment alone.
    header: Header<'a>,
}

/// Where the header of a whole packet is found in a fragment.
#[derive(Clone, Copy)]
pub(super) struct Header<'a> {
    bytes: &'a [u8],
    /// IPv6: the octet that named the fragment header, and what it is to name instead.
    next_header: Option<(usize, u8)>,
}

/// A packet of which some fragments are here.
struct Partial {
    key: Key,
    since: Duration,
    header: Option<Vec<u8>>,
    /// The length of the payload, known from the last fragment.
    len: Option<usize>,
    /// Apart, in order, by offset.
    pieces: Vec<(usize, Vec<u8>)>,
    /// Some fragment was marked [`Ecn::Ce`]; some was [`Ecn::NotEct`].
    congested: bool,
    not_ect: bool,
    /// Fragments overlapped: all that may come are dropped.
    doomed: bool,
}

/// The state. Equal calls give equal answers.
pub struct Reassembly {
    limits: Limits,
    /// Oldest first.
    partials: VecDeque<Partial>,
    /// Counted as [`Limits::bytes`] says.
    bytes: usize,
    drops: [u64; Reason::COUNT],
}

impl Reassembly {
    /// Nothing held.
    #[must_use]
    pub fn new(limits: Limits) -> Reassembly {
        Reassembly { limits, partials: VecDeque::new(), bytes: 0, drops: [0; Reason::COUNT] }
    }

    /// Fragments dropped for that reason since the beginning.
    #[must_use]
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.drops.get(reason as usize).copied().unwrap_or(0)
    }

    /// Fragments held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.partials.iter().map(|partial| partial.pieces.len()).sum()
    }

    /// Bytes held, as [`Limits::bytes`] counts them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When [`Self::expire`] next has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.partials.front().map(|oldest| oldest.since.saturating_add(self.limits.timeout))
    }

    /// Throws away what is too old.
    pub fn expire(&mut self, now: Duration) {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.remove(0, Reason::FragmentLimit);
        }
    }

    /// Takes `packet`, an IP packet to an address of ours. Returns the whole packet where this completes one; a packet
    /// that is no fragment is whole already.
    pub fn push(&mut self, packet: &[u8], now: Duration) -> Option<Vec<u8>> {
        self.expire(now);
        let fragment = match read(packet) {
            Ok(Read::Fragment(fragment)) => fragment,
            Ok(Read::Whole(packet)) => return Some(packet),
            Err(_) => {
                self.count(Reason::IpMalformed, 1);
                return None;
            }
        };
        let found = self.partials.iter().position(|partial| partial.key == fragment.key);
        let index = found.or_else(|| self.make_place(fragment.key, now));
        let added = index.ok_or(Reason::FragmentLimit).and_then(|index| self.add(index, &fragment));
        added.unwrap_or_else(|reason| {
            self.count(reason, 1);
            None
        })
    }

    /// Step 2, for a packet of which nothing is here yet. `None` where the limits allow none at all.
    fn make_place(&mut self, key: Key, now: Duration) -> Option<usize> {
        let of_source = |partial: &&Partial| partial.key.same_source(&key);
        if self.partials.iter().filter(of_source).count() >= self.limits.packets_per_source {
            let oldest = self.partials.iter().position(|partial| of_source(&partial))?;
            self.remove(oldest, Reason::FragmentLimit);
        }
        if self.partials.len() >= self.limits.packets {
            self.remove(0, Reason::FragmentLimit);
        }
        if self.partials.len() >= self.limits.packets {
            return None;
        }
        self.partials.push_back(Partial::new(key, now));
        self.partials.len().checked_sub(1)
    }

    /// Steps 3 and 4. An error is the reason to drop the fragment for.
    fn add(&mut self, index: usize, fragment: &Fragment<'_>) -> Result<Option<Vec<u8>>, Reason> {
        let partial = self.partials.get(index).ok_or(Reason::FragmentLimit)?;
        match partial.place(fragment) {
            Place::Free => {}
            Place::Taken => return Err(Reason::FragmentDuplicate),
            Place::Overlap => {
                self.doom(index);
                return Err(Reason::FragmentOverlap);
            }
        }
        if partial.pieces.len() >= self.limits.fragments {
            // It will never be complete.
            self.remove(index, Reason::FragmentLimit);
            return Err(Reason::FragmentLimit);
        }
        let index = self.make_room(index, OVERHEAD + fragment.payload.len()).ok_or(Reason::FragmentLimit)?;
        let partial = self.partials.get_mut(index).ok_or(Reason::FragmentLimit)?;
        partial.put(fragment);
        self.bytes += OVERHEAD + fragment.payload.len();
        if !partial.is_complete() {
            return Ok(None);
        }
        self.complete(index)
    }

    /// Throws out the oldest until `len` bytes more may be held. Returns where the packet at `index` is then, if it still
    /// is.
    fn make_room(&mut self, mut index: usize, len: usize) -> Option<usize> {
        while self.bytes.saturating_add(len) > self.limits.bytes {
            self.remove(0, Reason::FragmentLimit);
            index = index.checked_sub(1)?;
        }
        Some(index)
    }

    /// Takes a completed packet out.
    fn complete(&mut self, index: usize) -> Result<Option<Vec<u8>>, Reason> {
        let Some(partial) = self.partials.remove(index) else { return Ok(None) };
        self.bytes = self.bytes.saturating_sub(partial.bytes());
        let count = partial.pieces.len() as u64;
        match partial.assemble() {
            Ok(whole) => Ok(Some(whole)),
            Err(reason) => {
                // The one just put in is counted by the caller.
                self.count(reason, count.saturating_sub(1));
                Err(reason)
            }
        }
    }

    /// Drops the fragments of a packet, and all that may still come.
    fn doom(&mut self, index: usize) {
        if let Some(partial) = self.partials.get_mut(index) {
            let (bytes, count) = (partial.bytes(), partial.pieces.len() as u64);
            partial.doomed = true;
            partial.pieces = Vec::new();
            partial.header = None;
            self.bytes = self.bytes.saturating_sub(bytes);
            self.count(Reason::FragmentOverlap, count);
        }
    }

    fn remove(&mut self, index: usize, reason: Reason) {
        if let Some(partial) = self.partials.remove(index) {
            self.bytes = self.bytes.saturating_sub(partial.bytes());
            self.count(reason, partial.pieces.len() as u64);
        }
    }

    fn count(&mut self, reason: Reason, count: u64) {
        if let Some(drops) = self.drops.get_mut(reason as usize) {
            *drops = drops.saturating_add(count);
        }
    }
}

/// What a fragment's place is.
enum Place {
    Free,
    /// Taken by the same bytes.
    Taken,
    Overlap,
}

impl Partial {
    fn new(key: Key, since: Duration) -> Partial {
        Partial {
            key,
            since,
            header: None,
            len: None,
            pieces: Vec::new(),
            congested: false,
            not_ect: false,
            doomed: false,
        }
    }

    /// Bytes that it is counted with.
    fn bytes(&self) -> usize {
        self.pieces.iter().map(|(_, piece)| OVERHEAD + piece.len()).sum()
    }

    fn place(&self, fragment: &Fragment<'_>) -> Place {
        if self.doomed {
            return Place::Overlap;
        }
        let (start, end) = (fragment.offset, fragment.offset + fragment.payload.len());
        let overlapping = |(offset, piece): &&(usize, Vec<u8>)| *offset < end && start < offset + piece.len();
        if let Some((offset, piece)) = self.pieces.iter().find(overlapping) {
            let last = self.len == Some(end);
            let same = *offset == start && piece == fragment.payload && last != fragment.more;
            return if same { Place::Taken } else { Place::Overlap };
        }
        // The packet ends in two places, or before what it already has.
        let contradiction = match self.len {
            Some(len) => !fragment.more || end > len,
            None => {
                !fragment.more && self.pieces.last().is_some_and(|(offset, piece)| offset + piece.len() > end)
            }
        };
        if contradiction { Place::Overlap } else { Place::Free }
    }

    fn put(&mut self, fragment: &Fragment<'_>) {
        let at = self.pieces.partition_point(|(offset, _)| *offset < fragment.offset);
        self.pieces.insert(at, (fragment.offset, fragment.payload.to_vec()));
        if !fragment.more {
            self.len = Some(fragment.offset + fragment.payload.len());
        }
        if fragment.offset == 0 {
            self.header = Some(fragment.header.copy());
        }
        self.congested |= fragment.ecn == Ecn::Ce;
        self.not_ect |= fragment.ecn == Ecn::NotEct;
    }

    /// Pieces never overlap, so that as many bytes as the packet has are all of them.
    fn is_complete(&self) -> bool {
        self.len == Some(self.pieces.iter().map(|(_, piece)| piece.len()).sum())
    }

    /// The whole packet.
    fn assemble(self) -> Result<Vec<u8>, Reason> {
        // RFC 3168 §5.3: a mark on one fragment is a mark on the packet, and if others cannot be marked it is lost.
        if self.congested && self.not_ect {
            return Err(Reason::Ecn);
        }
        let mut packet = self.header.ok_or(Reason::IpMalformed)?;
        packet.reserve_exact(self.len.unwrap_or(0));
        for (_, piece) in &self.pieces {
            packet.extend_from_slice(piece);
        }
        match self.key {
            Key::V4 { id, .. } => {
                if self.congested {
                    ipv4::set_ecn(&mut packet, Ecn::Ce).map_err(|_| Reason::IpMalformed)?;
                }
                // Fails for a packet beyond 65,535 bytes: options of the first fragment were not counted before.
                ipv4::set_piece(&mut packet, Piece::whole(id)).map_err(|_| Reason::IpMalformed)?;
            }
            Key::V6 { .. } => {
                if self.congested {
                    ipv6::set_ecn(&mut packet, Ecn::Ce).map_err(|_| Reason::IpMalformed)?;
                }
                let payload_len = packet.len().saturating_sub(ipv6::HEADER_LEN);
                let payload_len = u16::try_from(payload_len).map_err(|_| Reason::IpMalformed)?;
                set_payload_len(&mut packet, payload_len);
            }
        }
        Ok(packet)
    }
}

impl Header<'_> {
    fn copy(&self) -> Vec<u8> {
        let mut header = self.bytes.to_vec();
        if let Some((at, next_header)) = self.next_header
            && let Some(octet) = header.get_mut(at)
        {
            *octet = next_header;
        }
        header
    }
}

/// Step 1's result.
pub(super) enum Read<'a> {
    Fragment(Fragment<'a>),
    Whole(Vec<u8>),
}

/// Step 1.
pub(super) fn read(packet: &[u8]) -> Result<Read<'_>, Malformed> {
    let read = match packet.first().ok_or(Malformed::Truncated)? >> 4 {
        4 => read_v4(packet)?,
        _ => read_v6(packet)?,
    };
    if let Read::Fragment(fragment) = &read {
        // RFC 8200 §4.5, and RFC 791 §3.2 says so of IPv4: all but the last are a multiple of eight bytes. An empty one is
        // a piece of nothing.
        let len = fragment.payload.len();
        if len == 0 || (fragment.more && !len.is_multiple_of(UNIT)) || fragment.offset + len > LONGEST {
            return Err(Malformed::Length);
        }
    }
    Ok(read)
}

fn read_v4(packet: &[u8]) -> Result<Read<'_>, Malformed> {
    let ip = Ipv4::parse(packet)?;
    if !ip.is_fragment() {
        return Ok(Read::Whole(packet.get(..usize::from(ip.total_len())).unwrap_or(packet).to_vec()));
    }
    Ok(Read::Fragment(Fragment {
        key: Key::V4 { src: ip.src(), dst: ip.dst(), protocol: ip.protocol(), id: ip.id() },
        offset: usize::from(ip.fragment_offset()),
        more: ip.more_fragments(),
        payload: ip.payload(),
        ecn: Ecn::of(ip.tos()),
        header: Header {
            bytes: packet.get(..ip.header_len()).ok_or(Malformed::Truncated)?,
            next_header: None,
        },
    }))
}

fn read_v6(packet: &[u8]) -> Result<Read<'_>, Malformed> {
    let ip = Ipv6::parse(packet)?;
    let Some(fragment) = ip.fragment_header()? else {
        let total_len = ipv6::HEADER_LEN + usize::from(ip.payload_len());
        return Ok(Read::Whole(packet.get(..total_len).unwrap_or(packet).to_vec()));
    };
    // RFC 7112 §5: the first fragment has the whole chain of headers; this fails where it is cut.
    if fragment.offset == 0 {
        ip.upper()?;
    }
    let bytes = packet.get(..fragment.at).ok_or(Malformed::Truncated)?;
    let header = Header { bytes, next_header: Some((fragment.named_at, fragment.next_header)) };
    if fragment.is_atomic() {
        let mut whole = [header.copy().as_slice(), fragment.payload].concat();
        let payload_len = ip.payload_len().saturating_sub(ipv6::FragmentHeader::LEN as u16);
        set_payload_len(&mut whole, payload_len);
        return Ok(Read::Whole(whole));
    }
    Ok(Read::Fragment(Fragment {
        key: Key::V6 { src: ip.src(), dst: ip.dst(), id: fragment.id },
        offset: usize::from(fragment.offset),
        more: fragment.more,
        payload: fragment.payload,
        ecn: Ecn::of(ip.traffic_class()),
        header,
    }))
}

/// Writes the payload length of an IPv6 packet.
fn set_payload_len(packet: &mut [u8], payload_len: u16) {
    if let Some(header) = packet.first_chunk_mut::<{ ipv6::HEADER_LEN }>() {
        [header[4], header[5]] = payload_len.to_be_bytes();
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::exception::fragment::{Ids, fragment};
    use crate::exception::samples::{self, SRC_V4, data, fix_checksum, udp_v4, udp_v6, v6};
    use crate::wire::protocol;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const REASONS: [Reason; 5] = [
        Reason::FragmentLimit,
        Reason::FragmentOverlap,
        Reason::FragmentDuplicate,
        Reason::IpMalformed,
        Reason::Ecn,
    ];

    fn reassembly() -> Reassembly {
        Reassembly::new(Limits::default())
    }

    /// A UDP packet of `len` bytes that may be fragmented.
    fn whole_v4(id: u16, len: usize) -> Vec<u8> {
        let mut packet = udp_v4(len);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6] = 0;
        fix_checksum(&mut packet);
        packet
    }

    fn pieces_v4(whole: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        fragment(whole, mtu, &mut Ids::new(0)).unwrap()
    }

    /// One IPv4 fragment by the book.
    fn v4_piece(id: u16, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        let mut piece = samples::v4(17, payload);
        piece[4..6].copy_from_slice(&id.to_be_bytes());
        piece[6..8].copy_from_slice(&(offset / 8 + u16::from(more) * 0x2000).to_be_bytes());
        fix_checksum(&mut piece);
        piece
    }

    /// One IPv6 fragment by the book, of a packet whose fragmented part starts with `next_header`.
    fn v6_piece(id: u32, next_header: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        let mut header = vec![next_header, 0];
        header.extend((offset | u16::from(more)).to_be_bytes());
        header.extend(id.to_be_bytes());
        v6(protocol::FRAGMENT, &[header.as_slice(), payload].concat())
    }

    /// An IPv6 packet without extension headers cut as RFC 8200 section 4.5 says.
    fn pieces_v6(whole: &[u8], id: u32, mtu: usize) -> Vec<Vec<u8>> {
        let payload = &whole[40..];
        let room = (mtu - 48) / 8 * 8;
        let pieces = payload.chunks(room).enumerate();
        pieces
            .map(|(n, piece)| {
                let offset = n * room;
                v6_piece(id, whole[6], offset as u16, offset + piece.len() < payload.len(), piece)
            })
            .collect()
    }

    /// What comes back for each of these packets.
    fn push_all(state: &mut Reassembly, packets: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
        packets.iter().map(|packet| state.push(packet, SECOND)).collect()
    }

    /// All drops, with their reasons.
    fn drops(state: &Reassembly) -> Vec<(Reason, u64)> {
        Reason::ALL.iter().map(|&reason| (reason, state.dropped(reason))).filter(|(_, n)| *n > 0).collect()
    }

    #[test]
    fn the_last_gap_closed_gives_the_packet() {
        for (whole, pieces) in [
            (whole_v4(7, 3000), pieces_v4(&whole_v4(7, 3000), 1000)),
            (udp_v6(3000), pieces_v6(&udp_v6(3000), 7, 1280)),
        ] {
            let mut state = reassembly();
            let (last, others) = pieces.split_last().unwrap();
            assert!(push_all(&mut state, others).iter().all(Option::is_none));
            assert_eq!(state.held(), others.len());
            assert_eq!(state.push(last, SECOND), Some(whole));
            assert_eq!((state.held(), state.bytes(), state.deadline(), drops(&state)), (0, 0, None, vec![]));
        }
    }

    #[test]
    fn the_longest_packets() {
        let longest_v4 = whole_v4(1, 65_535);
        let mut state = reassembly();
        let out = push_all(&mut state, &pieces_v4(&longest_v4, 576));
        assert!(out.last() == Some(&Some(longest_v4)));
        let longest_v6 = udp_v6(65_575);
        let out = push_all(&mut state, &pieces_v6(&longest_v6, 1, 1280));
        assert!(out.last() == Some(&Some(longest_v6)));
    }

    #[test]
    fn packets_that_are_whole_come_back_without_padding() {
        let mut state = reassembly();
        for whole in [udp_v4(100), udp_v6(100)] {
            assert_eq!(state.push(&[&whole[..], &[0; 5]].concat(), SECOND), Some(whole));
        }
    }

    #[test]
    fn options_of_the_first_fragment_stay() {
        let mut whole = whole_v4(9, 1000);
        whole.splice(20..20, [7, 7, 4, 0, 0, 0, 0, 1]);
        whole[0] = 0x47;
        whole[2..4].copy_from_slice(&1008_u16.to_be_bytes());
        fix_checksum(&mut whole);
        let mut pieces = pieces_v4(&whole, 300);
        pieces.reverse();
        assert_eq!(push_all(&mut reassembly(), &pieces).last().unwrap().as_ref(), Some(&whole));
    }

    /// RFC 8200 section 4.5: headers before the fragment header are those of the first fragment; what named the fragment
    /// header names what followed it.
    #[test]
    fn extension_headers_before_the_fragment_header() {
        let payload = data(64);
        let piece = |offset: u8, more: u8, kind: u8, payload: &[u8]| {
            let hop_by_hop = [43, 0, 1, 4, kind, 0, 0, 0];
            let routing = [44, 0, 0, 0, 0, 0, 0, 0];
            let fragment = [60, 0, 0, offset | more, 0, 0, 0, 3];
            v6(0, &[&hop_by_hop[..], &routing, &fragment, payload].concat())
        };
        let options = [17, 0, 1, 4, 0, 0, 0, 0];
        let first = piece(0, 1, 0, &[&options[..], &payload[..32]].concat());
        let second = piece(40, 0, 1, &payload[32..]);
        let mut state = reassembly();
        assert_eq!(state.push(&second, SECOND), None);
        let expected =
            v6(0, &[&[43, 0, 1, 4, 0, 0, 0, 0][..], &[60, 0, 0, 0, 0, 0, 0, 0], &options, &payload].concat());
        assert_eq!(state.push(&first, SECOND), Some(expected));
    }

    /// RFC 6946 section 4: a packet in one fragment is apart from fragments with the same identification.
    #[test]
    fn atomic_fragments() {
        let whole = udp_v6(500);
        let pieces = pieces_v6(&whole, 7, 300);
        let atomic = v6_piece(7, 17, 0, false, &udp_v6(100)[40..]);
        let mut state = reassembly();
        assert_eq!(state.push(&pieces[0], SECOND), None);
        assert_eq!(state.push(&[&atomic[..], &[0; 3]].concat(), SECOND), Some(udp_v6(100)));
        assert_eq!(state.push(&pieces[1], SECOND), Some(whole));
    }

    /// RFC 5722 section 4: an overlap dooms the packet, also the fragments not yet here; exact duplicates may be spared (RFC
    /// 8200 section 4.5).
    #[test]
    fn overlaps_doom_a_packet() {
        let payload = data(48);
        let mut altered = payload[8..24].to_vec();
        altered[0] ^= 1;
        for (name, piece, doomed) in [
            ("a duplicate", (8, true, &payload[8..24]), false),
            ("other bytes", (8, true, &altered[..]), true),
            ("the start covered", (0, true, &payload[0..16]), true),
            ("the end covered", (16, true, &payload[16..32]), true),
            ("inside", (8, true, &payload[8..16]), true),
            ("around", (0, true, &payload[0..32]), true),
            ("the same, as the last", (8, false, &payload[8..24]), true),
        ] {
            for v4 in [true, false] {
                let make = |(offset, more, payload): (u16, bool, &[u8])| match v4 {
                    true => v4_piece(5, offset, more, payload),
                    false => v6_piece(5, 17, offset, more, payload),
                };
                let mut state = reassembly();
                let others = [
                    (8, true, &payload[8..24]),
                    piece,
                    (0, true, &payload[..8]),
                    (24, false, &payload[24..]),
                ];
                let out: Vec<_> = others.iter().map(|piece| state.push(&make(*piece), SECOND)).collect();
                let came_back = out.into_iter().flatten().next();
                assert_eq!(came_back.is_some(), !doomed, "{name}");
                let expected =
                    if doomed { (Reason::FragmentOverlap, 4) } else { (Reason::FragmentDuplicate, 1) };
                assert_eq!(drops(&state), [expected], "{name}");
                assert_eq!((state.held(), state.bytes()), (0, 0), "{name}");
                // After the timeout the identification may be used again.
                let later = SECOND + Duration::from_secs(60);
                assert_eq!(state.push(&make((0, true, &payload[..24])), later), None);
                assert!(
                    state.push(&make((24, false, &payload[24..])), later).is_some(),
                    "{name}: used again"
                );
            }
        }
    }

    #[test]
    fn two_ends_contradict_each_other() {
        for second in [(16, false), (24, false), (40, true)] {
            let mut state = reassembly();
            assert_eq!(state.push(&v4_piece(1, 32, false, &[1; 8]), SECOND), None);
            assert_eq!(state.push(&v4_piece(1, second.0, second.1, &[1; 8]), SECOND), None);
            assert_eq!(drops(&state), [(Reason::FragmentOverlap, 2)], "{second:?}");
        }
        let mut state = reassembly();
        assert_eq!(state.push(&v4_piece(1, 32, true, &[1; 8]), SECOND), None);
        assert_eq!(state.push(&v4_piece(1, 16, false, &[1; 8]), SECOND), None, "an end before what is here");
        assert_eq!(drops(&state), [(Reason::FragmentOverlap, 2)]);
    }

    #[test]
    fn fragments_that_no_packet_can_be_made_of() {
        let cut_chain = v6_piece(1, 60, 0, true, &[17, 4, 1, 4, 0, 0, 0, 0]);
        let mut wrong_checksum = v4_piece(1, 8, true, &[1; 8]);
        wrong_checksum[10] ^= 1;
        for (name, packet) in [
            ("no multiple of eight", v4_piece(1, 0, true, &[1; 12])),
            ("IPv6, no multiple of eight", v6_piece(1, 17, 0, true, &[1; 12])),
            ("empty", v4_piece(1, 8, true, &[])),
            ("empty and last", v4_piece(1, 8, false, &[])),
            ("IPv6, empty", v6_piece(1, 17, 8, false, &[])),
            ("beyond 65,535 bytes", v4_piece(1, 65_528, false, &[1; 8])),
            ("IPv6, beyond 65,535 bytes", v6_piece(1, 17, 65_528, false, &[1; 8])),
            ("headers not all in the first fragment (RFC 7112)", cut_chain),
            ("a wrong checksum", wrong_checksum),
            ("neither", vec![0x50; 60]),
            ("nothing", vec![]),
        ] {
            let mut state = reassembly();
            assert_eq!(state.push(&packet, SECOND), None, "{name}");
            assert_eq!((state.held(), drops(&state)), (0, vec![(Reason::IpMalformed, 1)]), "{name}");
        }
        // With its header, the whole would be too long.
        let mut state = reassembly();
        assert_eq!(state.push(&v4_piece(1, 32_768, false, &[1; 32_767]), SECOND), None);
        assert_eq!(state.push(&v4_piece(1, 0, true, &[1; 32_768]), SECOND), None);
        assert_eq!((state.bytes(), drops(&state)), (0, vec![(Reason::IpMalformed, 2)]));
    }

    #[test]
    fn what_is_apart_stays_apart() {
        let base = v4_piece(1, 0, true, &[1; 8]);
        let end = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut piece = v4_piece(1, 8, false, &[2; 8]);
            change(&mut piece);
            fix_checksum(&mut piece);
            piece
        };
        for (name, other, completes) in [
            ("the same", end(&|_| ()), true),
            ("another identification", end(&|p| p[5] = 2), false),
            ("another source", end(&|p| p[15] += 1), false),
            ("another destination", end(&|p| p[19] += 1), false),
            ("another protocol", end(&|p| p[9] = 50), false),
            ("another TTL", end(&|p| p[8] = 99), true),
        ] {
            let mut state = reassembly();
            assert_eq!(state.push(&base, SECOND), None);
            assert_eq!(state.push(&other, SECOND).is_some(), completes, "{name}");
        }
    }

    /// RFC 3168 section 5.3.
    #[test]
    fn congestion_marks() {
        for (marks, expected) in [
            ([0b10, 0b10], Some(0b10)),
            ([0b10, 0b11], Some(0b11)),
            ([0b11, 0b01], Some(0b11)),
            ([0b11, 0b11], Some(0b11)),
            ([0b00, 0b00], Some(0b00)),
            ([0b00, 0b10], Some(0b00)),
            ([0b00, 0b11], None),
            ([0b11, 0b00], None),
        ] {
            let whole = udp_v6(500);
            let both = [pieces_v4(&whole_v4(3, 500), 400), pieces_v6(&whole, 3, 400)];
            for (v4, mut pieces) in [true, false].into_iter().zip(both) {
                for (piece, mark) in pieces.iter_mut().zip(marks) {
                    if v4 {
                        piece[1] = 0xb8 | mark;
                        fix_checksum(piece);
                    } else {
                        piece[1] = piece[1] & 0xcf | mark << 4;
                    }
                }
                let mut state = reassembly();
                let out = push_all(&mut state, &pieces).pop().unwrap();
                let mark = out.map(|packet| match v4 {
                    true => Ipv4::parse(&packet).unwrap().tos() & 3,
                    false => Ipv6::parse(&packet).unwrap().traffic_class() & 3,
                });
                assert_eq!(mark, expected, "{marks:?}");
                let expected = if expected.is_none() { vec![(Reason::Ecn, 2)] } else { vec![] };
                assert_eq!(drops(&state), expected);
            }
        }
    }

    #[test]
    fn time_runs_from_the_first_fragment() {
        let mut state = reassembly();
        state.push(&v4_piece(1, 0, true, &[1; 8]), SECOND);
        state.push(&v4_piece(1, 8, true, &[1; 8]), SECOND * 30);
        state.push(&v4_piece(2, 0, true, &[1; 8]), SECOND * 40);
        assert_eq!(state.deadline(), Some(SECOND * 61));
        state.expire(SECOND * 61 - Duration::from_nanos(1));
        assert_eq!(state.held(), 3);
        state.expire(SECOND * 61);
        assert_eq!((state.held(), state.deadline()), (1, Some(SECOND * 100)));
        assert_eq!(drops(&state), [(Reason::FragmentLimit, 2)]);
        // Nobody has to call `expire`.
        assert_eq!(state.push(&v4_piece(2, 8, false, &[1; 8]), SECOND * 100), None);
        assert_eq!((state.held(), drops(&state)), (1, vec![(Reason::FragmentLimit, 3)]));
    }

    #[test]
    fn bounds_throw_out_the_oldest() {
        let limits =
            Limits { packets: 4, packets_per_source: 2, bytes: 1000, fragments: 3, ..Limits::default() };
        let piece = |source: u8, id: u16, offset: u16, len: usize| {
            let mut piece = v4_piece(id, offset, true, &vec![1; len]);
            piece[15] = source;
            fix_checksum(&mut piece);
            piece
        };
        let ids = |state: &Reassembly| -> Vec<(u8, u16)> {
            let id = |partial: &Partial| match partial.key {
                Key::V4 { src, id, .. } => (src.octets()[3], id),
                Key::V6 { .. } => panic!("IPv6"),
            };
            state.partials.iter().map(id).collect()
        };
        let mut state = Reassembly::new(limits);
        for (source, id) in [(1, 1), (2, 1), (2, 2), (2, 3)] {
            assert_eq!(state.push(&piece(source, id, 0, 8), SECOND), None);
        }
        assert_eq!(ids(&state), [(1, 1), (2, 2), (2, 3)], "a source pushes out its own");
        for source in [3, 4] {
            state.push(&piece(source, 1, 0, 8), SECOND);
        }
        assert_eq!(ids(&state), [(2, 2), (2, 3), (3, 1), (4, 1)], "the oldest goes");
        assert_eq!(state.bytes(), 4 * (64 + 8));
        // 288 are held; 736 and 64 more fit with two of the four gone.
        state.push(&piece(3, 1, 8, 736), SECOND);
        assert_eq!((ids(&state), state.bytes()), (vec![(3, 1), (4, 1)], 2 * 72 + 800));
        assert_eq!(drops(&state), [(Reason::FragmentLimit, 4)]);
        // Its own packet is thrown out for it, and it can be no part of it any more.
        state.push(&piece(3, 1, 744, 200), SECOND);
        assert_eq!((ids(&state), drops(&state)), (vec![(4, 1)], vec![(Reason::FragmentLimit, 7)]));
        // More than all bytes there are.
        state.push(&piece(5, 1, 0, 1000), SECOND);
        assert_eq!((ids(&state), state.bytes()), (vec![], 0));
        assert_eq!(drops(&state), [(Reason::FragmentLimit, 9)]);
        // Too many pieces.
        for offset in [0, 16, 32, 48] {
            state.push(&piece(6, 1, offset, 8), SECOND);
        }
        assert_eq!((ids(&state), drops(&state)), (vec![], vec![(Reason::FragmentLimit, 13)]));
        for none in [Limits { packets: 0, ..limits }, Limits { packets_per_source: 0, ..limits }] {
            let mut state = Reassembly::new(none);
            state.push(&piece(1, 1, 0, 8), SECOND);
            assert_eq!((state.held(), drops(&state)), (0, vec![(Reason::FragmentLimit, 1)]));
        }
    }

    #[test]
    fn a_flood_from_one_source_leaves_others_alone() {
        let mut state = reassembly();
        let whole = whole_v4(7, 900);
        let pieces = pieces_v4(&whole, 600);
        assert_eq!(state.push(&pieces[0], SECOND), None);
        for id in 0..10_000 {
            let mut piece = v4_piece(id, 0, true, &[1; 1400]);
            piece[12..16].copy_from_slice(&[SRC_V4[0], 1, 2, 3]);
            fix_checksum(&mut piece);
            state.push(&piece, SECOND);
            assert!(state.bytes() <= Limits::default().bytes && state.partials.len() <= 33);
        }
        assert_eq!(state.push(&pieces[1], SECOND), Some(whole));
    }

    /// Any order of some pieces, some more than once.
    fn shuffled(count: usize) -> impl Strategy<Value = Vec<usize>> {
        let again = proptest::collection::vec(0..count, 0..4);
        again.prop_flat_map(move |again| Just((0..count).chain(again).collect::<Vec<_>>()).prop_shuffle())
    }

    proptest! {
        #[test]
        fn any_order_with_duplicates_is_identity(
            (len, mtu, order) in (60..6000_usize, 68..1500_usize).prop_flat_map(|(len, mtu)| {
                let count = pieces_v4(&whole_v4(1, len), mtu).len().max(2);
                (Just(len), Just(mtu), shuffled(count))
            }),
            v6 in any::<bool>(),
        ) {
            let whole = if v6 { udp_v6(len) } else { whole_v4(1, len) };
            let pieces = if v6 { pieces_v6(&whole, 1, mtu) } else { pieces_v4(&whole, mtu) };
            prop_assume!(pieces.len() > 1);
            let mut state = Reassembly::new(Limits { fragments: 1000, ..Limits::default() });
            let mut here = vec![false; pieces.len()];
            for index in order {
                let Some(piece) = pieces.get(index) else { continue };
                let out = state.push(piece, SECOND);
                here[index] = true;
                if here.iter().all(|&here| here) {
                    prop_assert_eq!(out.as_ref(), Some(&whole));
                    break;
                }
                prop_assert_eq!(out, None);
            }
        }

        /// Whatever comes: every fragment is accounted for, and the bounds hold.
        #[test]
        fn every_fragment_is_accounted_for(
            pieces in proptest::collection::vec(
                (0..3_u16, 0..12_u16, any::<bool>(), 0..5_usize, any::<bool>(), 0..3_u8, 0..20_u64), 1..60,
            ),
        ) {
            let limits = Limits {
                packets: 4, packets_per_source: 3, fragments: 5, bytes: 700, timeout: SECOND * 60,
            };
            let mut state = Reassembly::new(limits);
            let (mut now, mut sent, mut returned) = (Duration::ZERO, 0, 0);
            for (id, place, more, words, v4, fill, seconds) in pieces {
                now += SECOND * seconds as u32;
                let payload = vec![fill / 2; words * 8];
                // A packet in one fragment is whole.
                let place = if more { place } else { place.max(1) };
                let piece = match v4 {
                    true => v4_piece(id, place * 8, more, &payload),
                    false => v6_piece(id.into(), 17, place * 8, more, &payload),
                };
                let held = state.held();
                let dropped: u64 = REASONS.iter().map(|&reason| state.dropped(reason)).sum();
                let out = state.push(&piece, now);
                sent += 1;
                if let Some(whole) = out {
                    let after: u64 = REASONS.iter().map(|&reason| state.dropped(reason)).sum();
                    returned += held as u64 + 1 - state.held() as u64 - (after - dropped);
                    prop_assert!(Ipv4::parse(&whole).is_ok_and(|ip| !ip.is_fragment()) || Ipv6::parse(&whole).is_ok());
                } else {
                    let after: u64 = REASONS.iter().map(|&reason| state.dropped(reason)).sum();
                    prop_assert_eq!(held as u64 + 1, state.held() as u64 + after - dropped);
                }
                let dropped: u64 = drops(&state).iter().map(|(_, count)| count).sum();
                prop_assert_eq!(sent, returned + state.held() as u64 + dropped);
                let bytes: usize = state.partials.iter().map(Partial::bytes).sum();
                prop_assert_eq!(state.bytes(), bytes);
                prop_assert!(bytes <= limits.bytes && state.partials.len() <= limits.packets);
            }
        }

        #[test]
        fn any_bytes_are_taken(
            packets in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..120), any::<bool>()), 0..20),
        ) {
            let mut state = reassembly();
            for (mut packet, v6) in packets {
                if let [first, _, high, low, _, low6, next, ..] = &mut packet[..] {
                    (*first, *high, *low, *low6, *next) =
                        (if v6 { 0x60 } else { 0x45 }, 0, *low % 64, *low6 % 64, if v6 { 44 } else { *next });
                    if v6 {
                        packet[4] = 0;
                    }
                }
                if !v6 {
                    fix_checksum(&mut packet);
                }
                state.push(&packet, SECOND);
            }
        }
    }
}

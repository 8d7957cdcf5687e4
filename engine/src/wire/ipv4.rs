//! IPv4 (RFC 791): the view of a received packet, the header of one to send, and the fields rewritten on the way.
//! Parsing: 1. the fixed 20 bytes; 2. version and header length; 3. total length against the bytes present,
//! cutting off link padding; 4. options as far as the header length says; 5. the header checksum.

use super::checksum::{self, is_valid_20};
use super::{Ecn, Malformed, Sum};
use std::net::Ipv4Addr;

/// Length of the header without options, in bytes.
pub const HEADER_LEN: usize = 20;
/// Version 4 and a header length of five words: a header without options.
const VERSION_AND_LEN: u8 = 0x45;
/// The flags and fragment offset word: don't fragment (RFC 791 §3.1).
const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments (RFC 791 §3.1).
const MORE_FRAGMENTS: u16 = 0x2000;
/// The offset's bits, in units of eight bytes (RFC 791 §3.1).
const OFFSET: u16 = 0x1fff;

/// A checked packet.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Reads a packet; bytes behind its total length are padding and cut off.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] under 20 bytes, [`Malformed::Version`] when not 4, [`Malformed::Length`] when
    /// the total length is beyond the bytes or less than the header's, or that is under 20,
    /// [`Malformed::Checksum`].
    #[inline(always)] // on the path of every packet; a call would hand the view over in memory
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let options_len = if header[0] == VERSION_AND_LEN { 0 } else { options_len(header[0])? };
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let behind =
            total_len.checked_sub(HEADER_LEN).and_then(|len| rest.get(..len)).ok_or(Malformed::Length)?;
        let (options, payload) = behind.split_at_checked(options_len).ok_or(Malformed::Length)?;
        let valid = if options.is_empty() { is_valid_20(header) } else { is_valid(header, options) };
        if valid { Ok(Self { header, options, payload }) } else { Err(Malformed::Checksum) }
    }

    /// As [`Self::parse`], of a packet without options, as nearly all are; `None` for all others, good or bad.
    #[inline(always)] // on the path of every packet; a call would hand the view over in memory
    pub fn parse_plain(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let payload = rest.get(..total_len.checked_sub(HEADER_LEN)?)?;
        let plain = header[0] == VERSION_AND_LEN && is_valid_20(header);
        plain.then_some(Self { header, options: &[], payload })
    }

    /// Reads the front of a packet as an ICMP error quotes it (RFC 792): cut off anywhere behind the header,
    /// whose checksum is not looked at, since the TTL was lowered on the way. The payload is what there is of
    /// it.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when shorter than its header with options, [`Malformed::Version`] when not 4,
    /// [`Malformed::Length`] when the total length is less than the header's, or that is under 20.
    pub fn quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let options_len = options_len(header[0])?;
        let (options, rest) = rest.split_at_checked(options_len).ok_or(Malformed::Truncated)?;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let payload_len = total_len.checked_sub(HEADER_LEN + options_len).ok_or(Malformed::Length)?;
        Ok(Self { header, options, payload: rest.get(..payload_len).unwrap_or(rest) })
    }

    /// Length of the header with its options, in bytes: 20 to 60.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Length of the packet in bytes, header included.
    #[inline]
    #[must_use]
    pub const fn total_len(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Type of service: DSCP (RFC 2474) in the upper six bits, ECN (RFC 3168) in the lower two.
    #[inline]
    #[must_use]
    pub const fn tos(&self) -> u8 {
        self.header[1]
    }

    /// Identification, which the fragments of one packet share.
    #[inline]
    #[must_use]
    pub const fn id(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Whether routers must not fragment it.
    #[inline]
    #[must_use]
    pub const fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & DONT_FRAGMENT != 0
    }

    /// Whether this is a piece of a packet: more fragments follow, or it is not the first.
    #[inline]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        // As they lie: half the instructions of exchanging them first.
        let word = u16::from_ne_bytes([self.header[6], self.header[7]]);
        word & (MORE_FRAGMENTS | OFFSET).to_be() != 0
    }

    /// Where the payload stands in the payload of the whole packet, in bytes.
    #[inline]
    #[must_use]
    pub const fn fragment_offset(&self) -> u16 {
        (self.flags_and_offset() & OFFSET) << 3
    }

    /// Whether fragments with higher offsets belong to the packet.
    #[inline]
    #[must_use]
    pub const fn more_fragments(&self) -> bool {
        self.flags_and_offset() & MORE_FRAGMENTS != 0
    }

    #[inline]
    const fn flags_and_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// Time to live, in hops.
    #[inline]
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// What the payload is: see [`super::protocol`].
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> Ipv4Addr {
        address_at_front(self.header.split_at(12).1)
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> Ipv4Addr {
        address_at_front(self.header.split_at(16).1)
    }

    /// Options, as they are: 0 to 40 bytes.
    #[inline]
    #[must_use]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// What follows the header, without link padding.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The first four bytes. Copied as a piece: byte by byte they are four times as many instructions.
#[inline]
const fn address_at_front(bytes: &[u8]) -> Ipv4Addr {
    match bytes.first_chunk() {
        Some(octets) => Ipv4Addr::from_octets(*octets),
        None => Ipv4Addr::UNSPECIFIED,
    }
}

/// The length of the options in bytes, from a first octet that is not the common one.
#[cold]
fn options_len(first: u8) -> Result<usize, Malformed> {
    if first >> 4 != 4 {
        return Err(Malformed::Version);
    }
    (usize::from(first & 0xf) * 4).checked_sub(HEADER_LEN).ok_or(Malformed::Length)
}

/// Is the checksum of a header with options right? Apart, so that the path of the common header stays short.
#[cold]
fn is_valid(header: &[u8; HEADER_LEN], options: &[u8]) -> bool {
    Sum::new().with(header).with(options).is_valid()
}

/// A header without options and of an unfragmented packet, to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Header {
    /// DSCP in the upper six bits, ECN in the lower two.
    pub tos: u8,
    /// Length of the packet in bytes, header included.
    pub total_len: u16,
    /// Identification; may be 0 where `dont_fragment` is set (RFC 6864 §4.1).
    pub id: u16,
    /// Whether routers must not fragment it.
    pub dont_fragment: bool,
    /// Time to live, in hops.
    pub ttl: u8,
    /// What the payload is: see [`super::protocol`].
    pub protocol: u8,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
}

impl Ipv4Header {
    /// Writes the header, checksum included.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let flags = if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        let mut words = [
            u32::from_be_bytes([VERSION_AND_LEN, self.tos, 0, 0]) | u32::from(self.total_len),
            u32::from(self.id) << 16 | u32::from(flags),
            u32::from_be_bytes([self.ttl, self.protocol, 0, 0]),
            self.src.to_bits(),
            self.dst.to_bits(),
        ];
        // Summed from the values at hand: reading the bytes just written would wait for the stores.
        let sum = words.iter().map(|&word| u64::from(word)).sum();
        words[2] |= u32::from(!checksum::fold(sum));
        for (bytes, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_be_bytes();
        }
    }
}

/// Lowers the TTL of a packet by one, as a router must, and returns the new one. `None`, with nothing
/// changed, when the packet must not go on: its TTL is 1 or 0 (RFC 1812 §5.3.1), or it is shorter than a
/// header.
#[inline(always)] // of the path of every packet, from two places
pub fn decrement_ttl(packet: &mut [u8]) -> Option<u8> {
    let header = packet.first_chunk_mut::<HEADER_LEN>()?;
    let ttl = header[8].checked_sub(1).filter(|&ttl| ttl != 0)?;
    header[8] = ttl;
    // The word with the TTL has gone down by 0x0100, so the checksum goes up by as much, the carry coming in again at the low
    // end (RFC 1624 section 3, equation 4), which is right in either byte order (RFC 1071 section 2 B). A checksum of 0xffff
    // cannot come out: a header's sum is never 0.
    let check = u32::from(u16::from_ne_bytes([header[10], header[11]])) + u32::from(0x0100_u16.to_be());
    let check = (check + u32::from(check >= 0xffff)) as u16;
    [header[10], header[11]] = check.to_ne_bytes();
    Some(ttl)
}

/// Replaces the type of service octet of a packet.
///
/// # Errors
/// [`Malformed::Truncated`] when shorter than a header.
#[inline]
pub fn set_tos(packet: &mut [u8], tos: u8) -> Result<(), Malformed> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
    replace_tos(header, tos);
    Ok(())
}

/// Replaces the ECN mark of a packet; the DSCP stays.
///
/// # Errors
/// [`Malformed::Truncated`] when shorter than a header.
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) -> Result<(), Malformed> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
    replace_tos(header, ecn.mark(header[1]));
    Ok(())
}

/// Which part of a packet a fragment is (RFC 791 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Identification, which the fragments of one packet share.
    pub id: u16,
    /// Where its payload stands in that of the whole packet, in bytes: a multiple of eight.
    pub offset: u16,
    /// Whether fragments with higher offsets follow.
    pub more: bool,
}

impl Piece {
    /// A whole packet with that identification.
    #[must_use]
    pub const fn whole(id: u16) -> Self {
        Self { id, offset: 0, more: false }
    }
}

/// Makes `packet`, a header with its payload, the given piece of a packet: writes identification, flags
/// (routers may fragment it) and offset, the total length as it is now, and the checksum.
///
/// # Errors
/// With nothing written: [`Malformed::Truncated`] when shorter than its header, [`Malformed::Length`] when the
/// header length is under 20, or the packet longer than 65,535 bytes; [`Malformed::Version`] when not 4.
pub fn set_piece(packet: &mut [u8], piece: Piece) -> Result<(), Malformed> {
    let total_len = u16::try_from(packet.len()).map_err(|_| Malformed::Length)?;
    let header_len = HEADER_LEN + options_len(*packet.first().ok_or(Malformed::Truncated)?)?;
    let header = packet.get_mut(..header_len).ok_or(Malformed::Truncated)?;
    let fields = header.first_chunk_mut::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
    let flags = if piece.more { MORE_FRAGMENTS } else { 0 };
    [fields[2], fields[3]] = total_len.to_be_bytes();
    [fields[4], fields[5]] = piece.id.to_be_bytes();
    [fields[6], fields[7]] = (flags | piece.offset >> 3).to_be_bytes();
    [fields[10], fields[11]] = [0, 0];
    let check = checksum::checksum(header);
    let fields = header.first_chunk_mut::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
    [fields[10], fields[11]] = check.to_be_bytes();
    Ok(())
}

#[inline]
fn replace_tos(header: &mut [u8; HEADER_LEN], tos: u8) {
    let old = u16::from_be_bytes([header[0], header[1]]);
    let new = u16::from_be_bytes([header[0], tos]);
    header[1] = tos;
    update_checksum(header, old, new);
}

#[inline]
fn update_checksum(header: &mut [u8; HEADER_LEN], old: u16, new: u16) {
    let check = u16::from_be_bytes([header[10], header[11]]);
    [header[10], header[11]] = checksum::update(check, old, new).to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A UDP packet of 115 bytes from 192.168.0.1 to 192.168.0.199; its words sum to 0x479e, hence the
    /// checksum 0xb861.
    const HEADER: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0,
        199,
    ];

    fn packet() -> Vec<u8> {
        let mut packet = HEADER.to_vec();
        packet.resize(115, 0xab);
        packet
    }

    /// Puts the right checksum into a packet, as RFC 791 defines it.
    fn seal(packet: &mut [u8]) {
        let header_len = usize::from(packet[0] & 0xf) * 4;
        packet[10..12].fill(0);
        let check = checksum::checksum(&packet[..header_len]);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
    }

    fn any_header() -> impl Strategy<Value = Ipv4Header> {
        (any::<(u8, u16, bool, u8, u8)>(), any::<[[u8; 4]; 2]>(), 20_u16..=1500).prop_map(
            |((tos, id, dont_fragment, ttl, protocol), [src, dst], total_len)| Ipv4Header {
                tos,
                total_len,
                id,
                dont_fragment,
                ttl,
                protocol,
                src: src.into(),
                dst: dst.into(),
            },
        )
    }

    fn emitted(header: &Ipv4Header) -> Vec<u8> {
        let mut packet = vec![0; header.total_len.into()];
        header.emit(packet.first_chunk_mut().unwrap());
        packet
    }

    #[test]
    fn a_known_packet() {
        let packet = packet();
        let ip = Ipv4::parse(&packet).unwrap();
        assert_eq!((ip.header_len(), ip.total_len(), ip.tos(), ip.id()), (20, 115, 0, 0));
        assert_eq!((ip.dont_fragment(), ip.is_fragment(), ip.ttl(), ip.protocol()), (true, false, 64, 17));
        assert_eq!((ip.src(), ip.dst()), (Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::new(192, 168, 0, 199)));
        assert_eq!((ip.options(), ip.payload()), (&[][..], &packet[20..]));
    }

    #[test]
    fn the_known_header_is_emitted() {
        let mut out = [0xff; 20];
        Ipv4Header {
            tos: 0,
            total_len: 115,
            id: 0,
            dont_fragment: true,
            ttl: 64,
            protocol: 17,
            src: Ipv4Addr::new(192, 168, 0, 1),
            dst: Ipv4Addr::new(192, 168, 0, 199),
        }
        .emit(&mut out);
        assert_eq!(out, HEADER);
    }

    #[test]
    fn a_quote_may_end_behind_the_header() {
        let mut packet = packet();
        packet[8] = 1; // lowered on the way, without a thought for the checksum
        for len in 0..packet.len() + 10 {
            let quote = packet.get(..len).unwrap_or(&packet);
            let parsed = Ipv4::quoted(quote).map(|ip| ip.payload().len());
            let expected = if len < 20 { Err(Malformed::Truncated) } else { Ok(quote.len() - 20) };
            assert_eq!(parsed, expected, "{len} bytes");
        }
        let mut options = packet.clone();
        options[0] = 0x46;
        assert_eq!(Ipv4::quoted(&options).unwrap().options(), &[0xab; 4]);
        assert_eq!(Ipv4::quoted(&options[..23]).err(), Some(Malformed::Truncated));
        options[3] = 23;
        assert_eq!(Ipv4::quoted(&options).err(), Some(Malformed::Length));
        options[0] = 0x65;
        assert_eq!(Ipv4::quoted(&options).err(), Some(Malformed::Version));
    }

    #[test]
    fn pieces() {
        let mut piece = packet();
        piece.truncate(100);
        set_piece(&mut piece, Piece { id: 0x1234, offset: 0xfff8, more: true }).unwrap();
        let ip = Ipv4::parse(&piece).unwrap();
        assert_eq!((ip.id(), ip.fragment_offset(), ip.more_fragments()), (0x1234, 0xfff8, true));
        assert_eq!((ip.total_len(), ip.dont_fragment(), ip.ttl()), (100, false, 64));
        set_piece(&mut piece, Piece::whole(7)).unwrap();
        let ip = Ipv4::parse(&piece).unwrap();
        assert_eq!((ip.id(), ip.is_fragment(), ip.payload()), (7, false, &packet()[20..100]));
        for (bytes, reason) in [
            (vec![], Malformed::Truncated),
            (vec![0x45; 19], Malformed::Truncated),
            (vec![0x46; 23], Malformed::Truncated),
            (vec![0x44; 40], Malformed::Length),
            (vec![0x65; 40], Malformed::Version),
            (vec![0x45; 65_536], Malformed::Length),
        ] {
            let mut changed = bytes.clone();
            assert_eq!(set_piece(&mut changed, Piece::whole(0)), Err(reason));
            assert!(changed == bytes, "nothing is written");
        }
    }

    #[test]
    fn padding_is_cut_and_truncation_refused() {
        let mut padded = packet();
        padded.extend([0; 7]);
        assert_eq!(Ipv4::parse(&padded).unwrap().payload().len(), 95);
        for len in 0..20 {
            assert_eq!(Ipv4::parse(&padded[..len]).err(), Some(Malformed::Truncated), "{len} bytes");
        }
        for len in 20..115 {
            assert_eq!(Ipv4::parse(&padded[..len]).err(), Some(Malformed::Length), "{len} bytes");
        }
    }

    #[test]
    fn broken_fields_are_named() {
        for (first, reason) in
            [(0x65, Malformed::Version), (0x05, Malformed::Version), (0x44, Malformed::Length)]
        {
            let mut wrong = packet();
            wrong[0] = first;
            seal(&mut wrong);
            assert_eq!(Ipv4::parse(&wrong).err(), Some(reason), "first byte {first:#x}");
        }
        let mut short = packet();
        short[3] = 19;
        seal(&mut short);
        assert_eq!(Ipv4::parse(&short).err(), Some(Malformed::Length));
        let mut into_options = packet();
        (into_options[0], into_options[3]) = (0x46, 23);
        seal(&mut into_options);
        assert_eq!(Ipv4::parse(&into_options).err(), Some(Malformed::Length));
    }

    #[test]
    fn every_flipped_bit_of_the_header_is_refused() {
        for bit in 0..160 {
            let mut wrong = packet();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(Ipv4::parse(&wrong).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn options_are_parted_from_the_payload_and_summed() {
        let mut packet = packet();
        packet[0] = 0x47;
        packet[20..28].copy_from_slice(&[0x94, 4, 0, 0, 1, 1, 1, 0]);
        seal(&mut packet);
        let ip = Ipv4::parse(&packet).unwrap();
        assert_eq!((ip.header_len(), ip.options(), ip.payload()), (28, &packet[20..28], &packet[28..]));
        packet[21] = 5;
        assert_eq!(Ipv4::parse(&packet).err(), Some(Malformed::Checksum));
    }

    #[test]
    fn fragments() {
        for (word, offset, more) in [(0x2000_u16, 0, true), (0x2001, 8, true), (0x1fff, 65528, false)] {
            let mut packet = packet();
            packet[6..8].copy_from_slice(&word.to_be_bytes());
            seal(&mut packet);
            let ip = Ipv4::parse(&packet).unwrap();
            assert!(ip.is_fragment() && !ip.dont_fragment());
            assert_eq!((ip.fragment_offset(), ip.more_fragments()), (offset, more));
        }
    }

    #[test]
    fn a_packet_at_its_last_hop_is_not_changed() {
        for ttl in [0, 1] {
            let mut packet = packet();
            packet[8] = ttl;
            let before = packet.clone();
            assert_eq!(decrement_ttl(&mut packet), None);
            assert_eq!(packet, before);
        }
        assert_eq!(decrement_ttl(&mut [0xff; 19]), None);
        assert_eq!(set_tos(&mut [0xff; 19], 0), Err(Malformed::Truncated));
        assert_eq!(set_ecn(&mut [0xff; 19], Ecn::Ce), Err(Malformed::Truncated));
    }

    /// Every TTL and protocol there is, against the checksum computed anew.
    #[test]
    fn decrementing_equals_recomputing() {
        for ttl in 2..=u8::MAX {
            for protocol in 0..=u8::MAX {
                let mut packet = HEADER;
                (packet[8], packet[9]) = (ttl, protocol);
                seal(&mut packet);
                assert_eq!(decrement_ttl(&mut packet), Some(ttl - 1));
                let mut anew = packet;
                seal(&mut anew);
                assert_eq!(packet, anew);
            }
        }
    }

    /// Every change of the octet, against the checksum computed anew.
    #[test]
    fn changing_the_tos_equals_recomputing() {
        for old in 0..=u8::MAX {
            for new in 0..=u8::MAX {
                let mut packet = HEADER;
                packet[1] = old;
                seal(&mut packet);
                set_tos(&mut packet, new).unwrap();
                let mut anew = packet;
                seal(&mut anew);
                assert_eq!((packet[1], packet), (new, anew));
            }
        }
    }

    proptest! {
        #[test]
        fn parse_takes_any_bytes(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..128), plausible in any::<bool>(),
        ) {
            if plausible && bytes.len() > 20 {
                bytes[0] = 0x45 | bytes[0] & 0xf;
                (bytes[2], bytes[3]) = (0, bytes[3] & 0x7f);
                if usize::from(bytes[0] & 0xf) * 4 <= bytes.len() {
                    seal(&mut bytes);
                }
            }
            let plain = Ipv4::parse_plain(&bytes).map(|ip| (*ip.header, ip.options, ip.payload));
            let parsed = Ipv4::parse(&bytes).map(|ip| (*ip.header, ip.options, ip.payload));
            prop_assert_eq!(plain, parsed.ok().filter(|(_, options, _)| options.is_empty()));
            if let Ok(ip) = Ipv4::parse(&bytes) {
                prop_assert_eq!(ip.header_len() + ip.payload().len(), usize::from(ip.total_len()));
                prop_assert!(usize::from(ip.total_len()) <= bytes.len());
            }
            let _ = decrement_ttl(&mut bytes);
            let _ = set_ecn(&mut bytes, Ecn::Ce);
        }

        #[test]
        fn what_is_emitted_is_parsed(header in any_header()) {
            let packet = emitted(&header);
            let ip = Ipv4::parse(&packet).unwrap();
            let read = Ipv4Header {
                tos: ip.tos(),
                total_len: ip.total_len(),
                id: ip.id(),
                dont_fragment: ip.dont_fragment(),
                ttl: ip.ttl(),
                protocol: ip.protocol(),
                src: ip.src(),
                dst: ip.dst(),
            };
            prop_assert_eq!(read, header);
            prop_assert!(!ip.is_fragment());
        }

        #[test]
        fn rewriting_in_place_equals_emitting_anew(mut header in any_header(), tos in any::<u8>()) {
            prop_assume!(header.ttl > 1);
            let mut packet = emitted(&header);
            decrement_ttl(&mut packet).unwrap();
            set_tos(&mut packet, tos).unwrap();
            set_ecn(&mut packet, Ecn::Ce).unwrap();
            header.ttl -= 1;
            header.tos = tos | 3;
            prop_assert_eq!(packet, emitted(&header));
        }
    }
}

//! IPv6 (RFC 8200): the view of a received packet, the way through its extension headers to the upper-layer
//! payload, the header of a packet to send, and the fields rewritten on the way.
//! Parsing: 1. the fixed 40 bytes; 2. version; 3. payload length against the bytes present, cutting off padding.
//! [`Ipv6::upper`]: 1. hop-by-hop options, allowed first only; 2. routing, destination options and fragment
//! headers in any order, few; 3. stop at anything else, or behind the header of a fragment that is not the first.
//!
//! Jumbograms (RFC 2675) are not handled: their payload length of 0 is taken as it stands.

use super::{Ecn, Malformed, protocol};
use std::net::Ipv6Addr;

/// Length of the fixed header in bytes.
pub const HEADER_LEN: usize = 40;
/// Where the fixed header says what follows it, in bytes (RFC 8200 §3).
const NEXT_HEADER_AT: usize = 6;
/// Length of a fragment header in bytes, and the unit in which the others are measured (RFC 8200 §4.5, §4.2).
const UNIT: usize = 8;
/// Extension headers walked before a packet is refused; the limit that RFC 8504 §5.3 suggests to hosts.
const MAX_EXTENSIONS: usize = 8;
/// The fragment offset's bits within its word, which happen to give bytes (RFC 8200 §4.5).
const OFFSET: u16 = 0xfff8;
/// The more fragments flag (RFC 8200 §4.5).
const MORE_FRAGMENTS: u16 = 1;

/// A checked packet.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

/// What the extension headers end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper<'a> {
    /// The next header value of the last header walked: see [`protocol`].
    pub protocol: u8,
    /// Where `payload` starts, in bytes from the start of the IPv6 header.
    pub offset: usize,
    /// What follows the last header walked.
    pub payload: &'a [u8],
    /// Whether this is a piece of a packet. A fragment header on a whole packet (RFC 6946) does not make it
    /// one.
    pub fragment: bool,
    /// Whether `payload` begins with the header that `protocol` names: so in whole packets and first
    /// fragments.
    pub first: bool,
}

/// A fragment header (RFC 8200 §4.5), and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader<'a> {
    /// Where it starts, in bytes from the start of the IPv6 header: what is before is in every fragment.
    pub at: usize,
    /// Where the next header field that announces it stands, in bytes from the start of the IPv6 header.
    pub named_at: usize,
    /// What the fragmented part starts with: see [`protocol`].
    pub next_header: u8,
    /// Where `payload` stands in the fragmented part, in bytes: a multiple of eight.
    pub offset: u16,
    /// Whether fragments with higher offsets follow.
    pub more: bool,
    /// Identification, which the fragments of one packet share.
    pub id: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl FragmentHeader<'_> {
    /// Length of the header in bytes.
    pub const LEN: usize = UNIT;

    /// Whether it is on a whole packet (RFC 6946).
    #[must_use]
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

impl<'a> Ipv6<'a> {
    /// Reads a packet; bytes behind its payload length are padding and cut off.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] under 40 bytes, [`Malformed::Version`] when not 6, [`Malformed::Length`] when
    /// the payload length is beyond the bytes.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(Malformed::Version);
        }
        let payload_len = u16::from_be_bytes([header[4], header[5]]);
        let payload = rest.get(..usize::from(payload_len)).ok_or(Malformed::Length)?;
        Ok(Self { header, payload })
    }

    /// Reads the front of a packet as an ICMPv6 error quotes it (RFC 4443 §3): cut off anywhere behind the
    /// fixed header. The payload is what there is of it.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] under 40 bytes, [`Malformed::Version`] when not 6.
    pub fn quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(Malformed::Version);
        }
        let payload_len = u16::from_be_bytes([header[4], header[5]]);
        Ok(Self { header, payload: rest.get(..usize::from(payload_len)).unwrap_or(rest) })
    }

    /// Traffic class: DSCP (RFC 2474) in the upper six bits, ECN (RFC 3168) in the lower two.
    #[inline]
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        self.header[0] << 4 | self.header[1] >> 4
    }

    /// Flow label: 20 bits.
    #[inline]
    #[must_use]
    pub const fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.header[1] & 0xf, self.header[2], self.header[3]])
    }

    /// Length of everything behind the fixed header, extension headers included, in bytes.
    #[inline]
    #[must_use]
    pub const fn payload_len(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// What follows the fixed header: an extension header or the upper layer.
    #[inline]
    #[must_use]
    pub const fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// Hop limit.
    #[inline]
    #[must_use]
    pub const fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> Ipv6Addr {
        let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = *self.header;
        Ipv6Addr::from_octets([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> Ipv6Addr {
        let [.., a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *self.header;
        Ipv6Addr::from_octets([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// What follows the fixed header, extension headers included, without link padding.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Finds the upper-layer payload behind the extension headers.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when an extension header is cut short, [`Malformed::Extensions`] when there
    /// are more than eight or hop-by-hop options stand elsewhere than first (RFC 8200 §4.1).
    #[inline]
    pub fn upper(&self) -> Result<Upper<'a>, Malformed> {
        let upper = Upper {
            protocol: self.next_header(),
            offset: HEADER_LEN,
            payload: self.payload,
            fragment: false,
            first: true,
        };
        if is_extension(upper.protocol) { upper.walk() } else { Ok(upper) }
    }
}

impl<'a> Ipv6<'a> {
    /// Finds the fragment header, which stands behind hop-by-hop options, routing header and the destination
    /// options for its nodes (RFC 8200 §4.5). `None` where there is none before the upper layer.
    ///
    /// # Errors
    /// As [`Self::upper`].
    pub fn fragment_header(&self) -> Result<Option<FragmentHeader<'a>>, Malformed> {
        let (mut named_at, mut at) = (NEXT_HEADER_AT, HEADER_LEN);
        let (mut next_header, mut rest) = (self.next_header(), self.payload);
        // As many as `upper` takes, the hop-by-hop options beside them, and one look at what follows.
        for walked in 0..=MAX_EXTENSIONS + 1 {
            if !is_extension(next_header) {
                return Ok(None);
            }
            if next_header == protocol::HOP_BY_HOP && walked > 0 {
                return Err(Malformed::Extensions);
            }
            let (header, behind) = rest.split_first_chunk::<UNIT>().ok_or(Malformed::Truncated)?;
            let [following, units, high, low, a, b, c, d] = *header;
            if next_header == protocol::FRAGMENT {
                let word = u16::from_be_bytes([high, low]);
                return Ok(Some(FragmentHeader {
                    at,
                    named_at,
                    next_header: following,
                    offset: word & OFFSET,
                    more: word & MORE_FRAGMENTS != 0,
                    id: u32::from_be_bytes([a, b, c, d]),
                    payload: behind,
                }));
            }
            let more = usize::from(units) * UNIT;
            rest = behind.get(more..).ok_or(Malformed::Truncated)?;
            (named_at, next_header) = (at, following);
            at += UNIT + more;
        }
        Err(Malformed::Extensions)
    }
}

impl Upper<'_> {
    /// Steps over extension headers until none is left.
    #[cold]
    fn walk(mut self) -> Result<Self, Malformed> {
        if self.protocol == protocol::HOP_BY_HOP {
            self.step()?;
        }
        let mut walked = 0;
        while self.first && is_extension(self.protocol) {
            if walked == MAX_EXTENSIONS || self.protocol == protocol::HOP_BY_HOP {
                return Err(Malformed::Extensions);
            }
            self.step()?;
            walked += 1;
        }
        Ok(self)
    }

    /// Steps over one extension header.
    fn step(&mut self) -> Result<(), Malformed> {
        let header = self.payload.first_chunk::<UNIT>().ok_or(Malformed::Truncated)?;
        let mut len = UNIT;
        if self.protocol == protocol::FRAGMENT {
            let word = u16::from_be_bytes([header[2], header[3]]);
            self.fragment |= word & (OFFSET | MORE_FRAGMENTS) != 0;
            self.first = word & OFFSET == 0;
        } else {
            // Units behind the first one (RFC 8200 §4.2).
            len += usize::from(header[1]) * UNIT;
        }
        self.protocol = header[0];
        self.payload = self.payload.get(len..).ok_or(Malformed::Truncated)?;
        self.offset += len;
        Ok(())
    }
}

#[inline]
const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS
    )
}

/// A header to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Header {
    /// DSCP in the upper six bits, ECN in the lower two.
    pub traffic_class: u8,
    /// Flow label; bits above the lower 20 are not sent.
    pub flow_label: u32,
    /// Length of everything behind the header, in bytes.
    pub payload_len: u16,
    /// What follows: see [`protocol`].
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
}

impl Ipv6Header {
    /// Writes the header.
    #[inline]
    pub const fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let word = 6 << 28 | (self.traffic_class as u32) << 20 | self.flow_label & 0xf_ffff;
        let [w0, w1, w2, w3] = word.to_be_bytes();
        let [l0, l1] = self.payload_len.to_be_bytes();
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.src.octets();
        let [aa, bb, cc, dd, ee, ff, gg, hh, ii, jj, kk, ll, mm, nn, oo, pp] = self.dst.octets();
        *out = [
            w0,
            w1,
            w2,
            w3,
            l0,
            l1,
            self.next_header,
            self.hop_limit, //
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
            m,
            n,
            o,
            p, //
            aa,
            bb,
            cc,
            dd,
            ee,
            ff,
            gg,
            hh,
            ii,
            jj,
            kk,
            ll,
            mm,
            nn,
            oo,
            pp,
        ];
    }
}

/// Lowers the hop limit of a packet by one, as a router must, and returns the new one. `None`, with nothing
/// changed, when the packet must not go on: its hop limit is 1 or 0 (RFC 8200 §3), or it is shorter than a
/// header.
#[inline]
pub fn decrement_hop_limit(packet: &mut [u8]) -> Option<u8> {
    let header = packet.first_chunk_mut::<HEADER_LEN>()?;
    let hop_limit = header[7].checked_sub(1).filter(|&hop_limit| hop_limit != 0)?;
    header[7] = hop_limit;
    Some(hop_limit)
}

/// Replaces the traffic class of a packet.
///
/// # Errors
/// [`Malformed::Truncated`] when shorter than a header.
#[inline]
pub fn set_traffic_class(packet: &mut [u8], traffic_class: u8) -> Result<(), Malformed> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
    header[0] = header[0] & 0xf0 | traffic_class >> 4;
    header[1] = header[1] & 0x0f | traffic_class << 4;
    Ok(())
}

/// Replaces the ECN mark of a packet; the DSCP stays.
///
/// # Errors
/// [`Malformed::Truncated`] when shorter than a header.
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) -> Result<(), Malformed> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
    // The mark stands in bits 4 and 5 of the second octet (RFC 8200 §3).
    header[1] = header[1] & 0b1100_1111 | (ecn as u8) << 4;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2001:db8::1 to 2001:db8::2, traffic class 0xb8 (expedited forwarding), flow label 0x12345, laid out by
    /// hand.
    const HEADER: [u8; 40] = [
        0x6b, 0x81, 0x23, 0x45, 0, 16, 47, 64, //
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, //
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
    ];

    fn known() -> Ipv6Header {
        Ipv6Header {
            traffic_class: 0xb8,
            flow_label: 0x12345,
            payload_len: 16,
            next_header: protocol::GRE,
            hop_limit: 64,
            src: "2001:db8::1".parse().unwrap(),
            dst: "2001:db8::2".parse().unwrap(),
        }
    }

    fn read(ip: &Ipv6<'_>) -> Ipv6Header {
        Ipv6Header {
            traffic_class: ip.traffic_class(),
            flow_label: ip.flow_label(),
            payload_len: ip.payload_len(),
            next_header: ip.next_header(),
            hop_limit: ip.hop_limit(),
            src: ip.src(),
            dst: ip.dst(),
        }
    }

    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = HEADER.to_vec();
        packet[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        packet[6] = next_header;
        packet.extend(payload);
        packet
    }

    #[test]
    fn a_known_header_both_ways() {
        let packet = packet(protocol::GRE, &[7; 16]);
        let ip = Ipv6::parse(&packet).unwrap();
        assert_eq!((read(&ip), ip.payload()), (known(), &[7; 16][..]));
        let mut out = [0xff; 40];
        known().emit(&mut out);
        assert_eq!(out, HEADER);
    }

    #[test]
    fn padding_is_cut_and_truncation_refused() {
        let mut padded = packet(protocol::GRE, &[7; 16]);
        padded.extend([0; 9]);
        assert_eq!(Ipv6::parse(&padded).unwrap().payload().len(), 16);
        for len in 0..40 {
            assert_eq!(Ipv6::parse(&padded[..len]).err(), Some(Malformed::Truncated), "{len} bytes");
        }
        for len in 40..56 {
            assert_eq!(Ipv6::parse(&padded[..len]).err(), Some(Malformed::Length), "{len} bytes");
        }
        padded[0] = 0x4b;
        assert_eq!(Ipv6::parse(&padded).err(), Some(Malformed::Version));
    }

    #[test]
    fn no_extension_header() {
        let packet = packet(protocol::ESP, &[1, 2, 3]);
        let upper = Ipv6::parse(&packet).unwrap().upper().unwrap();
        let payload = &packet[40..];
        assert_eq!(upper, Upper { protocol: 50, offset: 40, payload, fragment: false, first: true });
    }

    /// Hop-by-hop, destination options, routing (16 bytes), first fragment, GRE: the order of RFC 8200 §4.1.
    #[test]
    fn the_recommended_order_is_walked() {
        let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0];
        payload.extend([43, 0, 1, 4, 0, 0, 0, 0]);
        payload.extend([44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend([47, 0, 0, 1, 0, 0, 0, 9]);
        payload.extend([0, 0, 8, 0]);
        let whole = packet(0, &payload);
        let upper = Ipv6::parse(&whole).unwrap().upper().unwrap();
        let payload = &whole[80..];
        assert_eq!(upper, Upper { protocol: 47, offset: 80, payload, fragment: true, first: true });
        for len in 40..80 {
            let cut = packet(0, &whole[40..len]);
            assert_eq!(Ipv6::parse(&cut).unwrap().upper(), Err(Malformed::Truncated), "{len} bytes");
        }
    }

    #[test]
    fn fragments() {
        // Offset and flag, and whether it is a fragment and the first one.
        for (word, fragment, first) in
            [(0_u16, false, true), (1, true, true), (8, true, false), (0xfff9, true, false)]
        {
            let [high, low] = word.to_be_bytes();
            // Behind it, where it is not the first, stands data that must not be taken for options.
            let packet = packet(44, &[60, 0, high, low, 0, 0, 0, 1, 17, 0, 1, 4, 0, 0, 0, 0]);
            let upper = Ipv6::parse(&packet).unwrap().upper().unwrap();
            let expected = if first { (17, 56) } else { (60, 48) };
            assert_eq!(
                (upper.protocol, upper.offset, upper.fragment, upper.first),
                (expected.0, expected.1, fragment, first)
            );
        }
    }

    #[test]
    fn the_fragment_header_is_found() {
        let mut payload = vec![43, 0, 1, 4, 0, 0, 0, 0];
        payload.extend([44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend([47, 0, 0x12, 0x39, 1, 2, 3, 4, 0xaa, 0xbb]);
        let whole = packet(0, &payload);
        let found = Ipv6::parse(&whole).unwrap().fragment_header().unwrap().unwrap();
        assert_eq!((found.at, found.named_at, found.next_header), (64, 48, 47));
        assert_eq!((found.offset, found.more, found.id), (0x1238, true, 0x0102_0304));
        assert_eq!((found.payload, found.is_atomic()), (&[0xaa, 0xbb][..], false));
        for len in 40..72 {
            let cut = packet(0, &whole[40..len]);
            let found = Ipv6::parse(&cut).unwrap().fragment_header();
            assert_eq!(found, Err(Malformed::Truncated), "{len} bytes");
        }
        let atomic = packet(44, &[17, 0, 0, 6, 0, 0, 0, 1]);
        let found = Ipv6::parse(&atomic).unwrap().fragment_header().unwrap().unwrap();
        assert_eq!((found.at, found.named_at, found.is_atomic()), (40, 6, true));
        let none = packet(43, &[17, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Ipv6::parse(&none).unwrap().fragment_header(), Ok(None));
        let misplaced = packet(60, &[0, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(Ipv6::parse(&misplaced).unwrap().fragment_header(), Err(Malformed::Extensions));
        let endless = packet(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(20));
        assert_eq!(Ipv6::parse(&endless).unwrap().fragment_header(), Err(Malformed::Extensions));
    }

    #[test]
    fn a_quote_may_end_behind_the_fixed_header() {
        let packet = packet(protocol::ESP, &[1; 60]);
        for len in 0..packet.len() + 10 {
            let quote = packet.get(..len).unwrap_or(&packet);
            let parsed = Ipv6::quoted(quote).map(|ip| ip.payload().len());
            assert_eq!(parsed, quote.len().checked_sub(40).ok_or(Malformed::Truncated), "{len} bytes");
        }
        assert_eq!(Ipv6::quoted(&[0x45; 40]).err(), Some(Malformed::Version));
    }

    #[test]
    fn misplaced_and_endless_headers_are_refused() {
        let misplaced = packet(60, &[0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(Ipv6::parse(&misplaced).unwrap().upper(), Err(Malformed::Extensions));
        for (count, refused) in [(MAX_EXTENSIONS, false), (MAX_EXTENSIONS + 1, true)] {
            let mut payload = [60, 0, 1, 4, 0, 0, 0, 0].repeat(count);
            payload[(count - 1) * 8] = 17;
            let packet = packet(60, &payload);
            assert_eq!(Ipv6::parse(&packet).unwrap().upper().is_err(), refused, "{count} headers");
        }
    }

    #[test]
    fn a_packet_at_its_last_hop_is_not_changed() {
        for hop_limit in [0, 1] {
            let mut packet = packet(17, &[]);
            packet[7] = hop_limit;
            let before = packet.clone();
            assert_eq!(decrement_hop_limit(&mut packet), None);
            assert_eq!(packet, before);
        }
        assert_eq!(decrement_hop_limit(&mut [0xff; 39]), None);
        assert_eq!(set_traffic_class(&mut [0xff; 39], 0), Err(Malformed::Truncated));
        assert_eq!(set_ecn(&mut [0xff; 39], Ecn::Ce), Err(Malformed::Truncated));
    }

    proptest! {
        #[test]
        fn parse_takes_any_bytes(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..160),
            chain in proptest::collection::vec(
                prop_oneof![Just(0_u8), Just(43), Just(44), Just(60), Just(17)], 16,
            ),
        ) {
            // Make the walk likely: version 6, a length that fits, and next header values that lead on.
            if let Some((header, payload)) = bytes.split_first_chunk_mut::<40>() {
                header[0] = 0x60;
                [header[4], header[5]] = u16::try_from(payload.len()).unwrap().to_be_bytes();
                header[6] = chain[0];
                for (unit, next_header) in payload.as_chunks_mut::<8>().0.iter_mut().zip(&chain[1..]) {
                    (unit[0], unit[1]) = (*next_header, unit[1] & 1);
                }
            }
            if let Ok(upper) = Ipv6::parse(&bytes).and_then(|ip| ip.upper()) {
                prop_assert_eq!(upper.offset + upper.payload.len(), bytes.len());
                prop_assert!(upper.fragment || upper.first);
                prop_assert!(!upper.first || !is_extension(upper.protocol));
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            (traffic_class, next_header, hop_limit, flow_label) in any::<(u8, u8, u8, u32)>(),
            src in any::<[u8; 16]>(), dst in any::<[u8; 16]>(), payload_len in 0_u16..1500,
        ) {
            let header = Ipv6Header {
                traffic_class, flow_label, payload_len, next_header, hop_limit,
                src: src.into(), dst: dst.into(),
            };
            let mut packet = vec![0; 40 + usize::from(payload_len)];
            header.emit(packet.first_chunk_mut().unwrap());
            let sent = Ipv6Header { flow_label: flow_label & 0xf_ffff, ..header };
            prop_assert_eq!(read(&Ipv6::parse(&packet).unwrap()), sent);
        }

        #[test]
        fn rewriting_changes_its_field_alone(start in any::<[u8; 40]>(), traffic_class in any::<u8>()) {
            let mut header = start;
            (header[0], header[7]) = (0x60 | header[0] & 0xf, header[7].max(2));
            [header[4], header[5]] = [0, 0];
            let before = read(&Ipv6::parse(&header).unwrap());
            decrement_hop_limit(&mut header).unwrap();
            set_traffic_class(&mut header, traffic_class).unwrap();
            let after = Ipv6Header { hop_limit: before.hop_limit - 1, traffic_class, ..before };
            prop_assert_eq!(read(&Ipv6::parse(&header).unwrap()), after);
            for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
                set_ecn(&mut header, ecn).unwrap();
                let marked = Ipv6Header { traffic_class: ecn.mark(traffic_class), ..after };
                prop_assert_eq!(read(&Ipv6::parse(&header).unwrap()), marked);
            }
        }
    }
}

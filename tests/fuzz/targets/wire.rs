//! Packets of any content, taken for each header in turn. Views must agree with the bytes they show, what is
//! emitted must be read back equal, fields rewritten in place must change nothing else, and checksums must be
//! those of a plain sum written here.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_engine::wire::{
    Arp, ArpMessage, Ecn, Esp, EspHeader, Ethernet, EthernetHeader, Gre, GreHeader, Icmpv4, Icmpv4Message,
    Icmpv6, Icmpv6Message, Ipv4, Ipv4Header, Ipv6, Ipv6Header, MacAddr, Sum, Udp, UdpHeader, arp, checksum,
    esp, ethernet, icmpv4, icmpv6, ipv4, ipv6, protocol, udp,
};
use libfuzzer_sys::fuzz_target;

const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2));
const V6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

/// The longest input taken: what a length field of 16 bits can tell.
const LONGEST: usize = 65_535;

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > LONGEST {
        return;
    }
    sums(bytes);
    mac_text(bytes);
    ethernet(bytes);
    arp(bytes);
    ipv4(bytes);
    ipv4(&with_ipv4_checksum(bytes));
    ipv6(bytes);
    gre(bytes);
    esp(bytes);
    esp_trailer(bytes);
    udp(bytes);
    icmpv4(bytes);
    icmpv6(bytes);
});

/// The one's complement sum of 16-bit words (RFC 1071 §1), the plain way.
fn plain_sum(parts: &[&[u8]]) -> u32 {
    let bytes = parts.concat();
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    words.fold(0, |sum, word| (sum + word) % 0x10000 + (sum + word) / 0x10000)
}

fn plain_valid(parts: &[&[u8]]) -> bool {
    plain_sum(parts) == 0xffff
}

fn sums(bytes: &[u8]) {
    let whole = checksum::checksum(bytes);
    assert_eq!(u32::from(whole), !plain_sum(&[bytes]) & 0xffff);
    assert_eq!(Sum::new().with(bytes).is_valid(), plain_valid(&[bytes]));
    let Some((selector, rest)) = bytes.split_first() else { return };
    let (front, back) = rest.split_at((usize::from(*selector) & !1).min(rest.len() & !1));
    assert_eq!(Sum::new().with(front).with(back).finish(), checksum::checksum(rest));
    if let Some(twenty) = rest.first_chunk::<20>() {
        assert_eq!(checksum::is_valid_20(twenty), checksum::checksum(twenty) == 0);
    }
}

fn mac_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(address) = text.parse::<MacAddr>() {
        assert_eq!(address.to_string(), text.to_lowercase());
    }
}

fn ethernet(bytes: &[u8]) {
    let Ok(frame) = Ethernet::parse(bytes) else {
        return assert!(bytes.len() < ethernet::HEADER_LEN + 2 * ethernet::TAG_LEN);
    };
    let before = ethernet::HEADER_LEN + frame.tags_len();
    assert_eq!(frame.payload(), &bytes[before..]);
    assert_eq!(frame.ethertype().to_be_bytes(), bytes[before - 2..before]);
    assert_eq!(frame.dst().to_string().parse::<MacAddr>(), Ok(frame.dst()));
    assert_eq!(frame.dst().is_multicast(), bytes[0] % 2 == 1);
    let mut out = [0; ethernet::HEADER_LEN];
    EthernetHeader { dst: frame.dst(), src: frame.src(), ethertype: frame.ethertype() }.emit(&mut out);
    assert_eq!(out[..12], bytes[..12]);
    assert_eq!(out[12..], bytes[before - 2..before]);
}

fn arp(bytes: &[u8]) {
    let Ok(view) = Arp::parse(bytes) else { return };
    let message = ArpMessage {
        operation: view.operation(),
        sender_mac: view.sender_mac(),
        sender_ip: view.sender_ip(),
        target_mac: view.target_mac(),
        target_ip: view.target_ip(),
    };
    let mut out = [0; arp::LEN];
    message.emit(&mut out);
    assert_eq!(out, bytes[..arp::LEN]);
}

/// The packet with the header checksum it should have, so that what lies behind that check is reached.
fn with_ipv4_checksum(bytes: &[u8]) -> Vec<u8> {
    let mut packet = bytes.to_vec();
    let header_len = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    if let Some(header) = packet.get_mut(..header_len).filter(|header| header.len() >= ipv4::HEADER_LEN) {
        header[10..12].fill(0);
        let check = !plain_sum(&[header]) as u16;
        header[10..12].copy_from_slice(&check.to_be_bytes());
    }
    packet
}

fn ipv4(bytes: &[u8]) {
    ipv4_rewrites(bytes);
    let Ok(view) = Ipv4::parse(bytes) else { return };
    let (header_len, total_len) = (view.header_len(), usize::from(view.total_len()));
    assert!(plain_valid(&[&bytes[..header_len]]));
    assert_eq!(view.options(), &bytes[ipv4::HEADER_LEN..header_len]);
    assert_eq!(view.payload(), &bytes[header_len..total_len]);
    let word = u16::from_be_bytes([bytes[6], bytes[7]]);
    assert_eq!((view.fragment_offset(), view.more_fragments()), ((word & 0x1fff) * 8, word & 0x2000 != 0));
    assert_eq!(view.is_fragment(), word & 0x3fff != 0);
    let header = Ipv4Header {
        tos: view.tos(),
        total_len: view.total_len(),
        id: view.id(),
        dont_fragment: view.dont_fragment(),
        ttl: view.ttl(),
        protocol: view.protocol(),
        src: view.src(),
        dst: view.dst(),
    };
    let mut out = [0; ipv4::HEADER_LEN];
    header.emit(&mut out);
    assert!(plain_valid(&[&out]));
    // All but what is never sent: options, fragments, the reserved flag; and the checksum, whose zero has two forms.
    assert_eq!((out[0], &out[1..6]), (0x45, &bytes[1..6]));
    assert_eq!((out[6], out[7]), (bytes[6] & 0x40, 0));
    assert_eq!((&out[8..10], &out[12..]), (&bytes[8..10], &bytes[12..ipv4::HEADER_LEN]));
}

/// In-place changes of a packet: one octet and the checksum, which stays as right or wrong as it was.
fn ipv4_rewrites(bytes: &[u8]) {
    let enough = bytes.len() >= ipv4::HEADER_LEN;
    let check = |packet: &[u8], octet: usize, value: u8| {
        assert_eq!(packet[octet], value);
        let mut expected = bytes.to_vec();
        expected[octet] = value;
        expected[10..12].copy_from_slice(&packet[10..12]);
        assert_eq!(packet, expected);
        let sums = [bytes, packet].map(|packet| plain_sum(&[&packet[..ipv4::HEADER_LEN]]) % 0xffff);
        assert_eq!(sums[0], sums[1]);
    };
    let mut packet = bytes.to_vec();
    match ipv4::decrement_ttl(&mut packet) {
        Some(ttl) => check(&packet, 8, ttl),
        None => assert!(packet == bytes && (!enough || bytes[8] <= 1)),
    }
    let tos = bytes.last().copied().unwrap_or_default();
    let mut packet = bytes.to_vec();
    match ipv4::set_tos(&mut packet, tos) {
        Ok(()) => check(&packet, 1, tos),
        Err(_) => assert!(!enough && packet == bytes),
    }
    let mut packet = bytes.to_vec();
    match ipv4::set_ecn(&mut packet, Ecn::of(tos)) {
        Ok(()) => check(&packet, 1, bytes[1] & 0xfc | tos & 3),
        Err(_) => assert!(!enough && packet == bytes),
    }
}

fn ipv6(bytes: &[u8]) {
    ipv6_rewrites(bytes);
    let Ok(view) = Ipv6::parse(bytes) else { return };
    let end = ipv6::HEADER_LEN + usize::from(view.payload_len());
    assert_eq!(view.payload(), &bytes[ipv6::HEADER_LEN..end]);
    if let Ok(upper) = view.upper() {
        assert_eq!(upper.payload, &bytes[upper.offset..end]);
        assert!(upper.first || upper.fragment);
        assert!(upper.offset > ipv6::HEADER_LEN || upper.protocol == view.next_header());
    }
    let header = Ipv6Header {
        traffic_class: view.traffic_class(),
        flow_label: view.flow_label(),
        payload_len: view.payload_len(),
        next_header: view.next_header(),
        hop_limit: view.hop_limit(),
        src: view.src(),
        dst: view.dst(),
    };
    let mut out = [0; ipv6::HEADER_LEN];
    header.emit(&mut out);
    assert_eq!(out, bytes[..ipv6::HEADER_LEN]);
}

/// In-place changes of a packet, against the word or octet they stand in.
fn ipv6_rewrites(bytes: &[u8]) {
    let enough = bytes.len() >= ipv6::HEADER_LEN;
    let mut packet = bytes.to_vec();
    match ipv6::decrement_hop_limit(&mut packet) {
        Some(hop_limit) => {
            assert_eq!((packet[7], bytes[7]), (hop_limit, hop_limit + 1));
            packet[7] = bytes[7];
            assert_eq!(packet, bytes);
        }
        None => assert!(packet == bytes && (!enough || bytes[7] <= 1)),
    }
    let class = bytes.last().copied().unwrap_or_default();
    let with = |mask: u16| {
        let word = u16::from_be_bytes([bytes[0], bytes[1]]) & !mask | (u16::from(class) << 4) & mask;
        [&word.to_be_bytes(), &bytes[2..]].concat()
    };
    let mut packet = bytes.to_vec();
    match ipv6::set_traffic_class(&mut packet, class) {
        Ok(()) => assert_eq!(packet, with(0x0ff0)),
        Err(_) => assert!(!enough && packet == bytes),
    }
    let mut packet = bytes.to_vec();
    match ipv6::set_ecn(&mut packet, Ecn::of(class)) {
        Ok(()) => assert_eq!(packet, with(0x0030)),
        Err(_) => assert!(!enough && packet == bytes),
    }
}

fn gre(bytes: &[u8]) {
    let Ok(view) = Gre::parse(bytes) else { return };
    assert_eq!(bytes[0] & 0x4c, 0);
    assert_eq!(bytes[1] & 7, 0);
    let header_len = 4 * (1 + (bytes[0] >> 4).count_ones() as usize);
    assert_eq!((view.header_len(), view.payload()), (header_len, &bytes[header_len..]));
    assert_eq!(view.checksum_ok(), view.checksum().is_none() || plain_valid(&[bytes]));
    let header = GreHeader {
        protocol: view.protocol(),
        checksum: view.checksum().is_some(),
        key: view.key(),
        sequence: view.sequence(),
    };
    assert_eq!(header.len(), header_len);
    let mut packet = bytes.to_vec();
    header.emit(&mut packet).unwrap();
    // The flags a receiver ignores are not sent, and the checksum is right whatever it was.
    assert_eq!(packet[..2], [bytes[0] & 0xb0, 0]);
    assert_eq!(packet[2..4], bytes[2..4]);
    let optional = if header.checksum { 8 } else { 4 };
    assert_eq!(packet[optional..], bytes[optional..]);
    assert!(Gre::parse(&packet).unwrap().checksum_ok());
    let before = bytes[..header_len - 1].to_vec();
    let mut short = before.clone();
    assert!(header.emit(&mut short).is_err() && short == before);
}

fn esp(bytes: &[u8]) {
    let Ok(view) = Esp::parse(bytes) else { return };
    assert_eq!([&view.header()[..], view.iv(), view.rest()].concat(), bytes);
    assert!(view.rest().len() >= 20 && view.rest().len() % esp::ALIGNMENT == 0);
    let mut out = [0; esp::HEADER_LEN];
    EspHeader { spi: view.spi(), sequence: view.sequence() }.emit(&mut out);
    assert_eq!(out, bytes[..esp::HEADER_LEN]);
}

fn esp_trailer(bytes: &[u8]) {
    assert_eq!(esp::split_trailer(bytes).ok(), plain_split(bytes));
    let Some((&pad_len, room)) = bytes.split_first() else { return };
    let mut out = room.to_vec();
    let trailer_len = usize::from(pad_len) + esp::TRAILER_LEN;
    match esp::write_trailer(&mut out, pad_len, protocol::GRE) {
        Ok(()) => {
            let padding = (1..=pad_len).collect::<Vec<u8>>();
            assert_eq!(out[..trailer_len], [&padding[..], &[pad_len, protocol::GRE]].concat());
            assert_eq!(esp::split_trailer(&out[..trailer_len]), Ok((&[][..], protocol::GRE)));
            let touched = trailer_len.max(16);
            assert_eq!(out.get(touched..), room.get(touched..));
        }
        Err(_) => assert!(out == room && room.len() < trailer_len),
    }
    for alignment in [4, 16, 256] {
        let pad_len = usize::from(esp::pad_len(room.len(), alignment));
        assert!(pad_len < alignment && (room.len() + pad_len + esp::TRAILER_LEN).is_multiple_of(alignment));
    }
}

/// The split by RFC 4303 §2.4, octet by octet.
fn plain_split(plaintext: &[u8]) -> Option<(&[u8], u8)> {
    let (padded, [pad_len, next_header]) = plaintext.split_last_chunk::<2>()?;
    let (payload, padding) = padded.split_at(padded.len().checked_sub(usize::from(*pad_len))?);
    padding.iter().copied().eq(1..=*pad_len).then_some((payload, *next_header))
}

/// The pseudo headers between the fixed addresses (RFC 768, RFC 8200 §8.1), as bytes.
fn pseudo_v4(protocol: u8, length: u16) -> Vec<u8> {
    [&V4.0.octets()[..], &V4.1.octets(), &[0, protocol], &length.to_be_bytes()].concat()
}

fn pseudo_v6(next_header: u8, length: usize) -> Vec<u8> {
    [&V6.0.octets()[..], &V6.1.octets(), &(length as u32).to_be_bytes(), &[0, 0, 0, next_header]].concat()
}

fn udp(bytes: &[u8]) {
    let Ok(view) = Udp::parse(bytes) else { return };
    let length = usize::from(view.length());
    assert_eq!(view.payload(), &bytes[udp::HEADER_LEN..length]);
    let mut out = [0; udp::HEADER_LEN];
    let header = UdpHeader {
        source: view.source(),
        destination: view.destination(),
        length: view.length(),
        checksum: view.checksum(),
    };
    header.emit(&mut out);
    assert_eq!(out, bytes[..udp::HEADER_LEN]);

    let v4 = Sum::pseudo_v4(V4.0, V4.1, protocol::UDP, view.length());
    let v6 = Sum::pseudo_v6(V6.0, V6.1, protocol::UDP, u32::from(view.length()));
    let plain = [pseudo_v4(protocol::UDP, view.length()), pseudo_v6(protocol::UDP, length)];
    for (sum, plain) in [v4, v6].into_iter().zip(plain) {
        let valid = plain_valid(&[&plain, &bytes[..length]]);
        assert_eq!(view.checksum_ok(sum), view.checksum() == 0 || valid);
        let mut datagram = bytes[..length].to_vec();
        datagram[6..8].fill(0);
        let check = udp::checksum(&datagram, sum);
        assert_ne!(check, 0);
        // One more word that brings the sum to where the checksum would be 0, which a sender must not send.
        let mut full = datagram.clone();
        full.resize(length.next_multiple_of(2), 0);
        full.extend_from_slice(&(!plain_sum(&[&plain, &datagram]) as u16).to_be_bytes());
        assert_eq!(udp::checksum(&full, sum), 0xffff);
        datagram[6..8].copy_from_slice(&check.to_be_bytes());
        assert!(Udp::parse(&datagram).unwrap().checksum_ok(sum) && plain_valid(&[&plain, &datagram]));
    }
}

fn icmpv4(bytes: &[u8]) {
    let quote = icmpv4::quote(bytes);
    assert_eq!(quote, &bytes[..bytes.len().min(icmpv4::MAX_QUOTE)]);
    let Ok(view) = Icmpv4::parse(bytes) else { return assert!(bytes.len() < icmpv4::HEADER_LEN) };
    assert_eq!((&[view.kind(), view.code()][..], &view.rest()[..]), (&bytes[..2], &bytes[4..8]));
    assert_eq!(view.body(), &bytes[8..]);
    assert_eq!(view.checksum_ok(), plain_valid(&[bytes]));
    let [a, b, c, d] = view.rest();
    let (identifier, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    for (message, expected) in [
        (Icmpv4Message::EchoRequest { identifier, sequence }, [8, 0, a, b, c, d]),
        (Icmpv4Message::EchoReply { identifier, sequence }, [0, 0, a, b, c, d]),
        (Icmpv4Message::TimeExceeded, [11, 0, 0, 0, 0, 0]),
        (Icmpv4Message::Unreachable { code: a }, [3, a, 0, 0, 0, 0]),
        (Icmpv4Message::FragmentationNeeded { mtu: sequence }, [3, 4, 0, 0, c, d]),
    ] {
        let mut packet = bytes.to_vec();
        message.emit(&mut packet).unwrap();
        assert_eq!([&packet[..2], &packet[4..8]].concat(), expected);
        assert!(packet[8..] == bytes[8..] && plain_valid(&[&packet]));
    }
}

fn icmpv6(bytes: &[u8]) {
    let quote = icmpv6::quote(bytes);
    assert_eq!(quote, &bytes[..bytes.len().min(icmpv6::MAX_QUOTE)]);
    let Ok(view) = Icmpv6::parse(bytes) else { return assert!(bytes.len() < icmpv6::HEADER_LEN) };
    assert_eq!((&[view.kind(), view.code()][..], &view.rest()[..]), (&bytes[..2], &bytes[4..8]));
    assert_eq!(view.body(), &bytes[8..]);
    let pseudo = pseudo_v6(protocol::ICMPV6, bytes.len());
    assert_eq!(view.checksum_ok(V6.0, V6.1), plain_valid(&[&pseudo, bytes]));
    let [a, b, c, d] = view.rest();
    let (identifier, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    for (message, expected) in [
        (Icmpv6Message::EchoRequest { identifier, sequence }, [128, 0, a, b, c, d]),
        (Icmpv6Message::EchoReply { identifier, sequence }, [129, 0, a, b, c, d]),
        (Icmpv6Message::TimeExceeded, [3, 0, 0, 0, 0, 0]),
        (Icmpv6Message::Unreachable { code: a }, [1, a, 0, 0, 0, 0]),
        (Icmpv6Message::PacketTooBig { mtu: u32::from_be_bytes([a, b, c, d]) }, [2, 0, a, b, c, d]),
    ] {
        let mut packet = bytes.to_vec();
        message.emit(&mut packet, V6.0, V6.1).unwrap();
        assert_eq!([&packet[..2], &packet[4..8]].concat(), expected);
        assert!(packet[8..] == bytes[8..] && plain_valid(&[&pseudo, &packet]));
    }
}

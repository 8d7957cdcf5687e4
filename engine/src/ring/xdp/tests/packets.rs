//! Packets laid out by hand, with the verdict expected for each. Checksums are left out: nothing here looks at them.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) const LOCAL_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PEER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const GRE: u8 = 47;
const ESP: u8 = 50;
const AH: u8 = 51;
const ICMPV6: u8 = 58;
const OPTIONS: u8 = 60;
const HOP_BY_HOP: u8 = 0;

const MORE: u16 = 0x2000;
/// What ESP or GRE might look like.
const BODY: [u8; 24] = [0x77; 24];

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) frame: Vec<u8>,
    pub(super) ours: bool,
}

fn link(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet with `options` words of options.
fn v4_full(dst: Ipv4Addr, protocol: u8, ttl: u8, fragment: u16, options: u8, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + 4 * options;
    let mut packet = vec![0x40 | (header_len / 4), 0];
    packet.extend((u16::from(header_len) + payload.len() as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([ttl, protocol, 0, 0]);
    packet.extend(PEER_V4.octets());
    packet.extend(dst.octets());
    packet.extend(vec![1; 4 * usize::from(options)]);
    packet.extend(payload);
    packet
}

fn v4(dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    link(0x0800, &v4_full(dst, protocol, 64, 0, 0, payload))
}

/// To our address.
fn local_v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    v4(LOCAL_V4, protocol, payload)
}

fn v6_packet(dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(PEER_V6.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

fn v6(dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    link(0x86dd, &v6_packet(dst, next, payload))
}

fn local_v6(next: u8, payload: &[u8]) -> Vec<u8> {
    v6(LOCAL_V6, next, payload)
}

/// Extension headers of the kinds given, options of 8, 16, 24.. bytes, before `payload` of protocol `last`; returns the
/// first kind too. Fragment headers carry `fragment`.
fn chain(kinds: &[u8], fragment: u16, last: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for (nth, kind) in kinds.iter().enumerate() {
        let next = kinds.get(nth + 1).copied().unwrap_or(last);
        if *kind == FRAGMENT {
            bytes.extend([next, 0]);
            bytes.extend(fragment.to_be_bytes());
            bytes.extend([0, 0, 0, 1]);
        } else {
            bytes.extend([next, nth as u8, 1, 4, 0, 0, 0, 0]);
            bytes.extend(vec![0; 8 * nth]);
        }
    }
    bytes.extend(payload);
    (kinds.first().copied().unwrap_or(last), bytes)
}

fn chained(kinds: &[u8], fragment: u16, last: u8, payload: &[u8]) -> Vec<u8> {
    let (first, bytes) = chain(kinds, fragment, last, payload);
    local_v6(first, &bytes)
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(source.to_be_bytes());
    datagram.extend(destination.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An ICMP error about `quoted`.
fn error(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 5, 0];
    message.extend(quoted);
    message
}

/// Too big, about a packet of ours with `protocol` and `payload`.
fn error_v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    local_v4(ICMP, &error(3, 4, &v4_full(PEER_V4, protocol, 64, 0, 0, payload)))
}

fn error_v6(kind: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    local_v6(ICMPV6, &error(kind, 0, &v6_packet(PEER_V6, next, payload)))
}

fn with_destination(mut frame: Vec<u8>, mac: [u8; 6]) -> Vec<u8> {
    frame[..6].copy_from_slice(&mac);
    frame
}

fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(len);
    frame
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    out.extend([0x81, 0x00, 0, 7]);
    out.extend(&frame[12..]);
    out
}

/// Everything but what the prefixes decide.
pub(super) fn local() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut ours = |name, frame| cases.push(Case { name, frame, ours: true });
    let fragment =
        |protocol, field, payload: &[u8]| link(0x0800, &v4_full(LOCAL_V4, protocol, 64, field, 0, payload));
    ours("ESP", local_v4(ESP, &BODY));
    ours("ESP, nothing behind the header", local_v4(ESP, &[]));
    ours("GRE", local_v4(GRE, &BODY));
    ours("ESP, TTL 1", link(0x0800, &v4_full(LOCAL_V4, ESP, 1, 0, 0, &BODY)));
    ours("ESP behind options", link(0x0800, &v4_full(LOCAL_V4, ESP, 64, 0, 10, &BODY)));
    ours("ESP, first fragment", fragment(ESP, MORE, &BODY));
    ours("ESP, later fragment", fragment(ESP, 100, &BODY));
    ours("GRE, last fragment", fragment(GRE, 100, &BODY));
    ours("ESP in UDP, first fragment", fragment(UDP, MORE, &udp(4500, 4500, &BODY)));
    ours("ESP in UDP, later fragment", fragment(UDP, MORE | 4, &BODY));
    ours("ESP in UDP, last fragment", fragment(UDP, 100, &[0; 3]));
    ours("GRE in UDP, first fragment", fragment(UDP, MORE, &udp(50000, 4754, &[0; 8])));
    ours("GRE in UDP, last fragment", fragment(UDP, 100, &BODY));
    ours("ESP in UDP, first fragment of three", fragment(UDP, MORE, &udp(4500, 4500, &BODY)));
    ours("ESP in UDP", local_v4(UDP, &udp(4500, 4500, &BODY)));
    ours("ESP in UDP from another port", local_v4(UDP, &udp(61000, 4500, &BODY)));
    ours(
        "ESP in UDP behind options",
        link(0x0800, &v4_full(LOCAL_V4, UDP, 64, 0, 10, &udp(4500, 4500, &BODY))),
    );
    ours("an SPI of 1", local_v4(UDP, &udp(4500, 4500, &[0, 0, 0, 1])));
    ours("keepalive", local_v4(UDP, &udp(4500, 4500, &[0xff])));
    ours("keepalive, padded", local_v4(UDP, &udp(4500, 4500, &[0xff, 0, 0, 0, 0, 0, 0])));
    ours("GRE in UDP", local_v4(UDP, &udp(50000, 4754, &BODY)));
    ours("GRE in UDP without flags or protocol", local_v4(UDP, &udp(50000, 4754, &[0; 8])));
    ours("too big, about ESP", error_v4(ESP, &BODY[..8]));
    ours("too big, about GRE", error_v4(GRE, &BODY[..8]));
    ours("too big, about ESP in UDP", error_v4(UDP, &udp(4500, 61000, &BODY)));
    ours("too big, about ESP in UDP to 4500", error_v4(UDP, &udp(5000, 4500, &BODY)));
    ours("too big, about 8 bytes of ESP in UDP", error_v4(UDP, &udp(4500, 61000, &[])));
    ours("too big, about GRE in UDP", error_v4(UDP, &udp(50000, 4754, &[0; 4])));
    ours("port unreachable", local_v4(ICMP, &error(3, 3, &v4_full(PEER_V4, ESP, 64, 0, 0, &BODY))));
    ours(
        "too big, about ESP in UDP behind options",
        local_v4(ICMP, &error(3, 4, &v4_full(PEER_V4, UDP, 64, 0, 5, &udp(4500, 4500, &BODY)))),
    );
    ours("ICMP behind options", {
        let about = error(3, 4, &v4_full(PEER_V4, UDP, 64, 0, 0, &udp(4500, 4500, &BODY)));
        link(0x0800, &v4_full(LOCAL_V4, ICMP, 64, 0, 7, &about))
    });
    ours("IPv6 ESP", local_v6(ESP, &BODY));
    ours("IPv6 GRE", local_v6(GRE, &BODY));
    ours("IPv6 ESP in UDP", local_v6(UDP, &udp(4500, 4500, &BODY)));
    ours("IPv6 GRE in UDP", local_v6(UDP, &udp(50000, 4754, &BODY)));
    ours("IPv6 hop-by-hop, ESP", chained(&[HOP_BY_HOP], 0, ESP, &BODY));
    ours("IPv6 options, GRE in UDP", chained(&[HOP_BY_HOP, OPTIONS], 0, UDP, &udp(1, 4754, &BODY)));
    ours("IPv6 four headers, GRE", chained(&[HOP_BY_HOP, OPTIONS, FRAGMENT, OPTIONS], 0, GRE, &BODY));
    ours("IPv6 first fragment, ESP", chained(&[FRAGMENT], 1, ESP, &BODY));
    ours("IPv6 options, later fragment, GRE", chained(&[OPTIONS, FRAGMENT], 0x80, GRE, &BODY));
    ours("IPv6 fragment that is all, ESP in UDP", chained(&[FRAGMENT], 0, UDP, &udp(4500, 4500, &BODY)));
    ours("IPv6 first fragment, GRE in UDP", chained(&[FRAGMENT], 1, UDP, &udp(50000, 4754, &BODY)));
    ours("IPv6 options, later fragment, GRE in UDP", chained(&[OPTIONS, FRAGMENT], 0x81, UDP, &BODY));
    ours("IPv6 last fragment, GRE in UDP", chained(&[FRAGMENT], 0x80, UDP, &BODY));
    ours("IPv6 first fragment, ESP in UDP", chained(&[FRAGMENT], 1, UDP, &udp(4500, 4500, &BODY)));
    ours("IPv6 unreachable, about ESP", error_v6(1, ESP, &BODY));
    ours("IPv6 too big, about GRE", error_v6(2, GRE, &BODY));
    ours("IPv6 too big, about ESP in UDP", error_v6(2, UDP, &udp(4500, 9, &BODY)));
    ours("IPv6 too big behind options, about GRE in UDP", {
        let about = error(2, 0, &v6_packet(PEER_V6, UDP, &udp(9, 4754, &[])));
        chained(&[HOP_BY_HOP], 0, ICMPV6, &about)
    });

    let mut kernels = |name, frame| cases.push(Case { name, frame, ours: false });
    kernels("ARP", link(0x0806, &[0; 46]));
    kernels("nothing behind Ethernet", link(0x0800, &[]));
    kernels("another protocol", link(0x88cc, &BODY));
    kernels("ESP to the group of all", with_destination(local_v4(ESP, &BODY), [0xff; 6]));
    kernels("ESP to a group", with_destination(local_v4(ESP, &BODY), [1, 0, 0x5e, 0, 0, 1]));
    kernels("ESP, tagged", tagged(&local_v4(ESP, &BODY)));
    kernels("ESP to another", v4(Ipv4Addr::new(192, 0, 2, 3), ESP, &BODY));
    kernels("a cut IPv4 header", cut(local_v4(ESP, &BODY), 14 + 19));
    kernels("version 6 as IPv4", {
        let mut frame = local_v4(ESP, &BODY);
        frame[14] = 0x65;
        frame
    });
    kernels("a header of 16 bytes", {
        let mut frame = local_v4(ESP, &BODY);
        frame[14] = 0x44;
        frame
    });
    kernels("TCP", local_v4(TCP, &udp(179, 4500, &BODY)));
    kernels("echo", local_v4(ICMP, &error(8, 0, &BODY)));
    kernels("IKE", local_v4(UDP, &udp(500, 500, &BODY)));
    kernels("IKE on 4500", local_v4(UDP, &udp(4500, 4500, &[0, 0, 0, 0, 1, 2, 3])));
    kernels("from 4500", local_v4(UDP, &udp(4500, 53, &BODY)));
    kernels("IKE on 4500, first fragment", fragment(UDP, MORE, &udp(4500, 4500, &[0, 0, 0, 0, 1, 2, 3, 4])));
    kernels("IKE, later fragment, as one of ours had it", fragment(UDP, 100, &BODY));
    kernels("UDP from the port of ESP, first fragment", fragment(UDP, MORE, &udp(4500, 53, &BODY)));
    kernels("UDP, first fragment that shows no marker", fragment(UDP, MORE, &udp(4500, 4500, &[])));
    kernels("UDP, later fragment", fragment(UDP, 100, &udp(4500, 4500, &BODY)));
    kernels("ICMP, later fragment, as one of ours had it", fragment(ICMP, 100, &BODY));
    kernels("a cut UDP header", cut(local_v4(UDP, &udp(4500, 4500, &[])), 14 + 20 + 7));
    kernels(
        "options that are not there",
        cut(link(0x0800, &v4_full(LOCAL_V4, UDP, 64, 0, 10, &[])), 14 + 24),
    );
    kernels(
        "time exceeded, about ESP",
        local_v4(ICMP, &error(11, 0, &v4_full(PEER_V4, ESP, 1, 0, 0, &BODY))),
    );
    kernels("too big, about TCP", error_v4(TCP, &udp(4500, 4754, &BODY)));
    kernels("too big, about DNS", error_v4(UDP, &udp(5000, 53, &BODY)));
    kernels("too big, about IKE", error_v4(UDP, &udp(4500, 4500, &[0, 0, 0, 0, 9])));
    kernels("too big, from the port of GRE", error_v4(TCP, &udp(4754, 9, &BODY)));
    kernels(
        "too big, about a later fragment",
        local_v4(ICMP, &error(3, 4, &v4_full(PEER_V4, UDP, 64, 5, 0, &udp(4500, 4500, &BODY)))),
    );
    kernels("too big, cut", cut(error_v4(ESP, &[]), 14 + 20 + 8 + 19));
    kernels("too big, about UDP, cut", cut(error_v4(UDP, &udp(4500, 4500, &[])), 14 + 20 + 8 + 20 + 7));
    kernels("too big, later fragment", {
        fragment(ICMP, 100, &error(3, 4, &v4_full(PEER_V4, ESP, 64, 0, 0, &BODY)))
    });
    kernels("IPv6 ESP to another", v6(PEER_V6, ESP, &BODY));
    kernels("a cut IPv6 header", cut(local_v6(ESP, &[]), 14 + 39));
    kernels("version 4 as IPv6", {
        let mut frame = local_v6(ESP, &BODY);
        frame[14] = 0x45;
        frame
    });
    kernels("IPv6 TCP", local_v6(TCP, &BODY));
    kernels("IPv6 neighbour solicitation", local_v6(ICMPV6, &error(135, 0, &BODY)));
    kernels("IPv6 echo", local_v6(ICMPV6, &error(128, 0, &v6_packet(PEER_V6, ESP, &BODY))));
    kernels("IPv6 time exceeded, about ESP", error_v6(3, ESP, &BODY));
    kernels("IPv6 too big, about TCP", error_v6(2, TCP, &udp(4500, 4500, &BODY)));
    kernels("IPv6 too big, cut", cut(error_v6(2, ESP, &[]), 14 + 40 + 8 + 39));
    kernels("IPv6 IKE", local_v6(UDP, &udp(4500, 4500, &[0; 8])));
    kernels("IPv6 routing header", chained(&[ROUTING], 0, ESP, &BODY));
    kernels("IPv6 AH", chained(&[AH], 0, ESP, &BODY));
    kernels("IPv6 five headers", chained(&[OPTIONS; 5], 0, ESP, &BODY));
    kernels("IPv6 first fragment, IKE", chained(&[FRAGMENT], 1, UDP, &udp(4500, 4500, &[0; 8])));
    kernels("IPv6 later fragment, IKE, as one of ours had it", chained(&[FRAGMENT], 0x80, UDP, &BODY));
    kernels("IPv6 fragment header, cut", cut(chained(&[FRAGMENT], 1, UDP, &[]), 14 + 40 + 7));
    kernels("IPv6 later fragment, options", chained(&[FRAGMENT, OPTIONS], 0x80, ESP, &BODY));
    kernels("IPv6 cut options", cut(chained(&[OPTIONS], 0, ESP, &[]), 14 + 40 + 7));
    kernels("IPv6 options longer than the packet", {
        let mut frame = chained(&[OPTIONS], 0, UDP, &udp(4500, 4500, &BODY));
        frame[14 + 40 + 1] = 200;
        frame
    });
    // The last fragment ends it.
    let mut next = |name, frame, ours| cases.push(Case { name, frame, ours });
    next("ESP in UDP, first fragment of two", fragment(UDP, MORE, &udp(4500, 4500, &BODY)), true);
    next("ESP in UDP, second of two", fragment(UDP, 4, &BODY), true);
    next("ESP in UDP, second of two, again", fragment(UDP, 4, &BODY), false);
    next("IPv6 GRE in UDP, first of two", chained(&[FRAGMENT], 1, UDP, &udp(50000, 4754, &BODY)), true);
    next("IPv6 GRE in UDP, second of two", chained(&[FRAGMENT], 0x20, UDP, &BODY), true);
    next("IPv6 GRE in UDP, second of two, again", chained(&[FRAGMENT], 0x20, UDP, &BODY), false);
    cases
}

/// What the prefixes decide: `forwarded` and `not` are destinations.
pub(super) fn forwarded(ours: &[&'static str], kernels: &[&'static str]) -> Vec<Case> {
    let case = |ours| {
        move |name: &&'static str| Case {
            name,
            frame: match name.parse().expect("an address") {
                std::net::IpAddr::V4(dst) => link(0x0800, &v4_full(dst, TCP, 1, 0, 0, &BODY)),
                std::net::IpAddr::V6(dst) => v6(dst, HOP_BY_HOP, &BODY),
            },
            ours,
        }
    };
    ours.iter().map(case(true)).chain(kernels.iter().map(case(false))).collect()
}

/// With port 5000 for ESP alone.
pub(super) fn other_ports() -> Vec<Case> {
    let case = |name, port, ours| Case { name, frame: local_v4(UDP, &udp(9, port, &BODY)), ours };
    vec![case("UDP to 5000", 5000, true), case("UDP to 4500", 4500, false), case("UDP to 4754", 4754, false)]
}

/// Packets of many flows.
pub(super) fn flow(number: u32) -> Vec<u8> {
    let port = 1024 + (number % 500) as u16;
    v4(Ipv4Addr::new(198, 51, 100, 1), UDP, &udp(port, 9, &number.to_be_bytes().repeat(5)))
}

"""Ethernet and IP: what is malformed, what is not ours, what goes to the host byte for byte, and forwarding."""

import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, LLC, STP, Dot1Q, Ether
from scapy.packet import Raw

from witness import (
    ESP_PROTOCOL,
    EXPERIMENT,
    FAR_HOST,
    GRE_PROTOCOL,
    HEADER,
    HOST_MAC,
    LAN_MAC,
    LOCAL,
    NEAR_HOST,
    PEER_MAC,
    REMOTE,
    ROUTER_ON_LAN,
    STRANGER,
    UDP_PROTOCOL,
    WAN_MAC,
    Sa,
    Step,
    Tunnel,
    changed,
    configuration,
    delivered,
    dropped,
    filler,
    forwarded,
    frame,
    from_peer,
    gre_payload,
    into_lan,
    into_wan,
    ip,
    judge,
    replay,
    sealed,
    to_far,
    to_host,
    to_near,
    udp,
    with_checksum,
)

SERVER = {4: "203.0.113.9", 6: "2001:db8:ffff::9"}


def out_of_wan(label, arriving, packet):
    """The packet is forwarded in clear to the peer."""
    return Step(label, arriving, out=("wan", frame(WAN_MAC, PEER_MAC, forwarded(packet))), port="lan")


# --- Ethernet -------------------------------------------------------------------------------------------------------


def host_frames(tunnel):
    """Frames that belong to the host stack, by label."""
    esp = sealed(tunnel, 1, to_near(4))[14:]
    local, local6, peer, peer6 = LOCAL[4], LOCAL[6], REMOTE[4], REMOTE[6]
    to_us = Ether(src=PEER_MAC, dst=WAN_MAC)
    v4, v6 = to_us / IP(src=peer, dst=local), to_us / IPv6(src=peer6, dst=local6)
    frames = {
        "ARP request": Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=local, psrc=peer, hwsrc=PEER_MAC),
        "ARP reply": to_us / ARP(op=2, pdst=local, psrc=peer, hwsrc=PEER_MAC, hwdst=WAN_MAC),
        "ping": v4 / ICMP() / Raw(b"echo"),
        "ping in IPv6": v6 / ICMPv6EchoRequest(data=b"echo"),
        "ssh": v4 / TCP(sport=40000, dport=22, flags="S"),
        "ssh in IPv6": v6 / TCP(sport=40000, dport=22, flags="S"),
        "IKE": v4 / UDP(sport=500, dport=500) / Raw(filler(200)),
        "IKE in IPv6": v6 / UDP(sport=500, dport=500) / Raw(filler(200)),
        "AH": to_us / IP(src=peer, dst=local, proto=51) / Raw(filler(40)),
        "OSPF hello": Ether(src=PEER_MAC, dst="01:00:5e:00:00:05")
        / IP(src=peer, dst="224.0.0.5", proto=89, ttl=1)
        / Raw(filler(44)),
        "broadcast datagram": Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff")
        / IP(src=peer, dst="192.0.2.255")
        / UDP(sport=138, dport=138),
        "neighbour solicitation": Ether(src=PEER_MAC, dst="33:33:ff:00:00:01")
        / IPv6(src=peer6, dst="ff02::1:ff00:1", hlim=255)
        / ICMPv6ND_NS(tgt=local6),
        "neighbour advertisement": v6 / ICMPv6ND_NA(tgt=peer6),
        "VLAN with ESP": Ether(src=PEER_MAC, dst=WAN_MAC, type=0x8100) / Dot1Q(vlan=7, type=0x0800) / Raw(esp),
        "provider VLAN": Ether(src=PEER_MAC, dst=WAN_MAC, type=0x88A8) / Raw(b"\0\7\x08\0" + esp),
        "ESP to a multicast MAC": Ether(src=PEER_MAC, dst="01:00:5e:00:00:01", type=0x0800) / Raw(esp),
        "ESP to the broadcast MAC": Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff", type=0x0800) / Raw(esp),
        "LLDP": Ether(src=PEER_MAC, dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(filler(46)),
        "spanning tree": Ether(src=PEER_MAC, dst="01:80:c2:00:00:00", type=38) / LLC() / STP() / Raw(bytes(8)),
        "802.3 with a length": Ether(src=PEER_MAC, dst=WAN_MAC, type=46) / Raw(filler(46)),
        "MPLS": Ether(src=PEER_MAC, dst=WAN_MAC, type=0x8847) / Raw(filler(60)),
        "PPPoE": Ether(src=PEER_MAC, dst=WAN_MAC, type=0x8864) / Raw(filler(60)),
        "unknown ethertype": Ether(src=PEER_MAC, dst=WAN_MAC, type=0x88B5) / Raw(filler(100)),
        "a bare Ethernet header": Ether(src=PEER_MAC, dst=WAN_MAC, type=0x88B5),
        "padding behind a ping": v4 / ICMP() / Raw(b"e"),
    }
    whole = {label: bytes(one) for label, one in frames.items()}
    whole["padding behind a ping"] += b"\xa5" * 17
    return whole


def test_what_the_host_gets(tmp_path):
    """All that is not Culvert's reaches the host stack byte for byte, in order, with traffic in between."""
    tunnel, inner, steps = Tunnel(), to_near(4), []
    for number, (label, one) in enumerate(host_frames(tunnel).items(), start=1):
        steps.append(to_host(label, one))
        steps.append(delivered("traffic", sealed(tunnel, number, inner), inner))
    judge(tmp_path, configuration(tunnel), steps)


def test_frames_for_others(tmp_path):
    """Seen because the port is promiscuous."""
    tunnel, inner = Tunnel(), to_near(4)
    ours = sealed(tunnel, 1, inner)
    others = ["02:00:00:00:00:99", LAN_MAC, PEER_MAC, "00:00:00:00:00:00"]
    steps = [dropped(other, bytes.fromhex(other.replace(":", "")) + ours[6:], "not-ours") for other in others]
    judge(tmp_path, configuration(tunnel), [*steps, delivered("ours", ours, inner)])


def test_port_without_mac(tmp_path):
    """Without `mac` a capture port takes every unicast MAC, and sends from 02:00:00:00:00:NN."""
    tunnel, inner = Tunnel(), to_near(4)
    config = configuration(tunnel).replace(f'mac = "{WAN_MAC}"\n', "").replace(f'mac = "{LAN_MAC}"\n', "")
    ours = sealed(tunnel, 1, inner)
    arriving = bytes.fromhex("020000000099") + ours[6:]
    step = Step("any MAC", arriving, out=("lan", frame("02:00:00:00:00:02", HOST_MAC, forwarded(inner))))
    judge(tmp_path, config, [step])


# --- IP headers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("destination", (LOCAL[4], NEAR_HOST[4]))
def test_every_bit_of_an_ipv4_header(tmp_path, destination):
    """One flipped bit breaks the checksum, if nothing else."""
    tunnel, packet = Tunnel(), ip(STRANGER[4], destination, ESP_PROTOCOL, filler(64))
    steps = []
    for bit in range(20 * 8):
        other = bytearray(into_wan(packet))
        other[14 + bit // 8] ^= 0x80 >> bit % 8
        steps.append(dropped(f"bit {bit}", bytes(other), "ip-malformed"))
    judge(tmp_path, configuration(tunnel), steps)


def lengths_that_lie(packet):
    """IPv4 packets with a right checksum and a wrong version or length, by label."""
    wrong = {
        "version 5": changed(packet, 0, b"\x55"),
        "version 6": changed(packet, 0, b"\x65"),
        "header of 0": changed(packet, 0, b"\x40"),
        "header of 16": changed(packet, 0, b"\x44"),
        "total length 0": changed(packet, 2, bytes(2)),
        "total length 19": changed(packet, 2, struct.pack(">H", 19)),
        "total length one too long": changed(packet, 2, struct.pack(">H", len(packet) + 1)),
        "total length 65535": changed(packet, 2, b"\xff\xff"),
        "header longer than the total length": changed(changed(packet, 0, b"\x4f"), 2, struct.pack(">H", 59)),
    }
    return {label: with_checksum(one) for label, one in wrong.items()}


@pytest.mark.parametrize("destination", (LOCAL[4], NEAR_HOST[4]))
def test_ipv4_lengths(tmp_path, destination):
    """Version, header length and total length against the frame, the checksum being right."""
    packet = ip(STRANGER[4], destination, EXPERIMENT, filler(100))
    ethernet = into_wan(packet)[:14]
    steps = [dropped(label, ethernet + one, "ip-malformed") for label, one in lengths_that_lie(packet).items()]
    judge(tmp_path, configuration(Tunnel()), steps)


@pytest.mark.parametrize("destination", (LOCAL[6], NEAR_HOST[6]))
def test_ipv6_header(tmp_path, destination):
    """Version and payload length against the frame."""
    packet = ip(STRANGER[6], destination, EXPERIMENT, filler(100))
    ethernet = into_wan(packet)[:14]
    cases = {f"version {version}": bytes([version << 4]) + packet[1:] for version in (0, 4, 5, 7, 15)}
    for length in (101, 1000, 65535):
        cases[f"payload length {length}"] = packet[:4] + struct.pack(">H", length) + packet[6:]
    cases |= {f"cut to {length}": packet[:length] for length in range(len(packet))}
    steps = [dropped(label, ethernet + one, "ip-malformed") for label, one in cases.items()]
    judge(tmp_path, configuration(Tunnel()), steps)


def test_ethertype_and_version_disagree(tmp_path):
    """An IPv6 packet under the ethertype of IPv4, and the other way round."""
    v4, v6 = into_wan(to_near(4)), into_wan(to_near(6))
    steps = [
        dropped("IPv6 as IPv4", v4[:14] + v6[14:], "ip-malformed"),
        dropped("IPv4 as IPv6", v6[:14] + v4[14:], "ip-malformed"),
    ]
    judge(tmp_path, configuration(Tunnel()), steps)


def test_ipv4_options(tmp_path):
    """Options in the outer header are stepped over; those of the inner packet arrive as they were."""
    tunnel, steps = Tunnel(), []
    choices = [[IPOption_NOP()] * (4 * words) for words in range(1, 11)] + [[IPOption_RR(routers=["1.2.3.4"])]]
    for place, options in enumerate(choices):
        inner, with_options = to_near(4, seed=place), to_near(4, seed=place, options=options)
        number = 2 * place + 1
        steps.append(delivered(f"{options}, outer", sealed(tunnel, number, inner, options=options), inner))
        steps.append(delivered(f"{options}, inner", sealed(tunnel, number + 1, with_options), with_options))
    judge(tmp_path, configuration(tunnel), steps)


EXTENSIONS = {
    "hop by hop": IPv6ExtHdrHopByHop(),
    "destination options": IPv6ExtHdrDestOpt(),
    "routing": IPv6ExtHdrRouting(),
    "fragment": IPv6ExtHdrFragment(offset=0, m=1, id=7),
    "three": IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(),
}


def test_inner_ipv6_extensions(tmp_path):
    """Extension headers of the inner packet are not ours to read."""
    tunnel, steps = Tunnel(), []
    for number, (label, extension) in enumerate(EXTENSIONS.items(), start=1):
        inner = bytes(IPv6(src=FAR_HOST[6], dst=NEAR_HOST[6]) / extension / Raw(filler(33)))
        steps.append(delivered(label, sealed(tunnel, number, inner), inner))
    judge(tmp_path, configuration(tunnel), steps)


def test_outer_ipv6_extensions(tmp_path):
    """ESP behind extension headers that a host steps over (RFC 8200 4) is opened like any other."""
    tunnel, steps = Tunnel(family=6), []
    chains = [name for name in EXTENSIONS if name != "fragment"]
    for number, name in enumerate(chains, start=1):
        inner = to_near(6, seed=number)
        esp = tunnel.inbound.seal(number, tunnel.gre.header(*gre_payload(inner)))
        chain = EXTENSIONS[name].copy()
        chain.lastlayer().nh = ESP_PROTOCOL
        outer = bytes(IPv6(src=REMOTE[6], dst=LOCAL[6]) / chain / Raw(esp))
        steps.append(delivered(name, into_wan(outer), inner))
    judge(tmp_path, configuration(tunnel), steps)


# --- fragments ------------------------------------------------------------------------------------------------------


def ipv6_fragment(next_header, payload, offset, more):
    """An IPv6 fragment to router A (RFC 8200 4.5)."""
    header = struct.pack(">BBHI", next_header, 0, offset << 3 | more, 99)
    return into_wan(ip(REMOTE[6], LOCAL[6], 44, header + payload))


def test_outer_fragments(tmp_path):
    """Fragments of ESP, GRE and ESP in UDP to us are dropped, those of anything else are the host's."""
    tunnel, inner = Tunnel(), to_near(4)
    esp = tunnel.inbound.seal(1, tunnel.gre.header(*gre_payload(inner)))
    payloads = {
        "ESP": (ESP_PROTOCOL, esp),
        "GRE": (GRE_PROTOCOL, tunnel.gre.header(*gre_payload(inner))),
        "UDP to 4500": (UDP_PROTOCOL, udp(4500, 4500, esp)),
    }
    steps = []
    for label, (protocol, payload) in payloads.items():
        first = from_peer(tunnel, protocol, payload[:32], flags="MF")
        steps.append(dropped(f"{label}, first", into_wan(first), "fragment"))
        steps.append(dropped(f"{label}, first, IPv6", ipv6_fragment(protocol, payload[:32], 0, 1), "fragment"))
        if protocol != UDP_PROTOCOL:  # a later fragment of UDP does not say its port
            for more in ("MF", 0):
                later = from_peer(tunnel, protocol, payload[32:64], flags=more, frag=4)
                steps.append(dropped(f"{label}, later {more}", into_wan(later), "fragment"))
            steps.append(dropped(f"{label}, later, IPv6", ipv6_fragment(protocol, payload[32:64], 4, 0), "fragment"))
    steps += [
        to_host("ICMP, first", into_wan(from_peer(tunnel, 1, filler(64), flags="MF"))),
        to_host("ICMP, later", into_wan(from_peer(tunnel, 1, filler(64), frag=8))),
        to_host("ICMP, IPv6", ipv6_fragment(58, filler(64), 0, 1)),
        to_host("UDP to 53, first", into_wan(from_peer(tunnel, UDP_PROTOCOL, udp(999, 53, filler(40)), flags="MF"))),
        delivered("whole", sealed(tunnel, 1, inner), inner),
    ]
    judge(tmp_path, configuration(tunnel), steps)


def test_inner_fragments(tmp_path):
    """Fragments inside a tunnel are packets like others, in both directions."""
    tunnel, steps = Tunnel(), []
    pieces = [{"flags": "MF"}, {"flags": "MF", "frag": 4}, {"frag": 8}]
    for number, fields in enumerate(pieces, start=1):
        inner = to_near(4, 32, number, id=77, **fields)
        steps.append(delivered(f"piece {number}", sealed(tunnel, number, inner), inner))
    judge(tmp_path, configuration(tunnel), steps)
    leaving = [to_far(4, 32, number, id=77, **fields) for number, fields in enumerate(pieces)]
    outcome = replay(tmp_path, configuration(tunnel), lan=[into_lan(one) for one in leaving])
    assert [tunnel.outbound.open(packet[20:]).payload[4:] for packet in outcome.packets("wan")] == [
        forwarded(one) for one in leaving
    ]


# --- forwarding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", (4, 6))
def test_time_to_live(tmp_path, family):
    """0 and 1 end here; 2 goes out as 1. The outer TTL of what is for us does not matter."""
    tunnel = Tunnel()
    steps = []
    for number, (ttl, alive) in enumerate(((0, False), (1, False), (2, True), (255, True)), start=1):
        inner, label = to_near(family, seed=number, ttl=ttl), f"inner {ttl}"
        arriving = sealed(tunnel, number, inner)
        steps.append(delivered(label, arriving, inner) if alive else dropped(label, arriving, "ttl-exceeded"))
        plain = ip(STRANGER[family], NEAR_HOST[family], EXPERIMENT, filler(9), ttl=ttl)
        label = f"forwarded {ttl}"
        steps.append(
            delivered(label, into_wan(plain), plain) if alive else dropped(label, into_wan(plain), "ttl-exceeded")
        )
    steps += [dropped(f"out {ttl}", into_lan(to_far(family, ttl=ttl)), "ttl-exceeded", "lan") for ttl in (0, 1)]
    for number, ttl in ((11, 0), (12, 1)):
        inner = to_near(family, seed=number)
        steps.append(delivered(f"outer {ttl}", sealed(tunnel, number, inner, ttl=ttl), inner))
    judge(tmp_path, configuration(tunnel), steps)


@pytest.mark.parametrize("family", (4, 6))
def test_no_route_and_no_neighbour(tmp_path, family):
    """Where a packet cannot go on, from the tunnel and from the ports."""
    tunnel = Tunnel()
    unknown = {4: "10.1.0.77", 6: "2001:db8:10::77"}[family]

    def from_far(destination):
        return ip(FAR_HOST[family], destination, EXPERIMENT, b"lost")

    steps = [
        dropped("no route, tunnel", sealed(tunnel, 1, from_far(SERVER[family])), "no-route"),
        dropped("no neighbour, tunnel", sealed(tunnel, 2, from_far(unknown)), "no-neighbour"),
        dropped("no route, port", into_wan(from_far(SERVER[family])), "no-route"),
        dropped("no neighbour, port", into_wan(from_far(unknown)), "no-neighbour"),
        dropped("no route, lan", into_lan(ip(NEAR_HOST[family], SERVER[family], EXPERIMENT, b"")), "no-route", "lan"),
        delivered("good", sealed(tunnel, 3, to_near(family)), to_near(family)),
    ]
    judge(tmp_path, configuration(tunnel), steps)


def test_peer_without_neighbour(tmp_path):
    """The outer packet has nobody to go to."""
    tunnel = Tunnel(remote="192.0.2.77")
    step = dropped("to the peer", into_lan(to_far(4)), "no-neighbour", "lan")
    judge(tmp_path, configuration(tunnel), [step])


def static_routes(*prefixes):
    return "".join(
        f'\n[[route]]\nprefix = "{prefix}"\nport = "wan"\nvia = "{REMOTE[6 if ":" in prefix else 4]}"\n'
        for prefix in prefixes
    )


def test_static_routes(tmp_path):
    """Default routes over a port, longest prefix first: the tunnel's routes win over them, a longer one over those."""
    tunnel = Tunnel()
    extra = static_routes("0.0.0.0/0", "::/0", "10.2.9.0/24", "2001:db8:20:9::/64")
    source = NEAR_HOST
    in_clear = [
        ip(source[4], SERVER[4], EXPERIMENT, b"1"),
        ip(source[6], SERVER[6], EXPERIMENT, b"2"),
        ip(source[4], "10.2.9.1", EXPERIMENT, b"3"),
        ip(source[6], "2001:db8:20:9::1", EXPERIMENT, b"4"),
        ip(source[4], "10.3.0.1", EXPERIMENT, b"5"),
    ]
    judge(tmp_path, configuration(tunnel, extra=extra), [out_of_wan("clear", into_lan(one), one) for one in in_clear])
    protected = [ip(source[4], "10.2.8.255", EXPERIMENT, b"6"), ip(source[4], "10.2.10.0", EXPERIMENT, b"7")]
    outcome = replay(tmp_path, configuration(tunnel, extra=extra), lan=[into_lan(one) for one in protected])
    assert [tunnel.outbound.open(packet[20:]).payload[4:] for packet in outcome.packets("wan")] == [
        forwarded(one) for one in protected
    ]


def test_route_through_a_tunnel_by_name(tmp_path):
    """`[[route]] tunnel = "NAME"`."""
    tunnel = Tunnel(routes=())
    extra = '[[route]]\nprefix = "10.0.0.0/8"\ntunnel = "paris-oslo"\n'
    inner = ip(NEAR_HOST[4], "10.200.0.1", EXPERIMENT, b"by name")
    outcome = replay(tmp_path, configuration(tunnel, extra=extra), lan=[into_lan(inner)])
    [packet] = outcome.packets("wan")
    assert tunnel.outbound.open(packet[20:]).payload[4:] == forwarded(inner)


def test_plain_forwarding(tmp_path):
    """Between two ports a packet is routed as by any router, Ethernet padding cut off."""
    steps = []
    for family in (4, 6):
        for length in (0, 1, 1480 if family == 4 else 1460):
            packet = ip(STRANGER[family], NEAR_HOST[family], EXPERIMENT, filler(length))
            steps.append(delivered(f"{length} bytes", into_wan(packet), packet))
    judge(tmp_path, configuration(Tunnel()), steps)


def test_too_big_for_a_port(tmp_path):
    """1500 bytes of IP, or what the port's `mtu` says."""
    tunnel = Tunnel()
    for mtu in (1500, 1400):
        config = configuration(tunnel).replace(f'mac = "{LAN_MAC}"\n', f'mac = "{LAN_MAC}"\nmtu = {mtu}\n')
        steps = []
        for family in (4, 6):
            fits, over = (
                ip(STRANGER[family], NEAR_HOST[family], EXPERIMENT, filler(mtu + more - HEADER[family]))
                for more in (0, 1)
            )
            steps.append(delivered(f"{mtu}, IPv{family}", into_wan(fits), fits))
            steps.append(dropped(f"{mtu} + 1, IPv{family}", into_wan(over), "too-big"))
        judge(tmp_path, config, steps)


def test_tunnel_output_too_big_for_the_other_port(tmp_path):
    """A decapsulated packet is longer than the port it has to leave by takes."""
    tunnel = Tunnel()
    config = configuration(tunnel).replace(f'mac = "{LAN_MAC}"\n', f'mac = "{LAN_MAC}"\nmtu = 1300\n')
    fits, over = to_near(4, 1280), to_near(4, 1281)
    steps = [
        dropped("over", sealed(tunnel, 1, over), "too-big"),
        delivered("fits", sealed(tunnel, 2, fits), fits),
    ]
    judge(tmp_path, config, steps)


def test_no_outbound_sa(tmp_path):
    """A protected tunnel that has no key sends nothing, least of all in clear."""
    tunnel = Tunnel(sas=(Sa("in", 0x2001),))
    steps = [dropped(f"{number}", into_lan(to_far(4, seed=number)), "no-sa", "lan") for number in range(3)]
    outcome = judge(
        tmp_path, configuration(tunnel), [*steps, delivered("in", sealed(tunnel, 1, to_near(4)), to_near(4))]
    )
    assert outcome.frames("wan") == []


def test_router_addresses(tmp_path):
    """What is for the router's own addresses is the host's, whichever port it comes in by."""
    steps = []
    for family in (4, 6):
        for address in (LOCAL[family], ROUTER_ON_LAN[family]):
            packet = ip(STRANGER[family], address, EXPERIMENT, b"hello")
            steps.append(to_host(f"wan, {address}", into_wan(packet)))
            packet = ip(NEAR_HOST[family], address, EXPERIMENT, b"hello")
            steps.append(to_host(f"lan, {address}", into_lan(packet), "lan"))
    judge(tmp_path, configuration(Tunnel()), steps)


def test_ports_that_no_out_names(tmp_path):
    """Frames for such ports are drained and counted."""
    tunnel = Tunnel()
    outcome = replay(
        tmp_path,
        configuration(tunnel),
        outputs=("wan",),
        wan=[sealed(tunnel, 1, to_near(4)), into_wan(ip(REMOTE[4], LOCAL[4], EXPERIMENT, b"host"))],
        lan=[into_lan(to_far(4))],
    )
    assert {name: port["tx"] for name, port in outcome.report["ports"].items()} == {"wan": 1, "lan": 1, "host": 1}

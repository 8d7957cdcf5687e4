"""Fragments: outer ones are put together before they are opened, inner ones pass, and what may be fragmented is."""

import socket

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether

from routers import FAMILIES, GRE, TRANSPORT, Carrier, Sites, host
from traffic import capture, datagrams, ping, tool_result, wait_ping

CARRIERS = [GRE, TRANSPORT, Carrier(mode="tunnel", family=6)]
IN_UDP = [
    Carrier(mode="transport", udp_encap=(4500, 4500)),
    Carrier(mode="tunnel", family=6, udp_encap=(4500, 4500)),
    Carrier(encapsulation="udp", key=42),
    Carrier(encapsulation="udp", family=6),
]
WHOLE = {"duplicates": 0, "reordered": 0, "corrupt": 0}


FORWARDS, BACKWARDS = (), ("--backwards",)


@pytest.mark.parametrize(
    ("carrier", "order"),
    [(carrier, order) for carrier in CARRIERS for order in (FORWARDS, BACKWARDS)]
    # Of a datagram, an XDP program learns from the first fragment whose it is.
    + [(carrier, FORWARDS) for carrier in IN_UDP],
    ids=lambda value: {FORWARDS: "forwards", BACKWARDS: "backwards"}.get(value, str(value)),
)
def test_outer(lab, carrier, order):
    """Something on the way fragments our packets; the far router puts them together, whatever their order."""
    sites = Sites(lab, middle="relay")
    sites.start_relay()
    sites.start(carrier)
    wait_ping(sites.h1, host(2, 4))
    sites.start_relay("--fragment", 600, *order)
    seen = datagrams(sites.h1, sites.h2, host(2, 4), count=300, rate=1000, size=1300)
    assert seen == WHOLE | {"unique": 300}
    assert tool_result(sites.relay)["near"]["fragmented"] == 300


def test_outer_one_missing(lab):
    """Datagrams with a missing fragment never arrive, the others do, and memory stays bounded: later ones arrive too."""
    sites = Sites(lab, middle="relay")
    sites.start_relay()
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    sites.start_relay("--fragment", 600, "--lose-fragment", 3)
    assert datagrams(sites.h1, sites.h2, host(2, 4), count=1200, rate=2000, size=1300) == WHOLE | {"unique": 800}
    sites.start_relay("--fragment", 600)
    assert datagrams(sites.h1, sites.h2, host(2, 4), count=300, rate=1000, size=1300) == WHOLE | {"unique": 300}


@pytest.mark.parametrize("carrier", [GRE, TRANSPORT], ids=str)
def test_inner(sites, carrier):
    """A packet in fragments passes in fragments, both families, both ways."""
    sites.start(carrier)
    for end in sites.hosts.values():
        end.ip("link set lan mtu 1280")
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
        with capture(sites.h2, "lan", "ip or ip6", direction="in") as seen:
            assert ping(sites.h1, host(2, family), count=10, size=4000).loss == 0
            assert ping(sites.h2, host(1, family), count=10, size=4000).loss == 0
        # Four fragments for each of the ten requests and the ten replies.
        assert len([frame for frame in seen.frames() if is_fragment(frame)]) == 80


def is_fragment(frame):
    if frame[12:14] == b"\x08\x00":
        return int.from_bytes(frame[20:22]) & 0x3FFF != 0
    return frame[12:14] == b"\x86\xdd" and frame[20] == 44


@pytest.mark.parametrize("df", [False, True], ids=["may be", "by configuration"])
@pytest.mark.parametrize("carrier", [GRE, TRANSPORT], ids=str)
def test_fragmented_before_the_tunnel(sites, carrier, df):
    """IPv4 that is too long for the tunnel goes through in fragments where it may be fragmented, and with `fragment = true` whatever
    it says; on the WAN nothing is a fragment."""
    sites.start(carrier, extra=["fragment = true"] if df else [])
    wait_ping(sites.h1, host(2, 4))
    with capture(sites.mid, "to1", "ip") as wan, capture(sites.h2, "lan", "ip", direction="in") as lan:
        assert ping(sites.h1, host(2, 4), count=10, size=1472, df=df).loss == 0
    assert not [frame for frame in wan.frames() if is_fragment(frame)]
    fragments = [frame for frame in lan.frames() if is_fragment(frame)]
    assert len(fragments) == 20
    assert max(int.from_bytes(frame[16:18]) for frame in fragments) <= carrier.mtu()


@pytest.mark.parametrize("family", FAMILIES)
def test_ike_beside_esp(lab, family):
    """Scapy's datagrams of IKE, in fragments with the identifications that fragments of ESP in UDP have had, to both ports and in
    any order: the host gets each as it was sent, and the tunnel keeps its own."""
    sites = Sites(lab, middle="relay")
    sites.start_relay("--fragment", 600)
    sites.start(Carrier(mode="transport", family=family, udp_encap=(4500, 4500)))
    wait_ping(sites.h1, host(2, 4))
    assert datagrams(sites.h1, sites.h2, host(2, 4), count=100, rate=1000, size=1300) == WHOLE | {"unique": 100}
    source, target = sites.wan(1, family), sites.wan(2, family)
    link = Ether(src=sites.r1.namespace.mac("wan"), dst=sites.r2.namespace.mac("wan"))
    with sites.r2.namespace.entered():
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        ends = {port: socket.socket(kind, socket.SOCK_DGRAM) for port in (500, 4500)}
    with sites.r1.namespace.entered():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        raw.bind(("wan", 0))
    for port, end in ends.items():
        end.bind((target, port))
        end.settimeout(2)
    # The relay has numbered the fragments that it made from 1 on.
    for number, order in enumerate([(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1)], start=1):
        for port, end in ends.items():
            body = (b"" if port == 500 else bytes(4)) + bytes(range(1, 255)) * 6
            for index in order:
                raw.send(bytes(link / ike_fragments(family, source, target, port, body, 8 * number + port % 2)[index]))
            assert end.recv(4096) == body, (port, order)
    raw.close()
    for end in ends.values():
        end.close()
    assert datagrams(sites.h1, sites.h2, host(2, 4), count=100, rate=1000, size=1300) == WHOLE | {"unique": 100}


def ike_fragments(family, source, target, port, body, number):
    """Three fragments of a datagram, made by Scapy."""
    datagram = UDP(sport=port, dport=port) / body
    if family == 4:
        return fragment(IP(src=source, dst=target, id=number) / datagram, fragsize=600)
    return fragment6(IPv6(src=source, dst=target) / IPv6ExtHdrFragment(id=number) / datagram, 660)

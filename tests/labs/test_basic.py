"""Ping through a tunnel in every form it has, and what is seen of that on the way: nothing but the form that was asked for."""

import pytest

from routers import FAMILIES, GRE, INNER, TRANSPORT, TUNNEL, Carrier, Sites, far, host, router_on_lan
from traffic import capture, ping, wait_ping
from witness import ESP_PROTOCOL, GRE_PROTOCOL, UDP_PROTOCOL

PATTERN = "c0ffee1e"
MARK = bytes.fromhex(PATTERN) * 4
HEADER = {4: 20, 6: 40}
CARRIERS = [
    GRE,
    Carrier(family=6),
    Carrier(key=42, checksum=True, sequence=True),
    TRANSPORT,
    Carrier(mode="transport", family=6, suite="aes256gcm16", esn=True),
    TUNNEL,
    Carrier(mode="tunnel", family=6, suite="chacha20poly1305", key=7),
    Carrier(mode="transport", udp_encap=(4500, 4500)),
]


def outer(frame):
    """The family, the protocol and the payload of the IP packet in a frame; None in place of the family where it is none."""
    family = {b"\x08\x00": 4, b"\x86\xdd": 6}.get(frame[12:14])
    if family is None:
        return None, None, frame[14:]
    packet = frame[14:]
    length = int.from_bytes(packet[2:4]) if family == 4 else 40 + int.from_bytes(packet[4:6])
    return family, packet[9 if family == 4 else 6], packet[HEADER[family] : length]


@pytest.mark.parametrize("carrier", CARRIERS, ids=str)
def test_ping(sites, carrier):
    """Both families, both ways, nothing lost; on the wire only this tunnel's packets, in clear only where that was asked for."""
    sites.start(carrier)
    with capture(sites.mid, "to1", "(ip or ip6) and not ip6 multicast") as seen:
        for family in FAMILIES:
            wait_ping(sites.h1, host(2, family))
            assert ping(sites.h1, host(2, family), count=50, pattern=PATTERN).loss == 0
            assert ping(sites.h2, host(1, family), count=50, pattern=PATTERN).loss == 0
    wanted = ESP_PROTOCOL if carrier.mode else GRE_PROTOCOL
    wanted = UDP_PROTOCOL if carrier.udp_encap else wanted
    sealed = [payload for family, protocol, payload in map(outer, seen.frames()) if protocol == wanted]
    others = [frame for frame in seen.frames() if outer(frame)[1] not in (wanted, 58, 1)]
    assert len(sealed) >= 400 and others == []
    marked = [frame for frame in seen.frames() if MARK in frame]
    assert len(marked) == (0 if carrier.mode else 400)
    for router in (sites.r1, sites.r2):
        tunnel = router.tunnel()
        assert tunnel["out_packets"] >= 200 and tunnel["in_packets"] >= 200
        assert tunnel["mtu"] == carrier.mtu()


@pytest.mark.parametrize("carrier", [TRANSPORT, TUNNEL], ids=str)
def test_what_was_sealed(sites, carrier):
    """The packets on the wire open with the SA's key; their sequence numbers are 1, 2, 3 .. and no IV is used twice."""
    with capture(sites.mid, "to1", "ip proto 50 and src", sites.wan(1, 4)) as seen:
        sites.start(carrier)
        wait_ping(sites.h1, host(2, 4))
        assert ping(sites.h1, host(2, 4), count=100, pattern=PATTERN).loss == 0
    opened = [carrier.outbound(1).open(outer(frame)[2]) for frame in seen.frames()]
    assert [packet.sequence for packet in opened] == list(range(1, len(opened) + 1)) and len(opened) > 100
    assert len({packet.iv for packet in opened}) == len(opened)
    assert sum(MARK in packet.payload for packet in opened) == 100


def test_sizes(sites):
    """Every length about the tunnel's MTU and the cipher's blocks passes whole."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    for total in [*range(28, 61), *range(TRANSPORT.mtu() - 17, TRANSPORT.mtu() + 1)]:
        assert ping(sites.h1, host(2, 4), count=1, size=total - 28, df=True).received == 1, total


def test_addresses_of_the_routers(sites):
    """Either router's own inner addresses answer through the tunnel, on its LAN and on the tunnel's host interface."""
    sites.start(TRANSPORT)
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
        for site, end in sites.hosts.items():
            for address in (router_on_lan(far(site), family), INNER[far(site)][family]):
                assert ping(end, address, count=5).loss == 0, address


def test_switched_wan(lab):
    """Routers that are neighbours of each other, in one network."""
    sites = Sites(lab, middle="switch")
    sites.start(TRANSPORT)
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
        assert ping(sites.h1, host(2, family), count=20).loss == 0

"""Fragments: outer ones are put together before they are opened, inner ones pass, and what may be fragmented is."""

import pytest

from routers import FAMILIES, GRE, TRANSPORT, Carrier, Sites, host
from traffic import capture, datagrams, ping, tool_result, wait_ping

# Not in UDP: whose a later fragment of a datagram is, ours or IKE's, nothing in it says.
CARRIERS = [GRE, TRANSPORT, Carrier(mode="tunnel", family=6)]
WHOLE = {"duplicates": 0, "reordered": 0, "corrupt": 0}


@pytest.mark.parametrize("order", [(), ("--backwards",)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("carrier", CARRIERS, ids=str)
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


@pytest.mark.parametrize("carrier", [GRE, TRANSPORT], ids=str)
def test_fragmented_before_the_tunnel(sites, carrier):
    """IPv4 without DF that is too long for the tunnel goes through in fragments; on the WAN nothing is a fragment."""
    sites.start(carrier)
    wait_ping(sites.h1, host(2, 4))
    with capture(sites.mid, "to1", "ip") as wan, capture(sites.h2, "lan", "ip", direction="in") as lan:
        assert ping(sites.h1, host(2, 4), count=10, size=1472, df=False).loss == 0
    assert not [frame for frame in wan.frames() if is_fragment(frame)]
    fragments = [frame for frame in lan.frames() if is_fragment(frame)]
    assert len(fragments) == 20
    assert max(int.from_bytes(frame[16:18]) for frame in fragments) <= carrier.mtu()

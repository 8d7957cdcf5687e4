"""GRE in UDP (RFC 8086): the port says what it is, the source port which flow it is of."""

import pytest

from routers import FAMILIES, Carrier, host
from traffic import capture, iperf, ping, udp_ports, udp_result, wait_ping

PORT = 4754  # RFC 8086 section 8
ENTROPY = range(49152, 65536)  # RFC 8086 section 3.2.1: the ephemeral ports
CARRIERS = [Carrier(encapsulation="udp"), Carrier(encapsulation="udp", family=6, key=42)]


@pytest.fixture(params=CARRIERS, ids=str)
def joined(request, sites):
    sites.start(request.param)
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
    assert sites.r1.tunnel()["mtu"] == request.param.mtu()
    return sites


def test_ping(joined):
    """A flow keeps its source port. (What else is in the tunnel is shorter than these packets.)"""
    with capture(joined.mid, "to1", "udp and greater 600 and src", joined.wan(1, joined_family(joined))) as seen:
        assert ping(joined.h1, host(2, 4), count=50, size=600).loss == 0
    ports = udp_ports(seen.packets())
    assert len(ports) == 1 and len(seen.frames()) == 50
    source, destination = ports.pop()
    assert destination == PORT and source in ENTROPY


def joined_family(sites):
    """The family of the outer addresses, by the tunnel's own configuration."""
    return 6 if f'local = "{sites.wan(1, 6)}"' in sites.r1.file.read_text() else 4


def test_flows(joined):
    """Eight flows have several source ports; nothing is lost or out of order in them."""
    with capture(joined.mid, "to1", "udp and src", joined.wan(1, joined_family(joined))) as seen:
        result = iperf(joined.h1, joined.h2, host(2, 4), seconds=1, flows=8, udp=1_000_000, length=1000)
    counts = udp_result(result)
    assert counts.sent > 500 and (counts.lost, counts.out_of_order) == (0, 0)
    sources = {source for source, destination in udp_ports(seen.packets()) if destination == PORT}
    assert len(sources) >= 4 and sources <= set(ENTROPY)

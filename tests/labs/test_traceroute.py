"""traceroute through the tunnel: every router is a hop, and the hop is an address of its own on the way."""

import pytest

from routers import FAMILIES, GRE, INNER, TRANSPORT, host, router_on_lan
from traffic import ping, traceroute, wait_ping


@pytest.mark.parametrize("carrier", [GRE, TRANSPORT], ids=str)
@pytest.mark.parametrize("how", ["udp", "icmp", "tcp"])
def test_hops(sites, carrier, how):
    """The near router by its LAN address, the far one by its address in the tunnel, the host; the underlay is no hop."""
    sites.start(carrier)
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
        there = [router_on_lan(1, family), INNER[2][family], host(2, family)]
        back = [router_on_lan(2, family), INNER[1][family], host(1, family)]
        assert traceroute(sites.h1, host(2, family), how) == there
        assert traceroute(sites.h2, host(1, family), how) == back


def test_from_a_router(sites):
    """The router's own traceroute leaves by the tunnel's host interface: the far router is its first hop."""
    sites.start(TRANSPORT)
    for family in FAMILIES:
        wait_ping(sites.r1.namespace, host(2, family))
        assert traceroute(sites.r1.namespace, host(2, family)) == [INNER[2][family], host(2, family)]


def test_ttl(sites):
    """Each router takes one from the TTL, once: three links are passed with 3, and not with 2."""
    sites.start(TRANSPORT)
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
        assert ping(sites.h1, host(2, family), count=3, ttl=3).loss == 0
        for ttl, hop in ((1, router_on_lan(1, family)), (2, INNER[2][family])):
            short = ping(sites.h1, host(2, family), count=2, ttl=ttl)
            assert short.received == 0 and f"From {hop}" in short.text

"""GRE keepalives in the vendors' form: a GRE packet whose inner packet is the answer itself, addressed to the one who asked."""

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import GRE as GreHeader

from netns import wait_for
from routers import GRE, INNER, TRANSPORT, far, host
from traffic import capture, ping, wait_ping

PERIOD, RETRIES = 1, 3
KEEPALIVE = f'keepalive = {{ period = "{PERIOD}s", retries = {RETRIES} }}'
DOWN = PERIOD * RETRIES + 2  # seconds
UP = PERIOD + 2


def start(sites, carrier, *ends):
    """Runs both routers; `ends` are those that ask."""
    for site, router in sites.routers.items():
        extra = (KEEPALIVE,) if site in ends else ()
        router.start(sites.configuration(site, carrier, extra=extra))


def state_becomes(router, state, timeout):
    wait_for(lambda: router.tunnel()["state"] == state, timeout, f"r{router.site}'s tunnel is {state}", interval=0.1)


@pytest.mark.parametrize("ends", [(1, 2), (1,), (2,)], ids=["both", "one", "the other"])
@pytest.mark.parametrize("carrier", [GRE, TRANSPORT], ids=str)
def test_far_end_dies_and_returns(sites, carrier, ends):
    """Down after as many unanswered keepalives as configured, not before; up with the first answer. Either end alone suffices."""
    start(sites, carrier, *ends)
    for site in ends:
        state_becomes(sites.routers[site], "up", UP)
    wait_ping(sites.h1, host(2, 4))
    near, other = sites.routers[ends[0]], far(ends[0])
    sites.mid.ip(f"link set to{other} down")
    assert near.tunnel()["state"] == "up"
    state_becomes(near, "down", DOWN)
    sites.mid.ip(f"link set to{other} up", f"addr replace {sites.gateway(other, 6)}/64 dev to{other} nodad")
    state_becomes(near, "up", UP + 2)
    assert ping(sites.h1, host(2, 4), count=20).loss == 0


def test_form(sites):
    """On the wire: one a second each way round, asked and answered; the answer's protocol type is 0."""
    start(sites, GRE, 1)
    state_becomes(sites.r1, "up", UP)
    with capture(sites.mid, "to1", "ip proto 47") as seen:
        wait_for(lambda: len(seen.path.read_bytes()) > 400, 6, "two keepalives and their answers")
    near, remote = sites.wan(1, 4), sites.wan(2, 4)
    # Now and then the hosts themselves say a word through the tunnel.
    packets = [packet[IP] for packet in seen.packets()]
    asked = [packet for packet in packets if packet.src == near and packet[GreHeader].proto == 0x0800]
    answered = [packet for packet in packets if packet.src == remote and packet[GreHeader].proto == 0]
    assert asked and answered
    inner = asked[0][GreHeader].payload
    assert asked[0].dst == remote and answered[0].dst == near
    assert (inner.src, inner.dst, inner.proto, inner[GreHeader].proto) == (remote, near, 47, 0)


def test_one_that_does_not_ask_is_up(sites):
    """A tunnel without keepalives has no opinion of its far end."""
    start(sites, GRE)
    wait_ping(sites.h1, host(2, 4))
    sites.mid.ip("link set to2 down")
    assert ping(sites.h1, host(2, 4), count=2, wait=0.5).received == 0
    assert sites.r1.tunnel()["state"] == "up"


def test_nothing_of_it_reaches_the_host(sites):
    """Neither the question nor the answer is seen on the tunnels' host interfaces."""
    start(sites, GRE, 1, 2)
    with capture(sites.r1.namespace, "oslo", "ip") as seen:
        state_becomes(sites.r1, "up", UP)
        wait_ping(sites.r1.namespace, INNER[2][4])
        wait_for(lambda: len(seen.path.read_bytes()) > 200, 3, "the ping is seen")
    assert {packet[9] for packet in seen.frames()} == {1}

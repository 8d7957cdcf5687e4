"""Links that go down and come back, and addresses and routes that vanish with them: the tunnel works again by itself."""

import pytest

from netns import wait_for
from routers import FAMILIES, TRANSPORT, host, link, router_on_lan
from traffic import ping, pings, wait_ping

AGAIN = 8.0  # seconds


@pytest.fixture
def running(sites):
    sites.start(TRANSPORT)
    works(sites)
    return sites


def works(sites):
    """Both families, both ways, without loss once found."""
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family), timeout=AGAIN)
        wait_ping(sites.h2, host(1, family), timeout=AGAIN)
        assert ping(sites.h1, host(2, family), count=20).loss == 0


def stops(sites):
    wait_for(lambda: not pings(sites.h1, host(2, 4)), 3, "traffic stops")


def put_back(sites):
    """What `service netif restart` or a network manager does after a bounce."""
    sites.r1.namespace.ip(*sites.wan_lines(1), *sites.lan_lines(1))


def still_the_same(sites, pid):
    assert sites.r1.daemon.running and sites.r1.daemon.pid == pid


@pytest.mark.parametrize("port", ["wan", "lan"])
def test_link(running, port):
    """Our own interface goes down and up, three times."""
    pid, router = running.r1.daemon.pid, running.r1.namespace
    for _ in range(3):
        router.ip(f"link set {port} down")
        stops(running)
        router.ip(f"link set {port} up")
        put_back(running)
        works(running)
    still_the_same(running, pid)


@pytest.mark.parametrize("cable", ["wan", "lan"])
def test_carrier(running, cable):
    """The cable's far end goes down: no carrier; nothing of the router's own configuration changes."""
    end, name = (running.mid, "to1") if cable == "wan" else (running.h1, "lan")
    kept = [route for route in end.ip_json("-6 route show default")]
    end.ip(f"link set {name} down")
    wait_for(lambda: link(running.r1.namespace, cable)["operstate"] != "UP", 3, "the carrier is lost")
    end.ip(f"link set {name} up")
    if cable == "wan":
        end.ip(f"addr replace {running.gateway(1, 6)}/64 dev to1 nodad")
    else:
        end.ip(f"addr replace {host(1, 6)}/64 dev lan nodad")
        end.ip(f"route replace default via {router_on_lan(1, 4)}", f"route replace default via {router_on_lan(1, 6)}")
    assert kept or cable == "wan"
    works(running)


def test_all_vanishes_and_comes_back(running):
    """Addresses, routes and links, all of them: as when the host's network is restarted."""
    pid, router = running.r1.daemon.pid, running.r1.namespace
    router.ip("addr flush dev wan", "addr flush dev lan", "route flush dev wan", "route flush dev lan")
    stops(running)
    router.ip("link set wan down", "link set lan down", "link set wan up", "link set lan up")
    assert not pings(running.h1, host(2, 4))
    put_back(running)
    works(running)
    still_the_same(running, pid)


def test_route_to_the_far_end_vanishes(running):
    """No way to the far router: dropped, not sent elsewhere; with the route the tunnel is back."""
    router = running.r1.namespace
    router.ip("route del default")
    stops(running)
    router.ip(*running.wan_lines(1))
    works(running)


def test_tunnel_interface(running):
    """An operator takes the tunnel's host interface down, and up."""
    router = running.r1.namespace
    router.ip("link set oslo down")
    router.ip("link set oslo up")
    for family in FAMILIES:
        wait_ping(running.h1, host(2, family), timeout=AGAIN)

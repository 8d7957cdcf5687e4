"""The router as a host: its own traffic uses the tunnel, and it stays reachable while Culvert runs, stops, or is killed."""

import signal
import time

import pytest

from netns import wait_for
from routers import FAMILIES, GRE, INNER, NAMES, TRANSPORT, host, link, router_on_lan
from traffic import Session, iperf, ping, pings, tcp_rate, wait_ping

GAP = 2.0  # seconds for which a router may be deaf when Culvert goes


@pytest.mark.parametrize("carrier", [GRE, TRANSPORT], ids=str)
def test_own_traffic(sites, carrier):
    """The router's own packets enter the tunnel by its host interface, from its address there or another of its own."""
    sites.start(carrier)
    router = sites.r1.namespace
    for family in FAMILIES:
        wait_ping(router, host(2, family))
        for source in (INNER[1][family], router_on_lan(1, family)):
            assert ping(router, host(2, family), count=20, source=source).loss == 0
            assert ping(router, INNER[2][family], count=20, source=source).loss == 0
    assert tcp_rate(iperf(router, sites.h2, host(2, 4))) > 5
    assert tcp_rate(iperf(router, sites.h2, host(2, 4), reverse=True)) > 5


def test_host_is_left_alone(sites):
    """Traffic of the router's own that has nothing to do with the tunnel: every size, both ports, both families, at speed."""
    sites.start(TRANSPORT)
    router = sites.r1.namespace
    for family in FAMILIES:
        for end, address in ((sites.mid, sites.wan(1, family)), (sites.h1, router_on_lan(1, family))):
            assert ping(end, address, count=20).loss == 0
            assert ping(end, address, count=5, size=4000).loss == 0
            assert tcp_rate(iperf(end, router, address)) > 50
            assert tcp_rate(iperf(end, router, address, reverse=True)) > 50


@pytest.fixture
def under_load(sites):
    """A tunnel full of datagrams for longer than any test here takes, and a terminal session to the router's WAN address."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    session = Session(sites.mid, sites.r1.namespace, sites.wan(1, 4))
    listening = sites.h2.start("iperf3", "-s", "-p", 5301, "--forceflush", name="load-server")
    listening.wait_text("Server listening")
    words = ["-p", 5301, "-u", "-b", "20M", "-l", 1000, "-t", 60, "--forceflush"]
    load = sites.h1.start("iperf3", "-c", host(2, 4), *words, name="load")
    load.wait_text("connected to")
    time.sleep(0.5)
    return sites, session


def answers_soon(sites, after):
    """Both of the router's sides answer, in both families, within the gap that is allowed."""
    started = time.monotonic()
    for family in FAMILIES:
        for end, address in ((sites.mid, sites.wan(1, family)), (sites.h1, router_on_lan(1, family))):
            wait_for(lambda: pings(end, address), GAP, f"{address} answers after {after}", interval=0.02)
    assert time.monotonic() - started < GAP


def nothing_is_left(router):
    """The host interface is gone, and no program of ours is on the ports."""
    wait_for(lambda: link(router.namespace, NAMES[router.site]) is None, GAP, "the tunnel's interface is removed")
    for port in ("wan", "lan"):
        assert "xdp" not in link(router.namespace, port), port


def is_attached(router, port):
    return "xdp" in link(router.namespace, port)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda sign: sign.name)
def test_end_under_load(under_load, how):
    """However the daemon ends, the host has its network; and a new daemon carries on."""
    sites, session = under_load
    router = sites.r1
    assert is_attached(router, "wan") and is_attached(router, "lan")
    status = router.daemon.stop(how)
    assert status == (-signal.SIGKILL if how is signal.SIGKILL else 0), router.daemon.text()
    answers_soon(sites, how.name)
    nothing_is_left(router)
    router.start()
    wait_ping(sites.h1, host(2, 4), timeout=5)
    account = session.end()
    assert account["broken"] is None and account["lines"] > 20
    assert account["longest_gap"] < GAP


def test_socket_left_behind(sites):
    """The socket of a daemon that was killed does not keep the next from starting; that of a running one does."""
    sites.start(GRE)
    router = sites.r1
    router.daemon.stop(signal.SIGKILL)
    assert router.socket.exists()
    router.start()
    wait_ping(sites.h1, host(2, 4))
    assert router.socket.stat().st_mode & 0o777 == 0o600
    router.stop()
    assert not router.socket.exists()

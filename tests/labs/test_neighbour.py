"""The next hop, or a host, gets another Ethernet address: announced or not, traffic finds it."""

import time

import pytest

from routers import FAMILIES, TRANSPORT, Sites, host
from traffic import capture, ping, wait_ping

NEW = "02:00:00:00:77:01"


@pytest.fixture
def running(sites):
    """The router's kernel asks again soon, so that the test need not wait half a minute."""
    sites.r1.namespace.sysctl(
        *(
            f"net.ipv{family}.neigh.{port}.{setting}"
            for family in FAMILIES
            for port in ("wan", "lan")
            for setting in ("base_reachable_time_ms=1000", "delay_first_probe_time=1", "retrans_time_ms=200")
        )
    )
    sites.start(TRANSPORT)
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
    return sites


def change(namespace, interface, announce):
    value = int(announce)
    namespace.sysctl(
        f"net.ipv4.conf.{interface}.arp_notify={value}", f"net.ipv6.conf.{interface}.ndisc_notify={value}"
    )
    namespace.ip(f"link set {interface} address {NEW}")


@pytest.mark.parametrize("announce", [True, False], ids=["announced", "silent"])
@pytest.mark.parametrize("port", ["wan", "lan"])
def test_mac_changes(running, port, announce):
    """The gateway on the WAN, or the host on the LAN."""
    end, interface = (running.mid, "to1") if port == "wan" else (running.h1, "lan")
    change(end, interface, announce)
    for family in FAMILIES:
        wait_ping(running.h2, host(1, family), timeout=2 if announce and family == 4 else 12)
    with capture(end, interface, "ip and ether dst", NEW, direction="in") as seen:
        for family in FAMILIES:
            assert ping(running.h1, host(2, family), count=20).loss == 0
    assert seen.frames()


def test_flushed(running):
    """An operator empties the neighbour table: at most a packet or two wait, none is lost for long."""
    running.r1.namespace.ip("neigh flush dev wan", "neigh flush dev lan")
    for family in FAMILIES:
        assert ping(running.h1, host(2, family), count=100, interval=0.01).received >= 95


def test_idle(running):
    """Neighbours are kept fresh, or asked for anew: after a silence the first packet is not lost."""
    time.sleep(5)
    for family in FAMILIES:
        assert ping(running.h1, host(2, family), count=1, wait=2).received == 1


def test_unresolved_host(running):
    """Packets for a host that does not answer are dropped, and keep no other traffic waiting."""
    nobody = host(2, 4).rsplit(".", 1)[0] + ".77"
    asking = running.h1.start("ping", "-n", "-q", "-i", "0.01", nobody)
    assert ping(running.h1, host(2, 4), count=100, interval=0.01).loss == 0
    assert asking.running
    refused = ping(running.h1, nobody, count=3, interval=1.0, wait=2)
    assert refused.received == 0


def test_first_packets_wait(lab):
    """The very first packets to a new neighbour are kept until it is found."""
    sites = Sites(lab)
    sites.start(TRANSPORT)
    for family in FAMILIES:
        assert ping(sites.h1, host(2, family), count=3, interval=0.2, wait=3).received >= 2

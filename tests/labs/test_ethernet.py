"""Transparent Ethernet: two LANs that are one, joined by TAP ports and bridges on both routers."""

import socket

import pytest

from netns import wait_for
from routers import GRE, TRANSPORT, Sites
from traffic import capture, datagrams, iperf, ping, tcp_rate, wait_ping

H1, H2 = {4: "10.9.0.5", 6: "2001:db8:90::5"}, {4: "10.9.0.6", 6: "2001:db8:90::6"}
PORTS = '[[port]]\nname = "wan"\ndevice = "xdp:wan"\n\n[[port]]\nname = "site"\ndevice = "tap:site"\nmtu = 1500\n\n'
ETHERNET = ('payload = "ethernet"', 'bridge = "site"')


@pytest.fixture(params=[GRE, TRANSPORT], ids=str)
def one_lan(request, lab):
    """Each router's LAN interface and the TAP port are in a bridge; the hosts' frames fit the tunnel."""
    sites = Sites(lab, bridged=True)
    sites.start(request.param, ports=PORTS, routes=[], extra=ETHERNET, inner=False)
    for router in sites.routers.values():
        bridge(router)
    for end in sites.hosts.values():
        end.ip("link set lan mtu 1400")
    return sites


def bridge(router):
    """Joins the router's LAN and its TAP."""
    router.namespace.sysctl("net.ipv6.conf.all.disable_ipv6=0")
    router.namespace.ip(
        "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        "link set lan master br0",
        "link set site master br0",
        "link set site up",
        "link set br0 up",
    )


def test_neighbours(one_lan):
    """The hosts find each other by ARP and neighbour discovery, and are one hop apart."""
    for family in (4, 6):
        wait_ping(one_lan.h1, H2[family])
        assert ping(one_lan.h1, H2[family], count=50, ttl=1).loss == 0
        assert ping(one_lan.h2, H1[family], count=50, ttl=1).loss == 0
    known = one_lan.h1.ip_json(f"neigh show {H2[4]}")
    assert known[0]["lladdr"] == one_lan.h2.mac("lan")


def test_load(one_lan):
    """TCP and numbered datagrams."""
    wait_ping(one_lan.h1, H2[4])
    assert tcp_rate(iperf(one_lan.h1, one_lan.h2, H2[4])) > 5
    assert tcp_rate(iperf(one_lan.h1, one_lan.h2, H2[4], reverse=True)) > 5
    assert datagrams(one_lan.h1, one_lan.h2, H2[4], count=1000, rate=1000, size=1300) == {
        "unique": 1000,
        "duplicates": 0,
        "reordered": 0,
        "corrupt": 0,
    }


def test_any_frame(one_lan):
    """Tagged frames, frames of no known type and broadcasts pass whole, whoever they are for."""
    wait_ping(one_lan.h1, H2[4])
    to, source = (bytes.fromhex(end.mac("lan").replace(":", "")) for end in (one_lan.h2, one_lan.h1))
    rests = [
        b"\x81\x00\x00\x64\x08\x00" + bytes(range(60)),
        b"\x88\xa8\x00\x05\x81\x00\x00\x06\x88\xb5" + bytes(range(60)),
        b"\x88\xb5" + bytes(range(100)) * 13,
    ]
    frames = [destination + source + rest for rest in rests for destination in (to, b"\xff" * 6)]
    with capture(one_lan.h2, "lan", direction="in") as seen:
        with one_lan.h1.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as port:
            port.bind(("lan", 0))
            for frame in frames:
                port.send(frame)
    assert [frame for frame in seen.frames() if frame in frames] == frames


@pytest.mark.parametrize("made_by", ["culvert", "somebody"])
def test_interface_comes_back(lab, made_by):
    """A TAP is deleted under the daemon: it makes its own again, and takes hold of another that is made again."""
    sites = Sites(lab, bridged=True)
    router = sites.r1

    def make():
        if made_by == "somebody":
            router.namespace.ip("tuntap add dev site mode tap")

    make()
    sites.start(GRE, ports=PORTS, routes=[], extra=ETHERNET, inner=False)
    for end in sites.routers.values():
        bridge(end)
    wait_ping(sites.h1, H2[4])
    pid = router.daemon.pid
    for number in range(2):
        router.namespace.ip("link del site")
        if made_by == "somebody":
            wait_for(lambda: router.daemon.text().count("site is gone") > number, 10, "the daemon has seen it")
        make()
        wait_for(lambda: router.daemon.text().count("site is back and held again") > number, 10, "it is held again")
        router.namespace.ip("link set site master br0")
        wait_ping(sites.h1, H2[4])
        assert ping(sites.h1, H2[4], count=50).loss == 0
    assert router.daemon.running and router.daemon.pid == pid

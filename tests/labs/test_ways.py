"""Ways that are not plain: gateways that lie in no subnet, several gateways to one network, and one of them that goes."""

import socket
import time
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netns import wait_for
from routers import FAMILIES, GRE, NAMES, TRANSPORT, host
from traffic import capture, ping, wait_ping

ALL = {4: 32, 6: 128}  # bits of an address
OUTSIDE = {4: "198.51.100.254", 6: "2001:db8:ffff::fe"}  # gateways in no subnet of anybody's: on the WAN,
INSIDE = {4: "172.31.255.5", 6: "2001:db8:eeee::5"}  # and on the LAN
BEHIND = {4: "10.66.0.1", 6: "2001:db8:66::1"}  # behind h1
SECOND = "10.1.0.6"  # another gateway on its LAN
BOTH = f"{BEHIND[4]} nexthop via {host(1, 4)} weight 3 nexthop via {SECOND} weight 1"


@pytest.mark.parametrize("carrier", [GRE, TRANSPORT], ids=str)
@pytest.mark.parametrize("outer", FAMILIES)
def test_gateways_outside_any_subnet(sites, carrier, outer):
    """The only way to the far end leads by a router that is on the link and in no subnet, as hosting providers have it; and so does
    a route out of the tunnel."""
    r1, r2 = (router.namespace for router in sites.routers.values())
    for family in FAMILIES:
        near, bits = sites.wan(1, family), ALL[family]
        sites.mid.ip(
            f"addr flush dev to1 to {sites.gateway(1, family)}",
            f"addr add {OUTSIDE[family]}/{bits} dev to1",
            f"route replace {near}/{bits} dev to1",
        )
        sites.h1.ip(f"addr add {INSIDE[family]}/{bits} dev lan", f"addr add {BEHIND[family]}/{bits} dev lo")
        r1.ip(
            f"addr flush dev wan to {near}",
            f"addr add {near}/{bits} dev wan",
            f"route replace default via {OUTSIDE[family]} dev wan onlink",
            f"route add {BEHIND[family]} via {INSIDE[family]} dev lan onlink",
        )
    sites.start(replace(carrier, family=outer))
    r2.ip(*(f"route add {BEHIND[family]} dev {NAMES[2]}" for family in FAMILIES))
    for family in FAMILIES:
        for address in (host(1, family), BEHIND[family]):
            wait_ping(sites.h2, address)
            assert ping(sites.h2, address, count=20).loss == 0


@pytest.fixture
def two_gateways(sites):
    """Two stations on r1's LAN lead to a network, the first with three parts of four: their MACs."""
    h1, r1, r2 = sites.h1, sites.r1.namespace, sites.r2.namespace
    h1.ip("link add link lan name second type macvlan mode bridge", "link set second up", f"addr add {SECOND}/32 dev second")
    # Each answers for its own address alone.
    h1.sysctl(*(f"net.ipv4.conf.{name}.arp_ignore=1" for name in ("all", "lan", "second")))
    r1.ip(f"route add {BOTH}")
    sites.start(TRANSPORT)
    r2.ip(f"route add {BEHIND[4]} dev {NAMES[2]}")
    wait_ping(sites.h1, host(2, 4))
    return h1.mac("lan"), h1.mac("second")


def taken(sites, flows, each=5):
    """For each flow from h2 the station that its datagrams, so many, left r1's LAN port for."""
    with capture(sites.h1, "lan", "udp port 53", direction="in") as seen:
        with sites.h2.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind(("lan", 0))
            link = Ether(src=sites.h2.mac("lan"), dst=sites.r2.namespace.mac("lan"))
            for flow in [*flows] * each:
                out.send(bytes(link / IP(src=host(2, 4), dst=BEHIND[4]) / UDP(sport=flow, dport=53) / Raw(bytes(20))))
        time.sleep(0.3)
    stations = {}
    for packet in seen.packets():
        stations.setdefault(packet[UDP].sport, []).append(packet[Ether].dst)
    assert all(len(set(of_flow)) == 1 for of_flow in stations.values()), "a flow keeps to its way"
    assert {flow: len(of_flow) for flow, of_flow in stations.items()} == dict.fromkeys(flows, each)
    return {flow: of_flow[0] for flow, of_flow in stations.items()}


def test_several_gateways(sites, two_gateways):
    """Flows are spread over both as their weights say, and each keeps to one. With one of them gone, all take the other; when it is
    back, each goes as it went."""
    first, second = two_gateways
    flows = range(40000, 40100)
    before = taken(sites, flows)
    assert 60 <= list(before.values()).count(first) <= 90 and set(before.values()) == {first, second}
    r1 = sites.r1.namespace
    for alone, station in ((host(1, 4), first), (SECOND, second)):
        r1.ip(f"route replace {BEHIND[4]} via {alone}" + (" dev lan onlink" if alone == SECOND else ""))
        wait_for(lambda: set(taken(sites, flows, 1).values()) == {station}, 5, f"all go by {alone}")  # noqa: B023
    r1.ip(f"route replace {BOTH}")
    wait_for(lambda: taken(sites, flows, 1) == before, 5, "each flow goes as it went")


def test_several_ways_to_the_far_end(sites):
    """Two routers lead to the far end. One of them goes, and comes back, and then the other: the tunnel goes by the one that is left."""
    mid, r1 = sites.mid, sites.r1.namespace
    mid.ip("link add link to1 name second type macvlan mode bridge", "link set second up", "addr add 192.0.2.253/32 dev second")
    mid.sysctl(*(f"net.ipv4.conf.{name}.arp_ignore=1" for name in ("all", "to1", "second")))
    ways = {"192.0.2.254": mid.mac("to1"), "192.0.2.253": mid.mac("second")}
    both = "default " + " ".join(f"nexthop via {way}" for way in ways)
    r1.ip(f"route replace {both}")
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))

    def stations():
        with capture(mid, "to1", "esp and src", sites.wan(1, 4)) as seen:
            assert ping(sites.h1, host(2, 4), count=20).loss == 0
        return {packet[Ether].dst for packet in seen.packets()}

    assert len(stations()) == 1, "one tunnel, one order, one way"
    for way, station in ways.items():
        r1.ip(f"route replace default via {way}")
        wait_for(lambda: stations() == {station}, 5, f"the tunnel goes by {way}")  # noqa: B023
    r1.ip(f"route replace {both}")
    assert stations() <= set(ways.values())

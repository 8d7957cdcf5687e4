"""Routing daemons over the tunnel: OSPF with its multicast, BGP; what they learn becomes routes of the fast path, and ceases to be.

The tunnels are configured without routes, and the kernels forward nothing: traffic between the LANs proves both the adjacency
and that Culvert follows the routes which the daemons give the tunnel's host interface.
"""

import pytest

from frr import Frr
from netns import wait_for
from routers import FAMILIES, GRE, INNER, NAMES, TRANSPORT, far, host, lan_network, link
from traffic import ping, pings, wait_ping

CARRIERS = [GRE, TRANSPORT]
COUNT = 200


def ospf(site):
    """OSPF on the tunnel, with timers as short as they may be; the LAN is announced."""
    return f"""
interface {NAMES[site]}
 ip ospf area 0
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval 4
 ip ospf mtu-ignore
interface lan
 ip ospf area 0
 ip ospf passive
router ospf
 ospf router-id {site}.{site}.{site}.{site}
 timers throttle spf 10 50 500
"""


def ospf6(site):
    return f"""
interface {NAMES[site]}
 ipv6 ospf6 area 0
 ipv6 ospf6 network point-to-point
 ipv6 ospf6 hello-interval 1
 ipv6 ospf6 dead-interval 4
interface lan
 ipv6 ospf6 area 0
 ipv6 ospf6 passive
router ospf6
 ospf6 router-id {site}.{site}.{site}.{site}
 timers throttle spf 10 50 500
"""


def bgp(site):
    """A session in each family, between the tunnel's inner addresses."""
    other = far(site)
    return f"""
router bgp 6500{site}
 bgp router-id {site}.{site}.{site}.{site}
 no bgp ebgp-requires-policy
 no bgp network import-check
 timers bgp 1 3
 neighbor {INNER[other][4]} remote-as 6500{other}
 neighbor {INNER[other][6]} remote-as 6500{other}
 neighbor {INNER[other][4]} timers connect 1
 neighbor {INNER[other][6]} timers connect 1
 address-family ipv4 unicast
  network {lan_network(site, 4)}
  no neighbor {INNER[other][6]} activate
 address-family ipv6 unicast
  network {lan_network(site, 6)}
  neighbor {INNER[other][6]} activate
"""


@pytest.fixture(params=CARRIERS, ids=str)
def joined(request, sites):
    """Two routers with a tunnel that has no routes."""
    return sites.start(request.param, routes=[])


def carries_without_the_kernel(sites, family):
    """Packets between the LANs pass, and the tunnels' host interfaces see none of them."""
    wait_ping(sites.h1, host(2, family))
    before = [through_the_kernel(router) for router in sites.routers.values()]
    assert ping(sites.h1, host(2, family), count=COUNT).loss == 0
    after = [through_the_kernel(router) for router in sites.routers.values()]
    assert all(late - early < COUNT / 2 for early, late in zip(before, after, strict=True)), (before, after)


def through_the_kernel(router):
    """Packets that the tunnel's host interface has carried, in both directions."""
    counts = link(router.namespace, NAMES[router.site])["stats64"]
    return counts["rx"]["packets"] + counts["tx"]["packets"]


def has_route(router, family, network):
    """Whether the kernel has a route to the network by the tunnel's host interface."""
    options = "" if family == 4 else "-6 "
    return [route for route in router.namespace.ip_json(f"{options}route show {network} dev {NAMES[router.site]}")]


def learned(sites, family):
    """Waits until either kernel knows the other's LAN."""
    for site, router in sites.routers.items():
        network = lan_network(far(site), family)
        wait_for(lambda: has_route(router, family, network), 20, f"r{site} learns {network}", interval=0.2)


@pytest.mark.parametrize("family", FAMILIES)
def test_ospf(joined, family):
    """OSPF finds its neighbour by multicast, and its routes carry traffic; without OSPF they are gone."""
    daemon, text = {4: ("ospfd", ospf), 6: ("ospf6d", ospf6)}[family]
    frrs = {site: Frr(router.namespace, **{daemon: text(site)}) for site, router in joined.routers.items()}
    assert not pings(joined.h1, host(2, family))
    learned(joined, family)
    words = "show ip ospf neighbor" if family == 4 else "show ipv6 ospf6 neighbor"
    assert "Full" in str(frrs[1].ask(daemon, words))
    carries_without_the_kernel(joined, family)
    frrs[2].stop(daemon)
    wait_for(lambda: not pings(joined.h1, host(2, family)), 10, "the route is followed when it goes", interval=0.2)
    assert not has_route(joined.r1, family, lan_network(2, family))


def test_bgp(joined):
    """A session over IPv4 and one over IPv6; a network withdrawn is a route withdrawn."""
    frrs = {site: Frr(router.namespace, bgpd=bgp(site)) for site, router in joined.routers.items()}
    for family in FAMILIES:
        learned(joined, family)
        carries_without_the_kernel(joined, family)
    frrs[2].tell("bgpd", "router bgp 65002", "address-family ipv4 unicast", f"no network {lan_network(2, 4)}")
    wait_for(lambda: not pings(joined.h1, host(2, 4)), 10, "the withdrawn route is no longer used", interval=0.2)
    assert pings(joined.h1, host(2, 6))


@pytest.mark.parametrize("family", FAMILIES)
def test_multicast_from_the_host(joined, family):
    """The host's own multicast leaves by the tunnel, and the far host hears it."""
    near, remote = joined.r1.namespace, joined.r2.namespace
    remote.sysctl("net.ipv4.icmp_echo_ignore_broadcasts=0")
    answers = ping(near, {4: "224.0.0.1", 6: "ff02::1"}[family], count=20, source=NAMES[1])
    theirs = INNER[2][4] if family == 4 else link_local(remote, NAMES[2])
    # In IPv6 the near host answers too, and ping does not wait for the last answer of the far one.
    assert answers.text.count(f"bytes from {theirs}") >= 15


def link_local(namespace, interface):
    """The interface's own link-local address."""
    found = namespace.ip_json(f"-6 addr show dev {interface} scope link")
    return next(one["local"] for entry in found for one in entry["addr_info"] if "local" in one)

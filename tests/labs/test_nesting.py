"""The incident: a tunnel over a tunnel, and routes that lead a tunnel's own packets into it. Both routers stay reachable, and their
operators are told; what happens without Culvert is seen in two virtual machines.

All that goes on while the mistake is made and mended: pings between the routers' outer addresses, between the tunnel's inner
ones, and between the LANs. None may be lost.
"""

import re
import signal
from contextlib import contextmanager

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import GRE as GreHeader

from frr import Frr
from netns import Trouble, wait_for
from routers import CULVERT, FAMILIES, GRE, INNER, NAMES, TRANSPORT, Sites, far, host
from traffic import capture, ping, pings, wait_ping
from vm.linux import REMOVE, tunnel, underlay
from vm.machine import Machine

INTERVAL = 0.02
RETURN = 10  # seconds that a route has to stay right
FILE = object()  # stands for the configuration's file in a command


class Pinging:
    """A ping that goes on in the background."""

    def __init__(self, namespace, address, source=None):
        words = ["ping", "-n", "-i", INTERVAL] + (["-I", source] if source else [])
        self.process = namespace.start(*words, address, name="ping")
        self.what = f"{namespace.label} to {address}"

    def stop(self):
        self.process.stop(signal.SIGINT)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", self.process.text())
        return int(found[1]), int(found[2])


@contextmanager
def nothing_is_lost(sites, tunnels=True):
    """Pings between the routers and the LANs while the block runs; one may be on its way at the end."""
    r1, r2 = sites.r1.namespace, sites.r2.namespace
    running = [Pinging(r1, sites.wan(2, 4), sites.wan(1, 4)), Pinging(r2, sites.wan(1, 4), sites.wan(2, 4))]
    running += [Pinging(sites.mid, sites.wan(1, 4)), Pinging(sites.mid, sites.wan(2, 4))]
    running += [Pinging(r1, INNER[2][4])]
    if tunnels:
        running += [Pinging(sites.h1, host(2, 4))]
    yield
    results = {pinging.what: pinging.stop() for pinging in running}
    assert all(sent > 10 and sent - received <= 1 for sent, received in results.values()), results


def second(site, *lines):
    """A tunnel whose ends are the first one's inner addresses."""
    return "\n".join(
        [
            "",
            "[[tunnel]]",
            'name = "second"',
            f'local = "{INNER[site][4]}"',
            f'remote = "{INNER[far(site)][4]}"',
            f'routes = ["10.{90 + far(site)}.0.0/16"]',
            'protect = "none"',
            *lines,
            "",
        ]
    )


def tell(router, configuration, *words):
    """What a command says of a configuration: its exit status, and all that it printed, whatever the width of its lines."""
    file = router.namespace.lab.folder / f"{router.namespace.label}-proposed.toml"
    file.write_text(configuration)
    file.chmod(0o600)
    done = router.namespace.run(CULVERT, *(file if word is FILE else word for word in words), check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def check(router, configuration, *options):
    return tell(router, configuration, "check", "-c", FILE, *options)


def apply(router, configuration, *options):
    return tell(router, configuration, "apply", FILE, "--socket", router.socket, *options)


def both(sites, carrier, *lines):
    """Configurations with the second tunnel on top of the first."""
    return {site: sites.configuration(site, carrier) + second(site, *lines) for site in sites.routers}


def test_a_second_tunnel_on_top(sites):
    """The incident. Refused by check and apply; put to work all the same, it is down and says why, and nobody is cut off."""
    sites.start(GRE)
    wait_ping(sites.h1, host(2, 4))
    wrong = both(sites, GRE)
    with nothing_is_lost(sites):
        for site, router in sites.routers.items():
            mine, theirs = NAMES[site], INNER[far(site)][4]
            why = (
                f'tunnel "second": the route {theirs}/32 leads its far end {theirs} into tunnel "{mine}": second -> {mine}, '
                "2 tunnels where max_depth allows 1"
            )
            remedy = (
                f'route {theirs}/32 out of a port, not into tunnel "{mine}"; if it is meant to lie in there, say max_depth = 2 '
                'in tunnel "second"'
            )
            status, said = check(router, wrong[site])
            assert status == 2 and why in said and remedy in said, said
            status, said = apply(router, wrong[site])
            assert status == 2 and f"apply: {why}" in said and remedy in said, said
            # Nor in two steps: the tunnel while its far end is elsewhere, then the route.
            aside = wrong[site].replace(f'remote = "{theirs}"', 'remote = "198.18.0.1"')
            status, said = apply(router, aside)
            assert status == 0 and set(router.show("tunnels")) == {mine, "second"}, said
            status, said = apply(router, aside + f'\n[[route]]\nprefix = "198.18.0.1/32"\ntunnel = "{mine}"\n')
            assert status == 2 and f'leads its far end 198.18.0.1 into tunnel "{mine}": second -> {mine}' in said, said
            status, said = apply(router, sites.configuration(site, GRE))
            assert status == 0 and set(router.show("tunnels")) == {mine}, said
        assert ping(sites.h1, host(2, 4), count=50).loss == 0
    for site, router in sites.routers.items():
        router.stop()
        router.start(wrong[site])
    wait_ping(sites.h1, host(2, 4))
    with nothing_is_lost(sites):
        # Somebody tries, from the router and from behind it.
        for router in sites.routers.values():
            assert not pings(router.namespace, f"10.{90 + far(router.site)}.0.1")
    for site, router in sites.routers.items():
        status, said = check(router, wrong[site], "--live")
        assert status == 2, said
        tunnels = router.show("tunnels")
        assert tunnels[NAMES[site]]["state"] == "up"
        assert tunnels["second"]["state"] == "down"
        assert tunnels["second"]["why"] == f"nested: second -> {NAMES[site]}"
        expected = {"path": ["second", NAMES[site]], "route": f"{INNER[far(site)][4]}/32", "way": None, "returning": False}
        assert {key: tunnels["second"]["nesting"][key] for key in expected} == expected
        assert tunnels["second"]["nesting"]["why"] in said
        assert f"error: tunnel \"second\": {tunnels['second']['nesting']['why']}; it has no other way and is down" in (
            router.daemon.text()
        )
        assert router.drops("nested") > 0


@pytest.mark.parametrize("carrier", [GRE, TRANSPORT], ids=str)
def test_a_host_route_into_the_tunnel(sites, carrier):
    """Variant two: the far router's outer address, routed into the tunnel by hand on both routers."""
    sites.start(carrier)
    wait_ping(sites.h1, host(2, 4))
    wrong = {site: f"{sites.wan(far(site), 4)}/32" for site in sites.routers}
    with nothing_is_lost(sites):
        for site, router in sites.routers.items():
            router.namespace.ip(f"route add {wrong[site]} dev {NAMES[site]}")
        for site, router in sites.routers.items():
            wait_for(lambda: "nesting" in router.tunnel(), 3, "the route is seen")
            seen, name = router.tunnel(), NAMES[site]
            why = (
                f"the host's route {wrong[site]} leads its far end {sites.wan(far(site), 4)} into tunnel \"{name}\": "
                f"{name} -> {name}, which never ends"
            )
            way = f"port wan via {sites.gateway(site, 4)}"
            assert (seen["state"], seen["port"]) == ("up", "wan")
            expected = {"why": why, "route": wrong[site], "path": [name, name], "way": way, "returning": False}
            assert seen["nesting"] == expected
            assert f'error: tunnel "{name}": {why}; it keeps its way by {way}' in router.daemon.text()
            status, said = check(router, sites.configuration(site, carrier), "--live")
            assert status == 0 and f"nesting depth 1: {name} -> port wan" in said, said
            assert f"path port wan to {sites.gateway(site, 4)}, " in said, said
            assert f"risk: tunnel \"{name}\": the host's route {wrong[site]} leads" in said, said
        ping(sites.h1, host(2, 4), count=100)
        for site, router in sites.routers.items():
            router.namespace.ip(f"route del {wrong[site]} dev {NAMES[site]}")
        wait_for(lambda: sites.r1.tunnel()["nesting"]["returning"], 3, "the route is gone")
        # A flap moves nothing, and is told of once.
        for _ in range(5):
            sites.r1.namespace.ip(f"route add {wrong[1]} dev oslo")
            sites.r1.namespace.ip(f"route del {wrong[1]} dev oslo")
        wait_for(lambda: "nesting" not in sites.r1.tunnel(), RETURN + 5, "the tunnel follows its route", interval=0.5)
    text = sites.r1.daemon.text()
    assert text.count("error: tunnel") == 1 and text.count("it follows its route again") == 1, text
    assert not [line for line in text.splitlines() if "down:" in line and "no neighbour" not in line]


def bgp(site, network):
    """A session between the inner addresses, which announces the network that the router's outer address is in."""
    other = far(site)
    return f"""
router bgp 6500{site}
 bgp router-id {site}.{site}.{site}.{site}
 no bgp ebgp-requires-policy
 no bgp network import-check
 timers bgp 1 3
 neighbor {INNER[other][4]} remote-as 6500{other}
 neighbor {INNER[other][4]} timers connect 1
 address-family ipv4 unicast
  network {network}
"""


def test_recursive_routing_by_bgp(sites):
    """The classic: each router announces its underlay over the tunnel, and either learns that the far end is behind the tunnel."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    with nothing_is_lost(sites):
        frrs = {}
        for site, router in sites.routers.items():
            frrs[site] = Frr(router.namespace, bgpd=bgp(site, f"192.0.{site + 1}.0/24"))
        for site, router in sites.routers.items():
            wait_for(lambda: "nesting" in router.tunnel(), 20, "the route is learned", interval=0.2)
            assert router.tunnel()["nesting"]["route"] == f"192.0.{far(site) + 1}.0/24"
        # Longer than the session would live without the tunnel, which has to be up for it.
        assert ping(sites.h1, host(2, 4), count=80, interval=0.05).loss == 0
        for site, router in sites.routers.items():
            state = frrs[site].ask("bgpd", "show bgp summary")["ipv4Unicast"]["peers"][INNER[far(site)][4]]
            assert (state["state"], state["connectionsDropped"]) == ("Established", 0)
            assert router.tunnel()["state"] == "up"
        frrs[2].tell("bgpd", "router bgp 65002", "address-family ipv4 unicast", "no network 192.0.3.0/24")
        wait_for(lambda: "nesting" not in sites.r1.tunnel(), RETURN + 5, "the tunnel follows its route", interval=0.5)
        assert sites.r2.tunnel()["nesting"]["way"] == f"port wan via {sites.gateway(2, 4)}"


@pytest.mark.parametrize("carrier", [GRE, TRANSPORT], ids=str)
def test_a_tunnel_that_may_lie_in_another(sites, carrier):
    """With max_depth = 2 it does: packets pass, in two tunnels and no more, up to the MTU computed through both."""
    for site, router in sites.routers.items():
        configuration = both(sites, carrier, "max_depth = 2")[site]
        status, said = check(router, configuration)
        assert status == 0 and f"nesting depth 2: second -> {NAMES[site]} " in said, said
        router.start(configuration)
        router.namespace.ip(f"addr add 10.{90 + site}.0.1/32 dev lan")
        sites.hosts[site].ip(f"addr add 10.{90 + site}.0.5/32 dev lan")
        router.namespace.ip(f"route add 10.{90 + site}.0.5/32 dev lan")
    wait_ping(sites.h1, "10.92.0.5", source="10.91.0.5")
    mtu = carrier.mtu() - 24
    assert sites.r1.show("tunnels")["second"]["mtu"] == mtu
    assert sites.r1.namespace.ip_json("link show dev second")[0]["mtu"] == mtu
    with capture(sites.mid, "to1", "ip proto 47 or ip proto 50") as seen:
        assert ping(sites.h1, "10.92.0.5", source="10.91.0.5", count=20, size=mtu - 28, df=True).loss == 0
        assert ping(sites.h1, host(2, 4), count=20).loss == 0
        assert ping(sites.r1.namespace, INNER[2][4], count=20).loss == 0
    packets = seen.packets()
    assert packets and all(packet[IP].len <= 1500 for packet in packets)
    if carrier.mode is None:
        depths = [sum(layer is GreHeader for layer in packet.layers()) for packet in packets]
        # What waited for an answer before may be among them.
        assert depths.count(2) >= 40 and depths.count(1) >= 80 and set(depths) == {1, 2}, depths
    assert not pings(sites.h1, "10.92.0.5", source="10.91.0.5", size=mtu - 27, df=True)
    # Never in a circle, whatever is allowed.
    for site, router in sites.routers.items():
        router.namespace.ip(f"route add {sites.wan(far(site), 4)}/32 dev second")
    wait_for(lambda: "nesting" in sites.r1.tunnel(), 3, "the route is seen")
    assert sites.r1.tunnel()["nesting"]["path"] == ["oslo", "second", "oslo"]
    assert ping(sites.h1, "10.92.0.5", source="10.91.0.5", count=50).loss == 0
    assert ping(sites.h1, host(2, 4), count=50).loss == 0


# --- without Culvert ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernels(run, tmp_path_factory):
    """Two Linux kernels on one network."""
    with run.lab(tmp_path_factory.mktemp("kernels")) as lab:
        sites = Sites(lab, middle="switch", only=())
        machines = {site: Machine(sites.mid, f"vm{site}", site) for site in (1, 2)}
        for site, machine in machines.items():
            sites.mid.ip(f"link set vm{site} master sw")
            machine.ready().run(underlay(site, {family: sites.wan(site, family) for family in FAMILIES}))
        yield sites, machines


def answers(machine, address, source):
    printed = machine.run(f"ping -c 3 -i 0.2 -W 1 -I {source} {address}", check=False)
    return "3 packets received" in printed


def test_the_kernel_alone_cuts_both_off(kernels):
    """Linux's own GRE, and the same routes: tunnel and far router are gone, and come back when somebody takes the routes out."""
    sites, machines = kernels
    for site, machine in machines.items():
        machine.run(REMOVE + tunnel(GRE, site, sites.wan(site, 4), sites.wan(far(site), 4)))
    outer, inner = (sites.wan(2, 4), sites.wan(1, 4)), (INNER[2][4], INNER[1][4])
    wait_for(lambda: answers(machines[1], *inner), 5, "the tunnel is up")
    assert answers(machines[1], *outer)

    # Variant two: a route for the far end's outer address into the tunnel.
    for site, machine in machines.items():
        machine.run(f"ip route add {sites.wan(far(site), 4)}/32 dev tun")
    assert not answers(machines[1], *outer) and not answers(machines[1], *inner)
    for site, machine in machines.items():
        machine.run(f"ip route del {sites.wan(far(site), 4)}/32 dev tun")
    assert answers(machines[1], *outer) and answers(machines[1], *inner)

    # A tunnel on top of the tunnel, and the first one's far end through it: each in the other.
    for site, machine in machines.items():
        mine, theirs = INNER[site][4], INNER[far(site)][4]
        machine.run(
            f"ip link add second type gre local {mine} remote {theirs} ttl 64\nip link set second up\n"
            f"ip route add {sites.wan(far(site), 4)}/32 dev second"
        )
    assert not answers(machines[1], *outer) and not answers(machines[1], *inner)
    for machine in machines.values():
        machine.run("ip link del second")
    assert answers(machines[1], *outer) and answers(machines[1], *inner)


def test_a_kernel_s_tunnel_in_a_tunnel(lab):
    """Linux is the far end of both tunnels: what is in two tunnels is what another implementation makes and takes."""
    sites = Sites(lab, middle="switch", only=(1,))
    machine = Machine(sites.mid, "vm2", 2)
    sites.mid.ip("link set vm2 master sw")
    machine.ready().run(underlay(2, {family: sites.wan(2, family) for family in FAMILIES}))
    machine.run(tunnel(GRE, 2, sites.wan(2, 4), sites.wan(1, 4)))
    mine, theirs = INNER[2][4], INNER[1][4]
    machine.run(
        f"ip link add second type gre local {mine} remote {theirs} ttl 64\nip link set second mtu 1452 up\n"
        f"ip addr add 10.92.0.1/32 dev lan\nip route add 10.91.0.0/16 dev second src 10.92.0.1"
    )
    local, remote = sites.wan(1, 4), sites.wan(2, 4)
    sites.r1.start(sites.configuration(1, GRE) + second(1, "max_depth = 2"))
    sites.h1.ip("addr add 10.91.0.5/32 dev lan")
    sites.r1.namespace.ip("route add 10.91.0.5/32 dev lan")
    assert (local, remote) == ("192.0.2.1", "192.0.2.2")
    try:
        wait_ping(sites.h1, "10.92.0.1", source="10.91.0.5")
    except Trouble as trouble:
        raise Trouble(f"{trouble}\n{sites.r1.show('drops')}\n{sites.r1.show('tunnels')}") from None
    assert ping(sites.h1, "10.92.0.1", source="10.91.0.5", count=20, size=1452 - 28, df=True).loss == 0

"""Two virtual machines with each other: that the Linux kernel in them does what `test_linux.py` expects of it, without Culvert."""

import pytest

from netns import wait_for
from routers import FAMILIES, Carrier, Sites, host
from traffic import capture, protocols
from vm.linux import REMOVE, tunnel, underlay
from vm.machine import Machine

CARRIERS = [
    Carrier(key=42, checksum=True, sequence=True),
    Carrier(mode="transport", family=6, esn=True),
    Carrier(mode="tunnel", suite="chacha20poly1305"),
    Carrier(mode="transport", suite="aes256gcm16", udp_encap=(4500, 4500)),
    Carrier(encapsulation="udp"),
]


@pytest.fixture(scope="module")
def pair(run, tmp_path_factory):
    with run.lab(tmp_path_factory.mktemp("pair")) as lab:
        sites = Sites(lab, middle="switch", only=())
        machines = {site: Machine(sites.mid, f"vm{site}", site) for site in (1, 2)}
        for site, machine in machines.items():
            sites.mid.ip(f"link set vm{site} master sw")
            machine.ready().run(underlay(site, {family: sites.wan(site, family) for family in FAMILIES}))
        yield sites, machines


@pytest.mark.parametrize("carrier", CARRIERS, ids=str)
def test_ping(pair, carrier):
    """Both families pass between the LANs, and only what the tunnel is made of is on the wire."""
    sites, machines = pair
    for site, machine in machines.items():
        local, remote = sites.wan(site, carrier.family), sites.wan(3 - site, carrier.family)
        machine.run(REMOVE + tunnel(carrier, site, local, remote))
    wait_for(lambda: answers(machines[1], 4), 5, "the far host answers")
    with capture(sites.mid, "vm1", "(ip or ip6) and not icmp6 and not ip6 multicast") as seen:
        for family in FAMILIES:
            assert answers(machines[1], family)
    wanted = (50 if carrier.mode else 47) if not (carrier.udp_encap or carrier.encapsulation) else 17
    assert {protocol for _, _, protocol in protocols(seen.packets())} == {wanted}


def answers(machine, family):
    printed = machine.run(f"ping -c 3 -i 0.2 -W 2 -I {host(1, family)} {host(2, family)}", check=False)
    return "3 packets received" in printed

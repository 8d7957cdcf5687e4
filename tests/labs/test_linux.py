"""The Linux kernel's own GRE, and GRE over XFRM, as the other end: ping and iperf3 between it and Culvert, both ways.

The kernel is Debian's in a virtual machine without hardware help: what is proven is that both understand each other, not speed.
"""

from contextlib import contextmanager

import pytest

from netns import wait_for
from routers import FAMILIES, INNER, Carrier, Sites, host
from traffic import capture, iperf_client, ping, tcp_rate, udp_result, wait_ping
from vm.linux import IPERF_SERVER, REMOVE, tunnel, underlay
from vm.machine import Machine

CARRIERS = [
    Carrier(),
    Carrier(family=6),
    Carrier(key=42),
    Carrier(family=6, key=7, checksum=True, sequence=True),
    Carrier(checksum=True),
    Carrier(sequence=True),
    Carrier(mode="transport", suite="aes128gcm16"),
    Carrier(mode="transport", suite="aes256gcm16", esn=True, key=42),
    Carrier(mode="transport", suite="chacha20poly1305", family=6),
    Carrier(mode="tunnel", suite="aes128gcm16", esn=True, family=6),
    Carrier(mode="tunnel", suite="aes256gcm16", checksum=True, sequence=True),
    Carrier(mode="tunnel", suite="chacha20poly1305", esn=True),
    Carrier(mode="transport", udp_encap=(4500, 4500)),
    Carrier(mode="tunnel", udp_encap=(4500, 4500), suite="chacha20poly1305"),
    Carrier(mode="transport", udp_encap=(4500, 4500), family=6, esn=True),
    Carrier(encapsulation="udp"),
    Carrier(encapsulation="udp", family=6, key=42),
]


ECHO = {4: 28, 6: 48}  # IP and ICMP headers before the data of an echo request
BAD_FORM = (
    "esp-auth",
    "esp-malformed",
    "esp-unknown-spi",
    "gre-checksum",
    "gre-malformed",
    "gre-key",
    "gre-sequence",
)


@pytest.fixture(scope="module")
def linux(run, tmp_path_factory):
    """Site 1 as ever, and in place of site 2 the machine, on the same switch."""
    with run.lab(tmp_path_factory.mktemp("linux")) as lab:
        sites = Sites(lab, middle="switch", only=(1,))
        machine = Machine(sites.mid, "vm2", 2)
        sites.mid.ip("link set vm2 master sw")
        machine.ready().run(underlay(2, {family: sites.wan(2, family) for family in FAMILIES}))
        yield sites, machine


@contextmanager
def tunnelled(linux, carrier):
    """Both ends of the tunnel in the form asked for; Culvert runs while the block does."""
    sites, machine = linux
    machine.run(REMOVE + tunnel(carrier, 2, sites.wan(2, carrier.family), sites.wan(1, carrier.family)))
    try:
        sites.r1.start(sites.configuration(1, carrier))
        sites.r1.add_inner_v6()
        yield sites, machine
    finally:
        sites.r1.stop()


def pings_from(machine, source, address, size=56):
    """How many of ten echo requests of the machine's are answered."""
    printed = machine.run(f"ping -c 10 -i 0.02 -W 2 -s {size} -I {source} {address}", check=False)
    return int(printed.split(" packets received")[0].rsplit(" ", 1)[-1])


@pytest.mark.parametrize("carrier", CARRIERS, ids=str)
def test_tunnel(linux, carrier):
    """Pings of both families from both ends, up to the tunnel's MTU; TCP and UDP both ways; nothing is dropped for its form."""
    with tunnelled(linux, carrier) as (sites, machine):
        for family in FAMILIES:
            wait_ping(sites.h1, host(2, family))
            assert ping(sites.h1, host(2, family), count=30).loss == 0
            longest = carrier.mtu() - ECHO[family]
            assert ping(sites.h1, host(2, family), count=3, size=longest, df=True).loss == 0
            assert ping(sites.r1.namespace, INNER[2][family], count=5).loss == 0
            assert pings_from(machine, host(2, family), host(1, family)) == 10
        for reverse in (False, True):
            machine.run(IPERF_SERVER)
            assert tcp_rate(iperf_client(sites.h1, host(2, 4), amount=500_000, reverse=reverse)) > 1
            machine.run(IPERF_SERVER)
            load = {"udp": 4_000_000, "length": 1000, "amount": 300_000}
            seen = udp_result(iperf_client(sites.h1, host(2, 6), reverse=reverse, **load))
            assert seen.sent > 200 and (seen.lost, seen.out_of_order) == (0, 0)
        assert {reason: sites.r1.drops(reason) for reason in BAD_FORM} == dict.fromkeys(BAD_FORM, 0)


def test_kernel_fragments_the_outer_packets(linux):
    """The kernel without path MTU discovery fragments its GRE packets; Culvert puts them together, up to what a buffer holds."""
    with tunnelled(linux, Carrier()) as (sites, machine):
        machine.run("ip link set tun type gre nopmtudisc ignore-df; ip link set tun mtu 1700")
        wait_for(lambda: pings_from(machine, host(2, 4), host(1, 4), size=1672), 10, "fragments come through")
        with capture(sites.mid, "vm2", "ip[6:2] & 0x3fff != 0 and proto 47") as seen:
            # Inner packets of 1700 bytes, which the machine sends in one piece.
            assert pings_from(machine, host(2, 4), host(1, 4), size=1672) == 10
        assert len(seen.frames()) >= 20


def test_kernel_answers_keepalives(linux):
    """The kernel forwards the answer that lies in a keepalive back to the one who asked."""
    with tunnelled(linux, Carrier(keepalive='period = "1s", retries = 3')) as (sites, machine):
        machine.run("sysctl -q -w net.ipv4.conf.all.accept_local=1 net.ipv4.conf.tun.accept_local=1")
        for command, state in (("", "up"), ("ip link set tun down", "down"), ("ip link set tun up", "up")):
            machine.run(command)
            wait_for(lambda: sites.r1.tunnel()["state"] == state, 6, f"the tunnel is {state} after {command!r}")

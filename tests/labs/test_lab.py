"""The lab itself, tried on the kernel's own routing: what the other labs build on has to tell right from wrong."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.l2 import Ether

from netns import RECORDS, Run, Trouble, command, started_at, wait_for
from routers import FAMILIES, Sites, host, kernel_routes_between, lan_network, router_on_lan
from traffic import (
    Session,
    capture,
    datagrams,
    iperf,
    ping,
    pings,
    protocols,
    syn_mss,
    tcp_rate,
    tool_result,
    traceroute,
    udp_result,
    wait_ping,
)


@pytest.mark.parametrize("middle", ["router", "switch", "relay"])
def test_topology(lab, middle):
    """Nothing passes while the kernels do not forward; all does when they do; checksums and lengths are whole."""
    sites = Sites(lab, middle=middle)
    if middle == "relay":
        sites.start_relay()
    assert not pings(sites.h1, host(2, 4)) and not pings(sites.h1, host(2, 6))
    kernel_routes_between(sites)
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
        assert ping(sites.h2, host(1, family), count=20).loss == 0
    assert tcp_rate(iperf(sites.h1, sites.h2, host(2, 4), seconds=1)) > 10


def test_frames_are_complete(sites):
    """No frame is longer than the MTU, and every checksum is made before it enters the wire."""
    kernel_routes_between(sites)
    with capture(sites.mid, "to1", "tcp") as seen:
        iperf(sites.h1, sites.h2, host(2, 4), seconds=1, length=1000)
    frames = seen.frames()
    assert len(frames) > 100 and max(map(len, frames)) <= 1514
    for packet in map(Ether, frames[:50]):
        given = packet["TCP"].chksum
        del packet["TCP"].chksum
        assert type(packet)(bytes(packet))["TCP"].chksum == given


def test_iperf_and_mss(sites):
    """The figures that labs judge by: rate, loss, MSS, protocols on the wire, both ways, both families."""
    kernel_routes_between(sites)
    with capture(sites.mid, "to2", "tcp[tcpflags] & tcp-syn != 0") as seen:
        assert tcp_rate(iperf(sites.h2, sites.h1, host(1, 4), seconds=1, flows=2, reverse=True)) > 10
    assert {mss for _, mss in syn_mss(seen.packets())} == {1460}
    assert protocols(seen.packets()) == {(host(2, 4), host(1, 4), 6), (host(1, 4), host(2, 4), 6)}
    result = udp_result(iperf(sites.h1, sites.h2, host(2, 6), seconds=1, udp="5M", flows=2))
    assert result.sent > 800 and result.lost == 0 and result.out_of_order == 0


@pytest.mark.parametrize("how", ["udp", "icmp", "tcp"])
def test_traceroute(sites, how):
    """Each router on the way, in order."""
    kernel_routes_between(sites)
    for family in FAMILIES:
        hops = traceroute(sites.h1, host(2, family), how)
        near, middle, remote = router_on_lan(1, family), sites.gateway(1, family), sites.wan(2, family)
        assert hops == [near, middle, remote, host(2, family)]


def test_small_link(lab):
    """A link of 1400 bytes in the middle says so."""
    sites = Sites(lab, path_mtu=1400)
    kernel_routes_between(sites)
    for family, header in ((4, 28), (6, 48)):
        refused = ping(sites.h1, host(2, family), count=3, size=1500 - header, df=True)
        assert refused.received == 0 and 1400 in refused.mtus
        assert ping(sites.h1, host(2, family), count=3, size=1400 - header, df=True).loss == 0


def test_session(sites):
    """A session sees a gap, and outlives it; it sees when it is broken."""
    kernel_routes_between(sites)
    session = Session(sites.h1, sites.h2, host(2, 4))
    sites.mid.ip("link set to2 down")
    with pytest.raises(Trouble):
        wait_ping(sites.h1, host(2, 4), timeout=0.5)
    sites.mid.ip("link set to2 up")
    sites.routers[2].namespace.ip(*sites.wan_lines(2))
    sites.mid.ip(f"route replace {lan_network(2, 4)} via {sites.wan(2, 4)}")
    wait_ping(sites.h1, host(2, 4))
    account = session.end()
    assert account["broken"] is None and account["longest_gap"] > 0.4

    session = Session(sites.h1, sites.h2, host(2, 4), port=2223)
    session.server.kill()
    wait_for(lambda: not session.client.running, 5, "the talker gives up")
    assert session.end()["broken"]


def test_relay_counts(lab):
    """What the relay says it did is what arrives."""
    sites = Sites(lab, middle="relay")
    kernel_routes_between(sites)
    for family in FAMILIES:
        sites.start_relay()
        wait_ping(sites.h1, host(2, family))
        sites.start_relay("--loss", 0.05, "--duplicate", 0.05, "--reorder", 0.1)
        seen = datagrams(sites.h1, sites.h2, host(2, family), count=1000, rate=1000)
        did = tool_result(sites.relay)["near"]
        assert did["lost"] > 10 and did["duplicated"] > 10 and did["failed"] == 0
        assert seen["unique"] == 1000 - did["lost"] and seen["duplicates"] == did["duplicated"]
        assert seen["reordered"] > 10 and seen["corrupt"] == 0


@pytest.mark.parametrize("order", [(), ("--backwards",)])
def test_relay_fragments(lab, order):
    """The relay's fragments are such as the kernel puts together again."""
    sites = Sites(lab, middle="relay")
    kernel_routes_between(sites)
    for family in FAMILIES:
        sites.start_relay()
        wait_ping(sites.h1, host(2, family))
        sites.start_relay("--fragment", 600, *order)
        seen = datagrams(sites.h1, sites.h2, host(2, family), count=100, rate=1000, size=1400)
        assert seen == {"unique": 100, "duplicates": 0, "reordered": 0, "corrupt": 0}
        assert tool_result(sites.relay)["near"]["fragmented"] == 100


def test_clean_up_after_a_crash(run):
    """A run that was killed is cleaned up after by the next, and one that is alive is left alone."""
    program = (
        "import os, signal; from pathlib import Path; from netns import Run, wait_for\n"
        "run = Run(); lab = run.lab(run.record / 'files')\n"
        "space = lab.namespace('x'); process = space.start('sleep', '100')\n"
        # By then it has said that it goes with its parent.
        "name = Path(f'/proc/{process.pid}/comm'); wait_for(lambda: name.read_text() == 'sleep\\n', 5, 'it runs')\n"
        "print(run.record, space.name, process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    record, name, pid = done.stdout.split()
    assert Path(record).exists() and name in command("ip", "netns", "list").stdout
    wait_for(lambda: started_at(int(pid)) is None, 3, "its process goes with it")
    Run.clean_up_after_others()
    assert not Path(record).exists() and name not in command("ip", "netns", "list").stdout
    assert run.record.exists() and RECORDS in run.record.parents

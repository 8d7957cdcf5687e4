"""A long run: two workers under load both ways while the host's table, the configuration and links change. Afterwards everything is
where it was at the start: every buffer, memory, descriptors. `CULVERT_SOAK_SECONDS` says how long.

In the first half no link changes, and nothing at all is out of order in any flow, nor lost. In the second half links flap, and packets
wait for stations to be found. They leave before newer ones, unless the machine is so busy that the exception thread does not get a
processor in time (`LONGEST` in engine/src/exception/settled.rs): then a worker goes on, and up to 16 for each station are late.
"""

import itertools
import os
import re
import time
from pathlib import Path

from netns import wait_for
from routers import CULVERT, FAMILIES, TRANSPORT, Sites, host, lan_network, router_on_lan
from traffic import datagrams, ping, start_tool, tool_result, wait_ping

SECONDS = float(os.environ.get("CULVERT_SOAK_SECONDS", "30"))
FLOWS, RATE, SIZE = 4, 500, 1000
AGAIN = 10.0  # seconds until everything works after a change
WAITING = 16  # packets that wait for a station at most (engine/src/exception/waiting.rs)
GROWTH = 8 << 10  # KiB of memory: what allocators keep, however long it takes
# Nothing that happens here explains one of these.
NEVER = {"esp-auth", "esp-malformed", "slot-broken", "gre-malformed", "ip-malformed", "cleartext-for-protected"}


def test_soak(lab):
    sites = Sites(lab, queues=2)
    sites.start(TRANSPORT, engine="workers = 2")
    put_back(sites)
    works(sites)
    routers = [sites.r1, sites.r2]
    lent = [wait_rest(router) for router in routers]
    assert all(0 < rx and tx == 0 for ports in lent for rx, tx in ports.values()), lent

    used = []
    _, ways = run(sites, [apply_routes, host_routes], used)
    for sent, seen in ways:
        # A machine that is busy with other things may be late for a ring.
        assert seen["seen"] > 0.99 * sent["sent"] and seen["flows"] == FLOWS, (sent, seen)
        assert (seen["disorder"], seen["corrupt"]) == (0, 0), (sent, seen)
    flaps, ways = run(sites, [wan_link, apply_routes, lan_link, host_routes, cable], used)
    print(flaps, "changes; sent and seen:", ways, "memory, KiB, and descriptors:", used[0], used[-1])
    for sent, seen in ways:
        # Each link is down a good part of the time.
        assert seen["seen"] > sent["sent"] / 10 and seen["flows"] == FLOWS, (sent, seen)
        # On the way there are a station on each LAN and one on each WAN. On a machine with time for it: 0.
        assert seen["disorder"] <= WAITING * 4 * flaps and seen["corrupt"] == 0, (sent, seen)
    assert datagrams(sites.h1, sites.h2, host(2, 4), count=500, rate=1000) == {
        "unique": 500, "duplicates": 0, "reordered": 0, "corrupt": 0
    }
    for router, before in zip(routers, lent, strict=True):
        assert wait_rest(router) == before, "buffers"
        for name, port in router.show("ports").items():
            assert (port["copied_frames"], port["copied_bytes"]) == (0, 0), name
        for worker in router.show("workers"):
            assert worker["frames"] > 0
            # The host's pings, and what waited for a station while links flapped: those alone.
            copied = {kind for kind, count in worker["copied"].items() if count["frames"]}
            assert copied <= {"exceptions"}, worker["copied"]
        assert not NEVER & router.show("drops").keys(), router.show("drops")
    for first, last in zip(used[0], [resources(router) for router in routers], strict=True):
        assert last[0] <= first[0] + GROWTH, "memory"
        assert last[1] == first[1], "descriptors"


def run(sites, changes, used):
    """Changes, again and again, under load, for half of the time. The number of changes, and what each end has sent and seen."""
    ends = [(sites.h1, sites.h2, host(2, 4)), (sites.h2, sites.h1, host(1, 4))]
    receivers = [start_tool(to, "flows", "receive", address) for _, to, address in ends]
    for receiver in receivers:
        receiver.wait_ready()
    senders = [start_tool(of, "flows", "send", address, FLOWS, RATE, SIZE) for of, _, address in ends]
    start = time.monotonic()
    for number, change in enumerate(itertools.cycle(changes)):
        change(sites, number)
        time.sleep(0.7)
        # Once everything has happened, everything has its memory.
        if time.monotonic() > start + SECONDS / 4:
            used.append([resources(router) for router in (sites.r1, sites.r2)])
        if time.monotonic() > start + SECONDS / 2:
            break
    put_back(sites)
    works(sites)
    sent = [tool_result(sender) for sender in senders]
    return number + 1, list(zip(sent, [tool_result(receiver) for receiver in receivers], strict=True))


def works(sites):
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family), timeout=AGAIN)
        wait_ping(sites.h2, host(1, family), timeout=AGAIN)
    assert ping(sites.h1, host(2, 4), count=20).loss == 0


def wait_rest(router):
    """Buffers that the kernel has to receive into and to send from, by port, when nothing is on its way."""

    def buffers():
        return {name: (port["rx_lent"], port["tx_lent"]) for name, port in router.show("ports").items()}

    wait_for(lambda: all(tx == 0 for _, tx in buffers().values()), 5, f"all has been sent: {buffers()}")
    return buffers()


def resources(router):
    """Memory in KiB, and descriptors, of the daemon."""
    process = Path(f"/proc/{router.daemon.pid}")
    memory = int(re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())[1])
    # Whoever asks has a connection for a moment.
    descriptors = min(len(list((process / "fd").iterdir())) for _ in range(3))
    return memory, descriptors


# --- changes, each with a number --------------------------------------------------------------------------------------


def apply_routes(sites, number):
    """Another set of routes into the tunnel, by a transaction, on both routers."""
    for site, router in sites.routers.items():
        own = [lan_network(3 - site, family) for family in FAMILIES]
        more = [f"100.{64 + number % 32}.{part}.0/24" for part in range(number % 7 * 20)]
        path = router.file.with_name(f"{router.namespace.label}-soak.toml")
        path.write_text(sites.configuration(site, TRANSPORT, engine="workers = 2", routes=own + more))
        path.chmod(0o600)
        router.namespace.run(CULVERT, "apply", path, "--socket", router.socket)


def host_routes(sites, number):
    """A routing daemon's doing: a hundred routes into the tunnel come, or go."""
    word = "replace" if number % 2 == 0 else "del"
    lines = [f"route {word} 10.{100 + part}.0.0/16 dev oslo" for part in range(100)]
    if word == "replace" or sites.r1.namespace.ip_json("route show 10.100.0.0/16"):
        sites.r1.namespace.ip(*lines)


def wan_link(sites, number):
    """A router's own WAN, down and up."""
    bounce(sites.routers[1 + number % 2].namespace, "wan")
    put_back(sites)


def lan_link(sites, number):
    bounce(sites.routers[1 + number // 2 % 2].namespace, "lan")
    put_back(sites)


def cable(sites, _):
    """The far end of a WAN: no carrier for a moment."""
    sites.mid.ip("link set to1 down")
    time.sleep(0.1)
    sites.mid.ip("link set to1 up", f"addr replace {sites.gateway(1, 6)}/64 dev to1 nodad")


def bounce(namespace, interface):
    """Down and up; without addresses, until somebody sets them."""
    namespace.ip(f"link set {interface} down", f"addr flush dev {interface}")
    time.sleep(0.1)
    namespace.ip(f"link set {interface} up")


def put_back(sites):
    """What a network manager does after a bounce, neighbours first."""
    for site, router in sites.routers.items():
        stations = [
            (address, "wan", sites.mid.mac(f"to{site}")) for address in map(sites.gateway, (site, site), FAMILIES)
        ] + [(host(site, family), "lan", sites.hosts[site].mac("lan")) for family in FAMILIES]
        known = [f"neigh replace {address} lladdr {mac} dev {port} nud permanent" for address, port, mac in stations]
        router.namespace.ip(*known, *sites.wan_lines(site), *sites.lan_lines(site))
    for site, end in sites.hosts.items():
        end.ip(*(f"route replace default via {router_on_lan(site, family)}" for family in FAMILIES))

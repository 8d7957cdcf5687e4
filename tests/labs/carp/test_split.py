"""Both routers are master, and one takes over from the other again and again: nothing is sent twice, nothing is left behind.

`CULVERT_TAKEOVERS` says how often (1000 takes ten minutes); `culvert carp notify` makes them, as ucarp takes seconds for each.
"""

import os
import time
from pathlib import Path

import pytest

from netns import wait_for
from routers import CULVERT, host
from shared import (
    GROUP, LAN_GROUP, LAN_VIRTUAL, TAKEN_OVER, VIRTUAL, esp, from_router, mac, metrics, pair_up, spis, wait_shared, wait_up, watched,
)
from test_sync import linked  # noqa: F401 (a fixture)
from test_takeover import paired  # noqa: F401 (a fixture)
from traffic import ping, wait_ping

TAKEOVERS = int(os.environ.get("CULVERT_TAKEOVERS", "24"))
# Where a packet goes to reach the far LAN by one router or the other.
BY = {"a": "10.2.0.77", "b": "10.2.0.88"}
QUIET = 3.0  # seconds: two until it is no passing thing, and some


def split(twin):
    return twin.show("carp")["groups"][GROUP]["split"]


def led_by_both(shared):
    """h1 reaches an address of h2 by each router, whoever has the LAN's address."""
    for label, address in BY.items():
        shared.h2.ip(f"addr add {address}/32 dev lan")
        shared.h1.ip(f"route add {address}/32 via 10.1.0.{11 if label == 'a' else 12}")


@pytest.fixture
def announcing(linked):  # noqa: F811 (a fixture)
    """The two linked as in `test_takeover.py`; their daemons know of the LAN's address as well."""
    return pair_up(linked, lambda twin: LAN_GROUP)


def assert_followed(shared, twin, other):
    """All around send to this router what is for the shared addresses; the tunnel carries packets, and the other one has none of
    them to drop."""
    wanted = [(shared.h1, LAN_VIRTUAL, mac(twin, "lan")), (shared.r2.namespace, VIRTUAL, mac(twin))]

    def at():
        entries = [space.ip_json(f"neigh show to {address}") for space, address, _ in wanted]
        return [bytes.fromhex(entry[0].get("lladdr", "").replace(":", "")) if entry else b"" for entry in entries]

    wait_for(lambda: at() == [found for _, _, found in wanted], 1.5, f"all around follow r{twin.label}: {at()}, not {wanted}")
    dropped = lambda: other.drops("backup")  # noqa: E731
    carries = lambda: (dropped(), ping(shared.h1, host(2, 4), count=100, wait=0.2).loss, dropped())  # noqa: E731
    # ucarp announces itself once more some seconds after it has become master; a second later at most, that is put right.
    wait_for(lambda: (seen := carries())[1] <= 1 and seen[0] == seen[2], 5, f"the tunnel carries packets: {carries()}")


def silent(twin):
    return twin.show("carp")["groups"][GROUP]["silent"]


def test_both_are_master(announcing):
    """They do not hear each other, and are linked: both send at first, with numbers of their own; then the second is silent, and says so, and all
    around send to the first, though the second was the last to announce itself. Where it is known how often each advertises, CARP's
    rule decides. When they hear each other again, one of them is master and the tunnel carries packets."""
    paired = announcing
    a, b = paired.a, paired.b
    led_by_both(paired)
    with watched(paired) as frames:
        b.stop_ucarp()
        b.start_ucarp(skew=100, password="another")
        b.wait_role("master")
        assert a.role() == "master"
        for address in BY.values():
            ping(paired.h1, address, count=20, wait=0.2)
        wait_for(lambda: split(a) and split(b), QUIET, "both know")
        assert "both routers are master; this one is silent" in b.daemon.text()
        assert "both routers are master; the other one is to be silent" in a.daemon.text()
        assert "this one is silent" in str(b.tunnel()), b.tunnel()
        assert all(f'culvert_carp_split{{group="{GROUP}"}} 1' in metrics(twin) for twin in (a, b))
        dropped = b.drops("backup")
        ping(paired.h1, BY["b"], count=20, wait=0.2)
        wait_for(lambda: b.drops("backup") >= dropped + 20, 3, f"they are dropped: {b.show('drops')}")
        assert_followed(paired, a, b)
        # The address is at rb as well: what its strongSwan let go of, r2 would hear of.
        assert not paired.r2.drops("esp-unknown-spi"), "ra sends with what rb has negotiated"
        # The first advertises less often than the second.
        for twin, skew in ((a, 100), (b, 0)):
            text = paired.configurations[twin].replace("[[carp.group]]\n", f"[[carp.group]]\nadvskew = {skew}\n")
            twin.file.write_text(text)
            twin.namespace.run(CULVERT, "apply", twin.file, "--socket", twin.socket)
        wait_for(lambda: (silent(a), silent(b)) == (True, False), 5, "the first is silent")
        assert "this one is silent" in str(a.tunnel()), a.tunnel()
        assert_followed(paired, b, a)
        b.stop_ucarp()
        b.start_ucarp(skew=100)
        b.wait_role("backup", TAKEN_OVER)
        wait_for(lambda: not split(a) and not split(b), TAKEN_OVER, "they are one again")
        # ucarp says where the addresses are only when it takes them.
        a.stop_ucarp()
        b.wait_role("master", TAKEN_OVER)
        wait_ping(paired.h1, host(2, 4), timeout=TAKEN_OVER)
    assert from_router(frames, mac(a)) and from_router(frames, mac(b))


def test_both_are_master_and_cut_off(paired):
    """Not even the link is left, so neither knows: both go on sending, each in its own part of the numbers and IVs, and nothing is sent twice."""
    a, b = paired.a, paired.b
    led_by_both(paired)
    with watched(paired) as frames:
        for twin in (a, b):
            twin.namespace.ip("link set sync down")
        b.stop_ucarp()
        b.start_ucarp(skew=100, password="another")
        b.wait_role("master")
        for _ in range(3):
            for address in BY.values():
                ping(paired.h1, address, count=20, wait=0.2)
        assert a.role() == b.role() == "master" and not split(a) and not split(b)
        for twin in (a, b):
            twin.namespace.ip("link set sync up")
        wait_up(a, b)
        wait_for(lambda: split(a) and split(b), TAKEN_OVER, "both know")
    for twin, domain in ((a, 0), (b, 1)):
        assert {iv >> 62 & 1 for _, _, iv in esp(from_router(frames, mac(twin)))} == {domain}


def holds(twin):
    """KiB of memory and descriptors of the daemon."""
    process = Path("/proc", str(twin.daemon.pid))
    memory = next(int(line.split()[1]) for line in (process / "status").read_text().splitlines() if line.startswith("VmRSS"))
    return memory, len(list((process / "fd").iterdir()))


def test_takeovers_in_a_row(paired):
    """By turns one is master, as somebody says: each carries packets at once, with numbers that nobody has sent with; memory and descriptors
    stay as they are."""
    a, b = paired.a, paired.b
    led_by_both(paired)
    for twin in (a, b):
        twin.stop_ucarp()
    a.namespace.ip(f"addr replace {VIRTUAL}/32 dev wan")

    def turn(master, backup):
        for twin, role in ((backup, "backup"), (master, "master")):
            twin.namespace.run(CULVERT, "carp", "notify", GROUP, role, "--socket", twin.socket)
        before = master.drops("no-sa") + master.drops("sa-exhausted")
        ping(paired.h1, BY[master.label], count=5, wait=0.05)
        assert master.drops("no-sa") + master.drops("sa-exhausted") == before
        # It has shared again what it goes on with.
        time.sleep(0.1)

    with watched(paired) as frames:
        held = []
        for number in range(TAKEOVERS):
            turn(*((b, a) if number % 2 == 0 else (a, b)))
            if number in (TAKEOVERS // 4, TAKEOVERS - 1):
                held.append([holds(twin) for twin in (a, b)])
        turn(a, b)
        wait_ping(paired.h1, BY["a"], timeout=TAKEN_OVER)
    sent = {label: len(from_router(frames, mac(twin))) for label, twin in (("a", a), ("b", b))}
    print(f"{TAKEOVERS} takeovers: packets sent by {sent}; KiB and descriptors of ra and rb: {held}")
    assert min(sent.values()) >= 5 * (TAKEOVERS // 2), sent
    for (memory, descriptors), (memory_then, descriptors_then) in zip(*held):
        assert memory_then < memory * 1.1 + 4096 and descriptors_then <= descriptors + 4
    wait_shared(paired)
    assert spis(a)["out"]

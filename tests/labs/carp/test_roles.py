"""Two routers with one address: one of them carries the tunnel's packets, the other one is silent, whatever happens to either."""

import pytest

from netns import wait_for
from routers import CULVERT, NAMES, host
from shared import GROUP, TAKEN_OVER, VIRTUAL, assert_nothing_twice, esp
from traffic import capture, ping, wait_ping

# Each router has its own SA to send with: nothing tells one which numbers the other has used.
APART = (0x1001, 0x1011)


@pytest.mark.parametrize("notify", [False, True], ids=["by address", "notified"])
def test_the_master_alone_sends(shared, notify):
    """ucarp's scripts move the address, and say so or not: the backup sends nothing, whatever it is given to send."""
    shared.start(APART, notify=notify)
    with shared.capture() as seen:
        assert ping(shared.h1, host(2, 4), count=50).loss <= 10
        # What lands at the backup all the same is dropped there, when it has waited for the news that it is master.
        shared.h1.ip("route add 10.2.0.77/32 via 10.1.0.12")
        assert ping(shared.h1, "10.2.0.77", count=5, wait=0.2).received == 0
    assert assert_nothing_twice(seen.frames()).keys() == {APART[0], 0x1002}
    wait_for(lambda: shared.b.drops("backup") >= 5, 3, f"they are dropped: {shared.b.show('drops')}")
    group = shared.b.show("carp")["groups"][GROUP]
    assert (group["address"], group["role"], group["tunnels"]) == (VIRTUAL, "backup", [NAMES[1]])
    assert (shared.a.tunnel()["state"], shared.b.tunnel()["state"]) == ("up", "backup")
    metrics = shared.b.namespace.run(CULVERT, "metrics", "--socket", shared.b.socket).stdout
    assert f'culvert_carp_master{{group="{GROUP}",address="{VIRTUAL}"}} 0\n' in metrics


def test_planned_and_back(shared):
    """The master steps down, the other one carries the tunnel; then back."""
    shared.start(APART)
    with shared.capture() as seen:
        shared.a.stop_ucarp()
        shared.b.wait_role("master")
        wait_ping(shared.h1, host(2, 4), timeout=TAKEN_OVER)
        assert shared.a.role() == "backup"
        shared.b.stop_ucarp()
        shared.a.start_ucarp(skew=0)
        shared.a.wait_role("master")
        wait_ping(shared.h1, host(2, 4), timeout=TAKEN_OVER)
    counts = assert_nothing_twice(seen.frames())
    assert counts.keys() == {*APART, 0x1002}, "both have sent in their turn"


def test_the_master_dies(shared):
    """Its power goes: the other one takes over. When it comes back, it is backup, and silent."""
    shared.start(APART)
    with shared.capture() as seen:
        shared.a.crash()
        shared.b.wait_role("master")
        wait_ping(shared.h1, host(2, 4), timeout=TAKEN_OVER)
        shared.a.revive()
        assert shared.a.role() == "backup"
        assert ping(shared.h1, host(2, 4), count=20).loss <= 10
    spis = [spi for spi, _, _ in esp(seen.frames()) if spi in APART]
    assert spis == sorted(spis), "ra, then rb, and never ra again"
    assert_nothing_twice(seen.frames())


def test_a_lost_interface_has_no_role(shared):
    """The cable of the master's WAN is pulled: it is nobody, and says why, although the address still stands on it."""
    shared.start(APART)
    shared.wans.ip("link set wa down")
    shared.a.wait_role("init")
    assert shared.a.show("carp")["groups"][GROUP]["why"] == "wan has no signal"
    assert shared.a.tunnel()["state"] == "backup"
    shared.wans.ip("link set wa up")
    wait_for(lambda: shared.a.role() != "init", TAKEN_OVER, "it has a role again")


def test_who_notifies_wrongly_is_told(shared):
    """A group that is not there; a role that is none."""
    shared.b.start(shared.b.configuration(APART[1]))

    def notify(*words):
        return shared.b.namespace.run(CULVERT, "carp", "notify", *words, "--socket", shared.b.socket, check=False)

    for words, said in ((("7@wan", "master"), "7@wan"), (("wan", "master"), "VHID@IF"), ((GROUP, "king"), "king")):
        done = notify(*words)
        assert done.returncode == 2 and said in done.stderr, done
    assert notify(GROUP, "MASTER").returncode == 0
    shared.b.wait_role("master")
    with capture(shared.wans, "wb", "esp") as seen:
        ping(shared.h1, host(2, 4), count=1, wait=0.2)
    assert notify(GROUP, "init").returncode == 0
    shared.b.wait_role("init")
    assert seen.frames() is not None

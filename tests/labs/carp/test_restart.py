"""A daemon of the pair is started again: the master's, which hands over first; and one that finds an address that a dead ucarp has left.

On the far router's wire no SPI is seen twice with a sequence number, nor with an IV, from both routers together, and nothing in clear.
"""

import signal
import time

import pytest

from netns import wait_for
from routers import host
from shared import (
    GROUP, LAN_GROUP, TAKEN_OVER, VIRTUAL, BothWays, carp, from_router, hook, link, mac, pair_up, wait_shared, wait_up, watched,
)
from test_sync import linked  # noqa: F401 (a fixture)
from traffic import ping, wait_ping


@pytest.fixture
def paired(linked):  # noqa: F811 (a fixture)
    """The pair as in `test_takeover.py`, with a hook by which ucarp hears that its router yields; it waits for the LAN's address as well."""
    return pair_up(linked, lambda twin: hook(twin) + LAN_GROUP)


def wait_ready(twin):
    missing = lambda: twin.show("carp")["missing"]  # noqa: E731
    wait_for(lambda: missing() == [], 10, f"r{twin.label} is ready: {missing()}")


def partner(twin):
    return link(twin)["partner"]


def test_a_restart_hands_over_first(paired):
    """ra's daemon is told to end under traffic: it does so when rb has taken over, and nothing is lost but between two ucarps. Told twice, or with nobody to
    take over, it ends at once."""
    a, b = paired.a, paired.b
    wait_ready(b)
    with watched(paired) as frames:
        traffic = BothWays(paired)
        time.sleep(1)
        # What ra drops goes with it: it carries all until rb is master.
        before = b.drops("backup")
        a.daemon.child.send_signal(signal.SIGTERM)
        assert a.daemon.wait(15) == 0
        between = b.drops("backup") - before
        assert b.role() == "master" and "handed over" in a.daemon.text() and "ends, on SIGTERM" in a.daemon.text()
        a.start()
        assert a.role() == "backup"
        wait_up(a, b)
        time.sleep(2)
        out, back = traffic.end()
    print(f"\nrestart of the master: lost {out[1]} of {out[0]} out ({between} between two elections), {back[1]} of {back[0]} back")
    assert from_router(frames, mac(a)) and from_router(frames, mac(b))
    # rb drops what comes on the LAN before it is master on the WAN, as in `test_yield.py`.
    assert back[1] == 0 and out[1] <= between + 3, (out, back)

    def end(*signals):
        """How long rb's daemon takes to end, told so."""
        started = time.monotonic()
        for sign in signals:
            b.daemon.child.send_signal(sign)
            time.sleep(0.1)
        assert b.daemon.wait(10) == 0
        return time.monotonic() - started

    # rb is master now, and nobody could take over.
    wait_shared(paired)
    carp(a, "yield", "--force", "--no-wait")
    wait_for(lambda: partner(b)["ready"] is False, 5, "rb knows that ra is not ready")
    # ucarp hears nothing of the rest.
    b.pids.unlink()
    assert end(signal.SIGTERM) < 1.5
    assert "ends without handing over: the other router is not ready" in b.daemon.text()
    # Somebody could, and whoever says it twice does not want to wait.
    b.start()
    b.wait_role("master", 5)
    wait_up(a, b)
    carp(a, "resume")
    wait_for(lambda: partner(b)["ready"] is True, 5, "rb knows that ra is ready")
    assert end(signal.SIGTERM, signal.SIGTERM) < 1.5
    assert b.daemon.text().count("ends, on SIGTERM") == 2


def test_an_address_that_was_left_over(paired):
    """ra's daemon and ucarps are killed, and its address stays. The daemon that is started then asks rb and is no master, not for a moment; a ucarp that
    takes the address away and gives it back makes it one."""
    a, b = paired.a, paired.b
    a.daemon.kill()
    a.stop_ucarp(signal.SIGKILL)
    b.wait_role("master")
    wait_ping(paired.h1, host(2, 4), timeout=TAKEN_OVER)
    assert VIRTUAL in str(a.namespace.ip_json("addr show dev wan")), "it is still there"
    with watched(paired) as frames:
        a.start()
        wait_up(a, b)
        wait_for(lambda: a.role() == "backup", 3, f"ra knows that it is none: {a.daemon.text()[-1500:]}")
        time.sleep(3)
        group = a.show("carp")["groups"][GROUP]
        assert "was here before, and the other router is master" in group["why"], group
        assert (group["changes"], b.show("carp")["groups"][GROUP]["split"]) == (1, False)
        assert ping(paired.h1, host(2, 4), count=50).loss <= 2
    assert from_router(frames, mac(a)) == []
    a.start_ucarp(skew=0)
    wait_for(lambda: "why" not in a.show("carp")["groups"][GROUP], 5, "ucarp has begun with taking it away")
    b.stop_ucarp()
    a.wait_role("master")
    wait_ping(paired.h1, host(2, 4), timeout=TAKEN_OVER)
    # With ucarp alive, the daemon is killed and started again: rb says that it is none, and ra is master at once.
    b.start_ucarp(skew=100)
    b.wait_role("backup")
    wait_up(a, b)
    wait_shared(paired)
    # ucarp hears nothing of it.
    a.pids.unlink()
    a.daemon.kill()
    a.start()
    started = time.monotonic()
    wait_for(lambda: a.role() == "master", 3, "ra is master again", interval=0.01)
    print(f"\nmaster {time.monotonic() - started:.2f} s after `ready`")
    wait_ping(paired.h1, host(2, 4), timeout=5)

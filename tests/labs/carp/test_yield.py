"""A planned hand-over: `culvert carp yield`, with ucarp told by a hook, as keepalived would be by `culvert carp ready`.

Numbered datagrams pass both ways all the time: none is lost but by ucarp, of which there is one for the WAN and one for the LAN: what reaches
a router on the LAN that is not master on the WAN yet is dropped and counted there. None comes twice. On the far router's wire no SPI is seen twice with a
sequence number, nor with an IV, from both routers together, and nothing in clear.
"""

import json
import time

import pytest

from netns import wait_for
from routers import CULVERT, host
from shared import (
    GROUP, LAN_GROUP, LAN_VIRTUAL, RATE, TAKEN_OVER, VIRTUAL, BothWays, Shared, assert_numbers_go_on, carp, from_router, hook, mac, metrics,
    pair_up, wait_shared, wait_up, watched,
)
from test_sync import linked  # noqa: F401 (a fixture)


@pytest.fixture
def yielding(linked):  # noqa: F811 (a fixture)
    """The pair as in `test_takeover.py`, with the hook."""
    return pair_up(linked, hook)


def hand_over(from_, to):
    """One yields, and the other is master when that is done."""
    answer = json.loads(carp(from_, "yield", "--json").stdout)
    assert answer == {"yielded": True, "groups": {GROUP: {"role": "backup", "carried": False, "partner_is_master": True}}}
    assert to.role() == "master" and from_.role() == "backup"
    assert from_.tunnel()["state"] == "backup" and to.tunnel()["state"] != "backup"
    assert from_.show("carp")["yielded"] is True


def test_there_and_back_without_loss(yielding):
    """ra hands over to rb, and rb back, under traffic. rb knows the LAN's hosts before it needs them."""
    a, b = yielding.a, yielding.b
    known = lambda: {(at["port"], at["address"]) for at in b.show("neighbours")}  # noqa: E731
    wait_for(lambda: ("lan", host(1, 4)) in known(), 5, f"ra has told rb of h1: {known()}")
    # Who is not master of the WAN's group drops what reaches it on the LAN.
    apart = lambda: a.drops("backup") + b.drops("backup")  # noqa: E731
    before = apart()
    with watched(yielding) as frames:
        traffic = BothWays(yielding)
        time.sleep(1)
        for from_, to in ((a, b), (b, a)):
            started = time.monotonic()
            hand_over(from_, to)
            took = time.monotonic() - started
            carp(from_, "resume")
            assert not from_.show("carp")["yielded"]
            assert from_.role() == "backup", "it may be master again, and is not by itself"
            # The new master's own SAs take over, and are shared.
            time.sleep(3)
            wait_shared(yielding)
            print(f"\nr{from_.label} hands over to r{to.label}: {took:.1f} s")
        out, back = traffic.end()
    between = apart() - before
    print(f"planned, there and back: lost {out[1]} of {out[0]} out ({between} between two elections), {back[1]} of {back[0]} back")
    assert from_router(frames, mac(a)) and from_router(frames, mac(b))
    drops = [router.show("drops") for router in (a, b, yielding.r2)]
    assert (out[1], back[1]) == (between, 0), (out, back, drops)
    assert between < RATE, f"less than a second, where an election takes three: {out}"


def late(twin, seconds):
    """From now on its daemon is stopped when ucarp makes it master of the WAN, and hears of it so much later."""
    script = twin.namespace.lab.folder / f"{twin.label}-up"
    on_wan, pid = '[ "$1" != wan ] ||', twin.daemon.pid
    before, command, after = script.read_text().partition("ip addr")
    go_on = f"(sleep {seconds}; kill -CONT {pid}) &"
    script.write_text(f"{before}{on_wan} kill -STOP {pid}\n{command}{after}{on_wan} {go_on}\n")


def test_the_news_is_late(yielding):
    """ucarp tells the WAN at once that rb is master, and rb's daemon hears of it 0.2 s later: what the far end sends in between waits
    there for the news, as does what comes from the LAN."""
    a, b = yielding.a, yielding.b
    before = a.drops("backup") + b.drops("backup")
    late(b, 0.2)
    with watched(yielding) as frames:
        traffic = BothWays(yielding)
        time.sleep(1)
        hand_over(a, b)
        time.sleep(2)
        out, back = traffic.end()
    between = a.drops("backup") + b.drops("backup") - before
    print(f"\nplanned, the news 0.2 s late: lost {out[1]} of {out[0]} out ({between} between two elections), {back[1]} of {back[0]} back")
    assert from_router(frames, mac(a)) and from_router(frames, mac(b))
    assert (out[1], back[1]) == (between, 0), (out, back, a.show("drops"), b.show("drops"))


class ByHand(Shared):
    """The two routers without anything that elects: the test moves their addresses."""

    def elect(self):
        self.a.namespace.ip(f"addr add {LAN_VIRTUAL}/32 dev lan", f"addr add {VIRTUAL}/32 dev wan")
        self.a.wait_role("master")


def test_one_group_after_the_other(lab):
    """rb is master on the LAN, and on the WAN 0.2 s later. ra, which has handed over the one and still carries the other, takes none of the
    numbers that rb gives it: rb would have to move to others, and lose what comes meanwhile."""
    pair = pair_up(ByHand(lab).join(), lambda twin: LAN_GROUP)
    a, b = pair.a.namespace, pair.b.namespace
    with watched(pair) as frames:
        traffic = BothWays(pair)
        time.sleep(0.5)
        carp(pair.a, "yield", "--no-wait")
        a.ip(f"addr del {LAN_VIRTUAL}/32 dev lan", f"addr del {VIRTUAL}/32 dev wan")
        b.ip(f"addr add {LAN_VIRTUAL}/32 dev lan")
        pair.h1.ip("neigh flush dev lan")
        time.sleep(0.2)
        b.ip(f"addr add {VIRTUAL}/32 dev wan")
        time.sleep(1.5)
        traffic.end()
    assert from_router(frames, mac(pair.b))
    assert_numbers_go_on(frames, pair.a, pair.b)


def test_the_link_goes_meanwhile(yielding):
    """ra does not hear any more whether rb is master: it carries on for half a second from when it notices, not until ten have passed."""
    a, b = yielding.a, yielding.b
    with watched(yielding) as frames:
        traffic = BothWays(yielding)
        time.sleep(1)
        carp(a, "yield", "--no-wait")
        a.wait_role("backup")
        carried = lambda: json.loads(carp(a, "yield", "--no-wait", "--json").stdout)["groups"][GROUP]["carried"]  # noqa: E731
        assert carried(), "nobody is master yet"
        started = time.monotonic()
        a.namespace.ip("link set sync down")
        # The partner is dead after a second of silence.
        wait_for(lambda: not carried(), 6, "ra leaves it to rb")
        took = time.monotonic() - started
        assert a.tunnel()["state"] == "backup" and a.role() == "backup"
        b.wait_role("master")
        time.sleep(2)
        out, back = traffic.end()
    print(f"\nplanned, link cut meanwhile: carried for {took:.2f} s more, lost {out[1]} of {out[0]} out, {back[1]} of {back[0]} back")
    assert from_router(frames, mac(a)) and from_router(frames, mac(b))


def test_a_partner_that_is_not_ready(yielding):
    """Refused with what the other router lacks, as both show it; as soon as it is ready, it is done."""
    a, b = yielding.a, yielding.b
    partner = lambda: a.show("carp")["sync"]["partner"]  # noqa: E731
    wait_for(lambda: partner()["ready"] is True, 5, f"rb is ready: {partner()}")
    assert "culvert_carp_partner_ready 1\n" in metrics(a)
    carp(b, "yield")
    lacks = b.show("carp")["missing"]
    assert len(lacks) == 1 and "it has yielded" in lacks[0]
    wait_for(lambda: partner()["missing"] == lacks, 5, f"ra hears of it: {partner()}")
    assert partner()["ready"] is False and "culvert_carp_partner_ready 0\n" in metrics(a)
    table = a.namespace.run(CULVERT, "show", "carp", "--socket", a.socket).stdout
    assert "the partner is not ready to be master" in table and lacks[0] in table
    refused = carp(a, "yield", check=False)
    assert refused.returncode == 1 and f"the other router is not ready: {lacks[0]}" in refused.stderr and "--force" in refused.stderr
    assert a.role() == "master" and a.show("carp")["yielded"] is False
    carp(b, "resume")
    wait_for(lambda: partner()["ready"] is True, 5, f"rb is ready again: {partner()}")
    hand_over(a, b)


def test_nobody_to_hand_over_to(yielding):
    """Refused with the reason while the link is down; with --force it is done all the same."""
    a = yielding.a
    a.namespace.ip("link set sync down")
    wait_for(lambda: not a.show("carp")["sync"]["up"], 5, "the cut is noticed")
    refused = carp(a, "yield", check=False)
    assert refused.returncode == 1 and "the other router is not linked" in refused.stderr and "--force" in refused.stderr
    assert a.role() == "master" and a.show("carp")["yielded"] is False
    done = carp(a, "yield", "--force", "--no-wait")
    assert done.returncode == 0
    yielding.b.wait_role("master", TAKEN_OVER)
    a.wait_role("backup")
    assert carp(a, "ready", check=False).returncode == 1
    carp(a, "resume")
    a.namespace.ip("link set sync up")
    wait_up(a, yielding.b)

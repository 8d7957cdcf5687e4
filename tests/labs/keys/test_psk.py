"""A tunnel whose keys strongSwan negotiates: it comes up in whatever order its parts start, and its keys change under traffic."""

import grp
import pwd
import re
import signal
import threading

import pytest

from netns import wait_for
from prometheus import complaints
from routers import CULVERT, host
from traffic import datagrams, ping, wait_ping


@pytest.mark.parametrize("mode", ["transport", "tunnel"])
@pytest.mark.parametrize("suite", ["aes128gcm16", "aes256gcm16", "chacha20poly1305"])
def test_it_comes_up(pair, mode, suite):
    """GRE in ESP between the routers, by keys that were nowhere written down; nothing leaves in clear."""
    pair.start(mode=mode, suites=[suite])
    assert ping(pair.sites.h1, host(2, 4), count=50).loss == 0
    [ours], [theirs] = pair.charons[1].sas(), pair.charons[2].sas()
    assert (ours.spi_in, ours.spi_out) == (theirs.spi_out, theirs.spi_in)
    assert pair.spis(1)["out"] == pair.spis(2)["in"]


@pytest.mark.parametrize("first", ["culvert", "strongswan"])
def test_any_order(pair, first):
    """Whichever starts first waits, and says what for."""
    for site, charon in pair.charons.items():
        if first == "culvert":
            pair.start_culvert(site)
            pair.wait_reason(site, "strongSwan is not there")
            charon.start()
        else:
            charon.start()
            pair.start_culvert(site)
    pair.wait_up()


def test_a_far_end_that_comes_late(pair):
    """The other router is started long after ours."""
    pair.charons[1].start()
    pair.start_culvert(1)
    pair.wait_reason(1, "the far end does not answer")
    pair.charons[2].start()
    pair.start_culvert(2)
    pair.wait_up(60)


def test_a_wrong_secret_is_said(pair):
    """Nothing passes, and both ends know why."""
    for site, secret in ((1, "this"), (2, "that")):
        pair.charons[site].start()
        pair.start_culvert(site, secret=secret)
    pair.wait_reason(1, "secret")
    assert pair.state(1)["state"] == pair.state(2)["state"] == "down"


def test_rekeys_lose_nothing(pair):
    """Rekeys by either end, and by both at once, under traffic whose every packet is counted."""
    pair.start()
    seen = set()
    with RekeyingFor(pair, seen):
        result = datagrams(pair.sites.h1, pair.sites.h2, host(2, 4), count=9000, rate=1000)
    assert (result["unique"], result["duplicates"], result["reordered"], result["corrupt"]) == (9000, 0, 0, 0), result
    assert len(seen) >= 3, "it was rekeyed"


class RekeyingFor:
    """While it lasts, the child SA is rekeyed by one end, by the other, by both at once, again and again."""

    def __init__(self, pair, seen):
        self.pair, self.seen, self.thread = pair, seen, None

    def __enter__(self):
        self._look()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self._look()

    def _look(self):
        self.seen.update(self.pair.spis(1)["out"])

    def _run(self):
        turn = 0
        while not self.stop.is_set():
            for site in ((1,), (2,), (1, 2))[turn % 3]:
                self.pair.rekey(site)
            turn += 1
            self.stop.wait(1.5)
            self._look()


def test_charon_restarts(pair):
    """charon is killed: the tunnel goes on with the keys it has; a new charon gives it new ones, and nothing is lost."""
    pair.start()
    before = pair.spis(1)["out"]
    pair.charons[1].stop(signal.SIGKILL)
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0
    pair.charons[1].start()
    wait_for(lambda: pair.spis(1)["out"] not in ([], before), 30, "new keys")
    wait_ping(pair.sites.h1, host(2, 4))
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_culvert_restarts(pair, sign):
    """The daemon starts anew with SAs that it may have sent with: it asks for new ones, and sends with those alone."""
    pair.start()
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0
    before = pair.spis(1)["out"]
    router = pair.sites.routers[1]
    router.daemon.stop(sign)
    pair.start_culvert(1)
    pair.wait_up()
    assert pair.spis(1)["out"] != before
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0


def measured(pair, site):
    """What the metrics say of negotiations, with which promtool finds nothing wrong."""
    router = pair.sites.routers[site]
    text = router.namespace.run(CULVERT, "metrics", "--socket", router.socket).stdout
    assert complaints(text) == ""
    charon = re.findall(r"^culvert_charon_up (\d)$", text, re.M)
    states = re.findall(r'^culvert_negotiations{state="(\w+)"} (\d+)$', text, re.M)
    return {"charon": int(*charon), **{state: int(count) for state, count in states}}


def test_a_user_of_its_own(pair):
    """Culvert is another user than charon, whose group may ask it: keys are negotiated and changed all the same."""
    for site, router in pair.sites.routers.items():
        pair.charons[site].settings = f"group = {grp.getgrgid(pwd.getpwnam('nobody').pw_gid).gr_name}"
        router.run_as("nobody")
    pair.start()
    there = {"charon": 1, "away": 0, "refused": 0, "loading": 0, "waiting": 0, "connecting": 0, "up": 1, "down": 0}
    wait_for(lambda: measured(pair, 1) == there, 20, "both are known to be there")
    before = pair.spis(1)
    assert pair.rekey(1).returncode == 0
    wait_for(lambda: set(pair.spis(1)["out"]) - set(before["out"]), 20, "it is rekeyed")
    pair.charons[1].stop(signal.SIGKILL)
    gone = {"charon": 0, "away": 1, "up": 0}
    wait_for(lambda: gone.items() <= measured(pair, 1).items(), 20, "it is seen that charon is gone")
    known = pair.spis(1)["out"]
    pair.charons[1].start()
    wait_for(lambda: set(pair.spis(1)["out"]) - set(known), 90, "its new keys")
    pair.wait_up(90)

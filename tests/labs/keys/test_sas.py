"""A tunnel with several pairs of SAs (RFC 9611): each worker sends with one of its own, and rekeys by either end keep their number."""

import signal

import pytest

from netns import wait_for
from pairs import Pair
from routers import NAMES, Sites, far, host
from test_profiles import show_ike
from test_versions import INSTALLED, PAIRS
from traffic import datagrams, iperf, ping, udp_result, wait_ping


@pytest.fixture
def pair(lab):
    """Two sites whose ports have two queues."""
    return Pair(Sites(lab, queues=2))


def tables(*sas):
    """`ike` tables with that many pairs at each site."""
    return {site: f'auth = "psk"\npsk = "a secret"\nsas = {number}' for site, number in zip((1, 2), sas)}


def start(pair, *sas):
    return pair.start(ike=tables(*sas), engine="workers = 2")


def numbers(pair):
    """How many SAs each end has, by direction."""
    return [len(pair.spis(site)[way]) for site in (1, 2) for way in ("out", "in")]


def wait_number(pair, number, timeout=60):
    wait_for(lambda: numbers(pair) == [number] * 4, timeout, f"{number} pairs at both ends")


def used(pair, site):
    return {sa["spi"]: sa["used"] for sa in pair.sites.routers[site].show("sas")[NAMES[site]] if sa["direction"] == "out"}


@pytest.mark.parametrize("sas", [(2, 2), (1, 3), (3, 1)], ids=str)
def test_as_many_as_are_wanted(pair, sas):
    """By whichever end wants more, also if it is the other that began."""
    start(pair, *sas)
    wait_number(pair, max(sas), 90)
    for site in (1, 2):
        assert "no difference" in show_ike(pair, site)
        assert sorted(pair.spis(site)["out"]) == sorted(pair.spis(far(site))["in"])
    assert ping(pair.sites.h1, host(2, 4), count=50).loss == 0


def test_each_worker_has_one(pair):
    """Several flows, two workers: both SAs are sent with, and all arrives, each flow in its order."""
    start(pair, 2, 2)
    wait_number(pair, 2)
    before = used(pair, 1)
    seen = udp_result(iperf(pair.sites.h1, pair.sites.h2, host(2, 4), flows=8, udp=2_500_000, length=1000))
    assert seen.sent > 1000 and (seen.lost, seen.out_of_order) == (0, 0), seen
    after = used(pair, 1)
    assert set(before) == set(after)
    assert all(after[spi] > before[spi] + 100 for spi in after), (before, after)


@pytest.mark.parametrize("versions", PAIRS, ids="-".join)
def test_rekeys_keep_their_number(pair, versions):
    """Rekeys of all pairs by either end, and by both at once, under traffic: nothing is lost, and there are as many as before."""
    for site, version in zip((1, 2), versions):
        pair.charons[site].strongswan = INSTALLED[version]
    start(pair, 2, 2)
    wait_number(pair, 2)
    for sites in ((1,), (2,), (1, 2)):
        before = pair.spis(1)["out"]
        for site in sites:
            pair.have_rekeyed(site)
        result = datagrams(pair.sites.h1, pair.sites.h2, host(2, 4), count=4000, rate=1000)
        assert (result["unique"], result["duplicates"], result["corrupt"]) == (4000, 0, 0), result
        wait_number(pair, 2)
        assert not set(before) & set(pair.spis(1)["out"]), "all are replaced"


def test_charon_restarts(pair):
    """A charon that is killed and started again has as many."""
    start(pair, 2, 2)
    wait_number(pair, 2)
    before = pair.spis(1)["out"]
    pair.charons[1].stop(signal.SIGKILL)
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0
    pair.charons[1].start()
    wait_for(lambda: not set(pair.spis(1)["out"]) & set(before), 60, "new keys")
    wait_number(pair, 2)
    wait_ping(pair.sites.h1, host(2, 4))
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0

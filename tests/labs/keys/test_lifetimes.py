"""SAs are replaced when the configuration says so: by time, by bytes and packets, with a proof of who is who or without; and one
that has reached its end is used no more."""

import os
import signal

import pytest

from netns import wait_for
from routers import host
from test_profiles import show_ike
from traffic import datagrams, ping, wait_ping

SECONDS = 25  # of traffic


def table(**settings):
    lines = (f'{key} = {value if isinstance(value, int) else chr(34) + value + chr(34)}' for key, value in settings.items())
    return 'auth = "psk"\npsk = "a secret"\n' + "\n".join(lines)


def both(one, other=None):
    """The `ike` tables of two sites, as `table` takes them."""
    return {1: table(**one), 2: table(**(one if other is None else other))}


class Seen:
    """The SPIs that site 1 sent with while it lasted, looked at between two lots of traffic."""

    def __init__(self, pair):
        self.pair, self.spis = pair, []

    def look(self):
        for spi in self.pair.spis(1)["out"]:
            if spi not in self.spis:
                self.spis.append(spi)


def lossless(pair, seconds=SECONDS, rate=1000):
    """Numbered packets, all of which arrive once and in order. Returns the SPIs that carried them."""
    seen = Seen(pair)
    for _ in range(seconds // 5):
        seen.look()
        result = datagrams(pair.sites.h1, pair.sites.h2, host(2, 4), count=5 * rate, rate=rate)
        told = (result["unique"], result["duplicates"], result["reordered"], result["corrupt"])
        assert told == (5 * rate, 0, 0, 0), (result, pair.sites.r1.show("drops"), pair.sites.r2.show("drops"))
    seen.look()
    return seen.spis


def shown(pair, site, *words):
    """What strongSwan was told has these words in it, and it has the same."""
    text = show_ike(pair, site)
    assert "no difference" in text, text
    for each in words:
        assert each in text, text


def test_by_time(pair):
    """Every ten seconds or earlier by chance, at whichever end that comes first; nothing is lost."""
    pair.start(ike=both({"rekey": "10s", "life": "40s", "jitter": "50%"}))
    shown(pair, 1, "rekey_time = 10s", "life_time = 40s", "rand_time = 5s")
    assert len(lossless(pair)) >= 3


@pytest.mark.parametrize("site", [1, 2])
@pytest.mark.parametrize(
    "limit", [{"rekey_packets": 2000, "life_packets": 20_000}, {"rekey_bytes": 1_000_000, "life_bytes": 10_000_000}], ids=lambda limit: next(iter(limit))
)
def test_by_what_goes_through(pair, limit, site):
    """One end alone has the limit: the one that sends, or the one that receives."""
    ike = both(limit, {}) if site == 1 else both({}, limit)
    pair.start(ike=ike)
    key, value = next(iter(limit.items()))
    shown(pair, site, f"{key} = {value}", key.replace("rekey", "rand") + f" = {value * 15 // 100}")
    spis = lossless(pair)
    text = pair.charons[site].text()
    assert len(spis) >= 3, (spis, [line for line in text.splitlines() if "vici rekey" in line or "rekey" in line.lower() or "closed" in line])
    assert "vici rekey" in text, text[-2000:]
    assert "vici rekey" not in pair.charons[3 - site].text(), "the other has no limit"


def test_the_ike_sa(pair):
    """It is replaced as well; the tunnel's own SAs go on."""
    pair.start(ike=both({"ike_rekey": "10s", "ike_life": "60s"}))
    shown(pair, 1, "rekey_time = 10s", "over_time = 50s", "rand_time = 1s", "reauth_time = 0s")
    assert len(lossless(pair, 15)) == 1
    assert any("rekeyed between" in pair.charons[site].text() for site in (1, 2))


def test_the_proof_is_made_anew(pair):
    """Each ten seconds both ends prove who they are once more, with an IKE SA of its own, and nothing is lost."""
    for charon in pair.charons.values():
        charon.settings = "make_before_break = yes"
    pair.start(ike=both({"reauth": "10s", "ike_life": "60s"}, {"reauth": "12h"}))
    shown(pair, 1, "reauth_time = 10s", "rekey_time = 14400s", "over_time = 50s")
    assert len(lossless(pair)) >= 3
    assert "reauthenticating IKE_SA" in pair.charons[1].text()


def test_an_sa_at_its_end(pair):
    """strongSwan does not move: the SA sends as many packets as it may, and then none, and the tunnel says why."""
    pair.start(ike=both({"rekey_packets": 1000, "life_packets": 2000}))
    before = pair.spis(1)["out"]
    for charon in pair.charons.values():
        os.kill(charon.process.pid, signal.SIGSTOP)
    try:
        result = datagrams(pair.sites.h1, pair.sites.h2, host(2, 4), count=3000, rate=1000)
        assert 1900 < result["unique"] < 2000, result
        pair.wait_reason(1, "have reached their end")
        assert pair.sites.r1.show("drops").get("sa-exhausted", 0) + pair.sites.r1.show("drops").get("no-sa", 0) > 500
    finally:
        for charon in pair.charons.values():
            os.kill(charon.process.pid, signal.SIGCONT)
    wait_for(lambda: set(pair.spis(1)["out"]) - set(before), 60, "a new SA")
    wait_ping(pair.sites.h1, host(2, 4))
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0

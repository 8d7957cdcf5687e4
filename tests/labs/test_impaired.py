"""A bad path: loss, duplicates and late packets between the routers. What arrives, arrives once and whole; TCP gets through."""

import pytest

from routers import FAMILIES, GRE, TRANSPORT, Carrier, Sites, host
from traffic import datagrams, tool_result, transfer, wait_ping

COUNT, RATE, SIZE = 2000, 1000, 600
LEAST = 500  # what else is in the tunnel is shorter, and is spared
CARRIERS = [TRANSPORT, Carrier(mode="tunnel", family=6, suite="chacha20poly1305", esn=True)]


def joined(lab, carrier):
    sites = Sites(lab, middle="relay")
    sites.start_relay()
    sites.start(carrier)
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
    return sites


@pytest.mark.parametrize("carrier", CARRIERS, ids=str)
def test_protected(lab, carrier):
    """Every datagram that the path did not lose arrives, late or not, and none twice."""
    sites = joined(lab, carrier)
    replays = sites.r2.drops("esp-replay")
    sites.start_relay("--least", LEAST, "--loss", 0.03, "--duplicate", 0.05, "--reorder", 0.1, "--late", 20)
    seen = datagrams(sites.h1, sites.h2, host(2, 4), count=COUNT, rate=RATE, size=SIZE)
    did = tool_result(sites.relay)["near"]
    assert did["lost"] > 20 and did["duplicated"] > 40 and did["delayed"] > 80 and did["failed"] == 0
    assert seen["unique"] == COUNT - did["lost"]
    assert seen["duplicates"] == 0 and seen["corrupt"] == 0 and seen["reordered"] > 20
    assert sites.r2.drops("esp-replay") - replays == did["duplicated"]


def test_too_late(lab):
    """What comes later than the window reaches is a replay (RFC 4303 3.4.3), and nothing else is."""
    sites = joined(lab, Carrier(mode="transport", window=64))
    sites.start_relay("--least", LEAST, "--reorder", 0.02, "--late", 300)
    seen = datagrams(sites.h1, sites.h2, host(2, 4), count=COUNT, rate=RATE, size=SIZE)
    late = tool_result(sites.relay)["near"]["delayed"]
    assert late > 10
    # The last few have nothing behind them that would move the window.
    assert COUNT - late <= seen["unique"] <= COUNT - late // 2
    assert sites.r2.drops("esp-replay") == COUNT - seen["unique"]


def test_in_clear(lab):
    """GRE has no window: what the path doubles arrives twice."""
    sites = joined(lab, GRE)
    sites.start_relay("--least", LEAST, "--duplicate", 0.05)
    seen = datagrams(sites.h1, sites.h2, host(2, 4), count=COUNT, rate=RATE, size=SIZE)
    assert seen["unique"] == COUNT and seen["duplicates"] == tool_result(sites.relay)["near"]["duplicated"]


def test_in_clear_with_sequence(lab):
    """With sequence numbers (RFC 2890) it does not; what is late is discarded."""
    sites = joined(lab, Carrier(sequence=True))
    sites.start_relay("--least", LEAST, "--duplicate", 0.05, "--reorder", 0.05)
    seen = datagrams(sites.h1, sites.h2, host(2, 4), count=COUNT, rate=RATE, size=SIZE)
    did = tool_result(sites.relay)["near"]
    assert seen["duplicates"] == 0 and seen["reordered"] == 0
    assert COUNT > seen["unique"] >= COUNT - did["delayed"]


@pytest.mark.parametrize("carrier", [GRE, TRANSPORT], ids=str)
def test_tcp(lab, carrier):
    """A megabyte each way, through loss, duplicates and disorder."""
    sites = joined(lab, carrier)
    sites.start_relay("--loss", 0.005, "--duplicate", 0.01, "--reorder", 0.02, "--delay", 1)
    for reverse in (False, True):
        transfer(sites.h1, sites.h2, host(2, 4), 1_000_000, reverse=reverse)

"""Load through the tunnel: TCP and UDP, both ways, several flows; at a modest rate nothing is lost and no flow is out of order."""

import pytest

from routers import FAMILIES, GRE, TRANSPORT, Carrier, host
from traffic import iperf, tcp_rate, udp_result, wait_ping

CARRIERS = [GRE, TRANSPORT, Carrier(mode="tunnel", family=6, suite="chacha20poly1305", esn=True)]
UDP_RATE, UDP_LENGTH, UDP_FLOWS, SECONDS = 5_000_000, 1000, 4, 1
LEAST_TCP = 20  # Mbit/s: more than a path that loses packets comes to


@pytest.fixture(params=CARRIERS, ids=str)
def loaded(request, sites):
    sites.start(request.param)
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
    return sites


@pytest.mark.parametrize("reverse", [False, True], ids=["there", "back"])
@pytest.mark.parametrize("family", FAMILIES)
def test_udp(loaded, family, reverse):
    """Four flows together: all datagrams arrive, each flow in its order."""
    packets = SECONDS * UDP_FLOWS * UDP_RATE // 8 // UDP_LENGTH
    result = iperf(
        loaded.h1,
        loaded.h2,
        host(2, family),
        seconds=SECONDS,
        flows=UDP_FLOWS,
        udp=UDP_RATE,
        length=UDP_LENGTH,
        reverse=reverse,
    )
    seen = udp_result(result)
    assert seen.sent > 0.8 * packets and (seen.lost, seen.out_of_order) == (0, 0)
    sender, receiver = (loaded.r2, loaded.r1) if reverse else (loaded.r1, loaded.r2)
    assert sender.tunnel()["out_packets"] >= seen.sent and receiver.tunnel()["in_packets"] >= seen.sent


@pytest.mark.parametrize("reverse", [False, True], ids=["there", "back"])
def test_tcp(loaded, reverse):
    """Several connections; and one alone, over IPv6."""
    several = iperf(loaded.h1, loaded.h2, host(2, 4), seconds=SECONDS, flows=4, reverse=reverse)
    alone = iperf(loaded.h1, loaded.h2, host(2, 6), seconds=SECONDS, reverse=reverse)
    rates = tcp_rate(several), tcp_rate(alone)
    print("Mbit/s, four flows and one:", rates)
    assert min(rates) > LEAST_TCP


def test_both_ways_at_once(sites):
    """Either router sends and receives at the same time."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    back = sites.h2.start("iperf3", "-s", "-1", "-p", 5301, "--forceflush", name="back")
    back.wait_text("Server listening")
    words = ["-p", 5301, "-u", "-b", "20M", "-l", UDP_LENGTH, "-t", 5, "-R", "-J"]
    other = sites.h1.start("iperf3", "-c", host(2, 4), *words, name="back-client")
    seen = udp_result(iperf(sites.h1, sites.h2, host(2, 4), seconds=2, udp="20M", length=UDP_LENGTH))
    assert other.running, "the other direction was to last longer"
    assert other.wait(15) == 0, other.text()
    assert (seen.lost, seen.out_of_order) == (0, 0)
    assert '"lost_packets":\t0,' in other.text()

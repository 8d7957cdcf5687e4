"""Two workers, ports of one queue, one SA in each direction: a worker without a queue of its own helps under load, and whatever
it does, each flow keeps its order."""

import pytest

from routers import FAMILIES, TRANSPORT, Carrier, Sites, host
from traffic import iperf, ping, tcp_rate, udp_result, wait_ping

CARRIERS = [TRANSPORT, Carrier(mode="tunnel", family=6, suite="chacha20poly1305", esn=True)]
LEAST_TCP = 20  # Mbit/s: more than a path that loses packets comes to


@pytest.fixture(params=CARRIERS, ids=str)
def two_workers(request, lab):
    sites = Sites(lab)
    sites.start(request.param, engine="workers = 2")
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
    return sites


def frames(router):
    return [worker["frames"] for worker in router.show("workers")]


def drops(router):
    return {reason: count for reason, count in router.show("drops").items() if count}


def test_order_under_load(two_workers):
    """More than one worker can do: datagrams may find no room, but none overtakes another of its flow; and the worker that
    receives nothing has had its part, sealing on one side, opening on the other."""
    sites = two_workers
    routers = (sites.r1, sites.r2)
    for router in routers:
        assert all(port["queues"] == 1 for port in router.show("ports").values())
        assert len(frames(router)) == 2
    for flows, reverse in [(1, False), (4, False), (4, True)]:
        result = iperf(sites.h1, sites.h2, host(2, 4), flows=flows, udp="0", length=1300, reverse=reverse)
        seen = udp_result(result)
        assert seen.sent > 5000 and seen.lost < seen.sent and seen.out_of_order == 0, (flows, reverse, seen)
    rates = [tcp_rate(iperf(sites.h1, sites.h2, host(2, family), flows=4)) for family in FAMILIES]
    assert min(rates) > LEAST_TCP, rates
    helped = [frames(router)[1] for router in routers]
    print("frames that the second workers did for the first:", helped, "Mbit/s:", rates)
    assert min(helped) > 0
    for router in routers:
        assert not {"esp-auth", "esp-replay", "handover-late"} & drops(router).keys(), drops(router)
        # Sealed and opened by another worker, both ways, and not a byte copied. (A first packet may wait for its neighbour.)
        for worker in router.show("workers"):
            copied = worker["copied"]
            assert copied.pop("exceptions")["frames"] < 100, worker
            assert all(count == {"frames": 0, "bytes": 0} for count in copied.values()), worker
    assert ping(sites.h1, host(2, 4), count=20).loss == 0


def test_a_port_with_fewer_queues(lab):
    """Two workers receive on the LANs, and both send by the one queue of the WAN."""
    sites = Sites(lab, queues=2)
    routers = (sites.r1, sites.r2)
    for router in routers:
        router.namespace.run("ethtool", "-L", "wan", "rx", "1", "tx", "1")
    sites.start(TRANSPORT, engine="workers = 2")
    wait_ping(sites.h1, host(2, 4))
    for router in routers:
        assert {name: port["queues"] for name, port in router.show("ports").items()} == {"wan": 1, "lan": 2}
    result = iperf(sites.h1, sites.h2, host(2, 4), flows=8, udp=2_500_000, length=1000)
    seen = udp_result(result)
    assert seen.sent > 1000 and (seen.lost, seen.out_of_order) == (0, 0)
    assert min(frames(sites.r1)) > 0
    assert ping(sites.h1, host(2, 4), count=20).loss == 0

"""A virtual machine in place of a router, and traffic through it while keys change."""

import threading
import time

from netns import Trouble, wait_for
from routers import host, router_on_lan
from traffic import datagrams
from vm.machine import Machine
from vm.strongswan import underlay

UP = 60.0  # seconds: the machine has no hardware's help
RATE = 200  # packets a second, each way: what the machine does easily
ROUND = 1000  # packets


def router_machine(sites, site, image, memory):
    """A machine as the router of a site, and the host behind it."""
    end = sites.hosts[site] = sites.lab.namespace(f"h{site}")
    machine = Machine(sites.mid, f"vm{site}", site, lan=f"vmlan{site}", kind=image, memory=memory)
    sites.lab.cable(sites.mid, f"tolan{site}", end, "lan")
    sites.mid.ip(
        f"link set vm{site} master sw",
        f"link add lan{site} type bridge mcast_snooping 0",
        f"link set lan{site} up",
        f"link set vmlan{site} master lan{site}",
        f"link set tolan{site} master lan{site}",
    )
    end.ip(
        f"addr add {host(site, 4)}/24 dev lan",
        f"addr add {host(site, 6)}/64 dev lan nodad",
        f"route add default via {router_on_lan(site, 4)}",
        f"route add default via {router_on_lan(site, 6)}",
    )
    machine.ready().run(underlay(site, {family: sites.wan(site, family) for family in (4, 6)}))
    return machine


def ask_until(ask, done, what):
    """Asks for a rekey until it is done: strongSwan, or Culvert's pilot, lets one pass that comes while it is busy with another."""
    end = time.monotonic() + UP
    while True:
        ask()
        try:
            return wait_for(done, 5, what)
        except Trouble:
            if time.monotonic() > end:
                raise


def during_traffic(pair, rekeys):
    """Rekeys by turns by either end, each awaited, while numbered packets pass both ways. By direction, `out` of site 1 and `in`: how many
    were sent, and how many of them were lost. None may come twice, late or changed."""
    ended, results = threading.Event(), {}
    flows = [("out", pair.sites.h1, pair.sites.h2, host(2, 4)), ("in", pair.sites.h2, pair.sites.h1, host(1, 4))]

    def load(name, sender, receiver, address):
        results[name] = datagrams_while(lambda: not ended.is_set(), sender, receiver, address)

    threads = [threading.Thread(target=load, args=flow) for flow in flows]
    for thread in threads:
        thread.start()
    try:
        for number in range(rekeys):
            pair.rekey_and_wait(by_us=number % 2 == 0)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert set(results) == {name for name, *_ in flows}, "both flows came to their end"
    told = {}
    for name, rounds in results.items():
        assert rounds, name
        for seen in rounds:
            assert (seen["duplicates"], seen["reordered"], seen["corrupt"]) == (0, 0, 0), f"{name}: {seen}"
        told[name] = len(rounds) * ROUND, sum(ROUND - seen["unique"] for seen in rounds)
    print(f"{rekeys} rekeys, packets sent and lost by direction: {told}")
    return told


def datagrams_while(going_on, sender, receiver, address):
    """Rounds of numbered datagrams, one after the other, and what was seen of each."""
    rounds = []
    while going_on():
        rounds.append(datagrams(sender, receiver, address, count=ROUND, rate=RATE))
    return rounds

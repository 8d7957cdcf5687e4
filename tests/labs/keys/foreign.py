"""A virtual machine in place of a router: a far end that others have written, and traffic through it while keys change."""

import re
import threading
import time

from certificates import Authority
from netns import Trouble, wait_for
from pairs import SECRET, Pair
from routers import NAMES, Carrier, host, router_on_lan
from traffic import datagrams, wait_ping
from vm.end import Certified, Told, underlay
from vm.linux import REMOVE, gre
from vm.machine import Machine

DPD = 'dpd = "2s"'
IKE = f'auth = "psk"\npsk = "{SECRET}"\n{DPD}'
OURS, THEIRS = "oslo.example", "paris.example"
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


class ForeignPair(Pair):
    """Culvert and charon with its plugin at site 1; at site 2, in the machine, the kernel's GRE and ESP with one of `vm.end`'s daemons."""

    # A second address of site 1's router, above the far end's: with it, ours is the end that lets the other begin.
    SECOND = {4: "192.0.2.99", 6: "2001:db8:a1::99"}

    def __init__(self, sites, end):
        super().__init__(sites)
        self.end = end

    def start(self, **options):
        """Everything, until packets pass."""
        self.launch(**options)
        self.wait_up()
        return self

    def launch(self, mode="transport", suite="aes128gcm16", family=4, esn=True, udp=False, they_begin=False, certified=False):
        """Everything, and nothing awaited. Ours is the end that begins, or the far one."""
        far, near = self.sites.wan(2, family), self.sites.wan(1, family)
        local = self.SECOND[family] if they_begin else near
        carrier = Carrier(family=family, mode=mode, suite=suite, esn=esn, udp_encap=(4500, 4500) if udp else None)
        self.end.machine.run(REMOVE + gre(carrier, 2, far, local, address=router_on_lan))
        ours, theirs = self.certified() if certified else (IKE, None)
        self.end.start(Told(far, local, SECRET, mode, suite, esn, udp, theirs))
        self.charons[1].start()
        text = self.configuration(1, mode=mode, suites=[suite], family=family, more="" if esn else "esn = false", ike={1: ours})
        router = self.sites.routers[1]
        router.arguments = ["--vici", self.charons[1].vici]
        router.start(text.replace(f'local = "{near}"', f'local = "{local}"'))
        if they_begin:
            self.end.begin()

    def certified(self):
        """Our `ike` table, and what the far end has, where both have certificates of one CA."""
        ca = Authority(self.sites.lab.folder / "ca")
        (our_file, our_key), (their_file, their_key) = (ca.issue(name) for name in (OURS, THEIRS))
        ours = f"""auth = "cert"
cert_file = "{our_file}"
key_file = "{our_key}"
ca_files = ["{ca.file}"]
local_id = "{OURS}"
remote_id = "{THEIRS}"
{DPD}"""
        return ours, Certified(ca.file, their_file, their_key, THEIRS, OURS)

    def wait_up(self, timeout=UP):
        try:
            wait_for(lambda: self.state(1)["state"] == "up", timeout, "the tunnel is up")
            wait_ping(self.sites.h1, host(2, 4), timeout=timeout)
        except Exception as trouble:
            told = f"{trouble}; {self.state(1)}\n{self.end.text()[-6000:]}\n{self.charons[1].text()[-3000:]}"
            raise Trouble(told) from None

    def stop(self):
        """Whatever has been started."""
        if self.sites.routers[1].daemon:
            self.sites.routers[1].stop()
        if self.charons[1].process:
            self.charons[1].stop()
        self.end.stop()

    def ike_sa(self):
        """What charon says of the IKE SA: does our end own it as its initiator, and its two SPIs."""
        text = self.charons[1].swanctl("--list-sas", "--raw")
        found = re.search(r"state=ESTABLISHED.*? initiator-spi=(\w+) responder-spi=(\w+)", text)
        return ("initiator=yes" in text, *found.groups()) if found else None

    def rekey_and_wait(self, by_us):
        """A rekey by one end, and until Culvert sends with another SA."""
        before = self.spis(1)["out"]
        ask = (lambda: self.rekey(1)) if by_us else self.end.rekey_child
        ask_until(ask, lambda: self.sending(before), f"another SA than {before}")

    def rekey_ike_and_wait(self, by_us):
        """A rekey of the IKE SA by one end, and until charon has another one."""
        before = self.ike_sa()
        ask = (lambda: self.charons[1].swanctl("--rekey", "--ike", f"culvert-{NAMES[1]}", check=False)) if by_us else self.end.rekey_ike
        ask_until(ask, lambda: (now := self.ike_sa()) and now[1:] != before[1:], f"another IKE SA than {before}")

    def sending(self, before):
        """Is there a new pair, and the old one gone?"""
        now = self.spis(1)["out"]
        return now and not set(now) & set(before)


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


def rekeys_by_turns(pair, count):
    """Rekeys of the child SA by turns by either end, each awaited."""
    for number in range(count):
        pair.rekey_and_wait(by_us=number % 2 == 0)


def during_traffic(pair, act):
    """What `act` does, while numbered packets pass both ways. By direction, `out` of site 1 and `in`: how many were sent, and how many of them
    were lost. None may come twice, late or changed."""
    ended, results = threading.Event(), {}
    flows = [("out", pair.sites.h1, pair.sites.h2, host(2, 4)), ("in", pair.sites.h2, pair.sites.h1, host(1, 4))]

    def load(name, sender, receiver, address):
        results[name] = datagrams_while(lambda: not ended.is_set(), sender, receiver, address)

    threads = [threading.Thread(target=load, args=flow) for flow in flows]
    for thread in threads:
        thread.start()
    try:
        act()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert set(results) == {name for name, *_ in flows}, "both flows came to their end"
    told = {}
    for name, rounds in results.items():
        assert rounds, name
        told[name] = len(rounds) * ROUND, sum(ROUND - seen["unique"] for seen in rounds)
        for number, seen in enumerate(rounds):
            if seen["unique"] < ROUND:
                print(f"{name}, round {number}: lost {ROUND - seen['unique']}, from: {seen['gaps']}")
    print(f"packets sent and lost by direction: {told}")
    for name, rounds in results.items():
        for number, seen in enumerate(rounds):
            assert (seen["duplicates"], seen["reordered"], seen["corrupt"]) == (0, 0, 0), f"{name}, round {number}: {seen}"
    return told


def datagrams_while(going_on, sender, receiver, address):
    """Rounds of numbered datagrams, one after the other, and what was seen of each."""
    rounds = []
    while going_on():
        rounds.append(datagrams(sender, receiver, address, count=ROUND, rate=RATE, where=True))
    return rounds

"""A foreign end: strongSwan with the Linux kernel's own GRE and ESP, in a virtual machine, beside Culvert and strongSwan here."""

import os

import pytest

from foreign import UP, ask_until, during_traffic, router_machine
from netns import wait_for
from pairs import SECRET, Pair
from routers import Carrier, Sites, host, router_on_lan
from traffic import ping, wait_ping
from vm.linux import REMOVE, gre
from vm.strongswan import FORWARD, IMAGE, MEMORY, Foreign, connection

REKEYS = int(os.environ.get("CULVERT_REKEYS", "24"))


@pytest.fixture(scope="module")
def site_and_machine(run, tmp_path_factory):
    """Site 1 as ever; in place of site 2's router the machine, between the switch and h2."""
    with run.lab(tmp_path_factory.mktemp("foreign")) as lab:
        sites = Sites(lab, middle="switch", only=(1,))
        machine = router_machine(sites, 2, IMAGE, MEMORY)
        machine.run(FORWARD)
        yield sites, machine


class ForeignPair(Pair):
    """Culvert and charon with its plugin at site 1, strongSwan and the kernel at site 2."""

    def __init__(self, sites, machine):
        super().__init__(sites)
        self.machine, self.foreign = machine, Foreign(machine)

    def start(self, mode="transport", suite="aes128gcm16", family=4, esn=True):
        carrier = Carrier(family=family, mode=mode, suite=suite, esn=esn)
        ends = self.sites.wan(2, family), self.sites.wan(1, family)
        self.machine.run(REMOVE + gre(carrier, 2, *ends, address=router_on_lan))
        self.foreign.start(connection(*ends, mode, suite, SECRET, esn))
        self.charons[1].start()
        more = "" if esn else "esn = false"
        self.start_culvert(1, mode=mode, suites=[suite], family=family, more=more, secret=SECRET)
        try:
            wait_for(lambda: self.state(1)["state"] == "up", UP, "the tunnel is up")
            wait_ping(self.sites.h1, host(2, 4), timeout=UP)
        except Exception as trouble:
            raise AssertionError(f"{trouble}; {self.state(1)}\n{self.foreign.text()}\n{self.charons[1].text()[-3000:]}")
        return self

    def stop(self):
        """Whatever has been started."""
        if self.sites.routers[1].daemon:
            self.sites.routers[1].stop()
        if self.charons[1].process:
            self.charons[1].stop()
        self.foreign.stop()

    def rekey_and_wait(self, by_us):
        """A rekey by one end, and until Culvert sends with another SA."""
        before = self.spis(1)["out"]
        ask = (lambda: self.rekey(1)) if by_us else (lambda: self.foreign.swanctl("--rekey", "--child", "lab", check=False))
        ask_until(ask, lambda: self.sending(before), f"another SA than {before}")

    def sending(self, before):
        """Is there a new pair, and the old one gone?"""
        now = self.spis(1)["out"]
        return now and not set(now) & set(before)


@pytest.fixture
def pair(site_and_machine):
    made = ForeignPair(*site_and_machine)
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("mode", "suite", "family", "esn"),
    [
        ("transport", "aes128gcm16", 4, True),
        ("transport", "aes256gcm16", 6, True),
        ("transport", "chacha20poly1305", 4, False),
        ("tunnel", "aes256gcm16", 4, False),
        ("tunnel", "aes128gcm16", 6, True),
        ("tunnel", "chacha20poly1305", 4, True),
    ],
)
def test_it_comes_up(pair, mode, suite, family, esn):
    """Negotiated by two strongSwans, carried by Culvert at one end and the Linux kernel at the other, both ways."""
    pair.start(mode, suite, family, esn)
    for sender, address in ((pair.sites.h1, host(2, 4)), (pair.sites.h2, host(1, 6))):
        wait_ping(sender, address)
        assert ping(sender, address, count=20).loss == 0

    def the_same():
        return {f"{spi:08x}" for spis in pair.spis(1).values() for spi in spis} <= pair.foreign.spis()

    # Where both ends began, one of two pairs goes.
    wait_for(the_same, 60, "what Culvert has, the kernel has")


def test_rekeys_lose_nothing(pair):
    """Rekeys by turns by either end, each awaited, while numbered packets pass both ways: all arrive, once and in order."""
    pair.start()
    for way, (sent, lost) in during_traffic(pair, REKEYS).items():
        assert (sent > 0, lost) == (True, 0), f"{way}: {pair.sites.r1.show('drops')}"

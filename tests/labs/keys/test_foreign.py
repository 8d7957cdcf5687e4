"""Foreign ends: strongSwan, libreswan and OpenIKED with the Linux kernel's own GRE and ESP, in a virtual machine, beside Culvert and strongSwan here."""

import os
import signal

import pytest

from foreign import UP, ForeignPair, during_traffic, rekeys_by_turns, router_machine
from netns import wait_for
from routers import Sites, host
from traffic import capture, datagrams, protocols, wait_ping
from vm import libreswan, openiked, strongswan
from vm.end import FORWARD, MEMORY
from vm.image import Kind
from vm.libreswan import Libreswan
from vm.linux import AEAD
from vm.openiked import OpenIked
from vm.strongswan import StrongSwan
from witness import SALT_LENGTH, SUITES

REKEYS = int(os.environ.get("CULVERT_REKEYS", "16"))
IMAGE = Kind("foreign", strongswan.FILES + libreswan.FILES + openiked.FILES, libreswan.PACKAGES + openiked.PACKAGES)

KEY_BITS = {name: 8 * (suite.key_length + SALT_LENGTH) for name, suite in SUITES.items()}


@pytest.fixture(scope="module")
def site_and_machine(run, tmp_path_factory):
    """Site 1 as ever; in place of site 2's router the machine, between the switch and h2."""
    with run.lab(tmp_path_factory.mktemp("foreign")) as lab:
        sites = Sites(lab, middle="switch", only=(1,))
        machine = router_machine(sites, 2, IMAGE, MEMORY)
        machine.run(FORWARD)
        sites.r1.namespace.ip(*(f"addr add {address}/{24 if family == 4 else 64} dev wan" for family, address in ForeignPair.SECOND.items()))
        yield sites, machine


@pytest.fixture(params=[StrongSwan, Libreswan], ids=["strongswan", "libreswan"])
def pair(request, site_and_machine):
    sites, machine = site_and_machine
    made = ForeignPair(sites, request.param(machine))
    yield made
    made.stop()


def passes(pair):
    """Both ways, in both families, and nothing is lost. (ping waits for its last answers no longer than twice what the others took; the
    machine may take longer.)"""
    for sender, receiver, address in ((pair.sites.h1, pair.sites.h2, host(2, 4)), (pair.sites.h2, pair.sites.h1, host(1, 6))):
        wait_ping(sender, address, timeout=UP)
        seen = datagrams(sender, receiver, address, count=100, rate=200)
        assert (seen["unique"], seen["duplicates"], seen["reordered"], seen["corrupt"]) == (100, 0, 0, 0), f"{seen}, {pair.sites.r1.show('drops')}"


@pytest.mark.parametrize(
    ("mode", "suite", "family", "esn", "more"),
    [
        ("transport", "aes128gcm16", 4, True, {}),
        ("transport", "aes256gcm16", 6, True, {"they_begin": True}),
        ("transport", "chacha20poly1305", 4, False, {"certified": True}),
        ("transport", "aes128gcm16", 4, False, {"udp": True, "they_begin": True}),
        ("tunnel", "aes256gcm16", 4, False, {"they_begin": True}),
        ("tunnel", "aes128gcm16", 6, True, {}),
        ("tunnel", "chacha20poly1305", 4, True, {"certified": True, "they_begin": True}),
        ("tunnel", "aes256gcm16", 4, True, {"udp": True}),
    ],
    ids=lambda value: "-".join(value) or "-" if isinstance(value, dict) else None,
)
def test_it_comes_up(pair, mode, suite, family, esn, more):
    """Negotiated by strongSwan here and another there, by a secret or certificates, one or the other end beginning; carried by Culvert at
    one end and the Linux kernel at the other, in UDP where the far end wants that."""
    pair.start(mode=mode, suite=suite, family=family, esn=esn, **more)
    assert pair.ike_sa()[0] != more.get("they_begin", False)
    with capture(pair.sites.mid, "vm2", "(ip or ip6) and not icmp6 and not ip6 multicast") as seen:
        passes(pair)
    # IKE's own packets are UDP.
    carried = {protocol for _, _, protocol in protocols(seen.packets())} - {17}
    assert carried == (set() if more.get("udp") else {50})
    assert pair.end.protection() == {(mode, AEAD[suite], KEY_BITS[suite], esn)}

    def the_same():
        return {f"{spi:08x}" for spis in pair.spis(1).values() for spi in spis} <= pair.end.spis()

    # Where both ends began, one of two pairs goes.
    wait_for(the_same, 60, "what Culvert has, the kernel has")


def test_rekeys_lose_nothing(pair):
    """Rekeys of the child SA by turns by either end, and of the IKE SA by each, while numbered packets pass both ways: all arrive, once and
    in order."""
    pair.start()

    def rekeys():
        rekeys_by_turns(pair, REKEYS // 2)
        for by_us in (True, False):
            pair.rekey_ike_and_wait(by_us)
        # Children go on under the new IKE SA.
        rekeys_by_turns(pair, REKEYS - REKEYS // 2)

    told = during_traffic(pair, rekeys)
    drops = pair.sites.r1.show("drops")
    # An end that answers to a rekey may send with the new SA at once (RFC 7296 2.8): what comes before our charon has read that answer is dropped.
    early = 0 if pair.end.WAITS else drops.get("esp-unknown-spi", 0)
    assert {way: lost for way, (_, lost) in told.items()} == {"out": 0, "in": early}, drops


def test_a_child_that_is_taken_away(site_and_machine):
    """The far end's operator deletes the child SA alone: another is negotiated under the IKE SA that is left."""
    sites, machine = site_and_machine
    pair = ForeignPair(sites, StrongSwan(machine))
    try:
        pair.start()
        before, ike = pair.spis(1), pair.ike_sa()
        pair.end.delete_child()
        wait_for(lambda: set(pair.spis(1)["out"]) - set(before["out"]), UP, "another SA")
        pair.wait_up()
        assert pair.ike_sa() == ike
    finally:
        pair.stop()


def test_a_far_end_dies_and_returns(pair):
    """It is gone without a word, with traffic on its way: that is noticed, and said. It comes back, and so does the tunnel, which then loses
    nothing. What is lost is lost: nothing comes twice or late."""
    pair.start()

    def death_and_return():
        pair.end.kill()
        pair.wait_reason(1, "the far end does not answer")
        assert pair.spis(1) == {"in": [], "out": []}
        pair.end.start_again()
        pair.wait_up()

    for _, lost in during_traffic(pair, death_and_return).values():
        assert lost > 0, "there was a time when nothing passed"
    passes(pair)


def test_our_end_dies_and_returns(pair):
    """Culvert and charon are killed with traffic on its way and start anew: they negotiate with a far end that still has SAs of before, and
    nothing is lost from there on."""
    pair.start()
    before = pair.spis(1)["out"] + pair.spis(1)["in"]

    def death_and_return():
        pair.sites.r1.daemon.stop(signal.SIGKILL)
        pair.charons[1].stop(signal.SIGKILL)
        pair.charons[1].start()
        pair.start_culvert(1)
        pair.wait_up()

    during_traffic(pair, death_and_return)
    passes(pair)
    now = pair.spis(1)
    assert now["out"] and not set(now["out"] + now["in"]) & set(before)
    wait_for(lambda: {f"{spi:08x}" for spis in pair.spis(1).values() for spi in spis} == pair.end.spis(), UP, "the old SAs are gone there too")


@pytest.mark.parametrize("suite", ["aes128gcm16", "aes256gcm16"])
def test_openiked_on_linux_has_no_aead(site_and_machine, suite):
    """IKE is agreed, the proof of who we are taken, and then refused what is configured there and offered by us: no AEAD, no child SA. That is
    said as it is."""
    sites, machine = site_and_machine
    pair = ForeignPair(sites, OpenIked(machine))
    try:
        pair.launch(suite=suite)
        pair.wait_reason(1, "the far end takes none of the suites that are offered")
        assert "selected proposal: IKE:" in pair.charons[1].text()
        told = pair.end.text()
        assert "ikev2_ike_auth_recv: no proposal chosen" in told, told
        assert pair.state(1)["state"] == "down" and not pair.end.spis()
    finally:
        pair.stop()

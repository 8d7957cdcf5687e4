"""The far end of the pair is none of ours: a Linux kernel's GRE and ESP with an unmodified strongSwan, in a virtual machine.

              lan [ra] wan                    eth0 [machine] eth1
    h1 -- lans              sw (in the machine's namespace)        lan2 -- h2
              lan [rb] wan

The machine outlives a test; the pair does not. Whatever happens to either router, the machine sees no SPI twice with a sequence number,
nor with an IV, from both together, and nothing in clear; it goes on with the SAs that it has until there are others.
"""

import signal
import time
from socket import inet_aton

import pytest

from netns import wait_for
from routers import TRANSPORT, Sites, host, router_on_lan
from shared import FAR, SECRET, TAKEN_OVER, VIRTUAL, BothWays, Shared, carp, esp, spis, wait_up, watched
from test_sync import linked  # noqa: F401 (a fixture)
from test_takeover import EVERY, SILENT, Stream, assert_taken_over, paired, table  # noqa: F401 (a fixture)
from test_yield import hand_over, yielding  # noqa: F401 (a fixture)
from traffic import datagrams

from foreign import router_machine  # (shared.py has put its folder on the path)
from vm.end import FORWARD, MEMORY, Told
from vm.image import Kind
from vm.linux import REMOVE, gre
from vm.strongswan import FILES, StrongSwan

IMAGE = Kind("strongswan", FILES)
RATE = 200  # datagrams a second, each way: what the machine does easily
# strongSwan deletes an IKE SA that another one replaces ten seconds later.
DELETED = 30.0  # seconds
# It asks after two seconds of silence whether an IKE SA lives, four times in 12 s.
NOTICED = 40.0  # seconds


class FarSite:
    """The WAN's switch, the machine on it, and h2 behind that."""

    def __init__(self, lab):
        self.lab = lab
        self.sites = Sites(lab, middle="switch", only=())
        machine = router_machine(self.sites, 2, IMAGE, MEMORY)
        machine.run(FORWARD)
        self.end = StrongSwan(machine)

    def start(self, unique):
        """As it is before the pair comes: strongSwan answers, and begins nothing."""
        self.end.machine.run(REMOVE + gre(TRANSPORT, 2, FAR, VIRTUAL, address=router_on_lan))
        self.end.start(Told(FAR, VIRTUAL, SECRET, unique=unique))


class ForeignShared(Shared):
    """The pair on that switch."""

    far_port = "vm2"

    def __init__(self, lab, far):
        self.far = far
        super().__init__(lab)

    def far_site(self):
        self.wans, self.h2, self.r2 = self.far.sites.mid, self.far.sites.h2, None


@pytest.fixture(scope="module")
def far(run, tmp_path_factory):
    with run.lab(tmp_path_factory.mktemp("far-kernel")) as lab:
        yield FarSite(lab)


@pytest.fixture
def shared(lab, far, request):
    """The pair, nothing started; the far end is, with `unique` as the test says, or as strongSwan has it."""
    far.start(getattr(request, "param", "no"))
    lasting = len(far.lab.processes)
    yield ForeignShared(lab, far)
    for process in far.lab.processes[lasting:]:
        process.stop()
    far.end.stop()


def at_far_end(sas):
    """SPIs as the far kernel has them."""
    return {f"{spi:08x}" for of_way in sas.values() for spi in of_way}


def wait_negotiated(shared, twin, before):
    """The SAs of the twin's own strongSwan: it has no others any more, and the far end has them too."""
    charon = shared.charons[twin]
    wait_for(lambda: len(charon.sas()) == 1, TAKEN_OVER, f"r{twin.label}'s strongSwan has negotiated")
    [sa] = charon.sas()
    fresh = {"in": {sa.spi_in}, "out": {sa.spi_out}}
    assert not at_far_end(fresh) & at_far_end(before)
    wait_for(lambda: spis(twin) == fresh, 15, f"r{twin.label} has no others: {spis(twin)}")
    assert at_far_end(fresh) <= shared.far.end.spis()
    return fresh


def wait_forgotten(shared, fresh, timeout):
    """The far end has these SAs and no others any more."""
    wait_for(lambda: shared.far.end.spis() == at_far_end(fresh), timeout, f"no others there: {fresh} {shared.far.end.text()[-3000:]}")


def assert_gone_over(frames, shared, before, fresh):
    """The far end took rb for ra, and went over to the SAs of rb's own strongSwan once."""
    assert_taken_over(frames, shared)
    used = [spi for spi, _, _ in esp(frame for frame in frames if frame[26:30] == inet_aton(FAR))]
    [old], [new] = before["in"], fresh["in"]
    assert {*used} == {old, new} and used == sorted(used, key=lambda spi: spi == new)


@pytest.mark.parametrize("shared", ["replace"], indirect=True)
def test_planned(yielding):  # noqa: F811 (a fixture)
    """ra hands over to rb under traffic both ways. rb's strongSwan negotiates other SAs, and the far end, which allows an IKE SA a peer,
    deletes the old ones, whose other end has long forgotten them. Lost is what reaches rb on the LAN before it is master on the WAN."""
    a, b = yielding.a, yielding.b
    before, apart = spis(a), a.drops("backup") + b.drops("backup")
    with watched(yielding) as frames:
        traffic = BothWays(yielding, RATE)
        time.sleep(1)
        began = time.monotonic()
        hand_over(a, b)
        took = time.monotonic() - began
        carp(a, "resume")
        fresh = wait_negotiated(yielding, b, before)
        wait_forgotten(yielding, fresh, DELETED)
        time.sleep(1)
        out, back = traffic.end()
    between = a.drops("backup") + b.drops("backup") - apart
    print(f"\nplanned: {took:.1f} s; lost {out[1]} of {out[0]} out ({between} between two elections), {back[1]} of {back[0]} back")
    assert_gone_over(frames, yielding, before, fresh)
    assert (out[1], back[1]) == (between, 0), (out, back, a.show("drops"), b.show("drops"))
    assert between < RATE, f"less than a second, where an election takes three: {out}"


def test_crash(paired):  # noqa: F811 (a fixture)
    """Culvert and ucarp of ra are killed under traffic; its kernel and its strongSwan live, and have the addresses still. When the two are run
    again, ra is backup, has what rb has negotiated, and nothing is lost. The far end has nothing against two IKE SAs: it keeps the old one
    as long as packets come. In a pause it notices that nobody answers and drops it, and nothing is lost by that."""
    a, b = paired.a, paired.b
    before = spis(a)
    with watched(paired) as frames:
        traffic, stream = BothWays(paired, RATE), Stream(paired)
        time.sleep(1)
        a.daemon.kill()
        a.stop_ucarp(signal.SIGKILL)
        b.wait_role("master")
        fresh = wait_negotiated(paired, b, before)
        a.start()
        a.start_ucarp(skew=0)
        wait_up(a, b)
        wait_for(lambda: spis(a) == fresh, 5, f"ra has what rb has: {spis(a)} {fresh}")
        assert (a.role(), b.role()) == ("backup", "master")
        time.sleep(1)
        stream.stop()
        out, back = traffic.end()
        wait_forgotten(paired, fresh, NOTICED)
        for sender, receiver, address in ((paired.h1, paired.h2, host(2, 4)), (paired.h2, paired.h1, host(1, 4))):
            assert datagrams(sender, receiver, address, count=100, rate=RATE)["unique"] == 100
    assert_gone_over(frames, paired, before, fresh)
    assert table("crash", stream, b) < SILENT
    _, silent = stream.gap()
    for way, (sent, lost, gaps) in {"out": out, "back": back}.items():
        print(f"crash: lost {lost} of {sent} {way}")
        assert [count for _, count in gaps] == [lost], f"{way}: nothing is lost but in one gap: {gaps} {b.show('drops')}"
        assert lost <= (silent + EVERY) * RATE * 1.2 + 5, f"{way}, in {silent} s"

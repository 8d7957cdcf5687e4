"""Culvert in a virtual machine whose kernel has ESP: stock strongSwan installs its SAs there, and Culvert follows them by XFRM.

At the other end Culvert has its keys from charon's plugin, as everywhere else.
"""

import json
import re

import pytest

from foreign import UP, ask_until, during_traffic, rekeys_by_turns, router_machine
from nat import SILENT, on_a_switch, silent_after
from netns import Trouble, wait_for
from pairs import SECRET, Pair
from routers import CULVERT, NAMES, Sites, host
from test_moving import tables
from traffic import capture, ping, protocols, wait_ping
from vm.image import Kind
from vm.machine import file
from vm.strongswan import FILES, START, STOP

IMAGE = Kind("xfrm", (*FILES, str(CULVERT.resolve())))
MEMORY = 1024  # MiB
PORTS = '[[port]]\nname = "wan"\ndevice = "xdp:eth0"\n\n[[port]]\nname = "lan"\ndevice = "xdp:eth1"\n\n'
REKEYS = 8


@pytest.fixture(scope="module")
def sites_and_machine(run, tmp_path_factory):
    """Site 1 as ever; the machine is the router of site 2."""
    with run.lab(tmp_path_factory.mktemp("xfrm")) as lab:
        sites = Sites(lab, middle="switch", only=(1,))
        yield sites, router_machine(sites, 2, IMAGE, MEMORY)


class Followed(Pair):
    """Culvert with charon's plugin at site 1, with stock charon and the kernel's SAs at site 2."""

    def __init__(self, sites, machine):
        super().__init__(sites)
        self.machine = machine
        # Where site 1 is to site 2, if that is another place.
        self.seen_at = None

    def start(self, **options):
        self.machine.run(STOP + START, timeout=90)
        self.start_far(**options)
        self.charons[1].start()
        self.start_culvert(1, secret=SECRET, **options)
        self.wait_up()
        return self

    def start_far(self, **options):
        """Culvert in the machine."""
        configuration = self.configuration(2, secret=SECRET, ports=PORTS, **options)
        if self.seen_at:
            configuration = configuration.replace(f'remote = "{self.sites.wan(1, 4)}"', f'remote = "{self.seen_at}"')
        command = f"{CULVERT.resolve()} run -c /run/lab.toml --socket /run/culvert.sock --vici /run/charon.vici"
        self.machine.run(
            f"""{file("/run/lab.toml", configuration)}; chmod 600 /run/lab.toml
{command} >/run/culvert.log 2>&1 &
for i in $(seq 300); do grep -qx ready /run/culvert.log && exit 0; sleep 0.1; done
cat /run/culvert.log; exit 1""",
            timeout=60,
        )

    def stop_far(self, sign="TERM"):
        self.machine.run(
            f"killall -{sign} culvert || true; for i in $(seq 100); do pidof culvert >/dev/null || exit 0; sleep 0.1; done; exit 1",
            timeout=30,
        )

    def stop(self):
        """Whatever has been started."""
        if self.sites.routers[1].daemon:
            self.sites.routers[1].stop()
        if self.charons[1].process:
            self.charons[1].stop()
        self.stop_far()
        self.machine.run(STOP, timeout=30)

    def shown(self, what):
        return json.loads(self.machine.run(f"{CULVERT.resolve()} show {what} --json --socket /run/culvert.sock", timeout=60))[what]

    def state(self, site):
        return super().state(site) if site == 1 else self.shown("tunnels")[NAMES[2]]

    def far_spis(self):
        sas = self.shown("sas")[NAMES[2]]
        assert {sa["source"] for sa in sas} <= {"xfrm"}, sas
        return {way: [sa["spi"] for sa in sas if sa["direction"] == way] for way in ("in", "out")}

    def wait_up(self, timeout=UP):
        try:
            for site in (1, 2):
                wait_for(lambda: self.state(site)["state"] == "up", timeout, f"the tunnel is up at site {site}")
            wait_ping(self.sites.h1, host(2, 4), timeout=timeout)
        except Trouble as trouble:
            told = self.machine.run("cat /run/culvert.log; tail -n 40 /run/charon.log; ip -s xfrm state | head -n 40")
            raise Trouble(f"{trouble}; {self.state(1)}, {self.state(2)}\n{told}") from None

    def rekey_and_wait(self, by_us):
        """A rekey by one end, and until both send with other SAs."""
        before = self.spis(1)["out"] + self.far_spis()["out"]
        command = f"{CULVERT.resolve()} tunnel rekey {NAMES[2]} --socket /run/culvert.sock"
        ask = (lambda: self.rekey(1)) if by_us else (lambda: self.machine.run(command, timeout=60, check=False))
        ask_until(ask, lambda: self.is_new(before), f"other SAs than {before}")

    def is_new(self, before):
        ours, theirs = self.spis(1)["out"], self.far_spis()["out"]
        return ours and theirs and not set(ours + theirs) & set(before)


@pytest.fixture
def pair(sites_and_machine):
    made = Followed(*sites_and_machine)
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("mode", "suite"), [("transport", "aes128gcm16"), ("tunnel", "aes256gcm16"), ("transport", "chacha20poly1305")]
)
def test_it_follows_the_kernel(pair, mode, suite):
    """Packets pass by SAs that charon gave to the kernel; Culvert says so, and the kernel has used none of them."""
    pair.start(mode=mode, suites=[suite])
    for sender, address in ((pair.sites.h1, host(2, 4)), (pair.sites.h2, host(1, 4))):
        wait_ping(sender, address)
        assert ping(sender, address, count=20).loss == 0
    assert "keys from the kernel, by XFRM" in pair.machine.run("cat /run/culvert.log")
    assert pair.far_spis()["out"] == pair.spis(1)["in"]
    text = pair.machine.run("ip -s xfrm state")
    used = re.findall(r"lifetime current:\s+(\d+)\(bytes\), (\d+)\(packets\)", text)
    assert used and set(used) == {("0", "0")}, used
    policies = re.findall(r"dir (\w+) action (\w+)", pair.machine.run("ip xfrm policy list proto 47"))
    assert set(policies) == {(way, "block") for way in ("in", "fwd", "out")}, "the kernel has no business with GRE"


def test_rekeys(pair):
    """Rekeys by turns by either end while numbered packets pass both ways: what is sent arrives once and in order, also what comes in by an SA
    before the kernel's news of it has been taken in, which on this machine takes its time."""
    pair.start()
    for way, (sent, lost) in during_traffic(pair, lambda: rekeys_by_turns(pair, REKEYS)).items():
        assert (sent > 0, lost) == (True, 0), f"{way}: {pair.sites.r1.show('drops')}, {pair.shown('drops')}"


@pytest.mark.parametrize("sign", ["TERM", "KILL"])
def test_culvert_restarts(pair, sign):
    """The kernel has SAs that Culvert may have sent with before: it asks for new ones, and sends with those alone."""
    pair.start()
    before = pair.far_spis()["out"]
    pair.stop_far(sign)
    pair.start_far()
    pair.wait_up()
    assert not set(pair.far_spis()["out"]) & set(before)
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0


def says_nothing_in_clear(pair, seen, near, remote, protocol):
    """With Culvert dead, nothing but the protected packets from `remote` is on the machine's link: its kernel opens them, and answers nothing."""
    with capture(pair.sites.mid, "vm2", seen) as captured:
        assert ping(pair.sites.h1, host(2, 4), count=20).loss == 100
    assert protocols(captured.packets()) == {(remote, near, protocol)}
    states = re.split(r"^src ", pair.machine.run("ip -s xfrm state"), flags=re.MULTILINE)
    opened = [re.search(r"lifetime current:\s+\d+\(bytes\), (\d+)\(packets\)", state)[1] for state in states if f"dst {near}\n" in state]
    assert any(int(count) > 0 for count in opened), states


@pytest.mark.parametrize("family", [4, 6])
def test_nothing_leaves_in_clear_without_culvert(pair, family):
    """While Culvert is dead, the kernel opens what comes by the SAs that charon has left there. It answers nothing: an ICMP error would quote the
    plaintext; nor when the machine moves, and charon tells the far end (MOBIKE). When Culvert is back, all is as it was."""
    near, remote, length = pair.sites.wan(2, family), pair.sites.wan(1, family), {4: 24, 6: 64}[family]
    moved = {4: "192.0.2.77", 6: "2001:db8:a1::77"}[family]
    # charon would move to an address of the other family.
    others = f"ip -{10 - family} addr flush dev eth0"
    pair.charons[1].settings = f"interfaces_ignore = lan, {NAMES[1]}"
    pair.start(ike=tables(mobike="true"), family=family)
    try:
        pair.machine.run(others)
        pair.stop_far("KILL")
        seen = {4: "ip and not udp", 6: "ip6 and not udp and not dst net ff00::/8 and not (icmp6 and ip6[40] >= 133)"}[family]
        says_nothing_in_clear(pair, seen, near, remote, 50)
        if family == 4:
            pair.start_far(ike=tables(mobike="true"))
            pair.wait_up()
            assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0
            command = f"{CULVERT.resolve()} tunnel show-ike {NAMES[2]} --socket /run/culvert.sock"
            assert "no difference" in pair.machine.run(command, timeout=60)
            pair.stop_far("KILL")
        pair.machine.run(f"ip addr del {near}/{length} dev eth0; ip addr add {moved}/{length} dev eth0 {'nodad' if family == 6 else ''}")
        wait_for(lambda: pair.state(1)["remote"] == moved, UP, "the far end is followed")
        says_nothing_in_clear(pair, seen, moved, remote, 50)
    finally:
        wan4, wan6 = pair.sites.wan(2, 4), pair.sites.wan(2, 6)
        pair.machine.run(f"ip addr flush dev eth0; ip addr add {wan4}/24 dev eth0; ip addr add {wan6}/64 dev eth0 nodad")


def test_behind_a_nat(pair):
    """The kernel tells charon of no packet, and charon nobody of another mapping before it hears from there: Culvert follows by itself, and both
    go on. Nothing leaves in clear without it: neither what comes from the mapping that the configuration names, nor from another one."""
    with on_a_switch(pair.sites) as nat:
        pair.seen_at = nat.outside
        pair.start(ike=tables(dpd='"30s"'))
        pauses = [
            silent_after(pair, lambda: nat.forget(30000), lambda: True),
            silent_after(pair, lambda: nat.forget(40000, "192.0.2.201"), lambda: pair.state(2)["remote"] == "192.0.2.201"),
        ]
        print("silent after another port, and another address:", ", ".join(f"{1000 * pause:.0f} ms" for pause in pauses))
        assert max(pauses) < SILENT, f"{pauses}\n{pair.machine.run('cat /run/culvert.log; tail -n 60 /run/charon.log')}"
        pair.rekey_and_wait(by_us=True)
        assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0
        pair.stop_far("KILL")
        says_nothing_in_clear(pair, "ip and not (udp and udp[8:4] = 0)", pair.sites.wan(2, 4), nat.outside, 17)


def test_charon_restarts(pair):
    """A charon that is killed leaves its SAs in the kernel, and the tunnel goes on; a new one negotiates new keys."""
    pair.start()
    before = pair.far_spis()["out"]
    pair.machine.run("killall -KILL charon-systemd")
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0
    pair.machine.run(START, timeout=90)
    wait_for(lambda: set(pair.far_spis()["out"]) - set(before), UP, "new keys")
    pair.wait_up()
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0


def test_sas_that_are_taken_away_by_hand(pair):
    """`ip xfrm state flush`, behind everybody's back: the tunnel is down and says why, not up without keys."""
    pair.start()
    pair.machine.run("ip xfrm state flush")
    wait_for(lambda: pair.state(2)["state"] == "down", UP, "the tunnel is down")
    assert pair.far_spis() == {"in": [], "out": []}

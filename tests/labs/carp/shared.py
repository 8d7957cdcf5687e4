"""Two routers that share their addresses by ucarp, and a third one at the far end of their tunnel.

              lan [ra] wan
    h1 -- lans              wans -- wan [r2] lan -- h2
              lan [rb] wan

`wans` and `lans` are switches; in `test_far_kernel.py` there is a virtual machine in place of r2. ra and rb share 192.0.2.1 on the WAN
(group 1@wan) and 10.1.0.1 on the LAN; each has an address of its own beside.
"""

import os
import secrets
import signal
import struct
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from netns import wait_for
from routers import CULVERT, NAMES, TRANSPORT, XDP_PORTS, PairSa, Router, host
from traffic import capture, start_tool, tool_result, wait_ping

sys.path.append(str(Path(__file__).resolve().parents[1] / "keys"))
from strongswan import Charon  # noqa: E402 (the path has to be there first)

VIRTUAL = "192.0.2.1"
LAN_VIRTUAL = "10.1.0.1"
GROUP = "1@wan"
FAR = "192.0.2.2"
OWN = {"a": 11, "b": 12}
RANK = {"a": "first", "b": "second"}
# ucarp takes three advertisements, a second apart and some, for the other one's death.
TAKEN_OVER = 30.0  # seconds
PORT = 4790
LINKED = 15.0  # seconds: an attempt comes every two at most
# What is told of windows and numbers is told every 25 ms.
TOLD = 0.3  # seconds
RATE = int(os.environ.get("CULVERT_RATE", 300))  # datagrams a second, each way

UP = """#!/bin/sh
ip addr replace "$2/32" dev "$1"
date +%s.%N >> "{stamps}-$1"
[ "$1" != wan ] || [ -z "{notify}" ] || {notify} master || true
"""
DOWN = """#!/bin/sh
ip addr del "$2/32" dev "$1" 2>/dev/null
[ "$1" != wan ] || [ -z "{notify}" ] || {notify} backup || true
"""


class Twin(Router):
    """One of the two routers, with its ucarps."""

    # A master hands over first, where a hook tells ucarp: an election, and some.
    stopped = 15.0  # seconds

    def __init__(self, lab, label, wans, lans):
        namespace = lab.namespace(f"r{label}")
        super().__init__(namespace, 1)
        self.label, self.ucarps, self.notifies = label, [], False
        # Where it stands which processes these are.
        self.pids = lab.folder / f"{label}-ucarps"
        lab.cable(namespace, "wan", wans, f"w{label}")
        lab.cable(namespace, "lan", lans, f"l{label}")
        wans.ip(f"link set w{label} master sw")
        lans.ip(f"link set l{label} master sw")
        namespace.ip(f"addr add 192.0.2.{OWN[label]}/24 dev wan", f"addr add 10.1.0.{OWN[label]}/24 dev lan")

    def configuration(self, spi, others="", carrier=TRANSPORT):
        """Its end of the tunnel, which sends with `spi`."""
        fixed = carrier.toml(1, f"carp:{GROUP}", FAR, routes=["10.2.0.0/24"])
        ours = PairSa("out", spi, carrier.suite, carrier.esn)
        return (
            f'{XDP_PORTS}[carp]\nrouter = "{RANK[self.label]}"\n{others}'
            f'[[carp.group]]\nvhid = 1\ninterface = "wan"\naddress = "{VIRTUAL}"\n'
            + fixed.replace(carrier.outbound(1).toml(), ours.toml())
        )

    def scripts(self):
        """ucarp's up and down scripts."""
        folder = self.namespace.lab.folder
        notify = f"{CULVERT} carp notify {GROUP} --socket {self.socket}" if self.notifies else ""
        paths = []
        for name, text in (("up", UP), ("down", DOWN)):
            path = folder / f"{self.label}-{name}"
            path.write_text(text.format(notify=notify, stamps=folder / f"{self.label}-up"))
            path.chmod(0o755)
            paths.append(path)
        return paths

    def start_ucarp(self, skew, password="secret"):
        """Both groups, one process each. Those with another password do not believe each other."""
        up, down = self.scripts()
        for interface, own, virtual, vhid in (("wan", "192.0.2", VIRTUAL, 1), ("lan", "10.1.0", LAN_VIRTUAL, 2)):
            words = f"ucarp -i {interface} -s {own}.{OWN[self.label]} -v {vhid} -p {password} -a {virtual} -b 1 -k {skew} -z"
            process = self.namespace.start(*words.split(), "-u", up, "-d", down, name=f"ucarp-{interface}")
            self.ucarps.append(process)
        self.pids.write_text(" ".join(str(process.pid) for process in self.ucarps))

    def stop_ucarp(self, sign=signal.SIGTERM):
        for process in self.ucarps:
            process.stop(sign)
        self.ucarps = []
        self.pids.unlink(missing_ok=True)

    def role(self):
        return self.show("carp")["groups"][GROUP]["role"]

    def wait_role(self, role, timeout=TAKEN_OVER):
        wait_for(lambda: self.role() == role, timeout, f"r{self.label} is {role}: {self.daemon.text()[-2000:]}")

    def crash(self):
        """What is left of it when its power goes: nothing, at once."""
        self.namespace.ip("link set wan down", "link set lan down")
        self.daemon.kill()
        self.stop_ucarp(signal.SIGKILL)

    def revive(self):
        """Its power is back. The addresses that it shared are gone with it, and the daemon starts as it did."""
        self.namespace.ip("addr flush dev wan scope global", "addr flush dev lan scope global")
        self.namespace.ip(
            f"addr add 192.0.2.{OWN[self.label]}/24 dev wan",
            f"addr add 10.1.0.{OWN[self.label]}/24 dev lan",
            "link set wan up",
            "link set lan up",
        )
        self.start()


def switch(lab, name):
    made = lab.namespace(name)
    made.sysctl("net.ipv6.conf.all.disable_ipv6=1")
    made.ip("link add sw type bridge mcast_snooping 0", "link set sw up")
    return made


class Shared:
    """The topology. See the module page."""

    # The far router's port of the WAN's switch.
    far_port = "w2"
    # What ra and rb are.
    twin = Twin

    def __init__(self, lab):
        self.lab = lab
        self.far_site()
        self.lans = switch(lab, "lans")
        self.a, self.b = (self.twin(lab, label, self.wans, self.lans) for label in ("a", "b"))
        self.h1 = lab.namespace("h1")
        lab.cable(self.h1, "lan", self.lans, "lh")
        self.lans.ip("link set lh master sw")
        self.h1.ip(f"addr add {host(1, 4)}/24 dev lan", f"route add default via {LAN_VIRTUAL}")

    def far_site(self):
        """The WAN, r2 on it, and h2 behind that."""
        self.wans, self.h2, far_router = switch(self.lab, "wans"), self.lab.namespace("h2"), self.lab.namespace("r2")
        self.r2 = Router(far_router, 2)
        self.lab.cable(far_router, "wan", self.wans, "w2")
        self.wans.ip("link set w2 master sw")
        self.lab.cable(far_router, "lan", self.h2, "lan")
        far_router.ip(f"addr add {FAR}/24 dev wan", "addr add 10.2.0.1/24 dev lan")
        self.h2.ip(f"addr add {host(2, 4)}/24 dev lan", "route add default via 10.2.0.1")

    def join(self):
        """The two with a cable of their own between them."""
        self.lab.cable(self.a.namespace, "sync", self.b.namespace, "sync")
        for twin in (self.a, self.b):
            twin.namespace.ip(f"addr add {address(twin.label)}/24 dev sync")
        self.secret = secrets.token_hex(32)
        return self

    def far_configuration(self, spis, carrier=TRANSPORT):
        """The far end, which takes what comes by any of `spis`."""
        fixed = carrier.toml(2, FAR, VIRTUAL, routes=["10.1.0.0/24"])
        first = replace(carrier.outbound(1), direction="in").toml()
        inbound = "\n".join(PairSa("in", spi, carrier.suite, carrier.esn).toml() for spi in spis)
        return XDP_PORTS + fixed.replace(first, inbound)

    def start(self, spis, notify=False, others=lambda label: "", carrier=TRANSPORT):
        """All three daemons and the ucarps; ra is master, and the tunnel carries packets. `spis`: what ra and rb send with."""
        self.r2.start(self.far_configuration(dict.fromkeys(spis), carrier))
        for twin, spi in zip((self.a, self.b), spis):
            twin.notifies = notify
            twin.start(twin.configuration(spi, others(twin.label), carrier))
        self.elect()
        self.b.wait_role("backup")
        wait_ping(self.h1, host(2, 4), timeout=TAKEN_OVER)
        return self

    def elect(self):
        """ra is master, and rb would be without it."""
        self.a.start_ucarp(skew=0)
        self.a.wait_role("master")
        self.b.start_ucarp(skew=100)

    def capture(self):
        """What the far router sees on its WAN, ESP alone."""
        return capture(self.wans, self.far_port, "esp")


def esp(frames):
    """SPI, sequence number and IV of the ESP packets in Ethernet frames, in their order."""
    for frame in frames:
        if frame[12:14] == b"\x08\x00" and frame[23] == 50:
            at = 14 + 4 * (frame[14] & 15)
            yield struct.unpack(">IIQ", frame[at : at + 16])


class Seen:
    """The sequence numbers and IVs that were on the wire, each with its SPI."""

    def __init__(self):
        self.numbers, self.ivs = set(), set()

    def again(self, frames):
        """The packets of ESP in frames that have a number or an IV that was there before. From now on these count as well."""
        found = []
        for spi, sequence, iv in esp(frames):
            if (spi, sequence) in self.numbers or (spi, iv) in self.ivs:
                found.append(f"SPI {spi:#x}, number {sequence}, IV {iv:#x}")
            self.numbers.add((spi, sequence))
            self.ivs.add((spi, iv))
        return found


def assert_nothing_twice(frames):
    """No SPI with a sequence number, and none with an IV, is there twice. Returns how many packets of each SPI there were."""
    again = Seen().again(frames)
    assert not again, f"twice: {again[:5]}"
    return Counter(spi for spi, _, _ in esp(frames))


# --- the link between the two, and strongSwan -----------------------------------------------------------------------


def address(label):
    return f"10.9.0.{1 if label == 'a' else 2}"


def other(label):
    return "b" if label == "a" else "a"


def sync(shared, label, proof=None):
    """`[carp.sync]` of a router, by a secret if nothing else is said."""
    if proof is None:
        path = shared.lab.folder / f"{label}.secret"
        path.write_text(shared.secret + "\n")
        path.chmod(0o600)
        proof = f'secret_file = "{path}"\n'
    ends = f'listen = "{address(label)}:{PORT}"\npartner = "{address(other(label))}:{PORT}"\n'
    return f'[carp.sync]\n{ends}heartbeat = "200ms"\ndead = "1s"\n{proof}'


def link(twin):
    return twin.show("carp")["sync"]


def wait_up(*twins):
    for twin in twins:
        wait_for(lambda: link(twin)["up"], LINKED, f"r{twin.label} is linked: {link(twin)} {twin.daemon.text()[-2000:]}")


def metrics(twin):
    return twin.namespace.run(CULVERT, "metrics", "--socket", twin.socket).stdout


SECRET = "a secret that all three have"
KEYS = f'[tunnel.protect]\nmode = "transport"\n[tunnel.protect.ike]\nauth = "psk"\npsk = "{SECRET}"\n'


def negotiated(text):
    """The configuration, with negotiated keys in place of the fixed ones."""
    return text.partition("[tunnel.protect]")[0] + KEYS


def pair_up(linked, others=lambda twin: ""):
    """The two linked, and all three with strongSwan; ra is master, and rb has what it needs to take over. What `others` says stands in a
    router's `[carp]` as well. Without r2 the far end runs already."""
    configurations = {
        twin: negotiated(twin.configuration(0x1001, sync(linked, twin.label) + others(twin)))
        for twin in (linked.a, linked.b)
    }
    if linked.r2:
        configurations[linked.r2] = negotiated(linked.far_configuration([0x1001]))
    linked.charons = {router: Charon(router) for router in configurations}
    linked.configurations = configurations
    for router, configuration in configurations.items():
        linked.charons[router].start()
        router.arguments = ["--vici", linked.charons[router].vici]
        router.start(configuration)
    linked.elect()
    wait_ping(linked.h1, host(2, 4), timeout=TAKEN_OVER)
    wait_up(linked.a, linked.b)
    wait_shared(linked)
    assert (sources(linked.a), sources(linked.b)) == ({"plugin"}, {"partner"})
    return linked


def spis(twin):
    """SPIs of the tunnel's SAs, by direction."""
    found = {"in": set(), "out": set()}
    for sa in twin.show("sas")[NAMES[1]]:
        found[sa["direction"]].add(sa["spi"])
    return found


def sources(twin):
    """Where it has its SAs from."""
    return {sa["source"] for sa in twin.show("sas")[NAMES[1]]}


def wait_shared(shared):
    wait_for(
        lambda: spis(shared.a) == spis(shared.b) and spis(shared.a)["out"],
        5,
        f"both have the same SAs: {spis(shared.a)} {spis(shared.b)} {shared.b.daemon.text()[-1500:]}",
    )
    time.sleep(TOLD)


# The LAN's address, for daemons that are to know of it: that of the tunnel is known anyhow.
LAN_GROUP = f'[[carp.group]]\nvhid = 2\ninterface = "lan"\naddress = "{LAN_VIRTUAL}"\n'

# --- what happens to them, and what is seen of it --------------------------------------------------------------------

# ucarp gives up an address on SIGUSR2. At the start a router is not ready either, and there is no ucarp yet.
HOOK = """#!/bin/sh
[ ! -e "{pids}" ] || kill -USR2 $(cat "{pids}")
"""


def hook(twin):
    """`unready` tells ucarp."""
    folder = twin.namespace.lab.folder
    script = folder / f"{twin.label}-unready"
    script.write_text(HOOK.format(pids=twin.pids))
    script.chmod(0o755)
    return f'[[carp.hook]]\non = ["unready"]\ncommand = ["{script}"]\n'


def carp(twin, *words, check=True):
    return twin.namespace.run(CULVERT, "carp", *words, "--socket", twin.socket, timeout=60, check=check)


def freeze(twin, sign):
    """Stops or continues all of it but the kernel."""
    for process in (*twin.ucarps, twin.daemon):
        process.child.send_signal(sign)


class BothWays:
    """Numbered datagrams from h1 to h2 and back, until they are ended."""

    def __init__(self, shared, rate=RATE):
        ways = ((shared.h1, shared.h2, host(2, 4)), (shared.h2, shared.h1, host(1, 4)))
        self.receivers = [start_tool(receiver, "datagrams", "receive", address) for _, receiver, address in ways]
        for receiver in self.receivers:
            receiver.wait_ready()
        self.senders = [start_tool(sender, "datagrams", "send", address, 10**6, rate, 200) for sender, _, address in ways]

    def end(self):
        """What was sent and lost, out and in. Nothing came twice, or changed."""
        sent = [tool_result(sender)["sent"] for sender in self.senders]
        time.sleep(0.5)
        seen = [tool_result(receiver) for receiver in self.receivers]
        for way in seen:
            assert (way["duplicates"], way["corrupt"]) == (0, 0), way
        # The longest time without one, each way: how long, and since when.
        self.silences = [(way["silent"], way["since"]) for way in seen]
        return [(count, count - way["unique"], way["gaps"]) for count, way in zip(sent, seen)]


@contextmanager
def watched(shared):
    """Nothing is seen twice, and nothing in clear. Gives the frames of ESP when it is over."""
    seen = []
    with shared.capture() as sealed, capture(shared.wans, shared.far_port, "proto gre or icmp[0] == 8 or icmp[0] == 0") as clear:
        yield seen
    seen.extend(sealed.frames())
    assert assert_nothing_twice(seen)
    assert clear.frames() == []


def from_router(frames, label):
    """ESP that a router sent: its MAC tells."""
    return [frame for frame in frames if frame[6:12] == label]


def mac(twin, interface="wan"):
    text = twin.namespace.run("cat", f"/sys/class/net/{interface}/address").stdout
    return bytes.fromhex(text.strip().replace(":", ""))


def assert_numbers_go_on(frames, *twins):
    """Each router sends with one number of an SA after the other: once it has taken over, nothing moves it to others."""
    for twin in twins:
        last, jumps = {}, []
        for spi, number, _ in esp(from_router(frames, mac(twin))):
            if number != last.get(spi, number - 1) + 1:
                jumps.append((hex(spi), last[spi], number))
            last[spi] = number
        assert jumps == [], f"r{twin.label} has left numbers out: {jumps}"

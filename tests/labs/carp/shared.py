"""Two routers that share their addresses by ucarp, and a third one at the far end of their tunnel.

              lan [ra] wan
    h1 -- lans              wans -- wan [r2] lan -- h2
              lan [rb] wan

`wans` and `lans` are switches; in `test_far_kernel.py` there is a virtual machine in place of r2. ra and rb share 192.0.2.1 on the WAN
(group 1@wan) and 10.1.0.1 on the LAN; each has an address of its own beside.
"""

import signal
import struct
from dataclasses import replace
from pathlib import Path

from netns import wait_for
from routers import CULVERT, INNER, TRANSPORT, XDP_PORTS, PairSa, Router, far, host
from traffic import capture, wait_ping

VIRTUAL = "192.0.2.1"
LAN_VIRTUAL = "10.1.0.1"
GROUP = "1@wan"
FAR = "192.0.2.2"
OWN = {"a": 11, "b": 12}
RANK = {"a": "first", "b": "second"}
# ucarp takes three advertisements, a second apart and some, for the other one's death.
TAKEN_OVER = 30.0  # seconds

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

    def __init__(self, lab, label, wans, lans):
        namespace = lab.namespace(f"r{label}")
        super().__init__(namespace, 1)
        self.label, self.ucarps, self.notifies = label, [], False
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

    def stop_ucarp(self, sign=signal.SIGTERM):
        for process in self.ucarps:
            process.stop(sign)
        self.ucarps = []

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

    def __init__(self, lab):
        self.lab = lab
        self.far_site()
        self.lans = switch(lab, "lans")
        self.a, self.b = (Twin(lab, label, self.wans, self.lans) for label in ("a", "b"))
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
        self.a.start_ucarp(skew=0)
        self.a.wait_role("master")
        self.b.start_ucarp(skew=100)
        self.b.wait_role("backup")
        wait_ping(self.h1, host(2, 4), timeout=TAKEN_OVER)
        return self

    def capture(self):
        """What the far router sees on its WAN, ESP alone."""
        return capture(self.wans, self.far_port, "esp")


def esp(frames):
    """SPI, sequence number and IV of the ESP packets in Ethernet frames, in their order."""
    for frame in frames:
        if frame[12:14] == b"\x08\x00" and frame[23] == 50:
            at = 14 + 4 * (frame[14] & 15)
            yield struct.unpack(">IIQ", frame[at : at + 16])


def assert_nothing_twice(frames):
    """No SPI with a sequence number, and none with an IV, is there twice. Returns how many packets of each SPI there were."""
    numbers, ivs, counts = set(), set(), {}
    for spi, sequence, iv in esp(frames):
        assert (spi, sequence) not in numbers, f"SPI {spi:#x}, number {sequence}: twice"
        assert (spi, iv) not in ivs, f"SPI {spi:#x}, IV {iv:#x}: twice"
        numbers.add((spi, sequence))
        ivs.add((spi, iv))
        counts[spi] = counts.get(spi, 0) + 1
    return counts

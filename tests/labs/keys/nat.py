"""A NAT between the routers: site 1 is behind it, site 2 is not. It is the kernel's, set by nft, in the middle's namespace."""

import re
import signal
from contextlib import contextmanager

from netns import command, wait_for
from routers import host
from traffic import ping

# All at once: there is no packet without them.
RULES = """
flush ruleset
table ip lab {{
  chain out {{
    type nat hook postrouting priority 100;
    oifname {way_out} meta l4proto udp masquerade to :{first}-{last}
  }}
}}
"""


SILENT = 3.0  # seconds, after another mapping: far less than it takes until IKE finds out
FOLLOWED = 40.0


class Nat:
    """The NAT; `outside` is the address that site 2 sees, with the prefix length `length` on the interface `way_out`. `route`: what the kernel
    forgets with its last address there."""

    def __init__(self, sites, first=20000, way_out="to2", outside=None, length=24, route=None):
        self.sites, self.way_out, self.length, self.route = sites, way_out, length, route
        self.outside = outside or sites.gateway(2, 4)
        self.set(first)

    def set(self, first):
        """From now on, new mappings have ports from `first` on."""
        rules = RULES.format(way_out=self.way_out, first=first, last=first + 999)
        command("ip", "netns", "exec", self.sites.mid.name, "nft", "-f", "-", input=rules)

    def forget(self, first, outside=None):
        """All mappings are gone, as when such a router starts anew; the next have other ports, from `first` on, or another
        address. (The kernel forgets the mappings of an address that is taken away.)"""
        mid, place = self.sites.mid, f"/{self.length} dev {self.way_out}"
        self.set(first)
        mid.ip(f"addr del {self.outside}{place}")
        if outside:
            # Site 2's way back stays what it was.
            mid.ip(f"addr add {outside}{place}")
        mid.ip(f"addr add {self.outside}{place}", *([self.route] if self.route else []))
        self.outside = outside or self.outside


@contextmanager
def on_a_switch(sites, outside="192.0.2.200"):
    """A NAT in place of the switch between the two routers, which go on as neighbours: it answers for the other one."""
    mid = sites.mid
    before = mid.run("sysctl", "-n", "net.ipv4.ip_forward").stdout.strip()

    def forget_neighbours():
        sites.r1.namespace.ip("neigh flush dev wan")

    route = f"route replace {sites.wan(2, 4)}/32 dev sw"
    mid.ip("link set to1 nomaster", f"addr add {outside}/32 dev sw", f"route add {sites.wan(1, 4)}/32 dev to1", route)
    mid.sysctl("net.ipv4.ip_forward=1", "net.ipv4.conf.to1.proxy_arp=1")
    forget_neighbours()
    nat = Nat(sites, way_out="sw", outside=outside, length=32, route=route)
    try:
        yield nat
    finally:
        command("ip", "netns", "exec", mid.name, "nft", "flush", "ruleset")
        mid.sysctl(f"net.ipv4.ip_forward={before}")
        mid.ip("route flush dev to1", "addr flush dev sw", "link set to1 master sw")
        forget_neighbours()


def silent_after(pair, change, follows):
    """Has the mapping changed under traffic, and waits until that is followed. For how long nothing came back, in seconds."""
    pinging = pair.sites.h1.start("stdbuf", "-oL", "ping", "-n", "-D", "-i", "0.01", host(2, 4))

    def answers():
        return [float(stamp) for stamp in re.findall(r"^\[([\d.]+)\] \d+ bytes from", pinging.text(), re.MULTILINE)]

    wait_for(lambda: len(answers()) > 20, FOLLOWED, "answers")
    change()
    wait_for(follows, FOLLOWED, "another mapping that is followed")
    before = len(answers())
    wait_for(lambda: len(answers()) > before + 20, FOLLOWED, "answers by another mapping")
    pinging.stop(signal.SIGINT)
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0
    times = answers()
    return max(after - before for before, after in zip(times, times[1:]))

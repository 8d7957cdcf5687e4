"""The labs' topology, the daemon on its routers, and the configurations of a tunnel's two ends.

    h1 -- lan [r1] wan -- to1 [mid] to2 -- wan [r2] lan -- h2

The middle is a router (two networks), a switch, or a relay that treats frames badly (one network each). The kernels of r1 and r2
forward nothing: what comes out at the far LAN went through Culvert.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from netns import Trouble, command
from traffic import start_tool
from witness import SALT_LENGTH, SUITES, Sa

CULVERT = Path(os.environ.get("CULVERT", Path(__file__).resolve().parents[2] / "target/release/culvert"))
READY = 5.0  # seconds
STOPPED = 3.0  # seconds

FAMILIES = (4, 6)
NAMES = {1: "oslo", 2: "paris"}  # the tunnel's name at r1 and at r2: each is called after where it leads
LAN = {1: {4: "10.1.0", 6: "2001:db8:10:"}, 2: {4: "10.2.0", 6: "2001:db8:20:"}}
INNER = {1: {4: "172.27.27.1", 6: "2001:db8:27::1"}, 2: {4: "172.27.27.2", 6: "2001:db8:27::2"}}
HEADER = {4: 20, 6: 40}


def lan_network(site, family):
    """The network behind a router."""
    return f"{LAN[site][family]}.0/24" if family == 4 else f"{LAN[site][family]}:/64"


def router_on_lan(site, family):
    return f"{LAN[site][family]}.1" if family == 4 else f"{LAN[site][family]}:1"


def host(site, family):
    """The address of h1 or h2."""
    return f"{LAN[site][family]}.5" if family == 4 else f"{LAN[site][family]}:5"


def far(site):
    return 3 - site


# --- tunnels --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairSa(Sa):
    """A manual SA whose key depends on its SPI alone, so that both routers have the same."""

    @property
    def key(self):
        return hashlib.sha512(f"SPI {self.spi}".encode()).digest()[: SUITES[self.suite].key_length + SALT_LENGTH]


SPI = {1: 0x1001, 2: 0x1002}  # of what site 1 sends, and site 2


@dataclass(frozen=True)
class Carrier:
    """How a tunnel carries its packets. `mode` None: GRE in clear."""

    family: int = 4
    mode: str | None = None
    suite: str = "aes128gcm16"
    esn: bool = False
    udp_encap: tuple[int, int] | None = None
    key: int | None = None
    checksum: bool = False
    sequence: bool = False
    window: int = 1024
    encapsulation: str | None = None  # "udp": GRE in UDP (RFC 8086)
    keepalive: str | None = None

    def __str__(self):
        words = [self.mode or self.encapsulation or "gre", f"v{self.family}"]
        if self.mode:
            words.append(self.suite)
        words += [name for name in ("esn", "checksum", "sequence") if getattr(self, name)]
        words += [] if self.key is None else ["key"]
        words += ["encap"] if self.udp_encap else []
        return "-".join(words)

    def outbound(self, site):
        """The SA of what `site` sends."""
        return PairSa("out", SPI[site], self.suite, self.esn, self.udp_encap)

    def overhead(self):
        """Bytes before the plaintext of ESP or the inner packet, bytes behind it, and those inside ESP before the inner packet."""
        gre = 4 + 4 * (self.checksum + (self.key is not None) + self.sequence)
        if self.mode is None:
            return HEADER[self.family] + (8 if self.encapsulation else 0) + gre, 0, 0
        inside = gre + (HEADER[self.family] if self.mode == "tunnel" else 0)
        return HEADER[self.family] + (8 if self.udp_encap else 0) + 8 + 8, 16, inside

    def mtu(self, path=1500):
        """The longest inner packet for a path MTU, ESP padded to 4 bytes (RFC 4303 2.4)."""
        before, behind, inside = self.overhead()
        if self.mode is None:
            return path - before
        return (path - before - behind) // 4 * 4 - 2 - inside

    def toml(self, site, local, remote, routes=None, extra=(), inner=True):
        """The `[[tunnel]]` of one end. Without `routes`: the far LAN, in both families."""
        if routes is None:
            routes = [lan_network(far(site), family) for family in FAMILIES]
        lines = [
            "[[tunnel]]",
            f'name = "{NAMES[site]}"',
            f'local = "{local}"',
            f'remote = "{remote}"',
            f"routes = {json.dumps(routes)}",
            f"checksum = {str(self.checksum).lower()}",
            f"sequence = {str(self.sequence).lower()}",
            *extra,
        ]
        if inner:
            lines += [f'inner = "{INNER[site][4]}/32"', f'peer = "{INNER[far(site)][4]}"']
        if self.key is not None:
            lines.append(f"key = {self.key}")
        if self.encapsulation:
            lines.append(f'encapsulation = "{self.encapsulation}"')
        if self.keepalive:
            lines.append(f"keepalive = {{ {self.keepalive} }}")
        if self.mode is None:
            return "\n".join([*lines, 'protect = "none"', ""])
        lines += ["[tunnel.protect]", f'mode = "{self.mode}"', f"replay_window = {self.window}"]
        inbound = replace(self.outbound(far(site)), direction="in")
        return "\n".join([*lines, self.outbound(site).toml(), inbound.toml(), ""])


GRE = Carrier()
TRANSPORT = Carrier(mode="transport")
TUNNEL = Carrier(mode="tunnel")

XDP_PORTS = '[[port]]\nname = "wan"\ndevice = "xdp:wan"\n\n[[port]]\nname = "lan"\ndevice = "xdp:lan"\n\n'


# --- the daemon -----------------------------------------------------------------------------------------------------


class Router:
    """A namespace with the daemon in it."""

    # How long it may take to end.
    stopped = STOPPED

    def __init__(self, namespace, site):
        self.namespace, self.site = namespace, site
        self.daemon, self.starts, self.arguments, self.user = None, 0, [], None
        folder = namespace.lab.folder
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"{namespace.label}.toml"
        # The path of a UNIX socket is short (unix(7): 108 bytes), so it does not stand in the test's folder.
        self.socket = namespace.lab.run.record / f"{namespace.name}.sock"

    def run_as(self, user):
        """From the next start on, the daemon becomes this user, who can read its configuration."""
        self.user = user
        # A test's own folder is closed to others.
        self.file = self.socket.with_suffix(".toml")

    def start(self, configuration=None):
        """Runs the daemon until it is ready. Without a configuration, with the one it had."""
        if configuration is not None:
            self.file.write_text(configuration)
            self.file.chmod(0o600)
            if self.user:
                shutil.chown(self.file, self.user)
        self.starts += 1
        words = [CULVERT, "run", "-c", self.file, "--socket", self.socket, *self.arguments]
        if self.user:
            words += ["--user", self.user]
        self.daemon = self.namespace.start(*words, name=f"culvert-{self.starts}")
        self.daemon.wait_ready(READY)
        assert "ready" in self.daemon.out.read_text().splitlines(), self.daemon.text()
        return self

    def stop(self):
        """SIGTERM. It has to end well, and soon."""
        status = self.daemon.stop(signal.SIGTERM, self.stopped)
        if status != 0:
            raise Trouble(f"{self.daemon.name} ended with {status}:\n{self.daemon.text()}")
        refused = [line for line in self.daemon.text().splitlines() if "system call" in line and "was refused" in line]
        if refused:
            raise Trouble(f"{self.daemon.name} lacks system calls: {refused}")

    def show(self, what):
        """What `culvert show WHAT --json` says under the name of what was asked."""
        done = self.namespace.run(CULVERT, "show", what, "--socket", self.socket, "--json")
        return json.loads(done.stdout)[what]

    def tunnel(self):
        """The state of this router's tunnel."""
        return self.show("tunnels")[NAMES[self.site]]

    def drops(self, reason):
        """How often a packet was dropped for this reason."""
        return self.show("drops").get(reason, 0)

    def interface_mtu(self):
        """The MTU of the tunnel's host interface."""
        return self.namespace.ip_json(f"link show dev {NAMES[self.site]}")[0]["mtu"]

    def add_inner_v6(self):
        """Gives the tunnel's host interface an IPv6 address too; the configuration has room for one address."""
        mine, theirs = INNER[self.site][6], INNER[far(self.site)][6]
        self.namespace.ip(f"addr add {mine} peer {theirs}/128 dev {NAMES[self.site]} nodad")


# --- the topology ---------------------------------------------------------------------------------------------------


class Sites:
    """Two LANs, two routers, and what is between them."""

    def __init__(self, lab, middle="router", path_mtu=1500, bridged=False, queues=1, only=(1, 2)):
        self.lab, self.middle, self.bridged = lab, middle, bridged
        self.hosts, self.routers = {}, {}
        self.mid = lab.namespace("mid")
        for site in only:
            self._site(site, path_mtu if site == 2 else 1500, queues)
        if middle == "router":
            self.mid.forward()
        else:
            self.mid.sysctl("net.ipv6.conf.all.disable_ipv6=1")
        if middle == "switch":
            self.mid.ip("link add sw type bridge mcast_snooping 0", "link set sw up")
            self.mid.ip(*(f"link set to{site} master sw" for site in only))
        self.relay = None

    @property
    def h1(self):
        return self.hosts[1]

    @property
    def h2(self):
        return self.hosts[2]

    @property
    def r1(self):
        return self.routers[1]

    @property
    def r2(self):
        return self.routers[2]

    def wan(self, site, family):
        """The outer address of a router. With a router in the middle each is in a network of its own."""
        network = site if self.middle == "router" else 1
        return f"192.0.{network + 1}.{site}" if family == 4 else f"2001:db8:a{network}::{site}"

    def gateway(self, site, family):
        """The middle router's address on a router's WAN."""
        return f"192.0.{site + 1}.254" if family == 4 else f"2001:db8:a{site}::fe"

    def wan_lines(self, site):
        """The `ip` commands that give a router's WAN its addresses and routes."""
        lines = [
            f"addr replace {self.wan(site, 4)}/24 dev wan",
            f"addr replace {self.wan(site, 6)}/64 dev wan nodad",
        ]
        if self.middle == "router":
            lines += [
                f"route replace default via {self.gateway(site, 4)}",
                f"route replace default via {self.gateway(site, 6)}",
            ]
        return lines

    def lan_lines(self, site):
        """The `ip` commands that give a router's LAN its addresses."""
        return [
            f"addr replace {router_on_lan(site, 4)}/24 dev lan",
            f"addr replace {router_on_lan(site, 6)}/64 dev lan nodad",
        ]

    def _site(self, site, wan_mtu, queues):
        end, router = self.lab.namespace(f"h{site}"), self.lab.namespace(f"r{site}")
        self.hosts[site] = end
        self.lab.cable(router, "wan", self.mid, f"to{site}", mtu=wan_mtu, queues=queues)
        self.lab.cable(router, "lan", end, "lan", queues=queues)
        router.ip(*self.wan_lines(site))
        if self.middle == "router":
            self.mid.ip(
                f"addr add {self.gateway(site, 4)}/24 dev to{site}",
                f"addr add {self.gateway(site, 6)}/64 dev to{site} nodad",
            )
        if self.bridged:
            # One LAN: the hosts are in one network, and the routers have no part in it.
            number = 4 + site
            end.ip(f"addr add 10.9.0.{number}/24 dev lan", f"addr add 2001:db8:90::{number}/64 dev lan nodad")
        else:
            router.ip(*self.lan_lines(site))
            end.ip(
                f"addr add {host(site, 4)}/24 dev lan",
                f"addr add {host(site, 6)}/64 dev lan nodad",
                f"route add default via {router_on_lan(site, 4)}",
                f"route add default via {router_on_lan(site, 6)}",
            )
        self.routers[site] = Router(router, site)

    def start_relay(self, *options):
        """Joins the two WANs by the relay, which treats packets as the options say."""
        if self.relay:
            self.relay.stop()
        self.relay = start_tool(self.mid, "relay", "to1", "to2", *map(str, options))
        self.relay.wait_ready()

    def configuration(self, site, carrier, ports=XDP_PORTS, engine="", **tunnel):
        """The whole configuration of one router."""
        local, remote = self.wan(site, carrier.family), self.wan(far(site), carrier.family)
        return f"[engine]\n{engine}\n\n{ports}{carrier.toml(site, local, remote, **tunnel)}"

    def start(self, carrier, **options):
        """Runs the daemon on both routers, with the two ends of one tunnel."""
        for site, router in self.routers.items():
            router.start(self.configuration(site, carrier, **options))
            if options.get("inner", True):
                router.add_inner_v6()
        return self


def kernel_routes_between(sites):
    """Lets the kernels route between the LANs, without Culvert: the labs' own test."""
    for site, router in sites.routers.items():
        router.namespace.forward()
        other = far(site)
        for family in FAMILIES:
            if sites.middle == "router":
                sites.mid.ip(f"route add {lan_network(site, family)} via {sites.wan(site, family)}")
            else:
                router.namespace.ip(f"route add {lan_network(other, family)} via {sites.wan(other, family)}")


def require_binary():
    """Says plainly that there is nothing to test."""
    if not CULVERT.exists():
        raise Trouble(f"{CULVERT} is not there; build it: cargo build --release -p culvert")
    done = subprocess.run([CULVERT, "run", "--help"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Trouble(f"{CULVERT} has no daemon: {done.stderr}")


def link(namespace, interface):
    """What `ip` says of an interface; None where there is none."""
    done = command("ip", "-n", namespace.name, "-s", "-d", "-j", "link", "show", "dev", interface, check=False)
    return json.loads(done.stdout)[0] if done.returncode == 0 else None

"""The far end of a tunnel in the virtual machine: the Linux kernel's own GRE and ESP, with keys from a daemon that others have written.

The machine is a router: `eth0` on the WAN, `eth1` on a LAN.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from routers import router_on_lan

MEMORY = 512  # MiB
FORWARD = "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
FLUSH = "ip xfrm state flush; ip xfrm policy flush"


def underlay(site, wan):
    """The machine as the router of a site."""
    lines = [
        "sysctl -q -w net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0",
        "sysctl -q -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0",
        f"ip addr add {wan[4]}/24 dev eth0",
        f"ip addr add {wan[6]}/64 dev eth0 nodad",
        "ip link set eth1 up",
        f"ip addr add {router_on_lan(site, 4)}/24 dev eth1",
        f"ip addr add {router_on_lan(site, 6)}/64 dev eth1 nodad",
        "ethtool -K eth0 gro off",
        "ethtool -K eth1 gro off",
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Certified:
    """An end that proves who it is by a certificate: PEM files of its CA's, its own and its key, and what both ends are called in theirs."""

    ca: Path
    certificate: Path
    key: Path
    name: str
    far_name: str


@dataclass(frozen=True)
class Told:
    """What the daemon is told of the tunnel: GRE between two addresses, its protection, and how the ends prove who they are: by the secret, or
    by certificates."""

    local: str
    remote: str
    secret: str
    mode: str = "transport"
    suite: str = "aes128gcm16"
    esn: bool = True
    udp: bool = False  # ESP in UDP though there is no NAT
    certified: Certified | None = None
    unique: str = "no"  # strongSwan's: may a peer have two IKE SAs? Its own default


class End:
    """A daemon in the machine. Each kind has the scripts START, STOP and KILL, and the log LOG."""

    LOG = START = STOP = KILL = ""
    # Does it send with the old SA until that is deleted, where the other end rekeys?
    WAITS = True

    def __init__(self, machine):
        self.machine = machine

    def configure(self, told):
        """The script that writes its configuration."""
        raise NotImplementedError

    def start(self, told):
        """Runs it with the tunnel configured; it answers, and begins nothing by itself."""
        self.machine.run(f"{self.STOP}\n{self.configure(told)}", timeout=60)
        return self.start_again()

    def start_again(self):
        """Runs it as it was configured."""
        self.machine.run(self.START, timeout=120)
        return self

    def stop(self):
        self.machine.run(self.STOP, timeout=60)

    def kill(self):
        """It is gone from one moment to the next, and the kernel has forgotten its SAs: as when the power fails."""
        self.machine.run(f"{self.KILL}\n{FLUSH}")

    def begin(self):
        """Has it begin the negotiation."""
        raise NotImplementedError

    def rekey_child(self):
        raise NotImplementedError

    def rekey_ike(self):
        raise NotImplementedError

    def delete_child(self):
        """Has it delete the child SA."""
        raise NotImplementedError

    def spis(self):
        """The SPIs of the SAs in the machine's kernel."""
        return set(re.findall(r"spi 0x([0-9a-f]+)", self.machine.run("ip xfrm state")))

    def protection(self):
        """What the kernel's SAs are: mode, cipher, bits of key and salt, and whether their sequence numbers are extended."""
        found = set()
        for sa in re.split(r"^(?=src )", self.machine.run("ip xfrm state"), flags=re.M)[1:]:
            mode, cipher = re.search(r"mode (\w+)", sa)[1], re.search(r"aead (\S+) 0x([0-9a-f]+)", sa)
            found.add((mode, cipher[1], 4 * len(cipher[2]), bool(re.search(r"flag .*\besn\b", sa))))
        return found

    def text(self):
        """What it has logged."""
        return self.machine.run(f"cat {self.LOG} 2>/dev/null || true")

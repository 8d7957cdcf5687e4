"""strongSwan in the virtual machine, unmodified and with the kernel's own ESP: as the other end, or as whom Culvert follows.

The machine is a router: `eth0` on the WAN, `eth1` on a LAN.
"""

import base64
import re
from pathlib import Path

from routers import router_on_lan

PLUGINS = (
    "random nonce openssl pem pkcs1 pkcs8 x509 pubkey hmac kdf curve25519 gcm aes sha2 kernel-netlink socket-default vici"
).split()
CHARON, SWANCTL = "/usr/sbin/charon-systemd", "/usr/sbin/swanctl"
# Threads that are cancelled want the C compiler's library, which no program names.
GCC = "/lib/x86_64-linux-gnu/libgcc_s.so.1"
FILES = (GCC, CHARON, SWANCTL, *(f"/usr/lib/ipsec/plugins/libstrongswan-{name}.so" for name in PLUGINS))
IMAGE = ("strongswan", FILES)
MEMORY = 512  # MiB
VICI = "unix:///run/charon.vici"
DAEMON = f"""
charon-systemd {{
  load = {" ".join(PLUGINS)}
  install_routes = no
  install_virtual_ip = no
  plugins {{
    vici {{
      socket = {VICI}
    }}
  }}
  filelog {{
    lab {{
      path = /run/charon.log
      default = 1
      knl = 0
      flush_line = yes
    }}
  }}
}}
swanctl {{
  load = random openssl pem pkcs1 pkcs8 x509 pubkey
}}
"""


def file(path, text):
    """The command that writes a file in the machine."""
    return f"mkdir -p {Path(path).parent}; echo {base64.b64encode(text.encode()).decode()} | base64 -d >{path}"


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
        file("/etc/strongswan.conf", DAEMON),
    ]
    return "\n".join(lines)


FORWARD = "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"

START = f"""
export STRONGSWAN_CONF=/etc/strongswan.conf
rm -f /run/charon.vici /run/charon.log
{CHARON} >/run/charon.out 2>&1 &
for i in $(seq 600); do [ -S /run/charon.vici ] && exit 0; sleep 0.1; done
cat /run/charon.out; exit 1
"""

STOP = """
killall -q charon-systemd || true
for i in $(seq 100); do pidof charon-systemd >/dev/null || break; sleep 0.1; done
ip xfrm state flush
ip xfrm policy flush
"""


def connection(local, remote, mode, suite, secret, esn=True):
    """swanctl.conf of the foreign end: GRE between the two ends, as strongSwan's own documentation has it."""
    numbers = "esn" if esn else "noesn"
    return f"""
connections {{
  lab {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {suite}-prfsha256-x25519
    local {{
      auth = psk
      id = {local}
    }}
    remote {{
      auth = psk
      id = {remote}
    }}
    children {{
      lab {{
        mode = {mode}
        local_ts = dynamic[47]
        remote_ts = dynamic[47]
        esp_proposals = {suite}-x25519-{numbers}
        replay_window = 1024
      }}
    }}
  }}
}}
secrets {{
  ike-lab {{
    id = {remote}
    secret = "{secret}"
  }}
}}
"""


class Foreign:
    """strongSwan in the machine."""

    def __init__(self, machine):
        self.machine = machine

    def start(self, configuration):
        self.machine.run(STOP + file("/etc/swanctl/swanctl.conf", configuration))
        self.machine.run(START, timeout=70)
        self.swanctl("--load-all")
        return self

    def stop(self):
        self.machine.run(STOP, timeout=30)

    def swanctl(self, *words, check=True):
        return self.machine.run(f"STRONGSWAN_CONF=/etc/strongswan.conf {SWANCTL} {' '.join(words)} --uri {VICI}", timeout=60, check=check)

    def spis(self):
        """The SPIs of the SAs in the machine's kernel."""
        return set(re.findall(r"spi 0x([0-9a-f]+)", self.machine.run("ip xfrm state")))

    def text(self):
        """What charon has logged."""
        return self.machine.run("cat /run/charon.log 2>/dev/null || true")

"""strongSwan in the virtual machine, unmodified and with the kernel's own ESP: as the other end, or as whom Culvert follows."""

from vm.end import FLUSH, End
from vm.machine import file

PLUGINS = (
    "random nonce openssl pem pkcs1 pkcs8 x509 pubkey hmac kdf curve25519 gcm aes sha2 kernel-netlink socket-default vici"
).split()
CHARON, SWANCTL = "/usr/sbin/charon-systemd", "/usr/sbin/swanctl"
# Threads that are cancelled want the C compiler's library, which no program names.
GCC = "/lib/x86_64-linux-gnu/libgcc_s.so.1"
FILES = (GCC, CHARON, SWANCTL, *(f"/usr/lib/ipsec/plugins/libstrongswan-{name}.so" for name in PLUGINS))
VICI = "unix:///run/charon.vici"
DAEMON = f"""
charon-systemd {{
  load = {" ".join(PLUGINS)}
  install_routes = no
  install_virtual_ip = no
  retransmit_tries = 3
  retransmit_timeout = 1
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

START = f"""
{file("/etc/strongswan.conf", DAEMON)}
export STRONGSWAN_CONF=/etc/strongswan.conf
rm -f /run/charon.vici /run/charon.log
{CHARON} >/run/charon.out 2>&1 &
for i in $(seq 600); do [ -S /run/charon.vici ] && exit 0; sleep 0.1; done
cat /run/charon.out; exit 1
"""

STOP = f"""
killall -q charon-systemd || true
for i in $(seq 100); do pidof charon-systemd >/dev/null || break; sleep 0.1; done
{FLUSH}
"""


def connection(told):
    """swanctl.conf of the foreign end: GRE between the two ends, as strongSwan's own documentation has it."""
    numbers = "esn" if told.esn else "noesn"
    local, remote = f"auth = psk\n      id = {told.local}", f"auth = psk\n      id = {told.remote}"
    if told.certified:
        local = f"auth = pubkey\n      certs = lab.pem\n      id = {told.certified.name}"
        remote = f"auth = pubkey\n      id = {told.certified.far_name}"
    return f"""
connections {{
  lab {{
    version = 2
    local_addrs = {told.local}
    remote_addrs = {told.remote}
    proposals = {told.suite}-prfsha256-x25519
    dpd_delay = 2s
    encap = {"yes" if told.udp else "no"}
    mobike = no
    unique = {told.unique}
    local {{
      {local}
    }}
    remote {{
      {remote}
    }}
    children {{
      lab {{
        mode = {told.mode}
        local_ts = dynamic[47]
        remote_ts = dynamic[47]
        esp_proposals = {told.suite}-x25519-{numbers}
        replay_window = 1024
      }}
    }}
  }}
}}
secrets {{
  ike-lab {{
    id = {told.remote}
    secret = "{told.secret}"
  }}
}}
"""


class StrongSwan(End):
    """charon and swanctl."""

    LOG, START, STOP = "/run/charon.log", START, STOP
    KILL = "killall -KILL charon-systemd; while pidof charon-systemd >/dev/null; do sleep 0.1; done"

    def configure(self, told):
        files = {"swanctl.conf": connection(told)}
        if told.certified:
            of = told.certified
            files |= {"x509ca/ca.pem": of.ca.read_bytes(), "x509/lab.pem": of.certificate.read_bytes(), "private/lab.key": of.key.read_bytes()}
        return "\n".join(file(f"/etc/swanctl/{name}", content) for name, content in files.items())

    def start_again(self):
        super().start_again()
        self.swanctl("--load-all")
        return self

    def begin(self):
        self.swanctl("--initiate", "--child", "lab", "--timeout", "-1", check=False)

    def rekey_child(self):
        self.swanctl("--rekey", "--child", "lab", check=False)

    def rekey_ike(self):
        self.swanctl("--rekey", "--ike", "lab", check=False)

    def delete_child(self):
        self.swanctl("--terminate", "--child", "lab", check=False)

    def swanctl(self, *words, check=True):
        return self.machine.run(f"STRONGSWAN_CONF=/etc/strongswan.conf {SWANCTL} {' '.join(words)} --uri {VICI}", timeout=60, check=check)

"""strongSwan's daemon, charon, on a lab's router: an unmodified one, with Culvert's plugin beside its own."""

import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from netns import command, wait_for

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = Path(os.environ.get("CULVERT_CHARON", ROOT / "target/release/libstrongswan_culvert.so"))
LOADED = "random nonce openssl pem pkcs1 pkcs8 x509 pubkey hmac kdf curve25519 gcm aes sha2 constraints revocation culvert"
LOADED += " kernel-netlink socket-default vici eap-identity eap-mschapv2 eap-tls"
READY = 10.0  # seconds


@dataclass(frozen=True)
class Strongswan:
    """An installed strongSwan: its daemon and what this calls its settings, the folder of its plugins, more of those to load, and the
    folder where it notes that it runs, if it does."""

    charon: Path
    section: str
    plugins: Path
    more: str = ""
    run: Path | None = None


SYSTEM = Strongswan(Path("/usr/sbin/charon-systemd"), "charon-systemd", Path("/usr/lib/ipsec/plugins"))


def installed_in(prefix):
    """A strongSwan that was built from source with that --prefix, --with-piddir=PREFIX/run, and --enable-ml."""
    prefix = Path(prefix)
    return Strongswan(prefix / "libexec/ipsec/charon", "charon", prefix / "lib/ipsec/plugins", " sha3 ml", prefix / "run")


@dataclass(frozen=True)
class Sa:
    """A child SA as charon lists it."""

    spi_in: int
    spi_out: int
    state: str


class Charon:
    """charon in a router's namespace. It listens for VICI at `vici`, and its plugin looks for Culvert beside the daemon's socket."""

    def __init__(self, router, settings=""):
        self.router, self.settings, self.loaded, self.strongswan = router, settings, LOADED, SYSTEM
        self.namespace = router.namespace
        record = self.namespace.lab.run.record
        self.vici = record / f"{self.namespace.name}.vici"
        self.folder = self.namespace.lab.folder / f"{self.namespace.label}-charon"
        self.log = self.folder / "log"
        self.process, self.starts = None, 0

    def start(self):
        """Runs it until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        strongswan, plugins = self.strongswan, self.folder / "plugins"
        if not plugins.exists():
            shutil.copytree(strongswan.plugins, plugins)
            shutil.copy(PLUGIN, plugins / "libstrongswan-culvert.so")
        self.vici.unlink(missing_ok=True)
        configuration = self.folder / "strongswan.conf"
        configuration.write_text(
            f"""{strongswan.section} {{
  load = {self.loaded}{strongswan.more}
  install_routes = no
  install_virtual_ip = no
  delete_rekeyed_delay = 1
  retransmit_tries = 2
  retransmit_timeout = 1
  {self.settings}
  plugins {{
    vici {{
      socket = unix://{self.vici}
    }}
  }}
  filelog {{
    lab {{
      path = {self.log}
      default = 1
      flush_line = yes
    }}
  }}
}}
"""
        )
        self.starts += 1
        # Its own plugins and ours are one folder to it, and to nobody else.
        inside = f"mount --bind {plugins} {strongswan.plugins} && exec {strongswan.charon}"
        if strongswan.run:
            inside = f"mount -t tmpfs none {strongswan.run} && {inside}"
        self.process = self.namespace.start(
            "unshare", "-m", "env", f"STRONGSWAN_CONF={configuration}", f"CULVERT_KEYS={self.router.socket}.keys",
            "sh", "-c", inside, name=f"charon-{self.starts}",
        )
        wait_for(self.vici.exists, READY, f"charon on {self.namespace.label}: {self.process.text()}")
        return self

    def stop(self, sign=signal.SIGTERM):
        """Ends it: well, or with SIGKILL at once."""
        self.process.stop(sign, 10)

    def swanctl(self, *words, check=True):
        return command("swanctl", *words, "--uri", f"unix://{self.vici}", check=check, timeout=30).stdout

    def sas(self):
        """The child SAs that are installed."""
        text = self.swanctl("--list-sas", "--raw")
        children = re.findall(r"state=(INSTALLED|REKEYING|REKEYED)[^}]*? spi-in=(\w+) spi-out=(\w+)", text)
        return [Sa(int(spi_in, 16), int(spi_out, 16), state) for state, spi_in, spi_out in children]

    def text(self):
        """What it has logged."""
        return self.log.read_text() if self.log.exists() else ""

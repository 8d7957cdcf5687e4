"""FRR's daemons in a namespace, with configuration, sockets and process numbers of their own."""

import json
import shutil
import tempfile
from pathlib import Path

from netns import wait_for

DAEMONS = Path("/usr/lib/frr")


class Frr:
    """zebra and one or more protocol daemons. `configurations`: the text of each daemon's configuration, by its name."""

    def __init__(self, namespace, **configurations):
        self.namespace = namespace
        # FRR's sockets lie here (the path of a UNIX socket is short); the daemons give up root for a user of their own.
        self.folder = Path(tempfile.mkdtemp(prefix=f"{namespace.name}-", dir=namespace.lab.run.record))
        shutil.chown(self.folder, "frr", "frr")
        self.processes = {}
        for daemon, text in ({"zebra": ""} | configurations).items():
            self._start(daemon, text)

    def _start(self, daemon, text):
        file = self.folder / f"{daemon}.conf"
        file.write_text(f"hostname {self.namespace.label}\nlog stdout\n{text}\n")
        words = [DAEMONS / daemon, "-f", file, "-i", self.folder / f"{daemon}.pid", "-z", self.folder / "zserv.api"]
        words += ["--vty_socket", self.folder, "-P", 0]
        self.processes[daemon] = self.namespace.start(*words, name=daemon)
        wait_for((self.folder / f"{daemon}.vty").exists, 5, f"{daemon} listens")

    def ask(self, daemon, question):
        """What a daemon says to a question of vtysh, as JSON."""
        done = self.namespace.run(
            "vtysh", "--vty_socket", self.folder, "-d", daemon, "-c", f"{question} json", check=False
        )
        return json.loads(done.stdout or "{}")

    def tell(self, daemon, *lines):
        """Gives a daemon lines of configuration."""
        words = [word for line in ("configure terminal", *lines) for word in ("-c", line)]
        self.namespace.run("vtysh", "--vty_socket", self.folder, "-d", daemon, *words)

    def stop(self, daemon):
        self.processes[daemon].stop()

"""A virtual machine in a lab's namespace: a Debian kernel under QEMU, without hardware help, on a TAP interface there.

`Machine` starts it, `ready` waits for its agent, `run` runs a shell script in it. It has a network interface for each TAP
interface, `eth0` and so on.
"""

import base64
import socket
from pathlib import Path

from netns import Trouble, wait_for
from vm.image import PLAIN, image

# Frames leave the machine complete: no checksum is left to do, and none is longer than the MTU.
CARD = "virtio-net-pci,netdev=net{},mac={},romfile=,csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off"
BOOT = 180.0  # seconds; 3 to 5 on a machine with nothing else to do


def file(path, content):
    """The command that writes a file in the machine, of text or of bytes."""
    content = content.encode() if isinstance(content, str) else content
    return f"mkdir -p {Path(path).parent}; echo {base64.b64encode(content).decode()} | base64 -d >{path}"


class Machine:
    """A virtual machine, and the line to its agent."""

    def __init__(self, namespace, tap, number, lan=None, kind=PLAIN, memory=256):
        folder = image(kind)
        self.lab, self.name = namespace.lab, tap
        self.path = namespace.lab.run.record / f"{namespace.name}-{tap}.sock"
        self.log = namespace.lab.folder / f"{tap}.console"
        cards = []
        for place, end in enumerate([tap, lan] if lan else [tap]):
            namespace.ip(f"tuntap add {end} mode tap", f"link set {end} up")
            cards += ["-netdev", f"tap,id=net{place},ifname={end},script=no,downscript=no,vnet_hdr=off"]
            cards += ["-device", CARD.format(place, f"02:00:00:00:{10 + place:02x}:{number:02x}")]
        words = "qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none -accel tcg -cpu max -smp 1"
        self.process = namespace.start(
            *words.split(),
            *("-m", str(memory)),
            *("-kernel", folder / "vmlinuz", "-initrd", folder / "initrd"),
            *("-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off"),
            *("-serial", f"file:{self.log}"),
            *cards,
            *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=agent,path={self.path},server=on,wait=off"),
            *("-device", "virtserialport,chardev=agent,name=agent"),
            name=f"qemu-{tap}",
        )
        self.line, self.unread = None, b""

    def ready(self):
        """Waits until the agent answers."""
        wait_for(self._connected, 10, f"{self.name}'s monitor listens")
        self.run("ip link set lo up; ip link set eth0 up", timeout=BOOT)
        return self

    def _connected(self):
        if not self.process.running:
            raise Trouble(f"{self.name}: {self.process.text()}")
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(str(self.path))
        except OSError:
            line.close()
            return False
        self.line = line
        return True

    def run(self, script, timeout=20.0, check=True):
        """Runs a shell script; returns what it printed. A command that fails ends it."""
        self.line.settimeout(timeout)
        try:
            self.line.sendall(base64.b64encode(f"set -e\n{script}\n".encode()) + b"\n")
            status, _, printed = self._answer().partition(b" ")
        except OSError as trouble:
            raise Trouble(f"{self.name}: {trouble} after:\n{script}\n{self.console()}") from None
        text = base64.b64decode(printed).decode(errors="replace")
        if check and int(status) != 0:
            raise Trouble(f"{self.name}: exit {int(status)} of:\n{script}\n{text}\n{self.console()}")
        return text

    def _answer(self):
        while b"\n" not in self.unread:
            part = self.line.recv(65536)
            if not part:
                raise OSError("the machine is gone")
            self.unread += part
        answer, _, self.unread = self.unread.partition(b"\n")
        return answer

    def console(self):
        """The end of what its kernel has said."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

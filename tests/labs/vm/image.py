"""Builds what the virtual machine boots: a Debian kernel, and an initramfs with busybox, `ip`, iperf3, ethtool and the modules for GRE and ESP.

(1) downloads the kernel's and busybox's packages with apt, and those that an image has of its own, and installs none, (2) takes the other
programs with their libraries from this system, (3) finds the modules that the wanted ones depend on, (4) writes kernel and
initramfs into the cache, under a name that depends on all of these. There are several images, each with programs of its own (`PLAIN`,
`vm.strongswan`, `vm.libreswan`, `vm.openiked`). `python image.py` prints the folder of the plain one.
"""

import fcntl
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("CULVERT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "culvert")
KERNEL = "linux-image-cloud-amd64"  # no drivers for hardware, all of the network
PROGRAMS = ("/sbin/ip", "/usr/bin/iperf3", "/usr/sbin/ethtool")


class Kind(NamedTuple):
    """What an image has of its own: files, where they are here or in these packages, and goes there."""

    name: str
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


PLAIN = Kind("plain")
# `ansi_cprng`: the IV generators ask for a random number generator, and this one has no boot-time trials.
MODULES = """
virtio_pci virtio_net virtio_console virtio-rng dummy tun
gre ip_gre ip6_gre fou fou6
esp4 esp6 xfrm_user xfrm_algo af_key seqiv echainiv gcm ctr ghash-generic aesni-intel
chacha_generic chacha20poly1305 poly1305_generic ansi_cprng
""".split()


def sh(*words, **options):
    return subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True, **options).stdout


def kernel_package():
    """The package of the newest kernel image, by the name of its version."""
    found = re.search(r"Depends: (linux-image-\S+)", sh("apt-cache", "depends", KERNEL))
    if not found:
        sh("apt-get", "update", "-qq")
        found = re.search(r"Depends: (linux-image-\S+)", sh("apt-cache", "depends", KERNEL))
    return found[1]


def download(package, folder):
    """Unpacks a package into `folder`."""
    with tempfile.TemporaryDirectory() as place:
        sh("apt-get", "download", package, cwd=place)
        (archive,) = Path(place).glob("*.deb")
        sh("dpkg-deb", "-x", archive, folder)


def module_file(modules, name):
    """The file of a module: its name has `-` or `_`, as it likes."""
    pattern = re.sub("[-_]", "[-_]", name) + ".ko"
    found = [path for path in modules.rglob("*.ko") if re.fullmatch(pattern, path.name)]
    return found[0] if found else None


def dependencies(path):
    found = re.search(rb"depends=([^\0]*)\0", path.read_bytes())
    return [name for name in found[1].decode().split(",") if name] if found else []


def in_order(modules, wanted):
    """The files of the wanted modules, each behind those it depends on. What is no module is part of the kernel."""
    order = []

    def add(name):
        path = module_file(modules, name)
        if path is not None and path not in order:
            for other in dependencies(path):
                add(other)
            order.append(path)

    for name in wanted:
        add(name)
    return order


def needed(packages):
    """The packages, and those that they depend on and this system lacks. Asking changes nothing here."""
    if not packages:
        return []
    told = sh("apt-get", "install", "--simulate", "--no-install-recommends", *packages)
    return sorted({*packages, *re.findall(r"^Inst (\S+)", told, re.M)})


class Root:
    """The system with packages laid over it: where a file is by its path."""

    def __init__(self, folder):
        self.folder = folder

    def file(self, path):
        unpacked = self.folder / str(path).lstrip("/")
        return unpacked if unpacked.is_file() else Path(path)

    def libraries(self, program):
        """The paths of what the loader needs for a program."""
        places = [self.folder / place for place in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")]
        told = sh("ldd", self.file(program), env={**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, places))})
        missing = re.findall(r"(\S+) => not found", told)
        if missing:
            raise RuntimeError(f"{program} wants {missing}")
        found = re.findall(r"(?:=> |^\s*)(/\S+) \(", told, re.M)
        return [path.removeprefix(str(self.folder)) for path in found]


def archive(files):
    """A cpio archive (the kernel's Documentation/driver-api/early-userspace/buffer-format): path, mode and content of each."""
    out = bytearray()
    entries = [*files, ("TRAILER!!!", 0, b"")]
    for number, (path, mode, content) in enumerate(entries, start=1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)


def tree(contents):
    """The archive's entries for `contents` (path: (mode, bytes)), with the folders that they lie in."""
    folders = {"dev", "proc", "sys", "run", "tmp", "modules", "bin", "tools"}
    for path in contents:
        folders |= {str(parent) for parent in Path(path).parents} - {"."}
    entries = [(folder, 0o040755, b"") for folder in sorted(folders)]
    return entries + [(path, 0o100000 | mode, content) for path, (mode, content) in sorted(contents.items())]


def build(folder, kind):
    with tempfile.TemporaryDirectory() as place:
        unpacked = Path(place)
        for package in (kernel_package(), "busybox-static", *needed(kind.packages)):
            download(package, unpacked)
        root = Root(unpacked)
        sh("gcc", "-O2", "-Wall", "-Werror", "-static", "-o", unpacked / "espinudp", HERE / "espinudp.c")
        contents = {"init": (0o755, (HERE / "init").read_bytes())}
        for path in ("bin/busybox", "espinudp"):
            contents[f"bin/{Path(path).name}"] = (0o755, (unpacked / path).read_bytes())
        for program in PROGRAMS:
            contents[f"tools/{Path(program).name}"] = (0o755, Path(program).read_bytes())
        for path in kind.files:
            contents[path.lstrip("/")] = (0o755, root.file(path).read_bytes())
        for program in (*PROGRAMS, *kind.files):
            for library in root.libraries(program):
                contents[library.lstrip("/")] = (0o755, root.file(library).read_bytes())
        order = in_order(unpacked / "lib/modules", MODULES)
        for path in order:
            contents[f"modules/{path.name}"] = (0o644, path.read_bytes())
        contents["modules/order"] = (0o644, "".join(f"{path.name}\n" for path in order).encode())
        (folder / "initrd").write_bytes(gzip.compress(archive(tree(contents)), 1))
        (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, folder / "vmlinuz")


def image(kind=PLAIN):
    """The folder with `vmlinuz` and `initrd`, built where it is not there yet."""
    parts = [path.read_bytes() for path in (HERE / "init", HERE / "espinudp.c", Path(__file__))]
    parts += [repr(kind).encode()]
    parts += [path.read_bytes() for path in map(Path, (*PROGRAMS, *kind.files)) if path.exists()]
    images = CACHE / "vm"
    images.mkdir(parents=True, exist_ok=True)
    folder = images / f"{kind.name}-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}"
    # Several runs of labs may want it at once; one builds it.
    with open(images / f"{kind.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            build(partial, kind)
            for old in images.glob(f"{kind.name}-*"):
                if old != partial:
                    shutil.rmtree(old, ignore_errors=True)
            partial.rename(folder)
    return folder


if __name__ == "__main__":
    sys.stdout.write(f"{image()}\n")

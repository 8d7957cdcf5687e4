"""Builds what the virtual machine boots: a Debian kernel, and an initramfs with busybox, `ip`, iperf3, ethtool and the modules for GRE and ESP.

(1) downloads the kernel's and busybox's packages with apt, and installs neither, (2) takes the other programs with their libraries from
this system, (3) finds the modules that the wanted ones depend on, (4) writes kernel and initramfs into the cache, under a name
that depends on all of these. There are several images, each with programs of its own (`PLAIN`, `vm.strongswan`). `python image.py` prints the
folder of the plain one.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("CULVERT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "culvert")
KERNEL = "linux-image-cloud-amd64"  # no drivers for hardware, all of the network
PROGRAMS = ("/sbin/ip", "/usr/bin/iperf3", "/usr/sbin/ethtool")
PLAIN = ("plain", ())  # an image: its name, and files of this system that it has beside PROGRAMS, where they are here
# `ansi_cprng`: the IV generators ask for a random number generator, and this one has no boot-time trials.
MODULES = """
virtio_pci virtio_net virtio_console virtio-rng dummy tun
gre ip_gre ip6_gre fou fou6
esp4 esp6 xfrm_user xfrm_algo seqiv echainiv gcm ctr ghash-generic aesni-intel
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


def libraries(program):
    """The files that the loader needs for a program."""
    return re.findall(r"(/\S+)", re.sub(r".*=>", "", sh("ldd", program)).replace(f"{program}:", ""))


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


def build(folder, files):
    with tempfile.TemporaryDirectory() as place:
        unpacked = Path(place)
        for package in (kernel_package(), "busybox-static"):
            download(package, unpacked)
        sh("gcc", "-O2", "-Wall", "-Werror", "-static", "-o", unpacked / "espinudp", HERE / "espinudp.c")
        contents = {"init": (0o755, (HERE / "init").read_bytes())}
        for path in ("bin/busybox", "espinudp"):
            contents[f"bin/{Path(path).name}"] = (0o755, (unpacked / path).read_bytes())
        for program in PROGRAMS:
            contents[f"tools/{Path(program).name}"] = (0o755, Path(program).read_bytes())
        for path in files:
            contents[str(path).lstrip("/")] = (0o755, Path(path).read_bytes())
        for program in (*PROGRAMS, *files):
            for library in libraries(program):
                contents[library.lstrip("/")] = (0o755, Path(library).read_bytes())
        order = in_order(unpacked / "lib/modules", MODULES)
        for path in order:
            contents[f"modules/{path.name}"] = (0o644, path.read_bytes())
        contents["modules/order"] = (0o644, "".join(f"{path.name}\n" for path in order).encode())
        (folder / "initrd").write_bytes(gzip.compress(archive(tree(contents)), 1))
        (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, folder / "vmlinuz")


def image(kind=PLAIN):
    """The folder with `vmlinuz` and `initrd`, built where it is not there yet."""
    name, files = kind
    parts = [path.read_bytes() for path in (HERE / "init", HERE / "espinudp.c", Path(__file__))]
    parts += [str(path).encode() + Path(path).read_bytes() for path in (*PROGRAMS, *files)]
    folder = CACHE / "vm" / f"{name}-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        build(partial, files)
        for old in (CACHE / "vm").glob(f"{name}-*"):
            if old != partial:
                shutil.rmtree(old, ignore_errors=True)
        partial.rename(folder)
    return folder


if __name__ == "__main__":
    sys.stdout.write(f"{image()}\n")

"""What `tests/labs/figures` runs: TCP between h1 and h2 (see README.md), by each way of joining the two sites in turn, as a table.

Each way has namespaces of its own, made and removed around it, and all have the same links: veth, 1500 bytes, no offloads. The
machine's cores are shared by two hosts, two routers and what is between them: compare ratios.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "witness")]

from netns import Run, wait_for  # noqa: E402 (the path has to be there first)
from routers import CULVERT, GRE, TRANSPORT, Sites, far, host, kernel_routes_between, lan_network  # noqa: E402
from traffic import iperf, tcp_rate, wait_ping  # noqa: E402

COLUMNS = ["1 flow", "1 flow, back", "4 flows"]
SECRET = "of no value"
FILE = object()  # stands for the configuration's file in a command


def plain(sites):
    """The routers' kernels forward, without a tunnel."""
    kernel_routes_between(sites)


def culvert(carrier):
    return lambda sites: sites.start(carrier)


def libipsec(sites):
    """strongSwan with ESP in user space (kernel-libipsec): AES-128-GCM in UDP, tunnel mode between the LANs, without GRE."""
    for site, router in sites.routers.items():
        router.namespace.forward()
        folder = router.namespace.lab.folder / f"swan{site}"
        folder.mkdir(parents=True)
        socket = f"unix://{router.socket}.vici"
        (folder / "strongswan.conf").write_text(
            f"""charon-systemd {{
                load = random nonce openssl kdf kernel-libipsec kernel-netlink socket-default vici
                plugins {{ vici {{ socket = {socket} }} }}
                journal {{ default = -1 }}
            }}
            swanctl {{ load = random openssl }}
            """
        )
        (folder / "swanctl.conf").write_text(
            f"""connections {{ sites {{
                version = 2
                local_addrs = {sites.wan(site, 4)}
                remote_addrs = {sites.wan(far(site), 4)}
                proposals = aes128gcm16-prfsha256-x25519
                mobike = no
                local {{ auth = psk
                    id = r{site} }}
                remote {{ auth = psk
                    id = r{far(site)} }}
                children {{ lans {{
                    local_ts = {lan_network(site, 4)}
                    remote_ts = {lan_network(far(site), 4)}
                    esp_proposals = aes128gcm16-x25519
                }} }}
            }} }}
            secrets {{ ike {{ secret = "{SECRET}" }} }}
            """
        )
        environment = {**os.environ, "STRONGSWAN_CONF": str(folder / "strongswan.conf"), "SWANCTL_DIR": str(folder)}
        router.namespace.start("charon-systemd", name="charon", env=environment)
        router.swanctl = lambda *words, of=router, env=environment, at=socket: of.namespace.run(
            "swanctl", *words, "--uri", at, env=env, check=False
        )
        wait_for(lambda: router.swanctl("--load-all").returncode == 0, 10, "charon takes its connections", interval=0.2)
    done = sites.r1.swanctl("--initiate", "--child", "lans")
    if done.returncode != 0:
        raise SystemExit(f"strongSwan: {done.stdout}{done.stderr}")


WAYS = {
    "kernel forwarding, no tunnel": plain,
    "Culvert, GRE": culvert(GRE),
    "Culvert, GRE in ESP, AES-128-GCM": culvert(TRANSPORT),
    "strongSwan kernel-libipsec, ESP, AES-128-GCM": libipsec,
}


def measure(run, name, prepare, seconds):
    with tempfile.TemporaryDirectory() as folder, run.lab(Path(folder)) as lab:
        sites = Sites(lab)
        prepare(sites)
        wait_ping(sites.h1, host(2, 4))

        def rate(**options):
            return tcp_rate(iperf(sites.h1, sites.h2, host(2, 4), seconds=seconds, **options)) / 1000

        return [rate(), rate(reverse=True), rate(flows=4)]


def tunnels(count):
    """IP tunnels with ESP, each with a prefix and an address of its own."""
    lines = []
    for number in range(count):
        high, low = number // 250, number % 250 + 1
        lines += [
            f'[[tunnel]]\nname = "t{number}"\nlocal = "192.0.2.1"\nremote = "198.18.{high}.{low}"',
            f'inner = "172.28.{high}.{low}/32"\nroutes = ["10.{128 + high // 250}.{high % 250}.{low}/32"]\n[tunnel.protect]',
        ]
        for direction, first in (("in", 1), ("out", 2)):
            lines.append(
                f'[[tunnel.protect.manual]]\ndirection = "{direction}"\nspi = {0x10000 + number}\n'
                f'suite = "aes128gcm16"\nkey = "{first:02x}{number:038x}"'
            )
    return "\n".join(["", *lines, ""])


def measure_tunnels(run, count):
    """Seconds from the start to `ready`, and that an `apply` takes: where all tunnels come, one changes, none does, and all go; and
    how long the daemon had a processor meanwhile."""
    with tempfile.TemporaryDirectory() as folder, run.lab(Path(folder)) as lab:
        sites = Sites(lab)
        router, base, many = sites.r1, sites.configuration(1, GRE), tunnels(count)

        def timed(*words, name, text):
            file = router.file.with_name(f"{name}.toml")
            file.write_text(text)
            file.chmod(0o600)
            begun = time.monotonic()
            process = router.namespace.start(CULVERT, *(file if word is FILE else word for word in words), name=name)
            return process, begun

        def started(text):
            process, begun = timed("run", "-c", FILE, "--socket", router.socket, name="run", text=text)
            process.wait_ready(timeout=60)
            return process, time.monotonic() - begun

        def used(process):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        daemon, ready = started(base + many)
        seconds = {"start to `ready`": (ready, used(daemon))}
        daemon.stop(timeout=60)
        daemon, _ = started(base)
        other = base + many.replace('name = "t7"', 'name = "seven"', 1)
        for what, text in (("all come", base + many), ("one changes", other), ("nothing changes", other), ("all go", base)):
            before = used(daemon)
            process, begun = timed("apply", FILE, "--socket", router.socket, name="apply", text=text)
            if process.wait(60) != 0:
                raise SystemExit(process.text())
            seconds[f"apply: {what}"] = (time.monotonic() - begun, used(daemon) - before)
        daemon.stop(timeout=60)
        return seconds


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else platform.machine()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=3, help="of each figure")
    parser.add_argument("--tunnels", type=int, help="measure instead how long this many tunnels take to start and to apply")
    options = parser.parse_args()
    if options.tunnels:
        run = Run()
        try:
            seconds = measure_tunnels(run, options.tunnels)
        finally:
            run.close()
        print(f"{options.tunnels} tunnels, seconds; {processor()}, Linux {platform.release()}\n")
        print(f"{'':24}  passed  daemon's processor time")
        for what, (passed, worked) in seconds.items():
            print(f"{what:24}  {passed:6.2f}  {worked:6.2f}")
        return
    print(f"iperf3, TCP over IPv4, Gbit/s, {options.seconds} s each; {processor()}, Linux {platform.release()}\n")
    width = max(map(len, WAYS))
    print(f"{'':{width}}  " + "  ".join(f"{column:>12}" for column in COLUMNS))
    run = Run()
    try:
        for name, prepare in WAYS.items():
            rates = measure(run, name, prepare, options.seconds)
            print(f"{name:{width}}  " + "  ".join(f"{rate:12.2f}" for rate in rates), flush=True)
    finally:
        run.close()


if __name__ == "__main__":
    main()

"""The daemon itself: what it shows, who may ask, how it starts, idles and ends."""

import json
import os
import signal
import socket
import stat
import time
from pathlib import Path

from netns import wait_for
from routers import CULVERT, GRE, TRANSPORT, Sites, far, host, link
from traffic import ping, wait_ping

WHAT = ["ports", "workers", "tunnels", "sas", "routes", "neighbours", "drops", "config"]


def run_once(router, *words):
    """Runs the binary on a router to its end, whatever that is."""
    return router.namespace.run(CULVERT, *words, check=False)


def ask(router, line):
    """The daemon's answer to one line on its socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(router.socket))
        client.sendall(line)
        return json.loads(client.makefile().readline())


def test_show(sites):
    """Everything can be shown, as a table that fits 80 columns and as JSON, and says what there is; no key is ever shown."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    assert ping(sites.h1, host(2, 4), count=20).loss == 0
    router = sites.r1
    for what in WHAT:
        done = run_once(router, "show", what, "--socket", router.socket)
        assert done.returncode == 0, done.stderr
        if what != "config":
            assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
        assert TRANSPORT.outbound(1).key.hex() not in done.stdout
    ports = router.show("ports")
    for name, port in ports.items():
        [told] = router.namespace.ip_json(f"link show dev {name}")
        assert (port["mac"], port["mtu"], port["health"]) == (told["address"], told["mtu"], "attached")
        assert port["mode"].startswith("xdp, ") and port["rx"] >= 20 and port["tx"] >= 20
    sas = {sa["direction"]: sa for sa in router.show("sas")["oslo"]}
    assert sas["out"]["used"] >= 20 and sas["in"]["highest"] >= 20
    routes = {route["prefix"]: route["to"] for route in router.show("routes")}
    assert routes["0.0.0.0/0"] == f"port wan via {sites.gateway(1, 4)}" and routes["10.2.0.0/24"] == "tunnel oslo"
    addresses = {(station["port"], station["address"]) for station in router.show("neighbours")}
    assert {("wan", sites.gateway(1, 4)), ("lan", host(1, 4))} <= addresses


def test_why_a_tunnel_is_down(sites):
    """Without a way to the far end, and again with one."""
    sites.start(GRE)
    wait_ping(sites.h1, host(2, 4))
    router = sites.r1
    router.namespace.ip("route del default")
    wait_for(lambda: router.tunnel()["state"] == "down", 3, "the tunnel is down")
    assert router.tunnel()["why"] == "no way out"
    router.namespace.ip(f"route add default via {sites.gateway(1, 4)}")
    wait_for(lambda: router.tunnel()["state"] == "up", 3, "the tunnel is up")
    assert ping(sites.h1, host(2, 4), count=10).loss == 0


def test_a_route_into_a_tunnel_moves_none(sites):
    """A default route into the tunnel, as a routing daemon might learn it, leaves the tunnel on the way that it has."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    router = sites.r1
    router.namespace.ip("route replace default dev oslo")
    wait_for(lambda: router.tunnel().get("nesting"), 3, "the way is kept")
    assert router.tunnel()["state"] == "up" and ping(sites.h1, host(2, 4), count=20).loss == 0
    router.namespace.ip(f"route replace default via {sites.gateway(1, 4)}")
    # It follows the routes again once they have been right for ten seconds.
    wait_for(lambda: not router.tunnel().get("nesting"), 13, "the way is the routes' again")
    assert ping(sites.h1, host(2, 4), count=20).loss == 0


def test_two_workers(lab):
    """A port with more queues than others, and two workers that share one tunnel."""
    sites = Sites(lab, queues=2)
    sites.start(TRANSPORT, engine="workers = 2")
    wait_ping(sites.h1, host(2, 4))
    assert ping(sites.h1, host(2, 4), count=50, interval=0.01).loss == 0
    assert [worker["worker"] for worker in sites.r1.show("workers")] == [0, 1]
    assert all(port["queues"] == 2 for port in sites.r1.show("ports").values())


def test_idle(sites):
    """An idle router uses hardly any processor time."""
    sites.start(GRE)
    wait_ping(sites.h1, host(2, 4))

    def used():
        fields = Path(f"/proc/{sites.r1.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    time.sleep(0.5)
    before = used()
    time.sleep(2)
    assert used() - before < 0.2


def test_the_socket(sites):
    """It is its owner's alone; nonsense is answered; a second daemon is refused, and takes the place of one that was killed."""
    sites.start(GRE)
    router = sites.r1
    assert stat.S_IMODE(os.stat(router.socket).st_mode) == 0o600
    assert ask(router, b'{"version":1,"command":"show","what":"drops"}\n')["ok"] is True
    for line in (b"\n", b"{}\n", b"\xff\n", b'{"version":9,"command":"show","what":"drops"}\n', b"[" * 100_000 + b"\n"):
        answer = ask(router, line)
        assert answer["ok"] is False and answer["error"]
    second = run_once(router, "run", "-c", router.file, "--socket", router.socket)
    assert second.returncode == 1 and "another daemon listens there" in second.stderr
    router.daemon.kill()
    assert router.socket.exists()
    router.start()
    wait_ping(sites.h1, host(2, 4))
    router.stop()
    assert not router.socket.exists()


def test_fixed_keys_go_on(sites):
    """SAs with fixed keys go on beyond the numbers that the process before may have used, however it ended: the far end takes their packets."""
    sites.start(TRANSPORT)
    router, used = sites.r1, []
    for how in (signal.SIGTERM, signal.SIGKILL, None):
        wait_ping(sites.h1, host(2, 4), timeout=5)
        assert ping(sites.h1, host(2, 4), count=100).loss == 0
        used += [sa["used"] for sa in router.show("sas")["oslo"] if sa["direction"] == "out"]
        if how is not None:
            router.daemon.stop(how)
            router.start()
    assert sites.r2.drops("esp-replay") == 0
    # After a good end no number is left out, after the other one at most what was recorded ahead.
    assert 100 <= used[0] < used[1] - 99 < 1000 and used[1] + 99 < used[2] < used[1] + (1 << 24) + 1000, used


def test_the_end(sites):
    """SIGINT too ends it well: interfaces, routes and programs are gone, and what it printed is `ready` alone."""
    sites.start(GRE)
    router = sites.r1
    assert link(router.namespace, "oslo")
    assert router.daemon.stop(signal.SIGINT) == 0
    assert router.daemon.out.read_text() == "ready\n"
    assert link(router.namespace, "oslo") is None
    assert "10.2.0.0/24" not in router.namespace.run("ip", "route").stdout
    for port in ("wan", "lan"):
        assert "xdp" not in link(router.namespace, port), port
    after = run_once(router, "show", "ports", "--socket", router.socket)
    assert after.returncode == 1 and "no daemon runs there" in after.stderr


def test_what_cannot_run(sites):
    """A configuration that cannot be run changes nothing and ends with 2; a device that is not there, with 1."""
    router = sites.r1
    good = sites.configuration(1, GRE)
    for text, status, says in (
        (good.replace("xdp:wan", "pcap"), 2, "capture files are no network"),
        (good.replace("xdp:wan", "memory"), 2, "rings in memory"),
        (good.replace(f'local = "{sites.wan(1, 4)}"', 'local = "carp:1@wan"'), 2, "[[carp.group]]"),
        (good.replace('name = "lan"', 'name = "wan"'), 2, "there is one of this name"),
        (good.replace("xdp:wan", "xdp:none"), 1, "there is no interface none"),
    ):
        router.file.write_text(text)
        router.file.chmod(0o600)
        done = run_once(router, "run", "-c", router.file, "--socket", router.socket)
        assert done.returncode == status and says in done.stderr, (says, done.stderr)
        assert done.stdout == "" and not router.socket.exists() and link(router.namespace, "oslo") is None


def test_the_service_manager_is_told(sites, tmp_path):
    """READY=1 comes after `ready`."""
    router = sites.r1
    router.file.write_text(sites.configuration(1, GRE))
    router.file.chmod(0o600)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        manager.bind(str(tmp_path / "notify"))
        words = [CULVERT, "run", "-c", router.file, "--socket", router.socket]
        env = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        daemon = router.namespace.start(*words, name="culvert-notify", env=env)
        assert manager.recv(100) == b"READY=1\n"
        assert daemon.out.read_text() == "ready\n"
        assert daemon.stop() == 0


def test_ready_before_thousands_of_interfaces(sites):
    """Making so many takes the kernel seconds, for which neither `ready` nor traffic waits; all are there in the end, and gone with
    the daemon, at once."""
    count = 3000
    others = "".join(
        f'\n[[tunnel]]\nname = "t{number}"\nlocal = "192.0.2.1"\nremote = "198.18.{number // 250}.{number % 250 + 1}"\nprotect = "none"\n'
        for number in range(count)
    )
    sites.r2.start(sites.configuration(2, GRE))
    sites.r1.start(sites.configuration(1, GRE) + others)
    last = f"t{count - 1}"
    assert link(sites.r1.namespace, last) is None
    wait_ping(sites.h1, host(2, 4))
    wait_for(lambda: link(sites.r1.namespace, last), 60, "the last interface")
    assert ping(sites.h1, host(2, 4), count=20).loss == 0
    assert sites.r1.daemon.stop(signal.SIGTERM, 20) == 0
    assert [entry["ifname"] for entry in sites.r1.namespace.ip_json("link show type tun")] == []


def test_an_interface_that_is_deleted_comes_back(sites):
    """With its addresses, its MTU and the routes into it."""
    sites.start(GRE)
    wait_ping(sites.r1.namespace, host(2, 4))
    sites.r1.namespace.ip("link del oslo")
    wait_for(lambda: link(sites.r1.namespace, "oslo"), 5, "the interface is there")
    wait_ping(sites.r1.namespace, host(2, 4))
    assert sites.r1.interface_mtu() == GRE.mtu()
    assert ping(sites.h1, host(far(1), 4), count=10).loss == 0

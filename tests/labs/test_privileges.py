"""What the daemon has given up once it is ready, as the kernel tells it; and that all that comes later still works."""

import os
import signal
from pathlib import Path

from netns import wait_for
from routers import CULVERT, GRE, TRANSPORT, host, link
from traffic import ping, wait_ping

# capabilities(7): CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK, CAP_PERFMON, CAP_BPF.
KEPT = 1 << 12 | 1 << 13 | 1 << 14 | 1 << 38 | 1 << 39
CAP_FOWNER = 3


def statuses(pid):
    """`/proc/PID/status` of every thread (proc(5))."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (line.split(":", 1) for line in (task / "status").read_text().splitlines())
        yield {name: value.strip() for name, value in lines}


def test_what_is_given_up(sites):
    """Every thread, and `show` says the same."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    pid = sites.r1.daemon.pid
    threads = list(statuses(pid))
    assert len(threads) >= 5
    for thread in threads:
        sets = {name: int(thread[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert sets == {"CapInh": 0, "CapPrm": KEPT, "CapEff": KEPT, "CapBnd": KEPT, "CapAmb": 0}, thread["Name"]
        assert (thread["NoNewPrivs"], thread["Seccomp"], thread["Seccomp_filters"]) == ("1", "2", "3"), thread["Name"]
        assert thread["Umask"] == "0077"
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    [core] = [line.split() for line in limits if line.startswith("Max core file size")]
    assert core[4:6] == ["0", "0"]
    shown = sites.r1.show("privileges")
    assert set(shown["capabilities"]) == {"net_admin", "net_raw", "ipc_lock", "perfmon", "bpf"}
    assert shown["missing"] == [] and not shown["core_dumps"] and not shown["new_privileges"]
    assert shown["system_calls"] > 50 and str(sites.r1.socket.parent) in shown["writable"]
    table = sites.r1.namespace.run(CULVERT, "show", "privileges", "--socket", sites.r1.socket).stdout
    assert "net_admin net_raw ipc_lock perfmon bpf" in table and all(len(line) <= 80 for line in table.splitlines()), table


def test_nothing_can_be_done_with_its_memory(sites):
    """It does not dump core, and a process of its user cannot look into it without more capabilities than it has itself."""
    sites.start(GRE)
    pid = sites.r1.daemon.pid
    # What a process that may not be dumped shows (proc(5)): its files are root's whoever it runs as.
    assert os.stat(f"/proc/{pid}/mem").st_uid == 0
    os.kill(pid, signal.SIGABRT)
    status = sites.r1.daemon.wait(5)
    assert status == -signal.SIGABRT and not list(sites.lab.folder.rglob("core*"))


def test_what_comes_later_works(sites):
    """A port that is taken out and comes back, a tunnel that is added, a reload: under all limits."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    router = sites.r1
    router.namespace.ip("link del lan")
    wait_for(lambda: router.show("ports")["lan"]["health"] == "departed", 5, "the port is gone")
    sites.lab.cable(router.namespace, "lan", sites.h1, "lan")
    router.namespace.ip(*sites.lan_lines(1))
    sites.h1.ip(f"addr add {host(1, 4)}/24 dev lan", "route replace default via 10.1.0.1")
    wait_for(lambda: router.show("ports")["lan"]["health"] == "attached", 10, "the port is back")
    wait_ping(sites.h1, host(2, 4), timeout=8)
    more = '\n[[tunnel]]\nname = "more"\nlocal = "192.0.2.1"\nremote = "198.18.0.1"\nprotect = "none"\n'
    router.file.write_text(router.file.read_text() + more)
    os.kill(router.daemon.pid, signal.SIGHUP)
    wait_for(lambda: link(router.namespace, "more"), 5, "the new tunnel's interface")
    assert ping(sites.h1, host(2, 4), count=20).loss == 0
    # It says if a system call was refused.
    router.stop()
    assert not router.socket.exists()


def test_unlimited(sites):
    """The way out, where a limit is in the way: everything is as it was."""
    router = sites.r1
    router.start(sites.configuration(1, GRE))
    router.stop()
    router.daemon = router.namespace.start(
        CULVERT, "run", "-c", router.file, "--socket", router.socket, "--unlimited", name="unlimited"
    )
    router.daemon.wait_text("ready", 5)
    for thread in statuses(router.daemon.pid):
        assert (thread["Seccomp"], thread["NoNewPrivs"]) == ("0", "0")
        assert int(thread["CapEff"], 16) & 1 << CAP_FOWNER
    assert router.show("privileges")["capabilities"] is None

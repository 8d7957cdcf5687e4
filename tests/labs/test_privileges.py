"""What the daemon has given up once it is ready, as the kernel tells it; and that all that comes later still works."""

import os
import pwd
import shutil
import signal
from pathlib import Path

import pytest
from netns import wait_for
from routers import CULVERT, GRE, TRANSPORT, host, link
from test_transactions import command, more, write
from traffic import ping, wait_ping

# capabilities(7): CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK, CAP_PERFMON, CAP_BPF.
KEPT = 1 << 12 | 1 << 13 | 1 << 14 | 1 << 38 | 1 << 39
CAP_FOWNER = 3


def statuses(pid):
    """`/proc/PID/status` of every thread (proc(5))."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (line.split(":", 1) for line in (task / "status").read_text().splitlines())
        yield {name: value.strip() for name, value in lines}


def replace_lan(sites):
    """The LAN's interface is taken out of the router, and another comes in its place."""
    router = sites.r1
    router.namespace.ip("link del lan")
    wait_for(lambda: router.show("ports")["lan"]["health"] == "departed", 10, "the port is gone")
    sites.lab.cable(router.namespace, "lan", sites.h1, "lan")
    router.namespace.ip(*sites.lan_lines(1))
    sites.h1.ip(f"addr add {host(1, 4)}/24 dev lan", "route replace default via 10.1.0.1")
    wait_for(lambda: router.show("ports")["lan"]["health"] == "attached", 15, "the port is back")
    wait_ping(sites.h1, host(2, 4), timeout=15)


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
    replace_lan(sites)
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
    router.daemon.wait_ready(5)
    for thread in statuses(router.daemon.pid):
        assert (thread["Seccomp"], thread["NoNewPrivs"]) == ("0", "0")
        assert int(thread["CapEff"], 16) & 1 << CAP_FOWNER
    assert router.show("privileges")["capabilities"] is None


UNIT = Path(__file__).resolve().parents[2] / "control/dist/culvert.service"
# A user who has nothing and is everywhere.
NOBODY = "nobody"


@pytest.fixture
def strangers(sites):
    """The same sites, whose daemons are nobody."""
    for router in sites.routers.values():
        router.run_as(NOBODY)
    return sites


def test_a_user_of_its_own(strangers):
    """Every thread is that user and has the same capabilities; what it keeps and listens at is that user's alone."""
    strangers.start(TRANSPORT)
    wait_ping(strangers.h1, host(2, 4))
    router, user = strangers.r1, pwd.getpwnam(NOBODY)
    for thread in statuses(router.daemon.pid):
        assert set(thread["Uid"].split()) == {str(user.pw_uid)} and set(thread["Gid"].split()) == {str(user.pw_gid)}
        assert thread["Groups"].split() in ([], [str(user.pw_gid)])
        sets = {name: int(thread[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert sets == {"CapInh": 0, "CapPrm": KEPT, "CapEff": KEPT, "CapBnd": KEPT, "CapAmb": 0}, thread["Name"]
        assert (thread["NoNewPrivs"], thread["Seccomp"], thread["Seccomp_filters"]) == ("1", "2", "3"), thread["Name"]
    assert os.stat(f"/proc/{router.daemon.pid}/mem").st_uid == 0
    shown = router.show("privileges")
    assert shown["user"] == user.pw_uid and shown["missing"] == []
    folders = [Path(folder) for folder in shown["writable"]]
    assert folders == [Path(f"{router.socket}.state"), Path(f"{router.socket}.d")]
    for folder in folders:
        assert folder.stat().st_mode & 0o777 == 0o700
        for path in (folder, *folder.iterdir()):
            assert path.stat().st_uid == user.pw_uid, path
    # The user's own processes may ask it; others may not.
    for words, may in ((["--reuid", NOBODY], True), (["--reuid", "daemon"], False)):
        asked = router.namespace.run("setpriv", *words, "--clear-groups", CULVERT, "show", "ports", "--socket", router.socket, check=False)
        assert (asked.returncode == 0) == may, asked


def test_a_user_of_its_own_does_it_all(strangers):
    """Ports flap and come back, changes are applied, confirmed and read again, it is killed and starts again, and ends well."""
    sites = strangers
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    router = sites.r1
    router.namespace.ip("link set wan down")
    wait_for(lambda: router.show("ports")["wan"]["health"] == "down", 10, "the port is down")
    router.namespace.ip("link set wan up", *sites.wan_lines(1))
    wait_ping(sites.h1, host(2, 4), timeout=15)
    replace_lan(sites)

    with_more = write(router, sites.configuration(1, TRANSPORT) + more(3))
    assert command(router, "apply", with_more, "--confirm", "60s").returncode == 0
    assert command(router, "confirm").returncode == 0
    wait_for(lambda: link(router.namespace, "t2"), 10, "the new tunnels' interfaces")
    router.daemon.kill()
    router.start()
    assert set(router.show("tunnels")) == {"oslo", "t0", "t1", "t2"}, "what was confirmed is kept"
    wait_ping(sites.h1, host(2, 4), timeout=15)
    router.file.write_text(sites.configuration(1, TRANSPORT) + more(1))
    os.kill(router.daemon.pid, signal.SIGHUP)
    wait_for(lambda: set(router.show("tunnels")) == {"oslo", "t0"}, 10, "its file is read again")
    wait_for(lambda: link(router.namespace, "t2") is None, 10, "interfaces go")

    router.stop()
    assert link(router.namespace, "oslo") is None and link(router.namespace, "t0") is None
    for port in ("wan", "lan"):
        assert "xdp" not in link(router.namespace, port), port
    assert [path.name for path in Path(f"{router.socket}.d").iterdir()] == []
    after = command(router, "show", "ports")
    assert after.returncode == 1 and "no daemon runs there" in after.stderr
    # Root may have its place, and the user again.
    for user in (None, NOBODY):
        router.user = user
        # Root without CAP_DAC_OVERRIDE reads what is root's.
        shutil.chown(router.file, user or "root")
        router.start()
        assert set(router.show("tunnels")) == {"oslo", "t0"}
        wait_ping(sites.h1, host(2, 4), timeout=15)
        router.stop()


def test_a_user_that_cannot_be(sites):
    """Who is not there, what cannot be read again, and folders of others: told, and nothing was changed."""
    router = sites.r1
    router.file = router.socket.with_suffix(".toml")
    router.file.write_text(sites.configuration(1, GRE))
    router.file.chmod(0o600)
    others = router.socket.with_name("others")
    others.mkdir()
    (others / "theirs").write_text("x")

    def fails(status, says, *words, how=()):
        done = router.namespace.run(*how, CULVERT, "run", "-c", router.file, "--socket", router.socket, *words, check=False)
        assert done.returncode == status and says in done.stderr, done
        assert link(router.namespace, "oslo") is None and not router.socket.exists()

    fails(2, "there is no such user; make it", "--user", "no-such-user")
    fails(2, "cannot be read with the privileges that the daemon keeps", "--user", NOBODY)
    router.file.chmod(0o644)
    fails(2, "only root can become another user", "--user", "daemon", how=["setpriv", "--reuid", NOBODY, "--clear-groups"])
    fails(1, "it holds theirs, which is not Culvert's", "--user", NOBODY, "--state", others)
    assert others.stat().st_uid == 0 and (others / "theirs").stat().st_uid == 0
    os.chown(others, pwd.getpwnam("daemon").pw_uid, -1)
    fails(1, "it belongs to user", "--user", NOBODY, "--state", others)


def test_by_the_unit(strangers):
    """With the command lines of the systemd unit, its capabilities and its read-only file system, as far as they are without systemd."""
    sites, router = strangers, strangers.r1
    unit = UNIT.read_text().replace("\\\n", "")
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    capabilities = settings["CapabilityBoundingSet"].split()
    bounding = ",".join(["-all", *("+" + name.removeprefix("CAP_").lower() for name in capabilities)])
    state, record = router.socket.with_suffix(".lib"), router.socket.parent
    state.mkdir()
    # ProtectSystem=strict, with ReadWritePaths=/run as small as it may be.
    closed = f"mount --make-rprivate / && mount --bind {record} {record} && mount -o remount,bind,ro / && exec \"$@\""
    limits = ["unshare", "-m", "sh", "-c", closed, "sh", "setpriv", f"--bounding-set={bounding}", "--no-new-privs"]

    def words(setting):
        line = settings[setting].replace("/usr/local/bin/culvert", str(CULVERT)).replace("/var/lib/culvert", str(state))
        return [*limits, *line.replace("/etc/culvert/culvert.toml", str(router.file)).replace("--user culvert", f"--user {NOBODY}").split()]

    sites.r2.start(sites.configuration(2, TRANSPORT))
    router.file.write_text(sites.configuration(1, TRANSPORT))
    router.file.chmod(0o600)
    shutil.chown(router.file, NOBODY)
    router.namespace.run(*words("ExecStartPre"))
    for _ in range(2):
        router.daemon = router.namespace.start(*words("ExecStart"), "--socket", router.socket, name="unit")
        router.daemon.wait_ready(10)
        wait_ping(sites.h1, host(2, 4), timeout=15)
        shown = router.show("privileges")
        assert shown["user"] == pwd.getpwnam(NOBODY).pw_uid and shown["missing"] == []
        assert command(router, "apply", write(router, sites.configuration(1, TRANSPORT) + more(1))).returncode == 0
        wait_for(lambda: link(router.namespace, "t0"), 10, "the new tunnel's interface")
        assert list(state.glob("config-*")), "what was applied is kept"
        router.stop()
        assert link(router.namespace, "oslo") is None

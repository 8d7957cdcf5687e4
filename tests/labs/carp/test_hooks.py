"""What runs when a router's role changes, and when a router says that it is ready."""

import time


from netns import wait_for
from routers import CULVERT, host
from shared import GROUP, OWN, VIRTUAL
from traffic import ping, wait_ping

APART = (0x1001, 0x1011)


def hook(shared, name, script, on, timeout="10s"):
    """A `[[carp.hook]]` whose script stands in the lab's folder."""
    path = shared.lab.folder / name
    path.write_text(f"#!/bin/sh\ncd {shared.lab.folder}\n{script}\n")
    path.chmod(0o755)
    return f'[[carp.hook]]\non = {on}\ncommand = ["{path}", "{name}"]\ntimeout = "{timeout}"\n'.replace("'", '"')


def lines(shared, name):
    path = shared.lab.folder / name
    return path.read_text().splitlines() if path.exists() else []


def ready(twin, *arguments):
    return twin.namespace.run(CULVERT, "carp", "ready", "--socket", twin.socket, *arguments, check=False)


def test_hooks_run_when_roles_change(shared):
    """Each router's, for what it is for, with what it wants to know; the daemon, which can start nothing itself, is limited all the same."""
    log = "echo $1 $CULVERT_EVENT $CULVERT_ROUTER $CULVERT_GROUP $CULVERT_ADDRESS >> $CULVERT_ROUTER.log; echo so it is"
    shared.start(APART, others=lambda _: hook(shared, "log", log, ["master", "backup", "init"]))
    told = f"{GROUP} {VIRTUAL}"
    wait_for(lambda: lines(shared, "first.log")[-1:] == [f"log master first {told}"], 5, "ra's hook has run")
    wait_for(lambda: lines(shared, "second.log")[-1:] == [f"log backup second {told}"], 5, "rb's hook has run")
    shared.a.stop_ucarp()
    shared.b.wait_role("master")
    wait_for(lambda: lines(shared, "second.log")[-1:] == [f"log master second {told}"], 5, "rb's hook has run again")
    wait_for(lambda: lines(shared, "first.log")[-1:] == [f"log backup first {told}"], 5, "ra's hook has run again")
    assert shared.b.show("privileges")["missing"] == []
    wait_for(lambda: "hook for master" in shared.b.daemon.text(), 5, "it is logged")
    assert "so it is\n" in shared.b.daemon.text() and ": done in 0." in shared.b.daemon.text()
    metrics = shared.b.namespace.run(CULVERT, "metrics", "--socket", shared.b.socket).stdout
    assert 'culvert_carp_hooks_total{result="failed"} 0' in metrics
    shared.b.stop_ucarp()
    for twin in (shared.a, shared.b):
        twin.stop()


def test_a_hook_that_hangs_holds_up_nothing(shared):
    """The tunnel changes over while it hangs; it is killed at its time, with what it has started, and that is said."""
    hangs = hook(shared, "hangs", "echo begun; sleep 600 & echo $! > child; wait", ["master"], "6s")
    after = hook(shared, "after", "echo $CULVERT_EVENT >> after.log", ["backup"])
    shared.start(APART, others=lambda label: hangs + after if label == "b" else "")
    wait_for(lambda: lines(shared, "after.log") == ["backup"], 5, "rb began as backup")
    shared.a.crash()
    shared.b.wait_role("master")
    wait_for(lambda: lines(shared, "child") != [], 5, "it hangs")
    wait_ping(shared.h1, host(2, 4), timeout=5)
    before = time.monotonic()
    assert shared.b.show("carp")["hooks_failed"] == 0
    assert time.monotonic() - before < 2, "the daemon answers meanwhile"
    wait_for(lambda: "did not end within 6s and was killed" in shared.b.daemon.text(), 15, "it is killed")
    assert ": begun\n" in shared.b.daemon.text()
    child = int(lines(shared, "child")[0])
    wait_for(lambda: not process_runs(child), 5, "what it had started is gone")
    assert shared.b.show("carp")["hooks_failed"] == 1
    assert ping(shared.h1, host(2, 4), count=20).loss <= 10


def process_runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ready_waits_for_neighbours(shared):
    """The next hop does not answer: not ready, and what is missing is said; then it does, and whoever waits hears of it."""
    note = hook(shared, "note", "echo $CULVERT_EVENT >> ready.log", ["ready", "unready"])
    twin = shared.a
    assert ready(twin).returncode == 1, "no daemon runs"
    # Nobody is there yet.
    shared.r2.namespace.ip("link set wan down")
    twin.start(twin.configuration(APART[0], note))
    wait_for(lambda: lines(shared, "ready.log") == ["unready"], 5, "it says so")
    said = ready(twin)
    assert said.returncode == 1 and "the next hop does not answer of tunnels oslo" in said.stderr, said
    table = twin.namespace.run(CULVERT, "show", "carp", "--socket", twin.socket).stdout
    assert "not ready to be master" in table and "tunnels oslo" in table
    before = time.monotonic()
    assert ready(twin, "--wait", "2s").returncode == 1
    assert 2 <= time.monotonic() - before < 5
    waits = twin.namespace.start(CULVERT, "carp", "ready", "--socket", twin.socket, "--wait", "60s", name="ready")
    time.sleep(1)
    assert waits.running
    shared.r2.namespace.ip("link set wan up")
    assert waits.wait(40) == 0
    wait_for(lambda: lines(shared, "ready.log") == ["unready", "ready"], 5, "it is ready")
    # Its port goes: not ready.
    twin.namespace.ip("link set lan down")
    wait_for(lambda: "is down" in ready(twin).stderr, 5, "its port is missed")
    wait_for(lambda: lines(shared, "ready.log")[-1] == "unready", 5, "it is not ready")
    metrics = twin.namespace.run(CULVERT, "metrics", "--socket", twin.socket).stdout
    assert "culvert_carp_ready 0\n" in metrics


def test_ready_waits_for_its_partner(shared):
    """A partner that is to be there is looked for, and then counts as absent."""
    path = shared.lab.folder / "secret"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    path.chmod(0o600)
    ends = f'listen = "192.0.2.{OWN["a"]}:4790"\npartner = "192.0.2.{OWN["b"]}:4790"\n'
    shared.r2.start(shared.far_configuration(APART))
    shared.a.start(shared.a.configuration(APART[0], f'[carp.sync]\n{ends}secret_file = "{path}"\n'))
    assert "the partner is looked for" in ready(shared.a).stderr
    done = ready(shared.a, "--wait", "20s")
    assert done.returncode == 0, done

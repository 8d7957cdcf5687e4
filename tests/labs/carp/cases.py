"""What `tests/labs/carp/figures` runs: each way of losing one router of a pair, or of handing over to the other, under traffic, as a table.

One pair, with ucarp, strongSwan and a third router at the far end, stands for all cases; before each it is as it was at first: ra is master,
and rb has what it needs to take over. Numbered datagrams pass both ways, 3.3 ms apart.
"""

import argparse
import platform
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "witness")]

from measure import processor  # noqa: E402 (the path has to be there first)
from netns import Run, Trouble, command, wait_for  # noqa: E402
from routers import host  # noqa: E402
from shared import (  # noqa: E402
    GROUP, LAN_GROUP, RATE, TAKEN_OVER, BothWays, Seen, Shared, carp, esp, freeze, hook, link, pair_up, wait_shared, wait_up,
)
from traffic import capture, wait_ping  # noqa: E402

# Longer than all cases take, even on a machine with other things to do.
AT_MOST = 400  # seconds
FLAPS = 4
# What a router that was told to has to do, and what does not depend on an election.
SOON = 10.0  # seconds
BEFORE = 0.5  # seconds of traffic
# The new master's strongSwan has negotiated by then, and its SAs have taken over.
AFTER = 1.5  # seconds
# The far end's strongSwan deletes an IKE SA that another one replaces ten seconds later.
REPLACED = 11.0  # seconds
COLUMNS = ("lost out", "lost back", "silent, ms", "of it ucarp's", "twice")

# Neither router hears the other's advertisements, as where a switch loses them.
DEAF = "table bridge deaf { chain forward { type filter hook forward priority 0; ip protocol 112 drop; }; }"


def up_stamps(shared):
    """When ucarp's scripts put an address on a router."""
    return [float(line) for path in shared.lab.folder.glob("?-up-*") for line in path.read_text().split()]


class Pair:
    """The two routers and what is around them, and what was on the far router's wire so far."""

    def __init__(self, shared):
        self.shared, self.a, self.b = shared, shared.a, shared.b
        self.seen = Seen()

    def settle(self):
        """As it was at first."""
        a, b = self.a, self.b
        wait_up(a, b)
        # There may be an election yet.
        wait_for(lambda: "master" in (a.role(), b.role()), TAKEN_OVER, "one of them is master")
        if a.role() != "master":
            self.wait_ready(a, b)
            carp(b, "yield")
            carp(b, "resume")
        a.wait_role("master")
        b.wait_role("backup")
        self.wait_ready(b, a)
        wait_ping(self.shared.h1, host(2, 4), timeout=TAKEN_OVER)
        wait_shared(self.shared)

    def wait_ready(self, twin, partner):
        """It can be master, and the other one knows."""
        missing = lambda: twin.show("carp")["missing"]  # noqa: E731
        wait_for(lambda: missing() == [], SOON, f"r{twin.label} is ready: {missing()}")
        wait_for(lambda: link(partner)["partner"]["ready"], SOON, f"r{partner.label} knows that r{twin.label} is ready")

    def measure(self, case):
        """Runs a case; its line of the table, and what should not have been on the wire."""
        # All of ESP, and what is in clear that never should be.
        with capture(self.shared.wans, self.shared.far_port, "esp or proto gre or udp port 7000") as wire:
            self.settle()
            steps = case(self)
            next(steps)
            traffic = BothWays(self.shared)
            time.sleep(BEFORE)
            next(steps)
            wait_ping(self.shared.h1, host(2, 4), timeout=TAKEN_OVER)
            time.sleep(AFTER)
            ways = traffic.end()
            next(steps, None)
        again, clear = self.seen.again(wire.frames()), len(wire.frames()) - len(list(esp(wire.frames())))
        silent, since = max(traffic.silences)
        elections = [at for at in up_stamps(self.shared) if since < at < since + silent]
        return [
            *(f"{lost} of {sent}" for sent, lost, _ in ways),
            f"{silent * 1000:.0f}",
            f"{(max(elections) - since) * 1000:.0f}" if elections else "-",
            f"{len(again)}",
        ], again + ["in clear"] * clear


# --- the cases ------------------------------------------------------------------------------------------------------
# What stands before the first `yield` is done before there is traffic, and what stands behind the second one when it has ended.


def nothing(pair):
    yield
    time.sleep(1)
    yield


def planned(pair):
    yield
    carp(pair.a, "yield")
    yield
    carp(pair.a, "resume")


def planned_back(pair):
    carp(pair.a, "yield")
    carp(pair.a, "resume")
    wait_shared(pair.shared)
    pair.wait_ready(pair.a, pair.b)
    yield
    carp(pair.b, "yield")
    yield
    carp(pair.b, "resume")


def crash(pair):
    yield
    pair.a.daemon.kill()
    pair.a.stop_ucarp(signal.SIGKILL)
    pair.b.wait_role("master")
    yield
    pair.a.revive()
    pair.a.start_ucarp(skew=0)


def frozen(pair):
    yield
    freeze(pair.a, signal.SIGSTOP)
    pair.b.wait_role("master")
    yield
    freeze(pair.a, signal.SIGCONT)
    pair.b.wait_role("backup")


def wakes(pair):
    freeze(pair.a, signal.SIGSTOP)
    pair.b.wait_role("master")
    until = time.monotonic() + REPLACED
    wait_ping(pair.shared.h1, host(2, 4), timeout=TAKEN_OVER)
    yield
    freeze(pair.a, signal.SIGCONT)
    # Each takes itself for the master until it hears the other one. Then the one with the lower skew is.
    pair.b.wait_role("backup")
    # The far end takes away what ra has negotiated before.
    time.sleep(max(until - time.monotonic(), 0))
    yield


def cut(pair):
    yield
    pair.shared.wans.ip("link set wa down")
    pair.b.wait_role("master")
    yield
    pair.a.stop_ucarp()
    pair.shared.wans.ip("link set wa up")
    pair.a.start_ucarp(skew=0)


def flaps(pair):
    yield
    for nth in range(FLAPS):
        from_, to = (pair.b, pair.a) if nth % 2 else (pair.a, pair.b)
        for process in from_.ucarps:
            process.child.send_signal(signal.SIGUSR2)
        to.wait_role("master")
        # So long that both of its addresses carry packets.
        time.sleep(1)
    yield


def both(pair):
    split = lambda: [twin.show("carp")["groups"][GROUP]["split"] for twin in (pair.a, pair.b)]  # noqa: E731
    yield
    for switch in (pair.shared.wans, pair.shared.lans):
        command(*switch.inside("nft", "-f", "-"), input=DEAF)
    pair.b.wait_role("master")
    wait_for(lambda: split() == [True, True], SOON, "both know")
    time.sleep(1)
    for switch in (pair.shared.wans, pair.shared.lans):
        switch.run("nft", "delete", "table", "bridge", "deaf")
    pair.b.wait_role("backup")
    wait_for(lambda: split() == [False, False], SOON, "they are one again")
    yield


def unlink(pair):
    """The link between the two goes; both have noticed."""
    pair.a.namespace.ip("link set sync down")
    wait_for(lambda: not link(pair.a)["up"] and not link(pair.b)["up"], SOON, "the cut is noticed")


def relink(pair):
    carp(pair.a, "resume")
    pair.a.namespace.ip("link set sync up")


def unlinked_before(pair):
    unlink(pair)
    yield
    carp(pair.a, "yield", "--force", "--no-wait")
    pair.b.wait_role("master")
    yield
    relink(pair)


def unlinked_meanwhile(pair):
    yield
    carp(pair.a, "yield", "--no-wait")
    pair.a.wait_role("backup")
    unlink(pair)
    pair.b.wait_role("master")
    yield
    relink(pair)


def unlinked_after(pair):
    yield
    carp(pair.a, "yield")
    unlink(pair)
    yield
    relink(pair)


def restart_master(pair):
    """It hands over before it ends."""
    yield
    pair.a.stop()
    pair.a.start()
    yield


def kill_master(pair):
    """ucarp hears nothing of it."""
    pids = pair.a.pids.read_text()
    pair.a.pids.unlink()
    yield
    pair.a.daemon.kill()
    pair.a.start()
    yield
    pair.wait_ready(pair.a, pair.b)
    pair.a.pids.write_text(pids)


def kill_master_that_says_so(pair):
    """When it is there again, it is not ready for a while, and the hook tells ucarp so."""
    yield
    pair.a.daemon.kill()
    pair.a.start()
    pair.b.wait_role("master")
    yield


def restart_backup(pair):
    yield
    pair.b.stop()
    pair.b.start()
    yield


def restart_strongswan(pair):
    yield
    pair.shared.charons[pair.a].stop()
    pair.shared.charons[pair.a].start()
    yield


CASES = {
    "nothing, for comparison": nothing,
    "planned (culvert carp yield)": planned,
    "planned, back": planned_back,
    "crash: daemon and ucarp killed": crash,
    "freeze: daemon and ucarp stopped": frozen,
    "freeze: they go on, and ra takes back": wakes,
    "cut: the master's WAN": cut,
    f"flapping, {FLAPS} times": flaps,
    "both master, until they hear each other": both,
    "planned, sync link cut before": unlinked_before,
    "planned, sync link cut meanwhile": unlinked_meanwhile,
    "planned, sync link cut after": unlinked_after,
    "restart of the master's daemon": restart_master,
    "the master's daemon killed, and started": kill_master,
    "the same, and a hook tells ucarp": kill_master_that_says_so,
    "restart of the backup's daemon": restart_backup,
    "restart of the master's strongSwan": restart_strongswan,
}


def too_long(*_):
    raise Trouble(f"not done within {AT_MOST} s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*", help="those cases alone that have one of these in their names")
    words = parser.parse_args().words
    cases = {name: case for name, case in CASES.items() if not words or any(word in name for word in words)}
    # SIGTERM ends it as Control-C does: with everything cleaned up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(AT_MOST)
    print(f"{RATE} numbered datagrams a second each way, ucarp with 1 s between advertisements; {processor()}, Linux {platform.release()}\n")
    width = max(map(len, cases), default=0)
    columns = [max(len(column), 13 if column.startswith("lost") else 0) for column in COLUMNS]

    def line(name, fields):
        print(f"{name:{width}}  " + "  ".join(f"{field:>{column}}" for field, column in zip(fields, columns)), flush=True)

    line("", COLUMNS)
    wrong = {}
    run = Run()
    try:
        with tempfile.TemporaryDirectory() as folder, run.lab(Path(folder)) as lab:
            pair = Pair(pair_up(Shared(lab).join(), lambda twin: hook(twin) + LAN_GROUP))
            for name, case in cases.items():
                fields, wrong[name] = pair.measure(case)
                line(name, fields)
    finally:
        signal.alarm(0)
        run.close()
    for name, packets in wrong.items():
        if packets:
            raise SystemExit(f"{name}: on the wire were, of {len(packets)}, {packets[:5]}")


if __name__ == "__main__":
    main()

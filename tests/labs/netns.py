"""Network namespaces, the cables between them and the processes in them, all gone when the test ends.

A `Run` is one call of pytest. It (1) removes what a crashed earlier run has left, by that run's own record, (2) hands out
namespaces and processes, writing down each before it is used, (3) ends and removes them all in `close`.
Whoever holds the lock of a record is alive: its namespaces and processes are left alone.
"""

import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

RECORDS = Path("/run/culvert-labs")
CLONE_NEWNET = 0x40000000  # setns(2)
LIBC = ctypes.CDLL(None, use_errno=True)
PATIENCE = 3.0  # seconds that a process has between SIGTERM and SIGKILL


class Trouble(AssertionError):
    """Something that the lab itself needs did not work."""


def wait_for(condition, timeout, what, interval=0.05):
    """What `condition` returns as soon as it is true; `Trouble` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        last = condition()
        if last:
            return last
        if time.monotonic() > end:
            raise Trouble(f"{what}: not within {timeout} s (last seen: {last!r})")
        time.sleep(interval)


def command(*argv, timeout=20.0, check=True, **options):
    """Runs a command to its end. Its output is in the error where it fails."""
    argv = [str(word) for word in argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, **options)
    if check and done.returncode != 0:
        raise Trouble(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def started_at(pid):
    """When the process was started, in clock ticks; None where there is none. Tells a process from a later one of its number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


class Process:
    """A process of the lab; what it prints goes to files."""

    def __init__(self, argv, folder, name, env=None):
        self.name, self.folder = name, folder
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + len(list(folder.glob("*.out")))
        self.out = folder / f"{number:02}-{name}.out"
        self.err = folder / f"{number:02}-{name}.err"
        # Should this program be killed, its children go with it.
        argv = ["setpriv", "--pdeathsig", "KILL", *map(str, argv)]
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, start_new_session=True
            )

    @property
    def pid(self):
        return self.child.pid

    @property
    def running(self):
        return self.child.poll() is None

    def text(self):
        """All that it has printed so far."""
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")

    def wait_text(self, text, timeout=5.0):
        """Waits until it has printed `text`."""
        self._wait_printed(lambda: text in self.text(), text, timeout)

    def wait_ready(self, timeout=5.0):
        """Waits until it has printed the line `ready`."""
        self._wait_printed(lambda: "ready" in self.text().splitlines(), "ready", timeout)

    def _wait_printed(self, printed, what, timeout):
        def seen():
            found = printed()
            if not found and not self.running:
                raise Trouble(f"{self.name} ended with {self.child.returncode} before {what!r}:\n{self.text()}")
            return found

        wait_for(seen, timeout, f"{self.name} prints {what!r}", interval=0.02)

    def wait(self, timeout=30.0):
        """Waits for its end; returns the exit status."""
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Trouble(f"{self.name} did not end within {timeout} s:\n{self.text()}") from None

    def kill(self):
        self.child.kill()
        return self.child.wait()

    def stop(self, sign=signal.SIGTERM, timeout=PATIENCE):
        """Asks it to end, and makes it end. Returns the exit status; negative: the signal it died of."""
        if self.running:
            self.child.send_signal(sign)
            try:
                return self.child.wait(timeout)
            except subprocess.TimeoutExpired:
                return self.kill()
        return self.child.returncode


class Namespace:
    """A network namespace of the lab. `label` is what the test calls it, `name` what the system does."""

    def __init__(self, lab, label):
        self.lab, self.label = lab, label
        self.name = f"{lab.prefix}-{label}"
        lab.run.note("netns", self.name)
        command("ip", "netns", "add", self.name)
        self.ip("link set lo up")
        # Addresses are usable at once; the kernel forwards nothing unless told to; routes may be asymmetric.
        self.sysctl(
            "net.ipv6.conf.default.accept_dad=0",
            "net.ipv6.conf.all.accept_dad=0",
            "net.ipv6.conf.default.router_solicitations=0",
            "net.ipv6.conf.default.accept_ra=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.ip_forward=0",
            "net.ipv6.conf.all.forwarding=0",
            # Neither ICMP errors nor echo replies are held back.
            "net.ipv4.icmp_ratelimit=0",
            "net.ipv6.icmp.ratelimit=0",
            "net.ipv4.icmp_msgs_per_sec=100000",
        )

    def __repr__(self):
        return self.label

    def inside(self, *argv):
        """The command line that runs `argv` in here. The process keeps its number: nothing stands between."""
        return ["ip", "netns", "exec", self.name, *argv]

    def run(self, *argv, **options):
        """Runs a command in here to its end."""
        return command(*self.inside(*argv), **options)

    def start(self, *argv, name=None, env=None):
        """Starts a command in here. The lab ends it."""
        return self.lab.start(self.inside(*argv), f"{self.label}-{name or Path(str(argv[0])).name}", env=env)

    def ip(self, *lines):
        """Runs `ip` commands, given without the word `ip`, in order. A failing one fails the lab."""
        command("ip", "-n", self.name, "-batch", "-", input="\n".join(lines) + "\n")

    def ip_json(self, words):
        """What an `ip` command says, with its statistics."""
        told = command("ip", "-n", self.name, "-s", "-d", "-j", *words.split()).stdout
        return [entry for entry in json.loads(told or "[]") if entry]

    def sysctl(self, *settings):
        self.run("sysctl", "-q", "-w", *settings)

    def forward(self):
        """Lets the kernel forward packets in here."""
        self.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    @contextmanager
    def entered(self):
        """This thread is in the namespace meanwhile; a socket opened there stays there."""
        with open("/proc/self/ns/net") as home, open(f"/run/netns/{self.name}") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def mac(self, interface):
        return self.ip_json(f"link show dev {interface}")[0]["address"]

    def remove(self):
        """Ends every process in here, and removes the namespace with its interfaces."""
        found = command("ip", "netns", "pids", self.name, check=False)
        for pid in found.stdout.split():
            _signal(int(pid), signal.SIGKILL)
        command("ip", "netns", "delete", self.name, check=False)


def _setns(descriptor):
    if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        raise Trouble(f"setns: {os.strerror(ctypes.get_errno())}")


def _signal(pid, sign):
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        pass


class Run:
    """One call of pytest: its record, and the labs it has made."""

    def __init__(self):
        RECORDS.mkdir(parents=True, exist_ok=True)
        self.clean_up_after_others()
        self.id = "cv" + secrets.token_hex(2)
        self.record = RECORDS / self.id
        # It appears with its lock held: another run would take one without for a dead run's.
        being_made = RECORDS.with_name(f"{RECORDS.name}-{self.id}")
        being_made.mkdir()
        self.lock = open(being_made / "lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        being_made.rename(self.record)
        self.labs = 0

    def note(self, *words):
        """Writes down what there will be to remove."""
        with open(self.record / "made", "a") as made:
            made.write(" ".join(map(str, words)) + "\n")

    def lab(self, folder):
        self.labs += 1
        return Lab(self, f"{self.id}-{self.labs}", folder)

    def close(self):
        shutil.rmtree(self.record, ignore_errors=True)
        self.lock.close()

    @staticmethod
    def clean_up_after_others():
        """Removes what runs that are no longer alive have written down."""
        for record in RECORDS.iterdir():
            try:
                lock = open(record / "lock")
            except OSError:
                continue  # It is being made, or removed, just now.
            with lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                _remove_recorded(record)


def _remove_recorded(record):
    made = record / "made"
    lines = made.read_text().split("\n") if made.exists() else []
    words = [line.split() for line in lines if line]
    for kind, *rest in words:
        if kind == "process" and started_at(int(rest[0])) == int(rest[1]):
            _signal(int(rest[0]), signal.SIGKILL)
    for kind, *rest in words:
        if kind == "netns" and Path("/run/netns", rest[0]).exists():
            for pid in command("ip", "netns", "pids", rest[0], check=False).stdout.split():
                _signal(int(pid), signal.SIGKILL)
            command("ip", "netns", "delete", rest[0], check=False)
    shutil.rmtree(record, ignore_errors=True)


class Lab:
    """The namespaces and processes of one test, or of several that share them."""

    def __init__(self, run, prefix, folder):
        self.run, self.prefix, self.folder = run, prefix, folder
        self.namespaces, self.processes = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def namespace(self, label):
        made = Namespace(self, label)
        self.namespaces.append(made)
        return made

    def start(self, argv, name, env=None):
        made = Process(argv, self.folder, name, env)
        self.processes.append(made)
        self.run.note("process", made.pid, started_at(made.pid) or 0)
        return made

    def cable(self, near, near_name, far, far_name, mtu=1500, queues=1):
        """A veth pair between two namespaces, up, whose frames are complete: checksums made, nothing merged."""
        command(
            *f"ip link add {near_name} mtu {mtu} netns {near.name} numrxqueues {queues} numtxqueues {queues} type veth "
            f"peer name {far_name} mtu {mtu} netns {far.name} numrxqueues {queues} numtxqueues {queues}".split()
        )
        for end, name in ((near, near_name), (far, far_name)):
            # veth leaves checksums undone, which only the kernel at the other end can make good.
            end.run("ethtool", "-K", name, "tx", "off", "gro", "off")
            end.ip(f"link set {name} up")

    def close(self):
        """Ends all processes, the last first, and removes all namespaces. Goes on where something fails."""
        troubles = []
        for process in reversed(self.processes):
            try:
                process.stop()
            except OSError as trouble:
                troubles.append(trouble)
        for namespace in self.namespaces:
            try:
                namespace.remove()
            except (OSError, Trouble, subprocess.SubprocessError) as trouble:
                troubles.append(trouble)
        self.processes, self.namespaces = [], []
        if troubles:
            raise Trouble(f"cleaning up: {troubles}")

"""Traffic in the lab and what is seen of it: ping, iperf3, traceroute, captures, numbered datagrams, a terminal-like session."""

import json
import re
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapReader

from netns import Trouble, wait_for

TOOLS = Path(__file__).parent / "tools"


# --- ping ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ping:
    """The result of a ping."""

    sent: int
    received: int
    duplicates: int
    errors: int
    text: str

    @property
    def loss(self):
        """Per cent."""
        return 100 * (self.sent - self.received) / self.sent

    @property
    def mtus(self):
        """The MTUs named in ICMP errors: "Frag needed", "Packet too big", and those the sender's own kernel knows."""
        return [int(found) for found in re.findall(r"mtu[ =:]+(\d+)", self.text)]


def ping(namespace, address, count=10, interval=0.005, size=56, df=None, source=None, pattern=None, wait=2, ttl=None):
    """Pings. `df`: True sets DF, False lets routers fragment, None is the kernel's path MTU discovery.

    After its last request ping waits for as long as twice the longest round trip so far, which on a busy machine may be too
    short: where the last answers alone are missing, it is asked once more.
    """
    words = ["ping", "-n", "-c", count, "-i", interval, "-s", size, "-W", wait]
    if df is not None:
        words += ["-M", "do" if df else "dont"]
    if source:
        words += ["-I", source]
    if pattern:
        words += ["-p", pattern]
    if ttl:
        words += ["-t", ttl]
    for _ in range(2):
        text = namespace.run(*words, address, check=False, timeout=15 + count * (interval + wait)).stdout
        answered = sorted({int(sequence) for sequence in re.findall(r"bytes from .*icmp_seq=(\d+)", text)})
        tail_alone = 0 < len(answered) < count and answered == list(range(1, len(answered) + 1))
        if not tail_alone or " errors" in text:
            break
    found = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    if not found:
        raise Trouble(f"ping said: {text!r}")
    duplicates = re.search(r"\+(\d+) duplicates", text)
    errors = re.search(r"\+(\d+) errors", text)
    return Ping(
        int(found[1]),
        int(found[2]),
        int(duplicates[1]) if duplicates else 0,
        int(errors[1]) if errors else 0,
        text,
    )


def pings(namespace, address, **options):
    """Whether one echo request is answered."""
    return ping(namespace, address, count=1, wait=0.5, **options).received == 1


def wait_ping(namespace, address, timeout=10.0, **options):
    """Waits until `address` answers; the way there may still have to be found."""
    wait_for(lambda: pings(namespace, address, **options), timeout, f"{namespace} pings {address}", interval=0.1)


# --- iperf3 -------------------------------------------------------------------------------------------------------


def iperf(client, server, address, **options):
    """An iperf3 run from `client` to `address` in `server`, as `iperf_client` says."""
    listening = server.start("iperf3", "-s", "-1", "--forceflush")
    listening.wait_text("Server listening")
    try:
        return iperf_client(client, address, **options)
    except Trouble as trouble:
        raise Trouble(f"{trouble}\nserver: {listening.text()}") from None
    finally:
        listening.stop()


def iperf_client(client, address, seconds=1, flows=1, udp=None, length=None, reverse=False, mss=None, amount=None):
    """Runs iperf3 against a server that waits already; returns iperf3's own result.

    `udp`: bits a second for each flow; `reverse`: the server sends; `amount`: bytes to send, in place of the seconds.
    """
    words = ["iperf3", "-c", address, "-J", "-P", flows, "--connect-timeout", 3000]
    words += ["-n", amount] if amount else ["-t", seconds]
    if udp:
        words += ["-u", "-b", udp]
    for option, value in (("-l", length), ("-M", mss)):
        words += [option, value] if value else []
    if reverse:
        words += ["-R"]
    done = client.run(*words, check=False, timeout=seconds + 25)
    result = json.loads(done.stdout or "{}")
    if done.returncode != 0 or "error" in result:
        raise Trouble(f"iperf3 to {address}: {result.get('error', done.stderr)}")
    return result


@dataclass(frozen=True)
class Udp:
    """What arrived of an iperf3 UDP run."""

    sent: int
    lost: int
    out_of_order: int


def udp_result(result):
    """All flows together."""
    total = result["end"]["sum"]
    flows = [stream["udp"] for stream in result["end"]["streams"]]
    return Udp(total["packets"], total["lost_packets"], sum(flow["out_of_order"] for flow in flows))


def tcp_rate(result):
    """Megabits a second that arrived."""
    return result["end"]["sum_received"]["bits_per_second"] / 1e6


# --- traceroute ---------------------------------------------------------------------------------------------------


def traceroute(namespace, address, how="udp"):
    """The addresses of the hops, `*` where none answered. `how`: udp, icmp or tcp."""
    options = {"udp": [], "icmp": ["-I"], "tcp": ["-T", "-p", "5201"]}[how]
    words = ["traceroute", "-n", "-q", 1, "-N", 1, "-w", 2, "-m", 8, *options, address]
    lines = namespace.run(*words, timeout=30).stdout.splitlines()[1:]
    return [line.split()[1] for line in lines]


# --- captures -----------------------------------------------------------------------------------------------------


class Capture:
    """Frames that an interface has sent and received."""

    def __init__(self, process, path):
        self.process, self.path, self._frames = process, path, None

    def frames(self):
        """The frames as bytes. Call it after the capture has ended."""
        if self._frames is None:
            self._frames = [bytes(frame) for frame, _ in RawPcapReader(str(self.path))]
        return self._frames

    def packets(self):
        """The frames in the eyes of Scapy."""
        return [Ether(frame) for frame in self.frames()]


@contextmanager
def capture(namespace, interface, *expression, direction="inout"):
    """Captures while the block runs. `expression` is tcpdump's."""
    lab = namespace.lab
    lab.folder.mkdir(parents=True, exist_ok=True)
    path = lab.folder / f"{namespace.label}-{interface}-{len(list(lab.folder.glob('*.pcap')))}.pcap"
    words = ["tcpdump", "-n", "-U", "--immediate-mode", "-Z", "root", "-s", 0, "-B", 16384, "-Q", direction]
    process = namespace.start(*words, "-i", interface, "-w", path, *expression)
    process.wait_text("listening on")
    seen = Capture(process, path)
    try:
        yield seen
    finally:
        # What is on its way is still to be written.
        wait_for(_grows_no_more(path), 3, f"{path.name} is complete", interval=0.15)
        process.stop(signal.SIGINT)


def _grows_no_more(path):
    sizes = [-1]

    def same():
        sizes.append(path.stat().st_size if path.exists() else 0)
        return sizes[-1] == sizes[-2]

    return same


def protocols(packets):
    """The (source, destination, protocol) of all IP packets. IPv6 extension headers are not followed."""
    found = set()
    for packet in packets:
        if IP in packet:
            found.add((packet[IP].src, packet[IP].dst, packet[IP].proto))
        elif IPv6 in packet:
            found.add((packet[IPv6].src, packet[IPv6].dst, packet[IPv6].nh))
    return found


def syn_mss(packets):
    """The MSS options of all TCP segments with SYN, as (source, MSS)."""
    found = []
    for packet in packets:
        if TCP in packet and packet[TCP].flags & 2:
            network = packet[IP] if IP in packet else packet[IPv6]
            found += [(network.src, value) for name, value in packet[TCP].options if name == "MSS"]
    return found


def udp_ports(packets):
    """The (source, destination) ports of all UDP packets."""
    return {(packet[UDP].sport, packet[UDP].dport) for packet in packets if UDP in packet}


# --- tools that run in a namespace ----------------------------------------------------------------------------------


def start_tool(namespace, tool, *words):
    """Starts `tools/TOOL.py` in the namespace."""
    return namespace.start(sys.executable, TOOLS / f"{tool}.py", *words, name=tool)


def tool_result(process, sign=signal.SIGTERM):
    """Ends a tool; what it says of its run."""
    process.stop(sign)
    lines = process.out.read_text().splitlines()
    if not lines:
        raise Trouble(f"{process.name} said nothing: {process.text()}")
    return json.loads(lines[-1])


COUNTS = ("unique", "duplicates", "reordered", "corrupt")


def datagrams(sender, receiver, address, count=1000, rate=1000, size=200, where=False):
    """Sends numbered datagrams; what the receiver saw: unique, duplicates, reordered, corrupt, and `where` that is asked for, all else it says."""
    waiting = start_tool(receiver, "datagrams", "receive", address)
    waiting.wait_ready()
    sender.run(sys.executable, TOOLS / "datagrams.py", "send", address, count, rate, size, timeout=30 + count / rate)
    seen = tool_result(waiting)
    return seen if where else {name: value for name, value in seen.items() if name in COUNTS}


def transfer(client, server, address, length, reverse=False, timeout=60):
    """Sends `length` bytes over TCP, or fetches them; the seconds that it took. They have to arrive whole."""
    waiting = start_tool(server, "transfer", "receive", address, 7001)
    waiting.wait_ready()
    words = ["fetch" if reverse else "send", address, 7001, length]
    result = json.loads(client.run(sys.executable, TOOLS / "transfer.py", *words, timeout=timeout).stdout)
    assert result["whole"]
    return result["seconds"]


class Session:
    """A terminal-like TCP session: a short line every 20 ms, echoed. It must outlive what the test does."""

    def __init__(self, client, server, address, port=2222):
        self.server = start_tool(server, "session", "serve", address, port)
        self.server.wait_ready()
        self.client = start_tool(client, "session", "talk", address, port)
        self.client.wait_ready()

    def end(self):
        """The session's own account: lines, longest_gap in seconds, broken."""
        result = tool_result(self.client)
        self.server.stop()
        return result

"""Seeing packets: captures in tshark's eyes, traces of what Scapy made, `explain` held against where packets really go."""

import json
import signal
import socket
import subprocess
import time

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Raw

from netns import wait_for
from routers import CULVERT, TRANSPORT, TUNNEL, Carrier, host
from traffic import capture, datagrams, ping, wait_ping

KEYED = Carrier(mode="transport", key=42)
PATTERN = "c0ffee1e"


def start(router, *words, name="taps"):
    """Starts the binary on a router; the daemon's socket is its."""
    return router.namespace.start(CULVERT, *words, "--socket", router.socket, name=name)


def once(router, *words, check=True):
    return router.namespace.run(CULVERT, *words, "--socket", router.socket, check=check, timeout=30)


def fields(path, *names):
    """What tshark reads of a capture: for each packet the fields' values."""
    words = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=|"]
    for name in names:
        words += ["-e", name]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "cut short" not in done.stderr, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


SEEN = ["frame.interface_name", "frame.packet_flags_direction", "frame.protocols", "ip.src", "ip.dst", "frame.time_epoch"]
IN, OUT = "0x00000001", "0x00000002"


def run_capture(router, path, *words):
    """Starts a capture and waits until its file is there."""
    process = start(router, "capture", *words, "-w", path, name="capture")
    wait_for(lambda: path.exists() and path.stat().st_size > 0, 5, f"{path.name} begins")
    return process


def end(process):
    """Control-C; what it says at its end."""
    assert process.stop(signal.SIGINT) == 0, process.text()
    return process.text()


@pytest.mark.parametrize("carrier", [KEYED, TUNNEL], ids=str)
def test_captures(sites, lab, carrier):
    """Each kind of capture holds the packets that went, with their interface and direction, in time stamps of nanoseconds."""
    sites.start(carrier)
    wait_ping(sites.h1, host(2, 4))
    lab.folder.mkdir(parents=True, exist_ok=True)
    files = {name: lab.folder / f"{name}.pcapng" for name in ("lan", "wan", "outer", "inner", "few")}
    running = [
        run_capture(sites.r1, files["lan"], "lan", "--match", f"icmp and host {host(1, 4)}"),
        run_capture(sites.r1, files["wan"], "port:wan", "--match", "esp"),
        run_capture(sites.r1, files["outer"], "oslo"),
        run_capture(sites.r1, files["inner"], "oslo", "--decrypted", "--match", "icmp"),
        run_capture(sites.r1, files["few"], "oslo", "--decrypted", "--count", "3", "--snap", "24"),
    ]
    before = time.time()
    with capture(sites.mid, "to1", "ip proto 50") as wire:
        assert ping(sites.h1, host(2, 4), count=20, pattern=PATTERN).loss == 0
    assert running[-1].wait(5) == 0
    ends = [end(process) for process in running[:-1]]
    assert all("40 packets captured, 0 lost" in text for text in ends), ends

    there, back = [host(1, 4), host(2, 4)], [host(2, 4), host(1, 4)]
    lan = fields(files["lan"], *SEEN)
    assert [line[:5] for line in lan if line[3:5] == there] == [["lan", IN, "eth:ethertype:ip:icmp:data", *there]] * 20
    assert [line[:5] for line in lan if line[3:5] == back] == [["lan", OUT, "eth:ethertype:ip:icmp:data", *back]] * 20
    inner = fields(files["inner"], *SEEN)
    assert [line[:5] for line in inner if line[3:5] == there] == [["oslo", OUT, "raw:ip:icmp:data", *there]] * 20
    assert [line[:5] for line in inner if line[3:5] == back] == [["oslo", IN, "raw:ip:icmp:data", *back]] * 20
    ends = [sites.wan(1, 4), sites.wan(2, 4)]
    for name in ("wan", "outer"):
        outer = fields(files[name], *SEEN)
        assert sorted(line[:2] + line[3:5] for line in outer) == sorted(
            [["wan", OUT, *ends]] * 20 + [["wan", IN, *reversed(ends)]] * 20
        )
    for line in lan + inner + outer:
        assert before < float(line[5]) < time.time() and len(line[5].partition(".")[2]) == 9
    # The same frames as on the wire, to the last bit.
    frames = [bytes.fromhex(data.replace(":", "")) for [data] in frames_of(files["outer"])]
    assert sorted(frames) == sorted(wire.frames())
    few = fields(files["few"], "frame.len", "frame.cap_len")
    assert few == [["84", "24"]] * 3


def frames_of(path):
    """Each frame as hexadecimal digits, read by tshark."""
    done = subprocess.run(["tshark", "-r", str(path), "-T", "jsonraw"], capture_output=True, text=True, timeout=60, check=True)
    return [[packet["_source"]["layers"]["frame_raw"][0]] for packet in json.loads(done.stdout)]


def test_capture_into_a_pipe(sites):
    """`-w -` is read by tshark as it comes."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    line = f"{CULVERT} capture oslo --decrypted -w - --match icmp --socket {sites.r1.socket} | tshark -l -n -i - -c 4 -T fields -e ip.dst"
    reader = sites.r1.namespace.start("sh", "-c", line, name="pipe")
    reader.wait_text("Capturing", 10)
    wait_for(lambda: ping(sites.h1, host(2, 4), count=2).loss == 0 and not reader.running, 10, "tshark has read four")
    assert reader.out.read_text().split().count(host(2, 4)) == 2


def test_refusals(sites, lab):
    """What is wrong is said, pointed at, and no file is touched."""
    sites.start(TRANSPORT)
    lab.folder.mkdir(parents=True, exist_ok=True)
    kept = lab.folder / "kept"
    kept.write_text("precious")
    for words, says in [
        (["capture", "osl", "-w", kept], 'culvert: capture: "osl": no port or tunnel "osl"; there is wan, lan, oslo'),
        (["capture", "wan", "--decrypted", "-w", kept], "--decrypted is for tunnels"),
        (["capture", "wan", "-w", kept, "--match", "tcp prot 80"], "capture: --match:     ^^^^\n"),
        (["capture", "wan", "-w", kept, "--match", "drop"], "this is for traces"),
        (["trace", "--match", "tunnel osl"], 'no tunnel "osl"; there is oslo'),
        (["trace", "--match", "drop esp-auht"], "there is"),
    ]:
        done = once(sites.r1, *words, check=False)
        assert done.returncode == 2 and says in done.stderr, done.stderr
    assert kept.read_text() == "precious"
    done = once(sites.r1, "capture", "wan", "-w", "/nonexistent/file", check=False)
    assert done.returncode == 1 and "/nonexistent/file" in done.stderr


def inject(sites, packet):
    """Sends a frame to r1's WAN from the middle."""
    frame = Ether(src=sites.mid.mac("to1"), dst=sites.r1.namespace.mac("wan")) / packet
    with sites.mid.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as port:
        port.bind(("to1", 0))
        port.send(bytes(frame))


def traced(sites, send, count=1, match=""):
    """What is told of the next packets that match; `send` makes them."""
    process = start(sites.r1, "trace", "--count", count, "--json", "--match", match, name="trace")
    end = time.monotonic() + 10
    while process.running and time.monotonic() < end:
        send()
        time.sleep(0.1)
    assert process.wait(1) == 0, process.text()
    return [json.loads(line) for line in process.out.read_text().splitlines()]


def step(way, name):
    return next(step for step in way["steps"] if step["step"] == name)


def test_trace(sites):
    """What befalls good packets, and why bad ones that Scapy made were dropped."""
    sites.start(KEYED)
    wait_ping(sites.h1, host(2, 4))
    name = {"match": f"src host {host(1, 4)} and icmp"}
    [way] = traced(sites, lambda: ping(sites.h1, host(2, 4), count=1), **name)
    assert [step["step"] for step in way["steps"]] == ["received", "route", "into", "gre", "seal", "outer", "sent"]
    assert step(way, "received")["port"] == "lan" and step(way, "route")["to"] == "tunnel oslo"
    assert step(way, "gre")["key"] == 42 and step(way, "seal")["spi"] == KEYED.outbound(1).spi
    assert step(way, "seal")["sequence"] <= sites.r1.show("sas")["oslo"][0]["used"]
    assert step(way, "outer")["packet"]["destination"] == sites.wan(2, 4)
    assert step(way, "sent")["mac"] == sites.mid.mac("to1")

    ends = {"src": sites.wan(2, 4), "dst": sites.wan(1, 4)}
    inside = IP(src=host(2, 4), dst=host(1, 4)) / ICMP()
    seal = KEYED.outbound(2).seal
    good = bytes(GRE(key_present=1, key=42, proto=0x0800) / inside)
    wrong = bytes(GRE(key_present=1, key=43, proto=0x0800) / inside)
    esp = lambda number, payload, **more: IP(**ends, proto=50) / Raw(seal(number, payload, **more))  # noqa: E731
    spoilt = bytearray(bytes(esp(900, good)))
    spoilt[-1] ^= 1
    for packet, reason, before in [
        (esp(901, wrong), "gre-key", ["open", "gre"]),
        (IP(bytes(spoilt)), "esp-auth", ["open"]),
        (esp(1, good), "esp-replay", ["open"]),
        (IP(**ends) / GRE(key_present=1, key=42, proto=0x0800) / inside, "cleartext-for-protected", ["gre"]),
        (IP(**ends) / GRE(key_present=1, key=44, proto=0x0800) / inside, "gre-key", []),
        (IP(**ends, proto=50) / Raw(b"\0\0\x99\x99" + bytes(60)), "esp-unknown-spi", []),
    ]:
        dropped = sites.r1.drops(reason)
        [way] = traced(sites, lambda packet=packet: inject(sites, packet), match=f"drop {reason}")
        names = [step["step"] for step in way["steps"]]
        assert way["steps"][-1] == {"step": "drop", "reason": reason}
        assert [name for name in names if name in ("open", "gre")] == before, (reason, names)
        assert sites.r1.drops(reason) > dropped
    [way] = traced(sites, lambda: inject(sites, esp(902, wrong)), match="drop gre-key and esp")
    assert step(way, "gre")["key"] == 43 and step(way, "open")["sequence"] == 902

    # For people, within their screens.
    text = start(sites.r1, "trace", "--count", 1, "--match", "tunnel oslo and src host 10.2.0.5", name="trace")
    wait_for(lambda: ping(sites.h2, host(1, 4), count=1) and not text.running, 5, "an answer is traced")
    shown = text.out.read_text()
    assert all(len(line) <= 80 for line in shown.splitlines()), shown
    assert "esp open    SPI 0x00001002, number " in shown and "out of      tunnel oslo" in shown, shown


def test_full_speed(sites, lab):
    """Captures and a trace that nobody reads, under more than they can take: nothing is lost in forwarding, what they lose is
    counted."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    lab.folder.mkdir(parents=True, exist_ok=True)
    path = lab.folder / "all.pcapng"
    taking = run_capture(sites.r1, path, "oslo", "--decrypted", "--match", "udp")
    stuck = sites.r1.namespace.start(
        "sh", "-c", f"{CULVERT} capture lan -w - --socket {sites.r1.socket} | sleep 60", name="stuck"
    )
    seen = datagrams(sites.h1, sites.h2, host(2, 4), count=20000, rate=8000, size=1000)
    assert seen["unique"] == 20000 and seen["duplicates"] == seen["reordered"] == seen["corrupt"] == 0, seen
    said = end(taking)
    stuck.stop(signal.SIGKILL)
    packets = len(fields(path, "frame.len"))
    lost = int(said.split(" lost")[0].split()[-1])
    assert packets + lost == 20000, said
    assert f"{packets} packets captured" in said


def explained(router, address, *words):
    """What `explain --json` says."""
    return json.loads(once(router, "explain", address, *words, "--json").stdout)


def test_explain(sites):
    """Packets go where `explain` says: out of which port, to which station, in which tunnel, up to which length."""
    sites.start(KEYED)
    wait_ping(sites.h1, host(2, 4))
    lan, wan = sites.hosts[1].mac("lan"), sites.mid.mac("to1")
    said = explained(sites.r1, host(2, 4))
    assert (said["verdict"], said["to"], said["route"]["prefix"]) == ("tunnel", "tunnel oslo", "10.2.0.0/24")
    tunnel = said["tunnel"]
    assert tunnel["state"] == "up" and tunnel["headers"] == ["IPv4", "ESP", "GRE"] and tunnel["key"] == 42
    assert tunnel["link"] == {"port": "wan", "via": sites.gateway(1, 4), "mac": wan, "mtu": 1500}
    assert tunnel["mtu"] == KEYED.mtu() == sum(step for _, step in tunnel["arithmetic"]) and tunnel["depth"] == 1
    [sa] = tunnel["sas"]
    assert sa["spi"] == KEYED.outbound(1).spi and sa["used"] == next(
        sa["used"] for sa in sites.r1.show("sas")["oslo"] if sa["direction"] == "out"
    )
    with capture(sites.mid, "to1", "ip proto 50 and src", sites.wan(1, 4)) as seen:
        assert ping(sites.h1, host(2, 4), count=1, size=tunnel["mtu"] - 28, df=True).loss == 0
    [frame] = seen.packets()
    assert (frame.dst, frame[IP].dst, bytes(frame[IP].payload)[:4]) == (wan, tunnel["remote"], sa["spi"].to_bytes(4))
    too_long = ping(sites.h1, host(2, 4), count=1, size=tunnel["mtu"] - 27, df=True)
    assert too_long.received == 0 and tunnel["mtu"] in too_long.mtus

    # What is no tunnel's, the kernel keeps: it does not forward here, so nothing leaves.
    said = explained(sites.r1, "198.51.100.9")
    assert (said["verdict"], said["route"]["source"]) == ("host", "the host's routing table")
    assert said["kernel_takes"] == ["wan", "lan"]
    assert said["link"] == {"port": "wan", "via": sites.gateway(1, 4), "mac": wan, "mtu": 1500}
    with capture(sites.mid, "to1", "icmp and dst 198.51.100.9") as seen:
        ping(sites.h1, "198.51.100.9", count=1, wait=0.2)
    assert seen.packets() == []
    said = explained(sites.r1, host(1, 4))
    assert said["link"]["port"] == "lan" and said["link"]["mac"] == lan
    assert explained(sites.r1, sites.wan(1, 4))["verdict"] == "host"
    sites.r1.namespace.ip("route del default")
    wait_for(lambda: explained(sites.r1, host(2, 4))["verdict"] == "dropped", 3, "no way out")
    said = explained(sites.r1, host(2, 4))
    assert said["reason"] == said["tunnel"]["problem"] == "no-route" and said["tunnel"]["state"] == "down"

    # Of the file alone, as far as it tells; and for people.
    words = [CULVERT, "explain", host(2, 4), "-c", sites.r1.file]
    said = json.loads(sites.r1.namespace.run(*words, "--json").stdout)
    assert said["to"] == "tunnel oslo" and f"{sites.r1.file}:" in said["route"]["source"]
    assert said["tunnel"]["mtu"] == KEYED.mtu() and "state" not in said["tunnel"]
    text = once(sites.r1, "explain", host(2, 4)).stdout
    assert all(len(line) <= 80 or str(sites.r1.file) in line for line in text.splitlines()), text
    done = once(sites.r1, "explain", host(2, 4), "--from", "::1", check=False)
    assert done.returncode == 2 and "another family" in done.stderr


def test_explain_of_several_ways(sites):
    """Each flow takes the tunnel that `explain` says."""
    ends = sites.wan(1, 4), sites.wan(2, 4)
    keys = {"oslo": 1, "bergen": 2, "turku": 3}
    more = "".join(
        Carrier(key=keys[name]).toml(1, *ends, routes=[], inner=False).replace('"oslo"', f'"{name}"')
        for name in ("bergen", "turku")
    )
    sites.r1.start(sites.configuration(1, Carrier(key=keys["oslo"])) + more)
    wait_for(lambda: sites.r1.tunnel()["state"] == "up", 5, "the tunnel is up")
    target = "203.0.113.9"
    sites.r1.namespace.ip("route add 203.0.113.0/24 " + " ".join(f"nexthop dev {name}" for name in keys))
    wait_for(lambda: explained(sites.r1, target)["verdict"] == "several", 3, "the routes are followed")
    assert sorted(explained(sites.r1, target)["ways"]) == sorted(f"tunnel {name}" for name in keys)
    flows = range(40000, 40024)
    with capture(sites.mid, "to1", "ip proto 47 and src", ends[0]) as seen:
        with sites.h1.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as port:
            port.bind(("lan", 0))
            for source in flows:
                link = Ether(src=sites.h1.mac("lan"), dst=sites.r1.namespace.mac("lan"))
                port.send(bytes(link / IP(src=host(1, 4), dst=target) / UDP(sport=source, dport=53) / Raw(bytes(20))))
        time.sleep(0.3)
    went = {frame[UDP].sport: frame[GRE].key for frame in seen.packets() if UDP in frame}
    words = ["--from", host(1, 4), "--protocol", "udp", "--port", 53, "--source-port"]
    said = {source: explained(sites.r1, target, *words, source)["tunnel"]["name"] for source in flows}
    assert went == {source: keys[name] for source, name in said.items()}
    assert set(said.values()) == set(keys)

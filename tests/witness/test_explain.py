"""`explain` of a file, beside what a replay of that file does with the packet that was asked about."""

import json
import subprocess

import pytest
from scapy.layers.l2 import GRE, Ether

from witness import (
    EXPERIMENT,
    FAR_HOST,
    LOCAL,
    NEAR_HOST,
    REMOTE,
    ROUTER_ON_LAN,
    STRANGER,
    GreOptions,
    Tunnel,
    binary,
    configuration,
    filler,
    into_lan,
    ip,
    replay,
)

ROUTES = "".join(
    f'\n[[route]]\nprefix = "{prefix}"\nport = "{port}"\nvia = "{via}"\n'
    for prefix, port, via in [
        ("203.0.113.0/24", "wan", REMOTE[4]),
        ("203.0.113.128/25", "lan", NEAR_HOST[4]),
        ("2001:db8:cafe::/48", "wan", REMOTE[6]),
        ("198.51.100.0/24", "wan", STRANGER[4]),
    ]
)
PLAIN = Tunnel(mode=None, gre=GreOptions(key=42))
SEALED = Tunnel(family=6, mode="tunnel")


def explain(directory, address):
    words = [binary(), "explain", address, "-c", directory / "culvert.toml", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("tunnel", [PLAIN, SEALED], ids=["gre", "esp"])
@pytest.mark.parametrize(
    "address",
    [
        FAR_HOST[4],
        FAR_HOST[6],
        "203.0.113.5",
        "203.0.113.200",
        "2001:db8:cafe::1",
        "198.51.100.1",
        "10.1.77.77",
        "172.16.0.1",
        "192.0.2.255",
        "224.0.0.5",
        LOCAL[4],
        ROUTER_ON_LAN[6],
        REMOTE[4],
        REMOTE[6],
        STRANGER[6],
        NEAR_HOST[4],
    ],
)
def test_a_replay_does_what_was_explained(tmp_path, tunnel, address):
    """The same port, the same station, the same tunnel, the same reason of a drop; and the MTU to the byte."""
    source = "10.1.0.6" if "." in address else "2001:db8:10::6"
    packet = ip(source, address, EXPERIMENT, filler(64))
    outcome = replay(tmp_path, configuration(tunnel, extra=ROUTES), lan=[into_lan(packet)])
    said = explain(tmp_path, address)
    sent = {port: frames for port in ("wan", "lan", "host") if (frames := outcome.frames(port))}
    if said["verdict"] == "dropped":
        assert sent == {} and dict(outcome.drops) == {said["reason"]: 1}
        return
    [(port, [frame])] = sent.items()
    if said["verdict"] == "host":
        assert port == "host"
        return
    link = (said["tunnel"] if said["verdict"] == "tunnel" else said)["link"]
    assert (port, Ether(frame).dst) == (link["port"], link["mac"])
    counted = outcome.tunnel()["out_packets"]
    assert counted == (1 if said["verdict"] == "tunnel" else 0)


@pytest.mark.parametrize("tunnel", [PLAIN, SEALED], ids=["gre", "esp"])
def test_the_mtu_is_what_passes(tmp_path, tunnel):
    """A packet as long as was explained goes in, one byte more does not."""
    packets = [into_lan(ip("10.1.0.6", FAR_HOST[4], EXPERIMENT, filler(length))) for length in (1, 2)]
    replay(tmp_path, configuration(tunnel), lan=packets)
    said = explain(tmp_path, FAR_HOST[4])["tunnel"]
    assert said["mtu"] == sum(step for _, step in said["arithmetic"]) == tunnel.mtu()
    lengths = (said["mtu"] - 20, said["mtu"] - 19)
    packets = [into_lan(ip("10.1.0.6", FAR_HOST[4], EXPERIMENT, filler(length), flags="DF")) for length in lengths]
    outcome = replay(tmp_path, configuration(tunnel), lan=packets)
    assert len(outcome.frames("wan")) == 1 and dict(outcome.drops) == {"too-big": 1}
    if tunnel is PLAIN:
        assert Ether(outcome.frames("wan")[0])[GRE].key == said["key"] == 42

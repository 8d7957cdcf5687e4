"""What Culvert seals, as tshark sees it: the ICV is right, every field has its value, and nothing is complained of.

tshark 4.0 opens AES-GCM (RFC 4106) without ESN; it has neither ChaCha20-Poly1305 nor 64-bit sequence numbers for ESP.
Those are left to the other witnesses.
"""

import csv
import io
import shutil
import subprocess

import pytest

from witness import (
    FAR_HOST,
    NEAR_HOST,
    SUITES,
    GreOptions,
    Sa,
    Tunnel,
    configuration,
    family_of,
    into_lan,
    replay,
    to_far,
)

EVERYTHING = GreOptions(key=0xC0FFEE, checksum=True, sequence=True)
GOOD, NONE = "1", ""
PREFERENCES = [
    "esp.enable_encryption_decode:TRUE",
    "esp.enable_authentication_check:TRUE",
    "ip.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
    "udp.ignore_ipv6_zero_checksum:TRUE",  # RFC 6935
]
FIELDS = [
    "esp.sequence", "esp.icv_good", "esp.icv_bad", "gre.flags_and_version", "gre.key", "gre.checksum.status",
    "gre.sequence_number", "ip.src", "ip.dst", "ip.ttl", "ip.checksum.status", "ipv6.src", "ipv6.dst", "ipv6.hlim",
    "udp.srcport", "udp.dstport", "data.data", "_ws.expert", "_ws.expert.message", "_ws.malformed",
]  # fmt: skip


def dissect(capture, tunnel):
    """The fields of each packet, decrypted by tshark; fields that occur several times are joined by commas."""
    program = shutil.which("tshark")
    if not program:
        pytest.fail("tshark is not installed (Debian: apt install tshark)", pytrace=False)
    sa = tunnel.outbound
    known = f'"IPv{tunnel.family}","*","*","{sa.spi:#x}","{SUITES[sa.suite].tshark}","0x{sa.key.hex()}","NULL",""'
    command = [program, "-n", "-r", str(capture), "-T", "fields", "-E", "separator=;", "-E", "aggregator=,"]
    for preference in [*PREFERENCES, f"uat:esp_sa:{known}"]:
        command += ["-o", preference]
    for field in FIELDS:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return list(csv.DictReader(io.StringIO(done.stdout), FIELDS, delimiter=";"))


def expected_fields(tunnel, inner, place):
    """What tshark must say of the `place`-th packet. Lists have one value for each IP header of that family."""
    outer, middle = tunnel.family, tunnel.family if tunnel.mode == "tunnel" else None
    families = [family for family in (outer, middle, family_of(inner)) if family]
    local, remote = tunnel.endpoints
    sources = [local] * (len(families) - 1) + [NEAR_HOST[families[-1]]]
    destinations = [remote] * (len(families) - 1) + [FAR_HOST[families[-1]]]

    def of(family, values):
        return ",".join(value for value, one in zip(values, families, strict=True) if one == family)

    gre, encap = tunnel.gre, tunnel.outbound.udp_encap
    flags = 0x8000 * gre.checksum | 0x2000 * (gre.key is not None) | 0x1000 * gre.sequence
    return {
        "esp.sequence": str(place + 1),
        "esp.icv_good": GOOD,
        "esp.icv_bad": "0",
        "gre.flags_and_version": f"{flags:#06x}",
        "gre.key": NONE if gre.key is None else f"{gre.key:#010x}",
        "gre.checksum.status": GOOD if gre.checksum else NONE,
        "gre.sequence_number": str(place) if gre.sequence else NONE,
        "ip.src": of(4, sources),
        "ip.dst": of(4, destinations),
        "ip.checksum.status": of(4, [GOOD] * len(families)),
        "ipv6.src": of(6, sources),
        "ipv6.dst": of(6, destinations),
        "udp.srcport": str(encap[0]) if encap else NONE,
        "udp.dstport": str(encap[1]) if encap else NONE,
        "data.data": inner[20 if family_of(inner) == 4 else 40 :].hex(),
        "_ws.expert": NONE,
        "_ws.expert.message": NONE,
        "_ws.malformed": NONE,
    }


@pytest.mark.parametrize("gre", (GreOptions(), EVERYTHING), ids=("plain", "all"))
@pytest.mark.parametrize("encap", (None, (4500, 4500)), ids=("esp", "udp"))
@pytest.mark.parametrize("family", (4, 6))
@pytest.mark.parametrize("mode", ("transport", "tunnel"))
@pytest.mark.parametrize("suite", ("aes128gcm16", "aes256gcm16"))
def test_decrypted(tmp_path, suite, mode, family, encap, gre):
    """Packets of many sizes, IPv4 and IPv6 inside."""
    tunnel = Tunnel(family=family, mode=mode, gre=gre, sas=(Sa("out", 0x1001, suite, udp_encap=encap),))
    inner = [to_far(one, length, length, ttl=9) for one in (4, 6) for length in (1, 15, 16, 17, 64, 512, 1300)]
    outcome = replay(tmp_path, configuration(tunnel), lan=[into_lan(one) for one in inner])
    assert len(outcome.frames("wan")) == len(inner)
    rows = dissect(tmp_path / "out-wan.pcap", tunnel)
    for place, (row, packet) in enumerate(zip(rows, inner, strict=True)):
        expected = expected_fields(tunnel, packet, place)
        assert {field: row[field] for field in expected} == expected
        ttls = (row["ip.ttl"] if family_of(packet) == 4 else row["ipv6.hlim"]).split(",")
        assert ttls[-1] == "8"
        outer = row["ip.ttl"] if family == 4 else row["ipv6.hlim"]
        assert outer.split(",")[0] == str(tunnel.ttl)


def test_tshark_would_complain(tmp_path):
    """The witness is awake: with a wrong key tshark finds no good ICV, and no GRE."""
    tunnel = Tunnel(sas=(Sa("out", 0x1001),))
    replay(tmp_path, configuration(tunnel), lan=[into_lan(to_far(4))])
    [row] = dissect(tmp_path / "out-wan.pcap", Tunnel(sas=(Sa("out", 0x1001, "aes256gcm16"),)))
    assert row["esp.icv_good"] != GOOD and not row["gre.flags_and_version"]

"""The link between the two routers of a pair: who is let in, what is said of it, and what it outlives."""

import secrets
import shutil
import subprocess

import pytest

from netns import wait_for
from routers import CULVERT, host
from shared import LINKED, PORT, address, link, metrics, other, sync, wait_up
from traffic import capture, ping

APART = (0x1001, 0x1011)


@pytest.fixture
def linked(shared):
    """The two with a cable of their own between them."""
    return shared.join()


def start(shared, twin, proof=None, spi=None):
    spi = spi or APART[twin.label == "b"]
    twin.start(twin.configuration(spi, sync(shared, twin.label, proof)))


def apply(twin, configuration):
    twin.file.write_text(configuration)
    twin.namespace.run(CULVERT, "apply", twin.file, "--socket", twin.socket)


def wait_why(twin, words):
    wait_for(lambda: words in link(twin).get("why", ""), LINKED, f"r{twin.label} says {words!r}: {link(twin)}")


def test_two_daemons_are_linked(linked):
    """With all the limits that a daemon has by itself; what is shown, measured and logged; and on the wire it is TLS alone."""
    with capture(linked.a.namespace, "sync") as seen:
        start(linked, linked.a)
        wait_why(linked.a, "")
        assert not link(linked.a)["up"]
        start(linked, linked.b)
        wait_up(linked.a, linked.b)
    shown = link(linked.a)
    assert shown["partner"]["router"] == "second" and shown["partner"]["address"].startswith(address("b") + ":")
    assert shown["partner"]["program"].startswith("culvert ") and shown["partner"]["version"] == 4
    assert shown["proof"] == "secret" and "why" not in shown
    table = linked.b.namespace.run(CULVERT, "show", "carp", "--socket", linked.b.socket).stdout
    # Whichever of the two has connected.
    assert "router first at 10.9.0.1:" in table
    assert 'culvert_carp_sync_up{program="culvert ' in metrics(linked.a)
    assert "carp sync: linked with the partner, router second" in linked.a.daemon.text()
    assert linked.a.show("privileges")["missing"] == [], "all limits are in force"
    assert linked.secret.encode() not in b"".join(bytes(frame) for frame in seen.frames())
    # The partner goes: told, and it is looked for until it is back.
    linked.b.daemon.kill()
    wait_for(lambda: not link(linked.a)["up"], 5, "its death is noticed")
    start(linked, linked.b)
    wait_up(linked.a, linked.b)
    assert link(linked.a)["sessions"] == 2


def test_a_cable_that_is_pulled(linked):
    """Nothing comes any more: noticed within the dead time and some, and mended by itself. Tunnels do not care."""
    linked.r2.start(linked.far_configuration(APART))
    for twin in (linked.a, linked.b):
        start(linked, twin)
    linked.a.start_ucarp(skew=0)
    linked.a.wait_role("master")
    wait_up(linked.a, linked.b)
    linked.b.namespace.ip("link set sync down")
    for twin in (linked.a, linked.b):
        wait_for(lambda: not link(twin)["up"], 5, f"r{twin.label} notices")
    assert ping(linked.h1, host(2, 4), count=20).loss <= 10
    linked.b.namespace.ip("link set sync up")
    wait_up(linked.a, linked.b)


def test_another_secret_and_then_the_same(linked):
    """What is wrong is said on both sides; an apply puts it right, without a restart and without touching the tunnel."""
    start(linked, linked.a)
    right, linked.secret = linked.secret, secrets.token_hex(32)
    start(linked, linked.b)
    for twin in (linked.a, linked.b):
        wait_why(twin, "another secret")
    told = "carp sync: no link with the partner: the partner"
    wait_for(lambda: told in linked.b.daemon.text(), 5, "the log says it")
    pid = linked.b.daemon.pid
    linked.secret = right
    sync(linked, "b")
    apply(linked.b, linked.b.configuration(APART[1], sync(linked, "b")))
    wait_up(linked.a, linked.b)
    assert linked.b.daemon.pid == pid
    # And it can go altogether.
    apply(linked.b, linked.b.configuration(APART[1]))
    wait_for(lambda: not link(linked.a)["up"], 5, "it is gone")
    assert link(linked.b) is None


def openssl(folder, line):
    subprocess.run(["openssl", *line.split()], cwd=folder, check=True, capture_output=True)


def test_certificates(linked):
    """By certificates of a CA, each by the other's name; OpenSSL without one, or with TLS 1.2, gets nothing."""
    assert shutil.which("openssl")
    folder = linked.lab.folder
    openssl(folder, "req -x509 -newkey ed25519 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca")
    for label in "ab":
        name = f"{label}.example"
        openssl(folder, f"req -new -newkey ed25519 -nodes -keyout {label}.key -out {label}.csr -subj /CN={name}")
        (folder / f"{label}.ext").write_text(f"subjectAltName=DNS:{name}\n")
        sign = f"x509 -req -in {label}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {label}.ext"
        openssl(folder, f"{sign} -out {label}.pem")
        (folder / f"{label}.key").chmod(0o600)

    def proof(label):
        files = f'cert_file = "{folder}/{label}.pem"\nkey_file = "{folder}/{label}.key"\nca_files = ["{folder}/ca.pem"]\n'
        return f'{files}partner_name = "{other(label)}.example"\n'

    start(linked, linked.a, proof("a"))
    at = f"{address('a')}:{PORT}"
    for more in ("", "-tls1_2 -cert b.pem -key b.key"):
        words = f"openssl s_client -connect {at} -CAfile ca.pem {more}".split()
        said = linked.b.namespace.run("sh", "-c", f"cd {folder}; (sleep 1; echo Q) | {' '.join(words)} 2>&1; true").stdout
        assert "alert" in said and "culvert 0" not in said, said
    assert link(linked.a)["refused"] >= 2
    start(linked, linked.b, proof("b"))
    wait_up(linked.a, linked.b)
    assert link(linked.b)["proof"] == "certificate"

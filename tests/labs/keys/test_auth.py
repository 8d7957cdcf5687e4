"""Every way in which two routers can prove who they are: the tunnel comes up by it, and where the proof is no good both ends say
what is wrong with it."""

import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certificates import DAY, KEYS, Authority, write_key, write_public_key, write_secret
from netns import command, wait_for
from routers import CULVERT, NAMES, far, host
from traffic import ping

ID = {1: "oslo.example", 2: "paris.example"}


def toml(**settings):
    """The lines of an `ike` table."""
    shown = {key: [str(item) for item in value] if isinstance(value, list) else str(value) for key, value in settings.items()}
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in shown.items())


def by_certificate(site, ca, pair, **more):
    """An `ike` table with the certificate of a site, and whose signature it believes."""
    file, key = pair
    ids = {"local_id": ID[site], "remote_id": ID[far(site)]}
    return toml(**{"auth": "cert", "cert_file": file, "key_file": key, "ca_files": [ca.file], **ids, **more})


@pytest.fixture
def ca(lab):
    return Authority(lab.folder / "ca")


def start_both(pair, ike):
    for site in pair.sites.routers:
        pair.charons[site].start()
        pair.start_culvert(site, ike=ike)


def up(pair, ike):
    pair.start(ike=ike)
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0


@pytest.mark.parametrize("kind", KEYS)
def test_certificates(pair, lab, kind):
    """Both by a certificate, and with a list of revoked ones on which they are not."""
    ca = Authority(lab.folder / "ca", kind=kind)
    issued = {site: ca.issue(ID[site], kind) for site in (1, 2)}
    ca.issue("rome.example")
    crl = ca.revoke("rome.example")
    up(pair, {site: by_certificate(site, ca, issued[site], crl_files=[crl]) for site in (1, 2)})
    for site in (1, 2):
        assert "certificate status is good" in pair.charons[site].text()
    assert "BEGIN" not in "".join(router.daemon.text() for router in pair.sites.routers.values())


def test_the_names_in_certificates(pair, ca):
    """Without local_id, a router is who its certificate says."""
    ike = {}
    for site in (1, 2):
        lines = by_certificate(site, ca, ca.issue(ID[site]), remote_id=f"CN={ID[far(site)]}").splitlines()
        ike[site] = "\n".join(line for line in lines if not line.startswith("local_id"))
    up(pair, ike)


def test_an_expired_certificate(pair, ca):
    """`check` and the daemon's start say so at its owner; the far end says why it does not take it."""
    ike = {
        1: by_certificate(1, ca, ca.issue(ID[1], begins=-9 * DAY, ends=-DAY)),
        2: by_certificate(2, ca, ca.issue(ID[2])),
    }
    start_both(pair, ike)
    assert "the certificate ended on" in pair.sites.r1.daemon.text()
    pair.wait_reason(2, "not valid now, or no longer")
    pair.wait_reason(1, "does not accept our proof")
    assert pair.state(1)["state"] == pair.state(2)["state"] == "down"


def test_a_revoked_certificate(pair, ca):
    """The far end has it on its list."""
    issued = {site: ca.issue(ID[site]) for site in (1, 2)}
    crl = ca.revoke(ID[2])
    ike = {1: by_certificate(1, ca, issued[1], crl_files=[crl]), 2: by_certificate(2, ca, issued[2])}
    start_both(pair, ike)
    pair.wait_reason(1, "was revoked")
    pair.wait_reason(2, "does not accept our proof")
    assert pair.state(1)["state"] == pair.state(2)["state"] == "down"


def test_nobody_knows_whether_it_was_revoked(pair, ca):
    """With `revocation = "strict"` a certificate is refused whose CA's list nobody has."""
    issued = {site: ca.issue(ID[site]) for site in (1, 2)}
    ike = {1: by_certificate(1, ca, issued[1], revocation="strict"), 2: by_certificate(2, ca, issued[2])}
    start_both(pair, ike)
    pair.wait_reason(1, "cannot be found out whether the far end's certificate was revoked")
    # The one that answered is up for a moment.
    wait_for(lambda: pair.state(1)["state"] == pair.state(2)["state"] == "down", 5, "neither is up")


def test_a_certificate_of_another_ca(pair, ca, lab):
    """Signed, but by nobody whom the other believes."""
    other = Authority(lab.folder / "other", "Another CA")
    start_both(pair, {1: by_certificate(1, ca, ca.issue(ID[1])), 2: by_certificate(2, ca, other.issue(ID[2]))})
    pair.wait_reason(1, "signed by none of ca_files")
    pair.wait_reason(2, "does not accept our proof")
    assert pair.state(1)["state"] == pair.state(2)["state"] == "down"


def test_somebody_elses_certificate(pair, ca):
    """Of the right CA, but for another name than remote_id: a CA signs for many."""
    start_both(pair, {1: by_certificate(1, ca, ca.issue(ID[1])), 2: by_certificate(2, ca, ca.issue("rome.example"))})
    pair.wait_reason(1, "for its identity (remote_id)")
    wait_for(lambda: pair.state(1)["state"] == pair.state(2)["state"] == "down", 5, "neither is up")


@pytest.mark.parametrize("kind", KEYS)
def test_public_keys(pair, lab, kind):
    """Both by a key that the other knows, and no certificate."""
    up(pair, public_keys(lab, {site: KEYS[kind]() for site in (1, 2)}))


def public_keys(lab, keys, believed=None):
    lab.folder.mkdir(parents=True, exist_ok=True)
    own = {site: write_key(lab.folder / f"{site}.key", key) for site, key in keys.items()}
    public = {site: write_public_key(lab.folder / f"{site}.pub", key) for site, key in (believed or keys).items()}
    return {site: toml(auth="pubkey", key_file=own[site], remote_key_file=public[far(site)]) for site in (1, 2)}


def test_another_public_key(pair, lab):
    """The far end has another key than the one that is known here."""
    keys = {site: KEYS["ed25519"]() for site in (1, 2)}
    start_both(pair, public_keys(lab, keys, {1: keys[1], 2: KEYS["ed25519"]()}))
    pair.wait_reason(1, "far end's key is another one")
    assert pair.state(1)["state"] == pair.state(2)["state"] == "down"


def by_password(ca, lab, passwords=("one that both know", "one that both know"), initiator=1):
    """EAP-MSCHAPv2: the initiator by a password, the responder by a certificate."""
    files = [write_secret(lab.folder / f"{number}.password", text.encode()) for number, text in enumerate(passwords)]
    responder = far(initiator)
    file, key = ca.issue(ID[responder])
    common = {"auth": "eap-mschapv2"}
    return {
        initiator: toml(
            **common, role="initiator", password_file=files[0], ca_files=[ca.file], local_id=ID[initiator], remote_id=ID[responder]
        ),
        responder: toml(
            **common, role="responder", password_file=files[1], cert_file=file, key_file=key,
            local_id=ID[responder], remote_id=ID[initiator],
        ),
    }


@pytest.mark.parametrize("initiator", [1, 2])
def test_a_password(pair, ca, lab, initiator):
    """EAP-MSCHAPv2; whichever end has the lower address, the initiator begins, also when it is there last."""
    ike = by_password(ca, lab, initiator=initiator)
    responder = far(initiator)
    pair.charons[responder].start()
    pair.start_culvert(responder, ike=ike)
    pair.wait_reason(responder, "waits for the far end to begin")
    pair.charons[initiator].start()
    pair.start_culvert(initiator, ike=ike)
    pair.wait_up()
    assert "initiating IKE_SA" not in pair.charons[responder].text()


def test_a_wrong_password(pair, ca, lab):
    start_both(pair, by_password(ca, lab, ("this", "that")))
    pair.wait_reason(1, "does not accept our password")
    pair.wait_reason(2, "password is another one")
    assert pair.state(1)["state"] == pair.state(2)["state"] == "down"


def test_eap_tls(pair, ca):
    """Both by a certificate within EAP."""
    issued = {site: ca.issue(ID[site], "rsa") for site in (1, 2)}
    role = {1: "initiator", 2: "responder"}
    up(pair, {site: by_certificate(site, ca, issued[site], role=role[site]).replace('"cert"', '"eap-tls"') for site in (1, 2)})


# --- what `check` says of files ---------------------------------------------------------------------------------------


class Files:
    """A configuration with a certificate and all that goes with it, in which one thing is spoilt."""

    def __init__(self, ca, pair):
        self.ca, self.pair = ca, pair
        self.issued = ca.issue(ID[1])
        self.settings = {"auth": "cert", "cert_file": self.issued[0], "key_file": self.issued[1], "ca_files": [ca.file]}
        self.settings["remote_id"] = ID[2]

    def check(self):
        file = self.ca.folder / "check.toml"
        file.write_text(self.pair.configuration(1, ike={1: toml(**self.settings)}))
        return command(CULVERT, "check", "-c", file, check=False)

    def refused(self, key, *words):
        done = self.check()
        assert done.returncode == 2, done.stdout + done.stderr
        where = f'tunnel "{NAMES[1]}", protect, ike, {key}'
        [line] = [line for line in done.stderr.splitlines() if where in line]
        assert all(word in line for word in words), line


@pytest.fixture
def files(ca, pair):
    return Files(ca, pair)


FORMS = [(kind, PrivateFormat.PKCS8) for kind in KEYS]
FORMS += [(kind, PrivateFormat.TraditionalOpenSSL) for kind in KEYS if kind != "ed25519"]


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("kind, form", FORMS)
def test_check_reads_every_form_of_key(files, kind, encoding, form):
    """PKCS #8, PKCS #1 and SEC 1 (Ed25519 has the first alone), in PEM and DER: each is known to be its certificate's."""
    ca = files.ca
    key = KEYS[kind]()
    while kind == "ec" and encoding is Encoding.DER and key.private_bytes(encoding, form, NoEncryption())[-1:] not in (b"\n", b" "):
        # DER that ends like a line of text is complete with that.
        key = KEYS[kind]()
    made, KEYS["made"] = KEYS.get("made"), lambda: key
    try:
        file, _ = ca.issue("form.example", "made")
    finally:
        KEYS.pop("made") if made is None else KEYS.update(made=made)
    path = write_key(ca.folder / "form", key, encoding, form)
    files.settings.update(cert_file=file, key_file=path)
    assert files.check().returncode == 0, files.check().stderr
    files.settings["cert_file"] = files.issued[0]
    files.refused("key_file", "another one than that of the (first) certificate")


def test_check_says_what_is_wrong_with_a_file(files):
    """Missing, of another kind, damaged, encrypted, open to everybody: said where the file is named."""
    ca = files.ca
    good = dict(files.settings)
    assert files.check().returncode == 0, files.check().stderr
    for key in ("cert_file", "key_file", "ca_files", "remote_id"):
        files.settings = {name: value for name, value in good.items() if name != key}
        files.refused(key, "is missing")
    for key, value, *words in (
        ("cert_file", "nowhere.pem", "nowhere.pem", "cannot be read"),
        ("key_file", "nowhere.key", "cannot be read"),
        ("ca_files", ["nowhere.pem"], "nowhere.pem", "cannot be read"),
        ("cert_file", good["key_file"], "has a private key where a certificate is wanted"),
        ("ca_files", [], "names no certificate"),
        ("crl_files", [ca.file], "has a certificate where a revocation list is wanted"),
        ("revocation", "perhaps", "is not known here"),
    ):
        files.settings = {**good, key: value}
        files.refused(key, *words)
    spoilt = ca.folder / "spoilt"
    files.settings = {**good, "cert_file": spoilt}
    whole = files.issued[0].read_bytes()
    for content, word in ((b"", "neither PEM nor DER"), (b"\xff\x00", "neither PEM nor DER"), (whole[:-40], "cut off or damaged"),
                          (whole.replace(b"M", b"", 1), "cut off or damaged")):
        spoilt.write_bytes(content)
        files.refused("cert_file", word)
    files.settings = {**good, "key_file": spoilt}
    write_key(spoilt, KEYS["ec"](), passphrase=b"hush")
    files.refused("key_file", "encrypted")
    write_secret(spoilt, whole)
    files.refused("key_file", "has a certificate where a private key")
    write_secret(spoilt, good["key_file"].read_bytes())
    spoilt.chmod(0o644)
    files.refused("key_file", "open to everybody (mode 0644)", "chmod 600")
    files.settings = {**good, "psk": "x"}
    assert files.check().returncode == 2

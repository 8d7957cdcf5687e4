"""Certificates that are signed by way of others, and the question whether one was revoked, asked where the certificate says: by OCSP or
by a list that is fetched."""

import pytest

from certificates import Authority
from routers import far
from test_auth import ID, Files, by_certificate, start_both, up

PORT = 8980


@pytest.fixture
def ca(lab):
    return Authority(lab.folder / "ca")


class Asking:
    """A CA whose certificates say where to ask, and both routers with what strongSwan asks with."""

    def __init__(self, pair, ca, way):
        self.pair, self.ca, self.way = pair, ca, way
        if way == "ocsp":
            ca.ocsp_url = f"http://127.0.0.1:{PORT}"
        else:
            ca.crl_url = f"http://127.0.0.1:{PORT}/ca.der"
        self.issued = {site: ca.issue(ID[site]) for site in (1, 2)}
        for charon in pair.charons.values():
            charon.loaded += " curl"

    def answer(self, **words):
        """There is somebody to be asked, on each router's own loopback."""
        for router in self.pair.sites.routers.values():
            router.namespace.ip("link set lo up")
            if self.way == "ocsp":
                self.ca.start_ocsp(router.namespace, PORT, **words)
            else:
                self.ca.revoke(*words.get("revoked", ()))
                self.ca.start_http(router.namespace, PORT)

    def tables(self, revocation, relaxed=()):
        """The `ike` tables; who is in `relaxed` asks and does not insist."""
        said = {site: "relaxed" if site in relaxed else revocation for site in (1, 2)}
        return {site: by_certificate(site, self.ca, self.issued[site], revocation=said[site]) for site in (1, 2)}


def refused(pair, words):
    """Site 1 does not take site 2's certificate, for that reason, and the other end knows that much."""
    pair.wait_reason(1, words)
    pair.wait_reason(2, "does not accept our proof")
    assert pair.state(1)["state"] == pair.state(2)["state"] == "down"


@pytest.mark.parametrize("way", ["ocsp", "crl"])
def test_good(pair, ca, way):
    """With `strict`, by an answer that says so."""
    asking = Asking(pair, ca, way)
    asking.answer()
    up(pair, asking.tables("strict"))
    for charon in pair.charons.values():
        text = charon.text()
        assert "certificate status is good" in text
        assert ("ocsp response is valid" if way == "ocsp" else "crl is valid") in text


@pytest.mark.parametrize("way", ["ocsp", "crl"])
def test_revoked(pair, ca, way):
    """Whoever asks refuses it, even with `relaxed`."""
    asking = Asking(pair, ca, way)
    asking.answer(revoked=[ID[2]])
    start_both(pair, asking.tables("relaxed"))
    refused(pair, "was revoked")


def test_unknown_to_the_responder(pair, ca):
    """It answers that it does not know the certificate."""
    asking = Asking(pair, ca, "ocsp")
    asking.answer(unknown=[ID[2]])
    start_both(pair, asking.tables("strict"))
    refused(pair, "the OCSP responder does not know the far end's certificate")


@pytest.mark.parametrize("revocation", ["strict", "ifuri"])
@pytest.mark.parametrize("way, words", [("ocsp", "nobody answers (OCSP)"), ("crl", "cannot be fetched")], ids=["ocsp", "crl"])
def test_nobody_answers(pair, ca, way, words, revocation):
    """Where the certificate says whom to ask, not to know is not good enough, but for `relaxed`."""
    asking = Asking(pair, ca, way)
    start_both(pair, asking.tables(revocation, relaxed=[2]))
    refused(pair, words)


@pytest.mark.parametrize("way", ["ocsp", "crl"])
def test_nobody_answers_and_nobody_minds(pair, ca, way):
    asking = Asking(pair, ca, way)
    up(pair, asking.tables("relaxed"))
    assert "certificate status is not available" in pair.charons[1].text()


def test_nothing_to_ask_with(pair, ca):
    """A strongSwan without its curl plugin."""
    asking = Asking(pair, ca, "crl")
    pair.charons[1].loaded = pair.charons[1].loaded.replace(" curl", "")
    start_both(pair, asking.tables("strict", relaxed=[2]))
    refused(pair, "load its curl plugin")


# --- chains -----------------------------------------------------------------------------------------------------------


def chain(issued, *between):
    """A certificate and its key, with those of CAs behind it in one file."""
    file, key = issued
    file.write_bytes(file.read_bytes() + b"".join(ca.file.read_bytes() for ca in between))
    return file, key


@pytest.mark.parametrize("depth", [1, 2])
def test_a_chain(pair, lab, ca, depth):
    """The far end trusts the last alone, among others in one file; those between are in the file of who is signed by them."""
    cas = [ca]
    for number in range(depth):
        cas.append(Authority(lab.folder / f"between-{number}", f"Between {number}", by=cas[-1]))
    other = Authority(lab.folder / "other", "Another CA")
    bundle = lab.folder / "bundle.pem"
    bundle.write_bytes(b"A bundle, as systems have it\n" + other.file.read_bytes() + b"\n# this one\n" + ca.file.read_bytes())
    ike = {}
    for site in (1, 2):
        issued = chain(cas[-1].issue(ID[site]), *reversed(cas[1:]))
        ike[site] = by_certificate(site, ca, issued, ca_files=[bundle])
    up(pair, ike)


def test_two_hierarchies(pair, lab, ca):
    """Each router's certificate is by way of a CA of its own, and the other does not even know our last one."""
    other = Authority(lab.folder / "other", "Another CA")
    roots = {1: ca, 2: other}
    ike = {}
    for site, root in roots.items():
        between = Authority(lab.folder / f"between-{site}", f"Between {site}", by=root)
        issued = chain(between.issue(ID[site]), between)
        ike[site] = by_certificate(site, ca, issued, ca_files=[roots[far(site)].file])
    up(pair, ike)


def test_a_chain_with_a_gap(pair, lab, ca):
    """The one between is missing from the file."""
    between = Authority(lab.folder / "between", "Between", by=ca)
    start_both(pair, {1: by_certificate(1, ca, ca.issue(ID[1])), 2: by_certificate(2, ca, between.issue(ID[2]))})
    refused(pair, "signed by none of ca_files")


def test_check_says_what_is_wrong_with_a_chain(pair, lab, ca):
    """A certificate that does not belong there, one that may sign nobody: said where the file is named."""
    files = Files(ca, pair)
    good = dict(files.settings)
    file = lab.folder / "chain.pem"
    files.settings = {**good, "cert_file": file}
    own, stranger = files.issued[0].read_bytes(), Authority(lab.folder / "other", "Another CA").file.read_bytes()
    file.write_bytes(own + ca.file.read_bytes())
    assert files.check().returncode == 0, files.check().stderr
    file.write_bytes(own + stranger)
    files.refused("cert_file", "chain.pem", "certificate 2 is of a CA that has signed none of the others", "own certificate first")
    file.write_bytes(own + ca.issue("rome.example")[0].read_bytes())
    files.refused("cert_file", "certificate 2 is no CA's")
    files.settings = {**good, "ca_files": [files.issued[0]]}
    files.refused("ca_files", "certificate 1 is no CA's (basic constraints)", "who signs the far router's")

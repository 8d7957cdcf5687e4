"""CAs of the lab's own: keys, certificates and revocation lists in files, made when a test needs them; and who answers by OCSP."""

import sys
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

DAY = timedelta(days=1)
KEYS = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def name(common):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def write_secret(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def write_key(path, key, encoding=Encoding.PEM, form=PrivateFormat.PKCS8, passphrase=None):
    """A private key in a file that is its owner's alone."""
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return write_secret(path, key.private_bytes(encoding, form, encryption))


def write_public_key(path, key):
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


class Authority:
    """A CA; its files are in `folder`. Where another has signed it, it is one between that and those whom it signs for."""

    def __init__(self, folder, common="Lab CA", kind="ec", by=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.key = folder, name(common), KEYS[kind]()
        self.serials, self.crl_url, self.ocsp_url = {}, None, None
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        by = by or self
        builder = by._builder(self.name, self.key, -DAY, 30 * DAY)
        if by is not self:
            builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key()), False)
        builder = builder.add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, True)
        self.certificate = builder.sign(by.key, by._hash())
        self.file = folder / "ca.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def _hash(self):
        return None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()

    def _builder(self, subject, key, begins, ends):
        now = datetime.now(timezone.utc)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        return builder.not_valid_before(now + begins).not_valid_after(now + ends)

    def issue(self, common, kind="ec", begins=-DAY, ends=30 * DAY):
        """A certificate with that DNS name, in COMMON.pem, and its key, in COMMON.key."""
        key = KEYS[kind]()
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = self._builder(name(common), key, begins, ends).add_extension(authority, False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(common)]), False)
        if self.crl_url:
            point = x509.DistributionPoint([x509.UniformResourceIdentifier(self.crl_url)], None, None, None)
            builder = builder.add_extension(x509.CRLDistributionPoints([point]), False)
        if self.ocsp_url:
            place = x509.UniformResourceIdentifier(self.ocsp_url)
            access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, place)
            builder = builder.add_extension(x509.AuthorityInformationAccess([access]), False)
        certificate = builder.sign(self.key, self._hash())
        self.serials[common] = certificate.serial_number
        file = self.folder / f"{common}.pem"
        file.write_bytes(certificate.public_bytes(Encoding.PEM))
        return file, write_key(self.folder / f"{common}.key", key)

    def revoke(self, *commons):
        """A revocation list with the certificates of these names, in ca.crl."""
        now = datetime.now(timezone.utc)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
        builder = builder.last_update(now - DAY).next_update(now + DAY)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(authority, False).add_extension(x509.CRLNumber(1), False)
        for common in commons:
            revoked = x509.RevokedCertificateBuilder().serial_number(self.serials[common])
            builder = builder.add_revoked_certificate(revoked.revocation_date(now - DAY).build())
        file = self.folder / "ca.crl"
        crl = builder.sign(self.key, self._hash())
        file.write_bytes(crl.public_bytes(Encoding.PEM))
        # RFC 2585 section 3: by HTTP it is fetched as DER.
        (self.folder / "ca.der").write_bytes(crl.public_bytes(Encoding.DER))
        return file

    def start_ocsp(self, namespace, port, revoked=(), unknown=()):
        """Answers in that namespace, at that port of its loopback, what is with those whom this CA has signed (`openssl ocsp`)."""
        now = datetime.now(timezone.utc)
        moment = lambda days: (now + days * DAY).strftime("%y%m%d%H%M%SZ")  # noqa: E731
        lines = []
        for common, serial in self.serials.items():
            state, when = ("R", moment(-1)) if common in revoked else ("V", "")
            if common not in unknown:
                lines.append(f"{state}\t{moment(30)}\t{when}\t{serial:0{len(f'{serial:x}') + 1 & ~1}X}\tunknown\t/CN={common}\n")
        index = self.folder / f"index-{namespace.name}"
        index.write_text("".join(lines))
        index.with_name(index.name + ".attr").write_text("unique_subject = no\n")
        key = write_key(self.folder / "ca.key", self.key)
        words = ["-index", index, "-CA", self.file, "-rsigner", self.file, "-rkey", key, "-port", port, "-nmin", "5"]
        responder = namespace.start("openssl", "ocsp", *words, name="ocsp")
        responder.wait_text("waiting for OCSP client connections", 10)
        return responder

    def start_http(self, namespace, port):
        """Gives out the files of this CA in that namespace, at that port of its loopback."""
        server = namespace.start(
            sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", self.folder, port, name="http"
        )
        server.wait_text("Serving HTTP", 10)
        return server

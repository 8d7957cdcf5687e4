"""A CA of the lab's own: keys, certificates and revocation lists in files, made when a test needs them."""

from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

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
    """A CA; its files are in `folder`."""

    def __init__(self, folder, common="Lab CA", kind="ec"):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.key = folder, name(common), KEYS[kind]()
        self.serials = {}
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = self._builder(self.name, self.key, -DAY, 30 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, True)
        self.certificate = builder.sign(self.key, self._hash())
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
        file.write_bytes(builder.sign(self.key, self._hash()).public_bytes(Encoding.PEM))
        return file

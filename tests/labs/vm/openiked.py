"""OpenIKED's port to Linux in the virtual machine. It speaks PF_KEY with the kernel, which knows no AEAD there: iked has no such cipher for
child SAs, whatever its configuration says (iked/parse.y, `HAVE_LINUX_PFKEY_H`), and Culvert has no other. All but that is agreed."""

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from vm.end import FLUSH, End
from vm.machine import file

PACKAGES = ("openiked",)
IKED, IKECTL = "/usr/sbin/iked", "/usr/sbin/ikectl"
LEGACY = "/usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so"  # OpenSSL's, without which iked does not start
FILES = (IKED, IKECTL, LEGACY)
LOG = "/run/iked.log"
CIPHERS = {"aes128gcm16": "aes-128-gcm", "aes256gcm16": "aes-256-gcm", "chacha20poly1305": "chacha20-poly1305"}

START = f"""
mkdir -p /var/run /var/lib/openiked/empty /etc/iked/ca /etc/iked/certs /etc/iked/crls
chmod 600 /etc/iked.conf
rm -f /var/run/iked.sock
{IKED} -d -vv >{LOG} 2>&1 &
for i in $(seq 600); do
    {IKECTL} show sa >/dev/null 2>&1 && exit 0
    pidof iked >/dev/null || break
    sleep 0.1
done
cat {LOG}; exit 1
"""

STOP = f"""
killall -q iked || true
for i in $(seq 100); do pidof iked >/dev/null || break; sleep 0.1; done
{FLUSH}
"""


def policy(told):
    """iked.conf of the foreign end: GRE between the two ends."""
    cipher = CIPHERS[told.suite]
    return f"""ikev2 "lab" passive {told.mode} esp proto gre \\
    from {told.local} to {told.remote} \\
    local {told.local} peer {told.remote} \\
    ikesa enc {cipher} prf hmac-sha2-256 group curve25519 \\
    childsa enc {cipher} group curve25519 {"esn" if told.esn else "noesn"} \\
    srcid {told.local} dstid {told.remote} \\
    psk "{told.secret}"
"""


class OpenIked(End):
    """iked and ikectl."""

    LOG, START, STOP = LOG, START, STOP
    KILL = "killall -KILL iked; while pidof iked >/dev/null; do sleep 0.1; done"

    def configure(self, told):
        key = ec.generate_private_key(ec.SECP256R1())
        files = {
            "/etc/iked.conf": policy(told),
            "/etc/iked/private/local.key": key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode(),
            "/etc/iked/local.pub": key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
            "/etc/passwd": "root::0:0::/:/bin/sh\n_iked:x:100:100::/var/lib/openiked/empty:/bin/false\n",
            "/etc/group": "root::0:\n_iked:x:100:\n",
            "/etc/protocols": "gre 47 GRE\n",
        }
        return "\n".join(file(path, text) for path, text in files.items())

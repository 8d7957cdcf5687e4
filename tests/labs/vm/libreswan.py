"""libreswan in the virtual machine, unmodified and with the kernel's own ESP: the other end. Its package conflicts with strongSwan's, so it
goes out of that into the machine, and nowhere else."""

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509 import load_pem_x509_certificate

from vm.end import FLUSH, End
from vm.machine import file

PACKAGES = ("libreswan", "libnss3-tools")
PLUTO, WHACK, ADDCONN = (f"/usr/libexec/ipsec/{name}" for name in ("pluto", "whack", "addconn"))
# What NSS loads when it runs.
NSS = tuple(f"/usr/lib/x86_64-linux-gnu/lib{name}.so" for name in ("softokn3", "freebl3", "freeblpriv3"))
CERTUTIL, PK12UTIL = "/usr/bin/certutil", "/usr/bin/pk12util"
FILES = (PLUTO, WHACK, ADDCONN, CERTUTIL, PK12UTIL, *NSS)
DATABASE = "/var/lib/ipsec/nss"
LOG = "/run/pluto.log"
CONTROL = "/run/pluto/pluto.ctl"
CIPHERS = {"aes128gcm16": "aes_gcm128", "aes256gcm16": "aes_gcm256", "chacha20poly1305": "chacha20_poly1305"}

# pluto itself has `addconn` load what is in its configuration.
START = f"""
mkdir -p /run/pluto /etc/ipsec.d
rm -f {CONTROL} {LOG}
{PLUTO} --config /etc/ipsec.conf --nofork --stderrlog >{LOG} 2>&1 &
for i in $(seq 600); do
    {WHACK} --status 2>/dev/null | grep -q '"lab":' && exit 0
    pidof pluto >/dev/null || break
    sleep 0.1
done
cat {LOG}; exit 1
"""

STOP = f"""
[ -S {CONTROL} ] && {WHACK} --shutdown >/dev/null 2>&1 || true
for i in $(seq 50); do pidof pluto >/dev/null || break; sleep 0.1; done
killall -q -KILL pluto || true
{FLUSH}
"""


def connection(told):
    """ipsec.conf of the foreign end: GRE between the two ends."""
    cipher = CIPHERS[told.suite]
    proof = "  authby=secret\n"
    if told.certified:
        proof = f"""  authby=ecdsa
  leftid=@{told.certified.name}
  leftcert=lab
  leftsendcert=always
  rightid=@{told.certified.far_name}
  rightca=%same
"""
    return f"""config setup
  logtime=yes
  virtual-private=

conn lab
  auto=add
  ikev2=insist
{proof}  type={told.mode}
  left={told.local}
  right={told.remote}
  leftprotoport=gre
  rightprotoport=gre
  leftupdown=%disabled
  ike={cipher}-sha2_256-dh31
  esp={cipher};dh31
  pfs=yes
  esn={"yes" if told.esn else "no"}
  encapsulation={"yes" if told.udp else "auto"}
  replay-window=1024
  dpddelay=2
  retransmit-timeout=8s
  dpdaction=clear
"""


class Libreswan(End):
    """pluto and whack."""

    LOG, START, STOP = LOG, START, STOP
    WAITS = False
    KILL = "killall -KILL pluto; while pidof pluto >/dev/null; do sleep 0.1; done"

    def configure(self, told):
        files = {
            "/etc/ipsec.conf": connection(told),
            "/etc/ipsec.secrets": f'{told.local} {told.remote} : PSK "{told.secret}"\n',
            "/etc/protocols": "gre 47 GRE\n",
        }
        database = f"rm -rf {DATABASE}; mkdir -p {DATABASE}; {CERTUTIL} -N -d sql:{DATABASE} --empty-password"
        return "\n".join([database, *(file(path, text) for path, text in files.items()), self.certificates(told.certified)])

    def certificates(self, of):
        """The commands that give its database certificates and the key."""
        if of is None:
            return ""
        key, certificate = load_pem_private_key(of.key.read_bytes(), None), load_pem_x509_certificate(of.certificate.read_bytes())
        bundle = serialize_key_and_certificates(b"lab", key, certificate, None, BestAvailableEncryption(b"lab"))
        return f"""
{file("/run/ca.pem", of.ca.read_bytes())}
{file("/run/lab.p12", bundle)}
{CERTUTIL} -A -d sql:{DATABASE} -n ca -t CT,, -a -i /run/ca.pem
{PK12UTIL} -i /run/lab.p12 -d sql:{DATABASE} -K '' -W lab
"""

    def begin(self):
        self.whack("--initiate")

    def rekey_child(self):
        self.whack("--rekey-ipsec")

    def rekey_ike(self):
        self.whack("--rekey-ike")

    def whack(self, what):
        return self.machine.run(f"{WHACK} {what} --name lab --asynchronous", timeout=60, check=False)

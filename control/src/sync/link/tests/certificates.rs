//! Certificates, which OpenSSL makes, and OpenSSL as the other end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU32;

use super::*;
use crate::config::Certified;

/// A folder of a CA, gone with the test.
struct Authority(PathBuf);

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Authority {
    fn new() -> Authority {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("culvert-link-{}-{number}", std::process::id());
        let authority = Authority(std::env::temp_dir().join(name));
        fs::create_dir_all(&authority.0).expect("a folder");
        let config = "[ca]\ndefault_ca=c\n[c]\ndatabase=db\nserial=serial\nnew_certs_dir=.\ndefault_md=default\npolicy=p\ncopy_extensions=copy\nunique_subject=no\n[p]\ncommonName=supplied\n[req]\ndistinguished_name=n\n[n]\n";
        for (file, text) in [("db", ""), ("serial", "01\n"), ("cnf", config)] {
            fs::write(authority.0.join(file), text).expect("written");
        }
        authority.openssl(&format!("req -config cnf -x509 -newkey ed25519 -nodes -keyout ca.key -out ca.pem -days 9 -subj /CN=ca{number} -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign"));
        authority
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(&self.0).output();
        let output = output.expect("openssl, which these tests need");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A certificate of that name, with a key made as said, valid in those years.
    fn issue(&self, name: &str, key: &str, years: [u32; 2]) {
        self.openssl(&format!("req -config cnf -new {key} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name} -addext subjectAltName=DNS:{name}"));
        let [from, to] = years.map(|year| format!("{year}0101000000Z"));
        self.openssl(&format!("ca -config cnf -batch -notext -cert ca.pem -keyfile ca.key -in {name}.csr -out {name}.pem -startdate {from} -enddate {to}"));
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.0.join(file)).expect(file)
    }

    fn der(&self, file: &str) -> Vec<u8> {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        CertificateDer::from_pem_slice(&self.read(file)).expect(file).to_vec()
    }

    /// `name`, who wants `partner`.
    fn proof(&self, name: &str, partner: &str, trust: &Authority) -> SyncProof {
        SyncProof::Certificate {
            own: Certified {
                chain: vec![self.der(&format!("{name}.pem"))],
                key: Secret::new(Zeroizing::new(self.read(&format!("{name}.key")))),
            },
            cas: vec![trust.der("ca.pem")],
            partner_name: partner.to_owned(),
        }
    }
}

const ED25519: &str = "-newkey ed25519";
const P256: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256";
const RSA: &str = "-newkey rsa:2048";
const NOW: [u32; 2] = [2020, 2199];

#[test]
fn certificates() {
    for key in [ED25519, P256, RSA] {
        let ca = Authority::new();
        ca.issue("paris.example", key, NOW);
        ca.issue("oslo.example", key, NOW);
        let proofs =
            [ca.proof("paris.example", "oslo.example", &ca), ca.proof("oslo.example", "paris.example", &ca)];
        let (first, second) = ends(proofs, PAIR);
        both_up(&first, &second);
        first.send(b"hello");
        assert_eq!(second.frame()[..], *b"hello");
    }
}

#[test]
fn certificates_that_are_refused() {
    let (ca, other) = (Authority::new(), Authority::new());
    for authority in [&ca, &other] {
        authority.issue("paris.example", ED25519, NOW);
        authority.issue("oslo.example", ED25519, NOW);
    }
    ca.issue("late.example", ED25519, [2019, 2020]);
    ca.issue("early.example", ED25519, [2198, 2199]);
    let paris = || ca.proof("paris.example", "oslo.example", &ca);
    let wants = |name| ca.proof("paris.example", name, &ca);
    for (first, second, why) in [
        (paris(), other.proof("oslo.example", "paris.example", &ca), "UnknownIssuer"),
        (paris(), ca.proof("oslo.example", "rome.example", &ca), "not valid for name"),
        (wants("rome.example"), ca.proof("oslo.example", "paris.example", &ca), "not valid for name"),
        (wants("late.example"), ca.proof("late.example", "paris.example", &ca), "expired"),
        (wants("early.example"), ca.proof("early.example", "paris.example", &ca), "not valid yet"),
        (paris(), secret(SECRET), "do both routers have"),
    ] {
        for turned in [false, true] {
            let routers = if turned { [Router::Second, Router::First] } else { PAIR };
            let (one, two) = ends([first.clone(), second.clone()], routers);
            let end = Instant::now() + LONG;
            let said = || [&one, &two].map(|end| end.link.status().why.unwrap_or_default());
            while !said().iter().any(|said| said.contains(why)) {
                assert!(Instant::now() < end, "{why}: {:?}", said());
                thread::sleep(Duration::from_millis(20));
            }
            assert!(one.link.next().is_none() && two.link.next().is_none(), "{why}");
        }
    }
}

/// As the configuration has them, and what it refuses of them.
#[test]
fn certificates_by_their_files() {
    let ca = Authority::new();
    ca.issue("paris.example", P256, NOW);
    ca.issue("oslo.example", "-newkey ec -pkeyopt ec_paramgen_curve:secp256k1", NOW);
    let load = |own: &str, partner: &str| {
        let text = format!(
            "[carp]\nrouter = \"first\"\n[carp.sync]\nlisten = \"10.9.0.1:4790\"\npartner = \"10.9.0.2:4790\"\ncert_file = \"{own}.pem\"\nkey_file = \"{own}.key\"\nca_files = [\"ca.pem\"]\npartner_name = \"{partner}\"\n"
        );
        fs::write(ca.0.join("culvert.toml"), text).expect("written");
        crate::config::Config::load(&ca.0.join("culvert.toml"))
    };
    let (config, warnings) = load("paris.example", "oslo.example").expect("it is fine");
    assert!(warnings.is_empty(), "{warnings:?}");
    let sync = config.carp.sync.expect("a link");
    drop(Link::start(&sync, Router::First, || {}).expect("what was read is used"));
    for (own, partner, what, why) in [
        ("paris.example", "no name", "partner_name", "no DNS name"),
        // A curve that TLS 1.3 has not (RFC 8446 section 4.2.3).
        ("oslo.example", "paris.example", "cert_file", "TLS cannot use it"),
    ] {
        let errors = load(own, partner).expect_err(why);
        let said = errors.problems[0].to_string();
        assert!(errors.problems.len() == 1 && said.contains(what) && said.contains(why), "{said}");
    }
}

/// What OpenSSL's client says of a connection to `at`, from the partner's address.
fn client(folder: &Path, at: SocketAddr, from: SocketAddr, arguments: &str) -> (bool, String) {
    let line = format!(
        "s_client -connect {at} -bind {}:0 -CAfile ca.pem -verify_return_error -alpn culvert-sync {arguments}",
        from.ip()
    );
    let mut child = Command::new("openssl")
        .args(line.split(' ').filter(|word| !word.is_empty()))
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    // TLS 1.3 tells a client that it is refused after it has finished: give it time to hear.
    thread::sleep(Duration::from_millis(700));
    let _ = child.stdin.take().expect("its input").write_all(b"Q\n");
    let output = child.wait_with_output().expect("openssl");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// OpenSSL as the one who connects.
#[test]
fn openssl_connects() {
    let ca = Authority::new();
    ca.issue("paris.example", P256, NOW);
    ca.issue("oslo.example", P256, NOW);
    ca.issue("rome.example", P256, NOW);
    let (one, other) = addresses();
    let first =
        End::start(&settings(one, other, ca.proof("paris.example", "oslo.example", &ca)), Router::First);
    let with = |name: &str| format!("-cert {name}.pem -key {name}.key");
    let (fine, said) =
        client(&ca.0, one, other, &format!("-verify_hostname paris.example {}", with("oslo.example")));
    assert!(fine && said.contains("TLSv1.3") && said.contains("Verification: OK"), "{said}");
    assert!(said.contains("ALPN protocol: culvert-sync"), "{said}");
    // Our hello is what comes then.
    assert!(said.contains("culvert"), "{said}");
    for (arguments, why) in [
        (format!("-tls1_2 {}", with("oslo.example")), "alert"),
        (String::new(), "alert"),
        (with("rome.example"), "alert"),
        (format!("-alpn h2 {}", with("oslo.example")), "alert"),
    ] {
        let (_, said) = client(&ca.0, one, other, &arguments);
        assert!(said.contains(why) && !said.contains("culvert 0"), "{arguments}: {said}");
    }
    assert!(first.link.next().is_none());
    assert!(first.link.status().refused >= 5);
}

/// OpenSSL as the one who is connected to: with its TLS 1.2 alone, nothing comes about; with 1.3, our hello arrives.
#[test]
fn openssl_listens() {
    let ca = Authority::new();
    ca.issue("paris.example", P256, NOW);
    ca.issue("oslo.example", P256, NOW);
    for (version, arrives) in [("-tls1_2", false), ("-tls1_3", true)] {
        let (one, other) = addresses();
        let line = format!(
            "s_server -accept {one} -cert paris.example.pem -key paris.example.key -CAfile ca.pem -Verify 1 -verify_return_error -alpn culvert-sync {version}"
        );
        let mut server = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(&ca.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let second =
            End::start(&settings(other, one, ca.proof("oslo.example", "paris.example", &ca)), Router::Second);
        if arrives {
            second.says("does not answer");
        } else {
            second.says("TLS alert");
        }
        drop(second);
        server.kill().expect("killed");
        let said = server.wait_with_output().expect("openssl").stdout;
        let said = String::from_utf8_lossy(&said);
        assert_eq!(said.contains("culvert 0"), arrives, "{version}: {said}");
    }
}

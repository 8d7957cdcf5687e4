//! The `ike` table of a tunnel: how the two routers prove who they are, and all that goes with it. Files that it names are read
//! here, so that one which strongSwan could not use is refused by `check` and not by the far end.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::model::{Auth, Certified, Ike, KeyPair, MlKem, Profile, Revocation, Role, Secret, Suite, Trust};
use super::reader::Table;
use super::report::{Fault, Report};
use super::sections::{Shared, read_secret};
use super::values::{self, quoted};
use super::{lifetimes, pki};

/// The longest certificate, key or revocation list that VICI carries, in bytes.
const LONGEST: usize = 65_535;

/// How long the far router may be silent, where nothing is said.
const DPD: Duration = Duration::from_secs(30);

/// Ways of proof, by their names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Psk,
    Certificate,
    PublicKey,
    EapMschapv2,
    EapTls,
}

const METHODS: [(&str, Method); 5] = [
    ("psk", Method::Psk),
    ("cert", Method::Certificate),
    ("pubkey", Method::PublicKey),
    ("eap-mschapv2", Method::EapMschapv2),
    ("eap-tls", Method::EapTls),
];

pub(super) fn read(
    mut table: Table<'_>,
    shared: &Shared,
    suites: Vec<Suite>,
    report: &mut Report,
) -> Option<Ike> {
    table.require("auth", "say how the routers prove who they are, such as auth = \"psk\"", report);
    let method = table.text("auth", report, |text| values::word(text, &METHODS));
    let auth = method.and_then(|method| read_auth(method, &mut table, report));
    let local_id = table.text("local_id", report, identity);
    let remote_id = table.text("remote_id", report, identity);
    let profile = table.text("profile", report, |text| values::word(text, &Profile::ALL)).unwrap_or_default();
    let suites: Vec<Suite> = suites.into_iter().filter(|suite| profile.takes(*suite)).collect();
    if suites.is_empty() {
        let why = format!("far ends of the profile {:?} take none of the suites", profile.name());
        report.error(
            table.name_of("profile"),
            &table.at,
            Fault::new(why, "add an AES suite, or choose another"),
        );
        return None;
    }
    let mobike = table.boolean("mobike", report).unwrap_or(false);
    let dpd = table.text("dpd", report, values::dpd).unwrap_or(DPD);
    let lifetimes = lifetimes::read(&mut table, profile, report);
    let ml_kem = table.text("ml_kem", report, |text| values::word(text, &MlKem::ALL));
    let sas = table.number("sas", 1..=64, report).unwrap_or(1);
    let at = table.at.clone();
    if method.is_some() {
        table.finish(report);
    }
    Some(Ike {
        mode: shared.mode,
        pad: shared.pad,
        suites,
        replay_window: shared.replay_window,
        esn: shared.esn.unwrap_or(profile.takes_esn()),
        auth: auth?,
        local_id,
        remote_id,
        profile,
        mobike,
        dpd,
        lifetimes,
        ml_kem: ml_kem.unwrap_or(MlKem::of(profile)),
        sas,
        at,
    })
}

/// Reads the settings of one way of proof; those of the others are unknown keys beside it.
fn read_auth(method: Method, table: &mut Table<'_>, report: &mut Report) -> Option<Auth> {
    match method {
        Method::Psk => read_secret(table, "psk", "psk_file", report, inline_secret, Ok).map(Auth::Psk),
        Method::Certificate => {
            require_remote_id(table, report);
            let (certified, trust) = (read_certified(table, report), read_trust(table, report));
            Some(Auth::Certificate(certified?, trust?))
        }
        Method::PublicKey => read_key_pair(table, report).map(Auth::PublicKey),
        Method::EapMschapv2 => {
            let role = read_role(table, report);
            let remedy = "EAP asks for the initiator's name: give it to both routers";
            table.require("local_id", remedy, report);
            require_remote_id(table, report);
            let password = read_secret(table, "password", "password_file", report, inline_secret, Ok);
            match role? {
                Role::Initiator => {
                    let trust = read_trust(table, report);
                    Some(Auth::EapMschapv2Initiator(password?, trust?))
                }
                Role::Responder => {
                    let certified = read_certified(table, report);
                    Some(Auth::EapMschapv2Responder(password?, certified?))
                }
            }
        }
        Method::EapTls => {
            let role = read_role(table, report);
            require_remote_id(table, report);
            let (certified, trust) = (read_certified(table, report), read_trust(table, report));
            Some(Auth::EapTls(role?, certified?, trust?))
        }
    }
}

/// A CA signs for many: whose certificate it is to be has to be said.
fn require_remote_id(table: &mut Table<'_>, report: &mut Report) {
    let remedy =
        "say who the far router is, as its certificate or its EAP name does: remote_id = \"oslo.example\"";
    table.require("remote_id", remedy, report);
}

fn read_role(table: &mut Table<'_>, report: &mut Report) -> Option<Role> {
    let remedy = "EAP has two sides: role = \"initiator\" on one router, \"responder\" on the other";
    table.require("role", remedy, report);
    let roles = [("initiator", Role::Initiator), ("responder", Role::Responder)];
    table.text("role", report, |text| values::word(text, &roles))
}

/// `cert_file` and `key_file`: our certificate, with those between it and the CA behind it, and its private key.
pub(super) fn read_certified(table: &mut Table<'_>, report: &mut Report) -> Option<Certified> {
    let document = table.document;
    table.require("cert_file", "name the file of this router's certificate", report);
    table.require("key_file", "name the file of its private key", report);
    let (what, at) = (table.name_of("cert_file"), table.at.clone());
    let chain = table.text("cert_file", report, |name| {
        let path = document.resolve(name);
        let chain = objects(&path, &document.read_public(&path)?, pki::certificate)?;
        linked(&path, chain.iter().map(|(_, certificate)| certificate))?;
        Ok(chain)
    });
    let key = read_key(table, report);
    let (chain, (key, public)) = (chain?, key?);
    let now = now();
    for (_, certificate) in &chain {
        let (begins, ends) = certificate.valid;
        let remedy = "the far end will not take it: have it renewed, and see that this clock is right";
        if now > ends {
            let why = format!("the certificate ended on {}", pki::date(ends));
            report.warning(what.clone(), &at, Fault::new(why, remedy));
        } else if now < begins {
            let why = format!("the certificate is not valid before {}", pki::date(begins));
            report.warning(what.clone(), &at, Fault::new(why, remedy));
        }
    }
    if chain.first().is_none_or(|(_, first)| first.key != public) {
        let why = "the private key is another one than that of the (first) certificate in `cert_file`";
        let remedy = "name the key that the certificate was made for";
        report.error(table.name_of("key_file"), &at, Fault::new(why, remedy));
        return None;
    }
    Some(Certified { chain: chain.into_iter().map(|(der, _)| der).collect(), key })
}

/// The certificates behind the first in a file are those of CAs between it and the one that the far router trusts, in whatever order.
fn linked<'c>(path: &Path, chain: impl Iterator<Item = &'c pki::Certificate> + Clone) -> Result<(), Fault> {
    for (number, certificate) in (1..).zip(chain.clone()).skip(1) {
        let signed = |other: &pki::Certificate| other.issuer == certificate.subject && other != certificate;
        let why = if !certificate.authority {
            "is no CA's"
        } else if !chain.clone().any(signed) {
            "is of a CA that has signed none of the others"
        } else {
            continue;
        };
        let remedy = "put this router's own certificate first, and behind it only those of the CAs between it and the last, which the far router trusts";
        return Err(Fault::new(format!("{}: certificate {number} {why}", path.display()), remedy));
    }
    Ok(())
}

/// `key_file`: a private key, as its file has it, and its public half.
fn read_key(table: &mut Table<'_>, report: &mut Report) -> Option<(Secret, Vec<u8>)> {
    let document = table.document;
    table.text("key_file", report, |name| {
        let path = document.resolve(name);
        let about = |fault: Fault| Fault::new(format!("{} {}", path.display(), fault.why), fault.remedy);
        let secret = Secret::new(document.read_private(&path)?);
        let blocks = pki::blocks(secret.expose()).map_err(about)?;
        // OpenSSL writes an elliptic curve's parameters in front of its key.
        let key = blocks.iter().rfind(|block| !block.is_parameters());
        let key = key.ok_or_else(|| Fault::new("has no key in it", "name the file of a private key"));
        let public = key.and_then(pki::public_half).map_err(about)?;
        Ok((secret, public))
    })
}

/// `ca_files`: the certificates of those who sign the other router's, in DER; at least one.
pub(super) fn read_cas(table: &mut Table<'_>, report: &mut Report) -> Option<Vec<Vec<u8>>> {
    let document = table.document;
    table.require(
        "ca_files",
        "name the certificates of those who sign the far router's: ca_files = [\"ca.pem\"]",
        report,
    );
    let (what, at) = (table.name_of("ca_files"), table.at.clone());
    let mut named = false;
    let cas = table.texts("ca_files", report, |name| {
        named = true;
        let path = document.resolve(name);
        let cas = objects(&path, &document.read_public(&path)?, pki::certificate)?;
        match (1..).zip(&cas).find(|(_, (_, ca))| !ca.authority) {
            None => Ok(cas),
            Some((number, _)) => {
                let why = format!("{}: certificate {number} is no CA's (basic constraints)", path.display());
                Err(Fault::new(why, "name the certificate of who signs the far router's"))
            }
        }
    });
    let cas: Vec<_> = cas?.into_iter().flat_map(|(cas, _)| cas).collect();
    let now = now();
    for (_, ca) in &cas {
        if now > ca.valid.1 {
            let why = format!("a CA's certificate ended on {}", pki::date(ca.valid.1));
            let remedy = "nothing that it signed is taken any more: have it renewed";
            report.warning(what.clone(), &at, Fault::new(why, remedy));
        }
    }
    if cas.is_empty() {
        if !named {
            report.error(what, &at, Fault::new("names no certificate", "name that of a CA"));
        }
        return None;
    }
    Some(cas.into_iter().map(|(der, _)| der).collect())
}

/// `ca_files`, `crl_files`, `revocation`: whose signature is believed, and what is asked about revocation.
fn read_trust(table: &mut Table<'_>, report: &mut Report) -> Option<Trust> {
    let document = table.document;
    let cas = read_cas(table, report);
    let crls = table.texts("crl_files", report, |name| {
        let path = document.resolve(name);
        objects(&path, &document.read_public(&path)?, pki::revocation_list)
    });
    let strict = crls.is_some();
    let words =
        [("strict", Revocation::Strict), ("ifuri", Revocation::IfUri), ("relaxed", Revocation::Relaxed)];
    let revocation = table.text("revocation", report, |text| values::word(text, &words));
    let cas = cas?;
    let crls = crls
        .unwrap_or_default()
        .into_iter()
        .flat_map(|(crls, at)| crls.into_iter().map(move |crl| (crl, at.clone())));
    let now = now();
    let mut lists = Vec::new();
    for ((der, next), at) in crls {
        if let Some(next) = next.filter(|next| now > *next) {
            let why = format!("the revocation list was to be replaced on {}", pki::date(next));
            report.warning(
                table.name_of("crl_files"),
                &at,
                Fault::new(why, "get the present one from the CA"),
            );
        }
        lists.push(der);
    }
    let otherwise = if strict { Revocation::Strict } else { Revocation::Relaxed };
    Some(Trust { cas, crls: lists, revocation: revocation.unwrap_or(otherwise) })
}

/// `key_file` and `remote_key_file`: our private key, and the far router's public one.
fn read_key_pair(table: &mut Table<'_>, report: &mut Report) -> Option<KeyPair> {
    let document = table.document;
    table.require("key_file", "name the file of this router's private key", report);
    table.require("remote_key_file", "name the file of the far router's public key", report);
    let own = read_key(table, report);
    let remote = table.text("remote_key_file", report, |name| {
        let path = document.resolve(name);
        let mut keys = objects(&path, &document.read_public(&path)?, pki::public_key)?;
        Ok(keys.swap_remove(0).0)
    });
    let (private, public) = own?;
    let remote = remote?;
    if remote == public {
        let why = "the key is this router's own";
        let remedy = "name the file of the far router's public key";
        report.error(table.name_of("remote_key_file"), &table.at, Fault::new(why, remedy));
        return None;
    }
    Some(KeyPair { private, public, remote })
}

/// The objects in a public file in DER, each with what `read` finds in it: at least one.
fn objects<T>(
    path: &Path,
    file: &[u8],
    read: impl Fn(&pki::Block) -> Result<T, Fault>,
) -> Result<Vec<(Vec<u8>, T)>, Fault> {
    let about = |fault: Fault| Fault::new(format!("{} {}", path.display(), fault.why), fault.remedy);
    let one = |block: &pki::Block| {
        let read = read(block).map_err(about)?;
        if block.der.len() > LONGEST {
            let why =
                format!("has an object of {} bytes; strongSwan is told at most {LONGEST}", block.der.len());
            let remedy =
                "leave a long revocation list out: strongSwan fetches it from where certificates say";
            return Err(about(Fault::new(why, remedy)));
        }
        Ok((block.der.to_vec(), read))
    };
    pki::blocks(file).map_err(about)?.iter().map(one).collect()
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn identity(text: &str) -> Result<String, Fault> {
    if text.is_empty() || text.chars().any(char::is_control) {
        let why = format!("{} is not an identity", quoted(text));
        return Err(Fault::new(why, "write a name such as \"paris.example\", or an address"));
    }
    Ok(text.to_owned())
}

fn inline_secret(text: &str) -> Result<Secret, Fault> {
    if text.is_empty() {
        return Err(Fault::new("is empty", "write the secret, or better name its file"));
    }
    Ok(Secret::new(Zeroizing::new(text.as_bytes().to_vec())))
}

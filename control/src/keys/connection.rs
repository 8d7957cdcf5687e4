//! What charon is told of a tunnel: a connection with one child, and the secrets, keys and lists that go with it.
//!
//! Names: connection and child are called `culvert-` and the tunnel's name, so that they never meet those of an operator's own
//! swanctl.conf. The child's reqid tells which tunnel an SA is for, whatever becomes of addresses; it is drawn from the name,
//! so it outlives restarts of either side.

use std::net::IpAddr;
use std::time::Duration;

use ring::digest::{SHA256, digest};

use super::pilot::Order;
use super::vici::Message;
use crate::config::{Auth, Ike, MlKem, Mode, Profile, Role, Suite, Tunnel};

/// What all names of ours begin with.
const PREFIX: &str = "culvert-";
/// What the names of those begin with that keep the kernel from GRE, so that they are no tunnel's.
const DROP_PREFIX: &str = "drop-culvert-";
/// GRE's protocol number: the child is for nothing else.
const SELECTOR: &str = "dynamic[47]";
const GRE: &str = "[47]";
/// Addresses that no far end has.
const NOBODY: &str = "127.0.0.1";
/// The reqids of tunnels: these bits, and some of the name's digest. charon gives out its own from 1 upwards.
const REQIDS: u32 = 0x4300_0000;
const REQID_MASK: u32 = 0x00ff_ffff;

/// The largest window that Linux takes (linux/xfrm.h, `XFRMA_REPLAY_ESN_MAX` bytes with a bit for each packet, of which it allows
/// an eighth). The engine's own is what the configuration says.
const KERNEL_WINDOW: u32 = 4096;

/// What charon calls the tunnel's connection and child.
#[must_use]
pub fn name(tunnel: &str) -> String {
    format!("{PREFIX}{tunnel}")
}

/// What charon calls the child of number `number` (from 0) of the tunnel's connection: several of them are as many pairs of SAs.
#[must_use]
pub fn child(tunnel: &str, number: u8) -> String {
    // No tunnel's name has such a stroke in it.
    if number == 0 { name(tunnel) } else { format!("{}/{}", name(tunnel), u16::from(number) + 1) }
}

/// The tunnel behind a connection's or child's name, if it is one of ours.
#[must_use]
pub fn tunnel(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// What charon calls the connection that keeps the kernel from the tunnel's GRE.
#[must_use]
pub fn drop_name(tunnel: &str) -> String {
    format!("{DROP_PREFIX}{tunnel}")
}

/// The number that tells a tunnel's SAs. Two names that came to the same number (one pair in 16 million) are told apart by
/// [`distinct`].
#[must_use]
pub fn reqid(tunnel: &str) -> u32 {
    let digest = digest(&SHA256, tunnel.as_bytes());
    REQIDS | digest.as_ref().first_chunk().copied().map_or(0, u32::from_be_bytes) & REQID_MASK
}

/// The reqids of tunnels by those names, in their order: no two are equal.
#[must_use]
pub fn distinct<'t>(tunnels: impl Iterator<Item = &'t str>) -> Vec<u32> {
    let mut taken = std::collections::HashSet::new();
    tunnels
        .map(|tunnel| {
            let mut candidate = reqid(tunnel);
            while !taken.insert(candidate) {
                candidate = REQIDS | candidate.wrapping_add(1) & REQID_MASK;
            }
            candidate
        })
        .collect()
}

/// Our outer address, as charon writes it.
fn address(tunnel: &Tunnel) -> String {
    tunnel.local.address().map_or("%any".to_owned(), |address| address.to_string())
}

/// The two identities: what is configured, or else the outer address; our own, where we have a certificate, is what stands in it.
fn identities(tunnel: &Tunnel, ike: &Ike) -> (Option<String>, String) {
    let local = ike.local_id.clone().or_else(|| ike.auth.certified().is_none().then(|| address(tunnel)));
    (local, ike.remote_id.clone().unwrap_or_else(|| tunnel.remote.to_string()))
}

/// The requests that give charon what proves who is who, to be made before [`load`]. There are secrets in them.
#[must_use]
pub fn credentials(tunnel: &Tunnel, ike: &Ike) -> Vec<Order> {
    let mut orders = Vec::new();
    if let Some(secret) = ike.auth.shared() {
        let (local, remote) = identities(tunnel, ike);
        // EAP's secret is the initiator's: the responder has it for a name that is not its own.
        let (kind, owners) = match &ike.auth {
            Auth::EapMschapv2Initiator(..) => ("EAP", vec![local.unwrap_or_default()]),
            Auth::EapMschapv2Responder(..) => ("EAP", vec![remote]),
            _ => ("IKE", local.into_iter().chain([remote]).collect()),
        };
        let load = Message::new()
            .with("id", name(&tunnel.name))
            .with("type", kind)
            .with("data", secret.expose())
            .with_list("owners", owners);
        orders.push(("load-shared", load));
    }
    if let Some(key) = ike.auth.private() {
        orders.push(("load-key", Message::new().with("type", "any").with("data", key.expose())));
    }
    let crls = ike.auth.trust().into_iter().flat_map(|trust| &trust.crls);
    orders.extend(crls.map(|crl| {
        ("load-cert", Message::new().with("type", "X509_CRL").with("flag", "NONE").with("data", crl))
    }));
    orders
}

/// The request that has charon forget the tunnel's shared secret.
#[must_use]
pub fn forget(tunnel: &str) -> Order {
    ("unload-shared", Message::new().with("id", name(tunnel)))
}

/// How our end proves who it is, and how the far one is to.
fn proofs(tunnel: &Tunnel, ike: &Ike) -> (Message, Message) {
    let (ours, theirs) = match &ike.auth {
        Auth::Psk(_) => ("psk", "psk"),
        Auth::Certificate(..) | Auth::PublicKey(_) => ("pubkey", "pubkey"),
        Auth::EapMschapv2Initiator(..) => ("eap-mschapv2", "pubkey"),
        Auth::EapMschapv2Responder(..) => ("pubkey", "eap-mschapv2"),
        Auth::EapTls(Role::Initiator, ..) => ("eap-tls", "pubkey"),
        Auth::EapTls(Role::Responder, ..) => ("pubkey", "eap-tls"),
    };
    let (local_id, remote_id) = identities(tunnel, ike);
    let mut local = Message::new().with("auth", ours);
    let mut remote = Message::new().with("auth", theirs).with("id", remote_id);
    if let Some(id) = local_id {
        local = local.with("id", id);
    }
    if let Some(certified) = ike.auth.certified() {
        local = local.with_list("certs", &certified.chain);
    }
    if let Some(trust) = ike.auth.trust() {
        remote = remote.with_list("cacerts", &trust.cas).with("revocation", trust.revocation.name());
    }
    if let Auth::PublicKey(pair) = &ike.auth {
        local = local.with_list("pubkeys", [&pair.public]);
        remote = remote.with_list("pubkeys", [&pair.remote]);
    }
    (local, remote)
}

/// The request `load-conn` for the tunnel: two connections, of which one is only there to have charon install a policy.
#[must_use]
pub fn load(tunnel: &Tunnel, ike: &Ike, reqid: u32) -> Message {
    let (local, remote) = proofs(tunnel, ike);
    // The first is spoken to; one that may move is known by its identity, wherever it speaks from.
    let anywhere = ike.mobike.then(|| "%any".to_owned());
    let remotes: Vec<String> = [tunnel.remote.to_string()].into_iter().chain(anywhere).collect();
    let lives = &ike.lifetimes;
    let child = Message::new()
        .with(
            "mode",
            match ike.mode {
                Mode::Transport => "transport",
                Mode::Tunnel => "tunnel",
            },
        )
        .with_list("local_ts", [SELECTOR])
        .with_list("remote_ts", [SELECTOR])
        .with_list("esp_proposals", esp_proposals(ike))
        .with("replay_window", ike.replay_window.min(KERNEL_WINDOW).to_string())
        .with("reqid", reqid.to_string())
        // The engine protects what goes into its tunnels; a policy of the kernel's would have it do the same once more.
        .with("policies", "no")
        .with("rekey_time", seconds(lives.time.rekey))
        .with("life_time", seconds(lives.time.end))
        .with("rand_time", format!("{}s", lives.chance(lives.time.rekey.as_secs())))
        // The engine's tunnel is there all the time; when to negotiate is decided here.
        .with("start_action", "none")
        .with("close_action", "none")
        .with("dpd_action", "clear");
    let counts = [("bytes", lives.bytes), ("packets", lives.packets)];
    let counts = counts.into_iter().filter_map(|(what, life)| life.map(|life| (what, life)));
    let child = counts.fold(child, |child, (what, life)| {
        child
            .with(&format!("rekey_{what}"), life.rekey.to_string())
            .with(&format!("life_{what}"), life.end.to_string())
            .with(&format!("rand_{what}"), lives.chance(life.rekey).to_string())
    });
    // charon does not begin what it has already. Children that only a priority tells apart, which is the kernel's policies' and those
    // there are none of, are to it others. The far end has them all as its first.
    let children = (0..ike.sas).fold(Message::new(), |children, number| {
        let child = child.clone();
        let child = if number == 0 { child } else { child.with("priority", number.to_string()) };
        children.with_section(&self::child(&tunnel.name, number), child)
    });
    // What is up to chance, and the end, are one for the rekey and the reauthentication of an IKE SA.
    let first = lives.reauth.map_or(lives.ike.rekey, |reauth| reauth.min(lives.ike.rekey));
    let negotiated = Message::new().with_section(
        &name(&tunnel.name),
        Message::new()
            .with("version", "2")
            .with_list("local_addrs", [address(tunnel)])
            .with_list("remote_addrs", remotes)
            .with_list("proposals", ike_proposals(ike))
            // A router that takes over from another one must not have the far end throw away what the two share before there is
            // something else: no INITIAL_CONTACT (RFC 7296 section 2.4).
            .with("unique", if tunnel.local.group().is_some() { "never" } else { "replace" })
            .with("mobike", if ike.mobike { "yes" } else { "no" })
            .with("dpd_delay", seconds(ike.dpd))
            .with("rekey_time", seconds(lives.ike.rekey))
            .with("reauth_time", seconds(lives.reauth.unwrap_or_default()))
            .with("over_time", seconds(lives.ike.end.saturating_sub(first)))
            .with("rand_time", format!("{}s", lives.chance(first.as_secs())))
            .with("keyingtries", "1")
            .with_section("local-1", local)
            .with_section("remote-1", remote)
            .with_section("children", children),
    );
    match dropped(tunnel, ike) {
        Some(dropped) => negotiated.with_section(&drop_name(&tunnel.name), dropped),
        None => negotiated,
    }
}

/// A connection that nobody speaks by, with policies for the kernel: it drops GRE from anywhere to the tunnel's near end, and back. The
/// engine takes packets before the kernel sees them. But charon's SAs are still in the kernel while the engine is not there: it would
/// decrypt by them, find GRE that it does not know, and answer with an ICMP error that quotes the plaintext. A policy for what went
/// through an SA is looked at before.
///
/// From anywhere, as a NAT may give the far end another address, or it may move. Where this end may move as well, GRE from the far one to
/// anywhere is dropped, too.
///
/// They are none of the tunnel's children, as charon would offer them to the far end. Without an address there are none.
fn dropped(tunnel: &Tunnel, ike: &Ike) -> Option<Message> {
    let host = |address: IpAddr| format!("{address}/{}{GRE}", if address.is_ipv4() { 32 } else { 128 });
    let anywhere = format!("{}{GRE}", if tunnel.remote.is_ipv4() { "0.0.0.0/0" } else { "::/0" });
    let child = |local: &str, remote: &str| {
        Message::new()
            .with("mode", "drop")
            .with("start_action", "trap")
            .with_list("local_ts", [local])
            .with_list("remote_ts", [remote])
    };
    let name = drop_name(&tunnel.name);
    let (near, far) = (host(tunnel.local.address()?), host(tunnel.remote));
    let mut children = Message::new().with_section(&name, child(&near, &anywhere));
    if ike.mobike {
        children = children.with_section(&format!("{name}/2"), child(&anywhere, &far));
    }
    let nobody = Message::new().with_list("local_addrs", [NOBODY]).with_list("remote_addrs", [NOBODY]);
    Some(nobody.with_section("children", children))
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

/// strongSwan's names of the ciphers.
fn cipher(suite: Suite) -> &'static str {
    match suite {
        Suite::Aes128Gcm16 => "aes128gcm16",
        Suite::Aes256Gcm16 => "aes256gcm16",
        Suite::ChaCha20Poly1305 => "chacha20poly1305",
    }
}

/// What a profile offers. The README's table says where it is from.
struct Offer {
    /// Groups for the key exchange, best first (X25519 and NIST curves: RFC 8031, RFC 5903; RFC 3526).
    groups: &'static str,
    /// Proposals for the IKE SA beside those with the tunnel's suites.
    ike: &'static [&'static str],
    /// Is a child SA without a key exchange of its own offered as well?
    without_pfs: bool,
}

fn offer(profile: Profile) -> Offer {
    match profile {
        Profile::Modern => Offer { groups: "x25519-ecp256-ecp384", ike: &[], without_pfs: false },
        Profile::Cisco => Offer {
            groups: "ecp256-ecp384-modp2048",
            ike: &["aes256-sha256-ecp256-ecp384-modp2048", "aes128-sha256-ecp256-ecp384-modp2048"],
            without_pfs: true,
        },
        Profile::Aws => Offer {
            groups: "ecp256-ecp384-modp2048-modp4096",
            ike: &["aes256-sha256-ecp256-ecp384-modp2048"],
            without_pfs: false,
        },
        Profile::Azure => Offer {
            groups: "ecp256-ecp384-modp2048",
            ike: &["aes256-sha256-ecp256-ecp384-modp2048", "aes256-sha384-ecp256-ecp384-modp2048"],
            without_pfs: true,
        },
        Profile::Google => Offer {
            groups: "x25519-ecp256-ecp384-modp2048",
            ike: &["aes256-sha256-x25519-ecp256-ecp384-modp2048"],
            without_pfs: false,
        },
    }
}

/// One proposal a suite, best first: each is whole, since charon takes the first that both ends have.
fn esp_proposals(ike: &Ike) -> Vec<String> {
    let (offer, esn) = (offer(ike.profile), if ike.esn { "esn" } else { "noesn" });
    let with = ike.suites.iter().map(|suite| format!("{}-{}-{esn}", cipher(*suite), offer.groups));
    let without = ike.suites.iter().map(|suite| format!("{}-{esn}", cipher(*suite)));
    with.chain(without.filter(|_| offer.without_pfs)).collect()
}

/// The IKE SA is protected by the suites that the tunnel is.
fn ike_proposals(ike: &Ike) -> Vec<String> {
    let offer = offer(ike.profile);
    let suites = ike.suites.iter();
    let suites = suites.map(|suite| format!("{}-prfsha256-prfsha384-{}", cipher(*suite), offer.groups));
    suites.chain(offer.ike.iter().map(|proposal| (*proposal).to_owned())).collect()
}

/// What makes a proposal one of two key exchanges (RFC 9370), of which the second is ML-KEM-768.
const ML_KEM: &str = "-ke1_mlkem768";

/// Puts ML-KEM into the proposals of the connection `name` in a request [`load`], or takes it out, as the tunnel wants it and charon
/// can; `can` is what [`knows_ml_kem`] said. Where it was done already, nothing changes.
///
/// # Errors
/// The tunnel wants what charon cannot, in words. Nothing is changed then.
pub fn offer_ml_kem(request: &mut Message, name: &str, wanted: MlKem, can: bool) -> Result<(), String> {
    if wanted == MlKem::Require && !can {
        let words = "this strongSwan has no ML-KEM, which `ml_kem = \"require\"` asks for (6.0 has it, by its plugin ml, openssl or botan)";
        return Err(words.to_owned());
    }
    let offered = |connection: &Message, list: &str| {
        let mut plain = Vec::new();
        for proposal in
            connection.list(list).map(|proposal| proposal.strip_suffix(ML_KEM).unwrap_or(proposal))
        {
            if !plain.iter().any(|known| known == proposal) {
                plain.push(proposal.to_owned());
            }
        }
        // A second key exchange needs a first.
        let groups = ["x25519", "ecp", "modp"];
        let both = plain.iter().filter(|proposal| groups.iter().any(|group| proposal.contains(group)));
        let both: Vec<String> = both.map(|proposal| format!("{proposal}{ML_KEM}")).collect();
        match wanted {
            MlKem::Require => both,
            MlKem::Offer if can => [both, plain].concat(),
            MlKem::Offer | MlKem::Forbid => plain,
        }
    };
    let Some(connection) = request.section_mut(name) else { return Ok(()) };
    let proposals = offered(connection, "proposals");
    connection.put_list("proposals", proposals);
    for child in connection.section_mut("children").into_iter().flat_map(Message::sections_mut) {
        let proposals = offered(child, "esp_proposals");
        child.put_list("esp_proposals", proposals);
    }
    Ok(())
}

/// Does charon's answer to `get-algorithms` have ML-KEM-768 in it?
#[must_use]
pub fn knows_ml_kem(algorithms: &Message) -> bool {
    algorithms.sections().any(|(_, section)| section.text("ML_KEM_768").is_some())
}

/// Does our end begin the exchange, rather than wait for the other? With EAP the initiator alone does. Else both may; that one
/// does first keeps them from ending with two IKE SAs. The end with the lower address does.
#[must_use]
pub fn turn(tunnel: &Tunnel, ike: &Ike) -> Turn {
    match (ike.auth.role(), tunnel.local.address()) {
        (Some(Role::Responder), _) => Turn::Never,
        (Some(Role::Initiator), _) | (None, None) => Turn::First,
        (None, Some(address)) if octets(address) < octets(tunnel.remote) => Turn::First,
        (None, Some(_)) => Turn::Second,
    }
}

/// When an end begins an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// At once.
    First,
    /// If the other has not.
    Second,
    /// Not at all.
    Never,
}

fn octets(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

//! What charon is told of a tunnel: a connection with one child, and the secrets, keys and lists that go with it.
//!
//! Names: connection and child are called `culvert-` and the tunnel's name, so that they never meet those of an operator's own
//! swanctl.conf. The child's reqid tells which tunnel an SA is for, whatever becomes of addresses; it is drawn from the name,
//! so it outlives restarts of either side.

use std::net::IpAddr;

use ring::digest::{SHA256, digest};

use super::pilot::Order;
use super::vici::Message;
use crate::config::{Auth, Ike, Mode, Profile, Role, Suite, Tunnel};

/// What all names of ours begin with.
const PREFIX: &str = "culvert-";
/// GRE's protocol number: the child is for nothing else.
const SELECTOR: &str = "dynamic[47]";
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

/// The tunnel behind a connection's or child's name, if it is one of ours.
#[must_use]
pub fn tunnel(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
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

/// The request `load-conn` for the tunnel.
#[must_use]
pub fn load(tunnel: &Tunnel, ike: &Ike, reqid: u32) -> Message {
    let (local, remote) = proofs(tunnel, ike);
    // The first is spoken to; one that may move is known by its identity, wherever it speaks from.
    let anywhere = ike.mobike.then(|| "%any".to_owned());
    let remotes: Vec<String> = [tunnel.remote.to_string()].into_iter().chain(anywhere).collect();
    let (ike_rekey, child_rekey) = offer(ike.profile).rekey;
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
        .with("rekey_time", format!("{child_rekey}s"))
        .with("life_time", format!("{}s", child_rekey + child_rekey / 5))
        .with("rand_time", format!("{}s", child_rekey / 6))
        // The engine's tunnel is there all the time; when to negotiate is decided here.
        .with("start_action", "none")
        .with("close_action", "none")
        .with("dpd_action", "clear");
    Message::new().with_section(
        &name(&tunnel.name),
        Message::new()
            .with("version", "2")
            .with_list("local_addrs", [address(tunnel)])
            .with_list("remote_addrs", remotes)
            .with_list("proposals", ike_proposals(ike))
            .with("unique", "replace")
            .with("mobike", if ike.mobike { "yes" } else { "no" })
            .with("dpd_delay", format!("{}s", ike.dpd.as_secs()))
            .with("rekey_time", format!("{ike_rekey}s"))
            .with("keyingtries", "1")
            .with_section("local-1", local)
            .with_section("remote-1", remote)
            .with_section("children", Message::new().with_section(&name(&tunnel.name), child)),
    )
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
    /// Seconds until the IKE SA and the child SA are rekeyed.
    rekey: (u32, u32),
}

fn offer(profile: Profile) -> Offer {
    match profile {
        Profile::Modern => {
            Offer { groups: "x25519-ecp256-ecp384", ike: &[], without_pfs: false, rekey: (14_400, 3600) }
        }
        Profile::Cisco => Offer {
            groups: "ecp256-ecp384-modp2048",
            ike: &["aes256-sha256-ecp256-ecp384-modp2048", "aes128-sha256-ecp256-ecp384-modp2048"],
            without_pfs: true,
            rekey: (72_000, 3300),
        },
        Profile::Aws => Offer {
            groups: "ecp256-ecp384-modp2048-modp4096",
            ike: &["aes256-sha256-ecp256-ecp384-modp2048"],
            without_pfs: false,
            rekey: (26_000, 3300),
        },
        Profile::Azure => Offer {
            groups: "ecp256-ecp384-modp2048",
            ike: &["aes256-sha256-ecp256-ecp384-modp2048", "aes256-sha384-ecp256-ecp384-modp2048"],
            without_pfs: true,
            rekey: (26_000, 25_000),
        },
        Profile::Google => Offer {
            groups: "x25519-ecp256-ecp384-modp2048",
            ike: &["aes256-sha256-x25519-ecp256-ecp384-modp2048"],
            without_pfs: false,
            rekey: (33_000, 9900),
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

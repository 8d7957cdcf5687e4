//! What `[tunnel.protect]` says of negotiated keys, as types.

use std::time::Duration;

use super::{Mode, Secret, Suite};
use crate::config::lifetimes::Lifetimes;
use crate::config::report::Position;

/// `[tunnel.protect]` with `ike`: keys are negotiated.
#[derive(Clone, Debug, PartialEq)]
pub struct Ike {
    /// Transport or tunnel mode.
    pub mode: Mode,
    /// Multiple that the ESP plaintext is padded to, in bytes: 4 or 16.
    pub pad: u8,
    /// The suites to offer, best first: at least one, none twice.
    pub suites: Vec<Suite>,
    /// Replay window in packets, 64 to 65536.
    pub replay_window: u32,
    /// Whether sequence numbers have 64 bits.
    pub esn: bool,
    /// How the routers prove who they are.
    pub auth: Auth,
    /// Our IKE identity; `None`: our outer address.
    pub local_id: Option<String>,
    /// The far router's IKE identity; `None`: its outer address.
    pub remote_id: Option<String>,
    /// What is offered beside the suites.
    pub profile: Profile,
    /// Whether either end may move to another address (MOBIKE, RFC 4555).
    pub mobike: bool,
    /// How long the far router may be silent before it is asked whether it is there: 1 s to 1 h.
    pub dpd: Duration,
    /// When SAs are replaced, and when they end.
    pub lifetimes: Lifetimes,
    /// Whether keys are agreed on by ML-KEM as well.
    pub ml_kem: MlKem,
    /// Pairs of SAs that the tunnel has at once (RFC 9611): 1 to 64. Worker `w` sends with number `w mod sas`.
    pub sas: u8,
    /// Where the `ike` table stands.
    pub at: Position,
}

/// What is offered beside the tunnel's suites, for far ends that do not take everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Curves and authenticated ciphers alone.
    #[default]
    Modern,
    /// Cisco IOS XE and the like.
    Cisco,
    /// Amazon's VPN gateways.
    Aws,
    /// Microsoft's.
    Azure,
    /// Google's.
    Google,
}

impl Profile {
    /// All, by the names that the configuration has for them.
    pub const ALL: [(&'static str, Profile); 5] = [
        ("modern", Profile::Modern),
        ("cisco", Profile::Cisco),
        ("aws", Profile::Aws),
        ("azure", Profile::Azure),
        ("google", Profile::Google),
    ];

    /// What the configuration calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Profile::ALL.iter().find(|(_, profile)| *profile == self).map_or("modern", |(name, _)| name)
    }

    /// Does the far end take that suite?
    #[must_use]
    pub fn takes(self, suite: Suite) -> bool {
        self == Profile::Modern || suite != Suite::ChaCha20Poly1305
    }

    /// Does it take extended sequence numbers (RFC 4304)?
    #[must_use]
    pub fn takes_esn(self) -> bool {
        self == Profile::Modern
    }

    /// After how long the IKE SA and the tunnel's SAs are replaced, where nothing is said: before the far end does it.
    #[must_use]
    pub fn rekeys(self) -> (Duration, Duration) {
        let (ike, tunnel) = match self {
            Profile::Modern => (14_400, 3600),
            Profile::Cisco => (72_000, 3300),
            Profile::Aws => (26_000, 3300),
            Profile::Azure => (26_000, 25_000),
            Profile::Google => (33_000, 9900),
        };
        (Duration::from_secs(ike), Duration::from_secs(tunnel))
    }
}

/// Whether keys are agreed on by ML-KEM-768 as well (FIPS 203), beside a group of the profile (RFC 9370): who records packets today
/// cannot read them by a quantum computer later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlKem {
    /// Where both ends' strongSwan can.
    Offer,
    /// Or not at all.
    Require,
    /// Never.
    Forbid,
}

impl MlKem {
    /// All, by the names that the configuration has for them.
    pub const ALL: [(&'static str, MlKem); 3] =
        [("offer", MlKem::Offer), ("require", MlKem::Require), ("forbid", MlKem::Forbid)];

    /// What is done where nothing is said: gateways of others are not known to take it.
    #[must_use]
    pub fn of(profile: Profile) -> MlKem {
        if profile == Profile::Modern { MlKem::Offer } else { MlKem::Forbid }
    }

    /// What the configuration calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        MlKem::ALL.iter().find(|(_, each)| *each == self).map_or("offer", |(name, _)| name)
    }
}

/// How two routers prove to each other who they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Auth {
    /// By a pre-shared key: the bytes of the file, without the line end behind them. Never empty.
    Psk(Secret),
    /// Both by certificates: ours, and whom we believe.
    Certificate(Certified, Trust),
    /// Both by public keys that the other knows (RFC 7670).
    PublicKey(KeyPair),
    /// We by a password (EAP-MSCHAPv2), the far router by a certificate.
    EapMschapv2Initiator(Secret, Trust),
    /// The other side of [`Auth::EapMschapv2Initiator`].
    EapMschapv2Responder(Secret, Certified),
    /// Both by certificates in EAP-TLS (RFC 5216); the responder by its certificate in IKE as well, as EAP wants it.
    EapTls(Role, Certified, Trust),
}

impl Auth {
    /// What the configuration calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Auth::Psk(_) => "psk",
            Auth::Certificate(..) => "cert",
            Auth::PublicKey(_) => "pubkey",
            Auth::EapMschapv2Initiator(..) | Auth::EapMschapv2Responder(..) => "eap-mschapv2",
            Auth::EapTls(..) => "eap-tls",
        }
    }

    /// Our side of EAP; `None` where there is none.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        match self {
            Auth::Psk(_) | Auth::Certificate(..) | Auth::PublicKey(_) => None,
            Auth::EapMschapv2Initiator(..) => Some(Role::Initiator),
            Auth::EapMschapv2Responder(..) => Some(Role::Responder),
            Auth::EapTls(role, ..) => Some(*role),
        }
    }

    /// The secret that both routers have.
    #[must_use]
    pub fn shared(&self) -> Option<&Secret> {
        match self {
            Auth::Psk(secret)
            | Auth::EapMschapv2Initiator(secret, _)
            | Auth::EapMschapv2Responder(secret, _) => Some(secret),
            Auth::Certificate(..) | Auth::PublicKey(_) | Auth::EapTls(..) => None,
        }
    }

    /// Our certificate.
    #[must_use]
    pub fn certified(&self) -> Option<&Certified> {
        match self {
            Auth::Certificate(certified, _)
            | Auth::EapMschapv2Responder(_, certified)
            | Auth::EapTls(_, certified, _) => Some(certified),
            Auth::Psk(_) | Auth::PublicKey(_) | Auth::EapMschapv2Initiator(..) => None,
        }
    }

    /// Our private key, as its file has it (PEM or DER).
    #[must_use]
    pub fn private(&self) -> Option<&Secret> {
        match self {
            Auth::PublicKey(pair) => Some(&pair.private),
            _ => self.certified().map(|certified| &certified.key),
        }
    }

    /// Whom we believe.
    #[must_use]
    pub fn trust(&self) -> Option<&Trust> {
        match self {
            Auth::Certificate(_, trust)
            | Auth::EapMschapv2Initiator(_, trust)
            | Auth::EapTls(_, _, trust) => Some(trust),
            Auth::Psk(_) | Auth::PublicKey(_) | Auth::EapMschapv2Responder(..) => None,
        }
    }
}

/// A side of EAP, which is not the same for both (RFC 7296 section 2.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Begins every exchange, and proves by EAP who it is.
    Initiator,
    /// Begins none.
    Responder,
}

/// Our certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct Certified {
    /// In DER: ours, then those between it and a CA. Never empty.
    pub chain: Vec<Vec<u8>>,
    /// Its private key, as its file has it (PEM or DER).
    pub key: Secret,
}

/// Whom we believe.
#[derive(Clone, Debug, PartialEq)]
pub struct Trust {
    /// The certificates of CAs, in DER. Never empty.
    pub cas: Vec<Vec<u8>>,
    /// Revocation lists, in DER.
    pub crls: Vec<Vec<u8>>,
    /// What is asked about revocation.
    pub revocation: Revocation,
}

/// When a certificate is refused for what is known of its revocation, from lists (CRL) or servers (OCSP). One that is known to be
/// revoked always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// Unless it is known to be good.
    Strict,
    /// Unless it is known to be good, or names nobody to be asked.
    IfUri,
    /// Only if it is known to be revoked.
    Relaxed,
}

impl Revocation {
    /// What the configuration and strongSwan call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Revocation::Strict => "strict",
            Revocation::IfUri => "ifuri",
            Revocation::Relaxed => "relaxed",
        }
    }
}

/// Keys without certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPair {
    /// Our private key, as its file has it (PEM or DER).
    pub private: Secret,
    /// Its public half: SubjectPublicKeyInfo, in DER.
    pub public: Vec<u8>,
    /// The far router's public key: SubjectPublicKeyInfo, in DER.
    pub remote: Vec<u8>,
}

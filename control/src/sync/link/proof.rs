//! How the two routers prove to each other who they are: TLS 1.3 (RFC 8446), both sides with a certificate, or both with a raw
//! public key (RFC 7250).
//!
//! With a shared secret, both derive the same Ed25519 key from it (HKDF, RFC 5869), and each takes this key and no other. The
//! public half is seen by whoever connects; a secret that can be guessed could be found by trying, so short ones are refused.
//! With certificates, the partner's has to be signed by one of the CAs, to be valid now, and to have the partner's name.

use std::net::IpAddr;
use std::sync::Arc;

use ring::hkdf;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    AlwaysResolvesClientRawPublicKeys, Resumption, verify_server_cert_signed_by_trust_anchor,
    verify_server_name,
};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    DistinguishedName, Error, RootCertStore, ServerConfig, ServerConnection, SignatureScheme,
};
use zeroize::Zeroizing;

use crate::config::{Certified, SyncProof};

/// Says to TLS what is spoken inside (RFC 7301).
const ALPN: &[u8] = b"culvert-sync";
/// What keys are derived for, so that the same secret gives another key elsewhere.
const SALT: &[u8] = b"culvert carp sync";
const INFO: &[u8] = b"ed25519 of both routers";
/// PKCS #8 (RFC 8410 section 7) in front of an Ed25519 key's 32 bytes.
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// SubjectPublicKeyInfo (RFC 8410 section 4) in front of an Ed25519 public key's 32 bytes.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// What both ends of a connection are made of.
pub(super) struct Proof {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    partner: ServerName<'static>,
    shared: bool,
}

impl Proof {
    /// From the settings.
    ///
    /// # Errors
    /// TLS cannot use them, in words.
    pub(super) fn new(settings: &SyncProof) -> Result<Proof, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (client, server, partner) = match settings {
            SyncProof::Secret(secret) => with_key(secret.expose(), &provider).map_err(words)?,
            SyncProof::Certificate { own, cas, partner_name } => {
                with_certificate(own, cas, partner_name, &provider)?
            }
        };
        let (mut client, mut server) = (client, server);
        client.alpn_protocols = vec![ALPN.to_vec()];
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection proves everything: there are few, and they last.
        client.resumption = Resumption::disabled();
        server.send_tls13_tickets = 0;
        let shared = matches!(settings, SyncProof::Secret(_));
        Ok(Proof { client: Arc::new(client), server: Arc::new(server), partner, shared })
    }

    /// Our end of a connection that we have made.
    pub(super) fn dial(&self) -> Result<Connection, Error> {
        ClientConnection::new(Arc::clone(&self.client), self.partner.clone()).map(Connection::Client)
    }

    /// Our end of a connection that somebody else has made.
    pub(super) fn answer(&self) -> Result<Connection, Error> {
        ServerConnection::new(Arc::clone(&self.server)).map(Connection::Server)
    }

    /// Why TLS has ended, for the operator.
    pub(super) fn explain(&self, error: &Error) -> String {
        match error {
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
                "the partner has another secret".to_owned()
            }
            Error::AlertReceived(AlertDescription::AccessDenied) if self.shared => {
                "the partner refuses us: it has another secret".to_owned()
            }
            Error::AlertReceived(alert) => format!("the partner refuses us: TLS alert {alert:?}"),
            Error::NoCertificatesPresented => "the partner proves nothing".to_owned(),
            Error::InvalidCertificate(why) => format!("the partner's certificate is refused: {why}"),
            Error::PeerIncompatible(_) if self.shared => {
                "the partner offers no TLS 1.3 with a raw public key; do both routers have `secret_file`?"
                    .to_owned()
            }
            Error::PeerIncompatible(_) => {
                "the partner offers no TLS 1.3 with a certificate; do both routers have `cert_file`?"
                    .to_owned()
            }
            Error::InvalidMessage(_) => "what comes is not TLS".to_owned(),
            other => format!("TLS: {other}"),
        }
    }
}

type Ends = (ClientConfig, ServerConfig, ServerName<'static>);

fn words(error: Error) -> String {
    format!("TLS cannot use it: {error}")
}

fn with_key(secret: &[u8], provider: &Arc<CryptoProvider>) -> Result<Ends, Error> {
    let seed = derive(secret)?;
    let public = Ed25519KeyPair::from_seed_unchecked(&*seed)
        .map_err(|_| Error::General("no key can be made of the secret".to_owned()))?;
    let public = [SPKI.as_slice(), public.public_key().as_ref()].concat();
    let pkcs8 = Zeroizing::new([PKCS8.as_slice(), &*seed].concat());
    let key = rustls::crypto::ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))?;
    let own = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public.clone())], key));
    let algorithms = provider.signature_verification_algorithms;
    let pinned = Arc::new(Pinned { public, algorithms });
    let client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&pinned) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&own))));
    let server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(pinned)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
    // Nobody looks at it.
    let name = ServerName::try_from("culvert").map_err(|_| Error::General("no name".to_owned()))?;
    Ok((client, server, name))
}

/// The seed of the key that both routers have.
fn derive(secret: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut seed = Zeroizing::new([0; 32]);
    let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret);
    let filled = derived.expand(&[INFO], hkdf::HKDF_SHA256).and_then(|derived| derived.fill(&mut *seed));
    filled.map_err(|_| Error::General("no key can be derived".to_owned()))?;
    Ok(seed)
}

fn with_certificate(
    own: &Certified,
    cas: &[Vec<u8>],
    partner_name: &str,
    provider: &Arc<CryptoProvider>,
) -> Result<Ends, String> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(CertificateDer::from(ca.as_slice())).map_err(words)?;
    }
    let roots = Arc::new(roots);
    let name = ServerName::try_from(partner_name.to_owned())
        .map_err(|_| format!("{partner_name:?} is no DNS name or IP address"))?;
    let chain = || own.chain.iter().map(|der| CertificateDer::from(der.clone())).collect::<Vec<_>>();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
        .build()
        .map_err(|error| format!("TLS cannot use it: {error}"))?;
    let algorithms = provider.signature_verification_algorithms;
    let named = Arc::new(Named { name: name.clone(), roots, clients, algorithms });
    let client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(words)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&named) as Arc<dyn ServerCertVerifier>)
        .with_client_auth_cert(chain(), private_key(own)?)
        .map_err(words)?;
    let server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(words)?
        .with_client_cert_verifier(named)
        .with_single_cert(chain(), private_key(own)?)
        .map_err(words)?;
    Ok((client, server, name))
}

/// The private key, whose file has PEM or DER.
fn private_key(own: &Certified) -> Result<PrivateKeyDer<'static>, String> {
    let file = own.key.expose();
    let key = match PrivateKeyDer::from_pem_slice(file) {
        Ok(key) => Ok(key),
        Err(_) => PrivateKeyDer::try_from(file).map(|key| key.clone_key()),
    };
    key.map_err(|why| format!("the private key is none that TLS can use: {why}"))
}

/// Takes one key, whoever has it.
#[derive(Debug)]
struct Pinned {
    /// SubjectPublicKeyInfo, in DER.
    public: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn look(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        if key.as_ref() == self.public {
            return Ok(());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }
}

/// TLS 1.2 is never spoken.
fn too_old() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.look(key).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.look(key).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Takes certificates of one name that one of the CAs has signed, whichever side has made the connection.
#[derive(Debug)]
struct Named {
    name: ServerName<'static>,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        verify_server_name(&parsed, &self.name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.clients.verify_client_cert(certificate, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(certificate)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether TLS can use the settings.
///
/// # Errors
/// It cannot, and why, in words.
pub(crate) fn usable(settings: &SyncProof) -> Result<(), String> {
    Proof::new(settings).map(drop)
}

/// The name that a certificate is looked for, as the configuration has it.
pub(crate) fn is_name(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || ServerName::try_from(text).is_ok()
}

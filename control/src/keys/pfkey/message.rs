//! The messages of FreeBSD's PF_KEY (RFC 2367, net/pfkeyv2.h) as values. A message is a header and extensions, each of which says
//! how long it is and what it is about; those that are not known are stepped over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netmap_sys::{
    AF_INET, AF_INET6, IPSEC_MODE_TRANSPORT, IPSEC_MODE_TUNNEL, PF_KEY_V2, SADB_DUMP, SADB_EXT_ADDRESS_DST,
    SADB_EXT_ADDRESS_SRC, SADB_EXT_KEY_ENCRYPT, SADB_EXT_LIFETIME_HARD, SADB_EXT_LIFETIME_SOFT, SADB_EXT_SA,
    SADB_GET, SADB_REGISTER, SADB_SASTATE_DYING, SADB_SASTATE_MATURE, SADB_SATYPE_ESP, SADB_SATYPE_UNSPEC,
    SADB_X_EALG_AESGCM16, SADB_X_EALG_CHACHA20POLY1305, SADB_X_EXT_NAT_T_DPORT, SADB_X_EXT_NAT_T_SPORT,
    SADB_X_EXT_NAT_T_TYPE, SADB_X_EXT_NEW_ADDRESS_DST, SADB_X_EXT_NEW_ADDRESS_SRC, SADB_X_EXT_SA2,
    SADB_X_SAFLAGS_ESN, sadb_address, sadb_ext, sadb_key, sadb_lifetime, sadb_msg, sadb_sa,
    sadb_x_nat_t_port, sadb_x_nat_t_type, sadb_x_sa2, sockaddr_in, sockaddr_in6,
};
use zeroize::Zeroizing;

use crate::config::{Mode, Secret, Suite};
use crate::datagram::{Damaged, read, split_all};
use crate::keys::sa::{Ends, Id, Limits, Origin, Sa};

/// Lengths count so many bytes.
const UNIT: usize = 8;
/// netinet/udp.h, `UDP_ENCAP_ESPINUDP`: RFC 3948.
const ESP_IN_UDP: u8 = 2;

/// A message: its header, and its extensions, which are not yet read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) header: sadb_msg,
    extensions: &'a [u8],
}

/// The messages in `bytes`, in order; damage ends them.
pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Damaged>> {
    split_all(bytes, |rest| {
        let header: sadb_msg = read(rest)?;
        let length = usize::from(header.sadb_msg_len) * UNIT;
        let extensions = rest.get(size_of::<sadb_msg>()..length).ok_or(Damaged)?;
        if header.sadb_msg_version != PF_KEY_V2 {
            return Err(Damaged);
        }
        *rest = rest.get(length..).unwrap_or_default();
        Ok(Message { header, extensions })
    })
}

impl<'a> Message<'a> {
    /// Is it about ESP? A flush may be about all kinds at once.
    pub(super) fn is_about_esp(&self) -> bool {
        matches!(self.header.sadb_msg_satype, SADB_SATYPE_ESP | SADB_SATYPE_UNSPEC)
    }

    /// Its extensions: what each is, and its bytes. What does not hold together ends them.
    fn extensions(&self) -> impl Iterator<Item = Result<(u16, &'a [u8]), Damaged>> {
        split_all(self.extensions, |rest| {
            let header: sadb_ext = read(rest)?;
            let length = usize::from(header.sadb_ext_len) * UNIT;
            if length == 0 {
                return Err(Damaged);
            }
            let (extension, others) = rest.split_at_checked(length).ok_or(Damaged)?;
            *rest = others;
            Ok((header.sadb_ext_type, extension))
        })
    }

    /// What it says of an SA.
    pub(super) fn parts(&self) -> Result<Parts<'a>, Damaged> {
        let mut parts = Parts::default();
        for extension in self.extensions() {
            let (kind, bytes) = extension?;
            match kind {
                SADB_EXT_SA => parts.sa = Some(read(bytes)?),
                SADB_X_EXT_SA2 => parts.sa2 = Some(read(bytes)?),
                SADB_EXT_ADDRESS_SRC => parts.source = Some(address(bytes)?),
                SADB_EXT_ADDRESS_DST => parts.destination = Some(address(bytes)?),
                SADB_X_EXT_NEW_ADDRESS_SRC => parts.new_source = Some(address(bytes)?),
                SADB_X_EXT_NEW_ADDRESS_DST => parts.new_destination = Some(address(bytes)?),
                SADB_EXT_KEY_ENCRYPT => parts.key = Some(key(bytes)?),
                SADB_EXT_LIFETIME_HARD => parts.hard = Some(read(bytes)?),
                SADB_EXT_LIFETIME_SOFT => parts.soft = Some(read(bytes)?),
                SADB_X_EXT_NAT_T_TYPE => {
                    parts.encap = read::<sadb_x_nat_t_type>(bytes)?.sadb_x_nat_t_type_type == ESP_IN_UDP;
                }
                SADB_X_EXT_NAT_T_SPORT => parts.ports.0 = port(bytes)?,
                SADB_X_EXT_NAT_T_DPORT => parts.ports.1 = port(bytes)?,
                _ => {}
            }
        }
        Ok(parts)
    }
}

/// What the extensions of a message say.
#[derive(Debug, Default)]
pub(super) struct Parts<'a> {
    sa: Option<sadb_sa>,
    sa2: Option<sadb_x_sa2>,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    /// Of an update: where they come from and go to from now on, in place of what is said above.
    new_source: Option<IpAddr>,
    new_destination: Option<IpAddr>,
    /// The cipher's, with the salt behind it.
    key: Option<&'a [u8]>,
    pub(super) hard: Option<sadb_lifetime>,
    soft: Option<sadb_lifetime>,
    encap: bool,
    ports: (u16, u16),
}

/// An SA that a message is about, as far as something can be done with it.
#[derive(Debug)]
pub(super) enum Found {
    /// All of it.
    Sa(Sa),
    /// Nothing can be done with it; its reqid, and why.
    Unusable(u32, String),
    /// It has no keys yet, or is over.
    Nothing,
}

impl Parts<'_> {
    /// What the SA is known by, and where its packets come from.
    pub(super) fn id(&self) -> Option<(Id, IpAddr)> {
        let spi = u32::from_be(self.sa?.sadb_sa_spi);
        Some((Id { spi, at: self.destination? }, self.source?))
    }

    /// Where the SA is from now on, if an update gives it other addresses (MOBIKE): the rest of the message still has the old ones.
    pub(super) fn moved(&self) -> Option<Ends> {
        self.new_source.or(self.new_destination)?;
        Some(self.between(self.new_source.or(self.source)?, self.new_destination.or(self.destination)?))
    }

    fn between(&self, source: IpAddr, destination: IpAddr) -> Ends {
        let (from, to) = self.ports;
        Ends::new(SocketAddr::new(source, from), SocketAddr::new(destination, to), self.encap)
    }

    /// The SA, from a message with its keys.
    pub(super) fn sa(&self) -> Result<Found, Damaged> {
        let (id, source) = self.id().ok_or(Damaged)?;
        let (sa, sa2) = (self.sa.ok_or(Damaged)?, self.sa2.ok_or(Damaged)?);
        if !matches!(sa.sadb_sa_state, SADB_SASTATE_MATURE | SADB_SASTATE_DYING) {
            return Ok(Found::Nothing);
        }
        let reqid = sa2.sadb_x_sa2_reqid;
        let Some(key) = self.key else {
            return Ok(Found::Unusable(reqid, "the kernel does not tell its keys".to_owned()));
        };
        let suite = match (sa.sadb_sa_encrypt, key.len().saturating_sub(Suite::SALT_LEN)) {
            (SADB_X_EALG_AESGCM16, 16) => Suite::Aes128Gcm16,
            (SADB_X_EALG_AESGCM16, 32) => Suite::Aes256Gcm16,
            (SADB_X_EALG_CHACHA20POLY1305, 32) => Suite::ChaCha20Poly1305,
            _ => return Ok(Found::Unusable(reqid, "its cipher is none of the engine's".to_owned())),
        };
        let mode = match sa2.sadb_x_sa2_mode {
            IPSEC_MODE_TRANSPORT => Mode::Transport,
            IPSEC_MODE_TUNNEL => Mode::Tunnel,
            _ => {
                let why = "the SA is in neither transport nor tunnel mode";
                return Ok(Found::Unusable(reqid, why.to_owned()));
            }
        };
        Ok(Found::Sa(Sa {
            id,
            origin: Origin::PfKey,
            // PF_KEY has no directions.
            direction: None,
            ends: self.between(source, id.at),
            reqid,
            mode,
            suite,
            key: Secret::new(Zeroizing::new(key.to_vec())),
            // The kernel's own, of which the engine makes no use.
            window: u32::from(sa.sadb_sa_replay) * 8,
            esn: sa.sadb_sa_flags & SADB_X_SAFLAGS_ESN != 0,
            // Where charon did not begin the exchange, it adds its SA for sending when it may be sent with.
            ready: true,
            limits: self.limits(),
        }))
    }

    fn limits(&self) -> Limits {
        let limit = |of: Option<sadb_lifetime>, value: fn(&sadb_lifetime) -> u64| {
            of.as_ref().map(value).filter(|value| *value > 0)
        };
        let packets = |lifetime: &sadb_lifetime| lifetime.sadb_lifetime_allocations.into();
        Limits {
            life: limit(self.hard, |lifetime| lifetime.sadb_lifetime_addtime).map(Limits::lasting),
            rekey: None,
            rekey_bytes: limit(self.soft, |lifetime| lifetime.sadb_lifetime_bytes),
            rekey_packets: limit(self.soft, packets),
            bytes: limit(self.hard, |lifetime| lifetime.sadb_lifetime_bytes),
            packets: limit(self.hard, packets),
        }
    }
}

/// The address in an address extension.
fn address(bytes: &[u8]) -> Result<IpAddr, Damaged> {
    let socket = bytes.get(size_of::<sadb_address>()..).ok_or(Damaged)?;
    match *socket.get(1).ok_or(Damaged)? {
        AF_INET => Ok(Ipv4Addr::from(read::<sockaddr_in>(socket)?.sin_addr).into()),
        AF_INET6 => Ok(Ipv6Addr::from(read::<sockaddr_in6>(socket)?.sin6_addr).into()),
        _ => Err(Damaged),
    }
}

fn key(bytes: &[u8]) -> Result<&[u8], Damaged> {
    let length = usize::from(read::<sadb_key>(bytes)?.sadb_key_bits) / 8;
    bytes.get(size_of::<sadb_key>()..).and_then(|key| key.get(..length)).ok_or(Damaged)
}

fn port(bytes: &[u8]) -> Result<u16, Damaged> {
    Ok(u16::from_be(read::<sadb_x_nat_t_port>(bytes)?.sadb_x_nat_t_port_port))
}

/// Asks to be told when ESP SAs end.
pub(super) fn register(sequence: u32) -> Vec<u8> {
    request(SADB_REGISTER, sequence, &[])
}

/// Asks for all ESP SAs.
pub(super) fn dump(sequence: u32) -> Vec<u8> {
    request(SADB_DUMP, sequence, &[])
}

/// Asks for one SA.
pub(super) fn get(sequence: u32, id: Id, source: IpAddr) -> Vec<u8> {
    let sa = sadb_sa {
        sadb_sa_len: units(size_of::<sadb_sa>()),
        sadb_sa_exttype: SADB_EXT_SA,
        sadb_sa_spi: id.spi.to_be(),
        ..bytemuck::Zeroable::zeroed()
    };
    let mut extensions = bytemuck::bytes_of(&sa).to_vec();
    for (kind, address) in [(SADB_EXT_ADDRESS_SRC, source), (SADB_EXT_ADDRESS_DST, id.at)] {
        extensions.extend(address_extension(kind, address));
    }
    request(SADB_GET, sequence, &extensions)
}

/// An address extension for that address.
pub(super) fn address_extension(kind: u16, address: IpAddr) -> Vec<u8> {
    let socket = match address {
        IpAddr::V4(v4) => bytemuck::bytes_of(&sockaddr_in {
            sin_len: size_of::<sockaddr_in>() as u8,
            sin_family: AF_INET,
            sin_port: 0,
            sin_addr: v4.octets(),
            sin_zero: [0; 8],
        })
        .to_vec(),
        IpAddr::V6(v6) => bytemuck::bytes_of(&sockaddr_in6 {
            sin6_len: size_of::<sockaddr_in6>() as u8,
            sin6_family: AF_INET6,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: v6.octets(),
            sin6_scope_id: 0,
        })
        .to_vec(),
    };
    let length = (size_of::<sadb_address>() + socket.len()).next_multiple_of(UNIT);
    let header = sadb_address {
        sadb_address_len: units(length),
        sadb_address_exttype: kind,
        sadb_address_proto: 0,
        sadb_address_prefixlen: if address.is_ipv4() { 32 } else { 128 },
        sadb_address_reserved: 0,
    };
    let mut extension = bytemuck::bytes_of(&header).to_vec();
    extension.extend(socket);
    extension.resize(length, 0);
    extension
}

fn request(kind: u8, sequence: u32, extensions: &[u8]) -> Vec<u8> {
    let header = sadb_msg {
        sadb_msg_version: PF_KEY_V2,
        sadb_msg_type: kind,
        sadb_msg_errno: 0,
        sadb_msg_satype: SADB_SATYPE_ESP,
        sadb_msg_len: units(size_of::<sadb_msg>() + extensions.len()),
        sadb_msg_reserved: 0,
        sadb_msg_seq: sequence,
        sadb_msg_pid: std::process::id(),
    };
    [bytemuck::bytes_of(&header), extensions].concat()
}

/// A length in the messages' units.
pub(super) fn units(bytes: usize) -> u16 {
    (bytes / UNIT) as u16
}

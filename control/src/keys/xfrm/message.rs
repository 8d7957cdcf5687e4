//! The kernel's messages about SAs (linux/xfrm.h), behind the netlink header, as values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netmap_sys::{
    XFRM_INF, XFRM_MODE_TRANSPORT, XFRM_MODE_TUNNEL, XFRM_MSG_DELSA, XFRM_MSG_EXPIRE, XFRM_MSG_FLUSHSA,
    XFRM_MSG_GETSA, XFRM_MSG_NEWSA, XFRM_MSG_UPDSA, XFRM_SA_DIR_IN, XFRM_SA_DIR_OUT, XFRM_STATE_ESN,
    XFRMA_ALG_AEAD, XFRMA_ENCAP, XFRMA_REPLAY_ESN_VAL, XFRMA_SA_DIR, xfrm_algo_aead, xfrm_encap_tmpl,
    xfrm_lifetime_cfg, xfrm_replay_state_esn, xfrm_user_expire, xfrm_usersa_flush, xfrm_usersa_id,
    xfrm_usersa_info,
};
use zeroize::Zeroizing;

use crate::config::{Direction, Mode, Secret, Suite};
use crate::datagram::{Damaged, read};
use crate::keys::sa::{Ends, Id, Limits, Origin, Sa};
use crate::netlink::message::{self as netlink, Message};

// linux/socket.h.
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// IP's number for ESP.
const ESP: u8 = 50;
/// linux/udp.h, `UDP_ENCAP_ESPINUDP`: RFC 3948.
const ESP_IN_UDP: u16 = 2;
/// Bits of the integrity check value of all suites.
const ICV_BITS: u32 = 128;

/// What a message says of ESP SAs.
#[derive(Debug)]
pub(super) enum Event {
    /// There is this SA.
    Came(Sa),
    /// There is one for this reqid, with which nothing can be done.
    Unusable(u32, String),
    /// There is no such SA any more.
    Gone(Id),
    /// There is none any more.
    Flushed,
}

/// Asks for all SAs.
pub(super) fn dump_request(sequence: u32) -> Vec<u8> {
    netlink::request(XFRM_MSG_GETSA, netlink::NLM_F_DUMP, sequence, &[])
}

/// What a message says; `None` where it is nothing that matters here.
pub(super) fn event(message: Message<'_>) -> Result<Option<Event>, Damaged> {
    let payload = message.payload;
    Ok(match message.kind {
        XFRM_MSG_NEWSA | XFRM_MSG_UPDSA => arrival(payload)?,
        XFRM_MSG_DELSA => {
            let gone: xfrm_usersa_id = read(payload)?;
            esp(gone.proto, gone.spi, gone.daddr, gone.family).map(Event::Gone)
        }
        XFRM_MSG_EXPIRE => {
            let over: xfrm_user_expire = read(payload)?;
            let xfrm_usersa_info { id, family, .. } = over.state;
            // A soft one is charon's affair.
            esp(id.proto, id.spi, id.daddr, family).filter(|_| over.hard != 0).map(Event::Gone)
        }
        XFRM_MSG_FLUSHSA => {
            let flush: xfrm_usersa_flush = read(payload)?;
            matches!(flush.proto, 0 | ESP).then_some(Event::Flushed)
        }
        _ => None,
    })
}

/// What an SA is known by, if it is one of ESP.
fn esp(protocol: u8, spi: u32, at: [u8; 16], family: u16) -> Option<Id> {
    let at = address(at, family).filter(|_| protocol == ESP)?;
    Some(Id { spi: u32::from_be(spi), at })
}

/// An address, which of IPv4 takes the first four bytes.
fn address(bytes: [u8; 16], family: u16) -> Option<IpAddr> {
    match family {
        AF_INET => bytes.first_chunk().map(|bytes: &[u8; 4]| Ipv4Addr::from(*bytes).into()),
        AF_INET6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// An SA that is there now.
fn arrival(payload: &[u8]) -> Result<Option<Event>, Damaged> {
    let info: xfrm_usersa_info = read(payload)?;
    let Some(id) = esp(info.id.proto, info.id.spi, info.id.daddr, info.family) else { return Ok(None) };
    let source = address(info.saddr, info.family).ok_or(Damaged)?;
    let (mut aead, mut udp, mut numbers, mut direction) = (None, None, None, None);
    for (kind, value) in netlink::attributes(payload.get(size_of::<xfrm_usersa_info>()..).unwrap_or_default())
    {
        match kind {
            XFRMA_ALG_AEAD => aead = Some(value),
            XFRMA_ENCAP => udp = Some(read::<xfrm_encap_tmpl>(value)?),
            XFRMA_REPLAY_ESN_VAL => numbers = Some(read::<xfrm_replay_state_esn>(value)?),
            XFRMA_SA_DIR => direction = value.first().copied(),
            _ => {}
        }
    }
    // A number that is reserved, or an SA of another's with a cipher of another kind.
    let Some(aead) = aead else { return Ok(None) };
    let udp = udp.filter(|udp| udp.encap_type == ESP_IN_UDP);
    let ports = udp.map_or((0, 0), |udp| (u16::from_be(udp.encap_sport), u16::from_be(udp.encap_dport)));
    let ends = Ends::new(SocketAddr::new(source, ports.0), SocketAddr::new(id.at, ports.1), udp.is_some());
    let unusable = |why: &str| Ok(Some(Event::Unusable(info.reqid, why.to_owned())));
    let (suite, key) = match cipher(aead)? {
        Ok(cipher) => cipher,
        Err(why) => return unusable(why),
    };
    let mode = match info.mode {
        XFRM_MODE_TRANSPORT => Mode::Transport,
        XFRM_MODE_TUNNEL => Mode::Tunnel,
        _ => return unusable("the SA is in neither transport nor tunnel mode"),
    };
    Ok(Some(Event::Came(Sa {
        id,
        origin: Origin::Xfrm,
        direction: match direction {
            Some(XFRM_SA_DIR_IN) => Some(Direction::In),
            Some(XFRM_SA_DIR_OUT) => Some(Direction::Out),
            _ => None,
        },
        ends,
        reqid: info.reqid,
        mode,
        suite,
        key,
        window: numbers.map_or(info.replay_window.into(), |numbers| numbers.replay_window),
        esn: info.flags & XFRM_STATE_ESN != 0,
        // Whoever negotiates adds both SAs of a pair at once, at whichever end.
        ready: false,
        limits: limits(&info.lft),
    })))
}

/// The suite and the key of an AEAD, or why it is of no use.
fn cipher(bytes: &[u8]) -> Result<Result<(Suite, Secret), &'static str>, Damaged> {
    let aead: xfrm_algo_aead = read(bytes)?;
    let length = aead.alg_key_len as usize / 8;
    let key = bytes.get(size_of::<xfrm_algo_aead>()..).and_then(|key| key.get(..length)).ok_or(Damaged)?;
    let name = aead.alg_name.split(|byte| *byte == 0).next().unwrap_or_default();
    let suite = match (name, length.saturating_sub(Suite::SALT_LEN), aead.alg_icv_len) {
        (b"rfc4106(gcm(aes))", 16, ICV_BITS) => Suite::Aes128Gcm16,
        (b"rfc4106(gcm(aes))", 32, ICV_BITS) => Suite::Aes256Gcm16,
        (b"rfc7539esp(chacha20,poly1305)", 32, ICV_BITS) => Suite::ChaCha20Poly1305,
        _ => return Ok(Err("its cipher is none of the engine's")),
    };
    if key.iter().all(|byte| *byte == 0) {
        return Ok(Err("the kernel keeps its keys to itself (lockdown=confidentiality)"));
    }
    Ok(Ok((suite, Secret::new(Zeroizing::new(key.to_vec())))))
}

fn limits(limits: &xfrm_lifetime_cfg) -> Limits {
    let limit = |value: u64| Some(value).filter(|value| !matches!(*value, 0 | XFRM_INF));
    Limits {
        life: limit(limits.hard_add_expires_seconds).map(Limits::lasting),
        rekey: None,
        rekey_bytes: limit(limits.soft_byte_limit),
        rekey_packets: limit(limits.soft_packet_limit),
        bytes: limit(limits.hard_byte_limit),
        packets: limit(limits.hard_packet_limit),
    }
}

//! Messages as Linux sends them, made of its own structures, and what is lost, cut or unknown among them.

use bytemuck::{Zeroable, bytes_of};
use netmap_sys::{
    XFRM_INF, XFRM_MODE_TRANSPORT, XFRM_MSG_DELSA, XFRM_MSG_EXPIRE, XFRM_MSG_FLUSHSA, XFRM_MSG_NEWSA,
    XFRM_MSG_UPDSA, XFRM_SA_DIR_OUT, XFRM_STATE_ESN, XFRMA_ALG_AEAD, XFRMA_ENCAP, XFRMA_REPLAY_ESN_VAL,
    XFRMA_SA, XFRMA_SA_DIR, xfrm_algo_aead, xfrm_encap_tmpl, xfrm_id, xfrm_lifetime_cfg,
    xfrm_replay_state_esn, xfrm_user_expire, xfrm_usersa_flush, xfrm_usersa_id, xfrm_usersa_info,
};

use super::*;
use crate::config::{Direction, Mode, Suite, UdpEncap};
use crate::keys::kernel::tests::words;
use crate::keys::sa::Sa;

const GCM: &str = "rfc4106(gcm(aes))";
const HERE: [u8; 4] = [192, 0, 2, 1];
const THERE: [u8; 4] = [192, 0, 2, 2];

fn wide(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short one");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn aead(name: &str, key: &[u8]) -> Vec<u8> {
    let mut header =
        xfrm_algo_aead { alg_key_len: key.len() as u32 * 8, alg_icv_len: 128, ..Zeroable::zeroed() };
    header.alg_name[..name.len()].copy_from_slice(name.as_bytes());
    attribute(XFRMA_ALG_AEAD, &[bytes_of(&header), key].concat())
}

/// An SA to us, as charon installs it.
fn info(spi: u32) -> xfrm_usersa_info {
    xfrm_usersa_info {
        id: xfrm_id { daddr: wide(HERE), spi: spi.to_be(), proto: 50, ..Zeroable::zeroed() },
        saddr: wide(THERE),
        lft: xfrm_lifetime_cfg {
            soft_byte_limit: XFRM_INF,
            hard_byte_limit: XFRM_INF,
            soft_packet_limit: 1000,
            hard_packet_limit: XFRM_INF,
            soft_add_expires_seconds: 3000,
            hard_add_expires_seconds: 3600,
            ..Zeroable::zeroed()
        },
        reqid: 7,
        family: 2,
        mode: XFRM_MODE_TRANSPORT,
        flags: XFRM_STATE_ESN,
        ..Zeroable::zeroed()
    }
}

/// Its key is made of its number.
fn key(spi: u32) -> Vec<u8> {
    vec![spi as u8 | 1; 20]
}

fn message(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    netlink::request(kind, 0, 0, &parts.concat())
}

fn came(kind: u16, spi: u32) -> Vec<u8> {
    message(kind, &[bytes_of(&info(spi)), &aead(GCM, &key(spi))])
}

fn gone(spi: u32) -> Vec<u8> {
    let id = xfrm_usersa_id { daddr: wide(HERE), spi: spi.to_be(), family: 2, proto: 50, pad0: 0 };
    message(XFRM_MSG_DELSA, &[bytes_of(&id), &attribute(XFRMA_SA, bytes_of(&info(spi)))])
}

fn expired(spi: u32, hard: bool) -> Vec<u8> {
    let over = xfrm_user_expire { state: info(spi), hard: hard.into(), pad0: [0; 7] };
    message(XFRM_MSG_EXPIRE, &[bytes_of(&over)])
}

/// The one SA that is told of.
fn only(changes: Vec<Change>) -> Sa {
    match <[Change; 1]>::try_from(changes) {
        Ok([Change::Added(sa) | Change::Found(sa)]) => sa,
        other => panic!("one SA, not {other:?}"),
    }
}

fn event(datagram: &[u8]) -> Event {
    let mut messages = netlink::messages(datagram);
    let message = messages.next().expect("one").expect("a whole one");
    message::event(message).expect("a whole one").expect("something")
}

/// A follower that has had its first list, of these.
fn following(spis: &[u32]) -> Follower {
    let mut follower = Follower::default();
    let all = spis.iter().map(|spi| event(&came(XFRM_MSG_NEWSA, *spi))).collect();
    follower.replace(all);
    assert!(!follower.stale);
    follower
}

#[test]
fn an_sa_has_all_that_the_kernel_says_of_it() {
    let numbers = xfrm_replay_state_esn { replay_window: 256, bmp_len: 8, ..Zeroable::zeroed() };
    let encap = xfrm_encap_tmpl {
        encap_type: 2,
        encap_sport: 4500_u16.to_be(),
        encap_dport: 61_000_u16.to_be(),
        ..Zeroable::zeroed()
    };
    let bytes = message(
        XFRM_MSG_UPDSA,
        &[
            bytes_of(&info(0xc000_0001)),
            // What a newer kernel may add.
            &attribute(999, b"unknown"),
            &aead(GCM, &[&[1; 32][..], b"salt"].concat()),
            &attribute(XFRMA_REPLAY_ESN_VAL, &[bytes_of(&numbers), &[0; 32]].concat()),
            &attribute(XFRMA_ENCAP, bytes_of(&encap)),
            &attribute(XFRMA_SA_DIR, &[XFRM_SA_DIR_OUT]),
        ],
    );
    let sa = only(following(&[]).take(&bytes));
    assert_eq!(sa.id.to_string(), "SA 0xc0000001 at 192.0.2.1");
    assert_eq!((sa.ends.source, sa.ends.destination), (THERE.into(), HERE.into()));
    assert_eq!(sa.ends.udp, Some(UdpEncap { source: 4500, destination: 61_000 }));
    assert_eq!(
        (sa.suite, sa.mode, sa.direction),
        (Suite::Aes256Gcm16, Mode::Transport, Some(Direction::Out))
    );
    assert_eq!((sa.reqid, sa.window, sa.esn, sa.origin), (7, 256, true, Origin::Xfrm));
    assert_eq!(sa.key.expose(), [&[1; 32][..], b"salt"].concat());
    assert_eq!((sa.limits.life, sa.limits.rekey_packets), (Some(Duration::from_secs(3600)), Some(1000)));
    assert_eq!((sa.limits.rekey_bytes, sa.limits.bytes, sa.limits.packets), (None, None, None));
}

#[test]
fn what_the_kernel_does_not_say_is_left_open() {
    let sa = only(following(&[]).take(&came(XFRM_MSG_NEWSA, 1)));
    assert_eq!((sa.ends.udp, sa.direction, sa.suite), (None, None, Suite::Aes128Gcm16));
    let six = xfrm_usersa_info { family: 10, ..info(2) };
    let chacha = aead("rfc7539esp(chacha20,poly1305)", &[3; 36]);
    let sa = only(following(&[]).take(&message(XFRM_MSG_NEWSA, &[bytes_of(&six), &chacha])));
    assert!(sa.id.at.is_ipv6() && sa.suite == Suite::ChaCha20Poly1305);
}

#[test]
fn sas_come_and_go() {
    let mut follower = following(&[1]);
    let datagram = [came(XFRM_MSG_UPDSA, 3), came(XFRM_MSG_NEWSA, 5), expired(1, false), gone(1)].concat();
    assert_eq!(words(&follower.take(&datagram)), ["added 3", "added 5", "removed 1"]);
    assert_eq!(words(&follower.take(&came(XFRM_MSG_UPDSA, 3))), [""; 0], "told again");
    assert_eq!(words(&follower.take(&expired(3, true))), ["removed 3"]);
    assert_eq!(words(&follower.take(&gone(3))), [""; 0], "it has gone already");
    for (proto, told) in [(51, &[][..]), (0, &["flushed"])] {
        let flush = message(XFRM_MSG_FLUSHSA, &[bytes_of(&xfrm_usersa_flush { proto })]);
        assert_eq!(words(&follower.take(&flush)), told);
    }
    assert_eq!(words(&follower.take(&came(XFRM_MSG_NEWSA, 5))), ["added 5"]);
}

/// The NAT on the way has another port now: the same key, from another place.
#[test]
fn an_sa_moves() {
    let mut follower = following(&[1]);
    let encap = xfrm_encap_tmpl { encap_type: 2, encap_sport: 4501_u16.to_be(), ..Zeroable::zeroed() };
    let moved = message(
        XFRM_MSG_UPDSA,
        &[bytes_of(&info(1)), &aead(GCM, &key(1)), &attribute(XFRMA_ENCAP, bytes_of(&encap))],
    );
    assert_eq!(words(&follower.take(&moved)), ["moved 1 192.0.2.2 192.0.2.1"]);
}

/// Design, rule 1: whatever was there before us may have been sent with; what comes later was not, also where we see it late.
#[test]
fn what_was_there_first_is_found_and_stays_so() {
    let mut follower = Follower::default();
    let event = |spi| event(&came(XFRM_MSG_NEWSA, spi));
    let first = follower.replace(vec![event(1), event(3)]);
    assert_eq!(words(&first), ["begins", "found 1", "found 3", "synchronised"]);
    // Events were lost: 3 has gone, 5 has come.
    assert_eq!(words(&follower.replace(vec![event(1), event(5)])), ["removed 3", "added 5"]);
    // charon moves an SA by taking it away and adding it again: its key is as old as it was.
    assert_eq!(words(&follower.take(&[gone(1), came(XFRM_MSG_NEWSA, 1)].concat())), ["removed 1", "found 1"]);
    // The same number with another key.
    let other = message(XFRM_MSG_UPDSA, &[bytes_of(&info(1)), &aead(GCM, &[77; 20])]);
    assert_eq!(words(&follower.take(&other)), ["added 1"]);
}

#[test]
fn what_is_no_sa_of_ours_is_stepped_over() {
    let mut follower = following(&[]);
    let reserved = message(XFRM_MSG_NEWSA, &[bytes_of(&info(1))]);
    let mut ah = info(3);
    ah.id.proto = 51;
    let ah = message(XFRM_MSG_NEWSA, &[bytes_of(&ah), &aead(GCM, &key(3))]);
    let unknown = message(0x7f, &[b"????"]);
    assert_eq!(
        words(&follower.take(&[reserved, ah, unknown, came(XFRM_MSG_NEWSA, 5)].concat())),
        ["added 5"]
    );
    assert!(!follower.stale);
}

/// A kernel in lockdown gives zeros in place of keys: whoever sent with them would send in clear.
#[test]
fn keys_that_are_none_are_refused() {
    let mut follower = following(&[]);
    for (name, key) in [(GCM, vec![0; 20]), (GCM, vec![1; 28]), ("rfc4309(ccm(aes))", vec![1; 19])] {
        let sa = message(XFRM_MSG_NEWSA, &[bytes_of(&info(1)), &aead(name, &key)]);
        assert_eq!(words(&follower.take(&sa)), ["unusable 7"], "{name} {key:?}");
    }
    let mut short_tag = aead(GCM, &key(1));
    short_tag[4 + 68] = 64;
    let sa = message(XFRM_MSG_NEWSA, &[bytes_of(&info(1)), &short_tag]);
    assert_eq!(words(&follower.take(&sa)), ["unusable 7"]);
}

/// Whatever is cut loses what follows and nothing that was there; and all is listed again.
#[test]
fn damage_has_all_listed_again() {
    let whole = [came(XFRM_MSG_NEWSA, 3), gone(1)].concat();
    let first = came(XFRM_MSG_NEWSA, 3).len();
    for length in 1..whole.len() {
        let mut follower = following(&[1]);
        let told = words(&follower.take(&whole[..length]));
        let expected: &[&str] = if length >= first { &["added 3"] } else { &[] };
        // What the attributes of a message that is whole say of themselves may be cut as well; here, messages are.
        assert_eq!(told, expected, "{length} bytes");
        assert!(follower.stale || length == first, "{length} bytes");
    }
}

/// On a real kernel, with whatever it has; in a network namespace of its own where we may make one.
#[test]
fn a_kernel_lists_what_it_has() {
    let Ok(mut source) = Source::open(RECEIVE_BUFFER) else { return };
    let mut changes = Vec::new();
    assert!(source.step(&mut |change| {
        changes.push(change);
        true
    }));
    if !changes.is_empty() {
        assert_eq!(words(&changes[..1]), ["begins"]);
        assert!(matches!(changes.last(), Some(Change::Synchronised(Origin::Xfrm))));
    }
}

//! The message flows of FreeBSD's kernel and strongSwan, played by a scripted socket; and what is lost, cut, late or unknown.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use bytemuck::{Zeroable, bytes_of};
use netmap_sys::{
    IPSEC_MODE_TRANSPORT, PF_KEY_V2, SADB_EXT_ADDRESS_DST, SADB_EXT_ADDRESS_SRC, SADB_EXT_KEY_ENCRYPT,
    SADB_EXT_LIFETIME_CURRENT, SADB_EXT_LIFETIME_HARD, SADB_EXT_LIFETIME_SOFT, SADB_EXT_SA, SADB_GETSPI,
    SADB_REGISTER, SADB_SASTATE_LARVAL, SADB_SASTATE_MATURE, SADB_SATYPE_UNSPEC, SADB_X_EALG_AESGCM16,
    SADB_X_EALG_CHACHA20POLY1305, SADB_X_EXT_NAT_T_DPORT, SADB_X_EXT_NAT_T_SPORT, SADB_X_EXT_NAT_T_TYPE,
    SADB_X_EXT_NEW_ADDRESS_DST, SADB_X_EXT_NEW_ADDRESS_SRC, SADB_X_EXT_SA2, SADB_X_SAFLAGS_ESN, sadb_ext,
    sadb_key, sadb_lifetime, sadb_msg, sadb_sa, sadb_x_nat_t_port, sadb_x_nat_t_type, sadb_x_sa2,
};

use super::message::{address_extension, units};
use super::*;
use crate::config::{Mode, Suite, UdpEncap};
use crate::keys::kernel::tests::words;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// charon's process.
const CHARON: u32 = 1;

/// An SA of the kernel's, to us.
#[derive(Clone)]
struct Kept {
    spi: u32,
    state: u8,
    cipher: u8,
    key: Vec<u8>,
    /// Where its packets come from and go to.
    ends: (IpAddr, IpAddr),
    more: Vec<u8>,
}

fn kept(spi: u32) -> Kept {
    let key = vec![spi as u8 | 1; 20];
    Kept {
        spi,
        state: SADB_SASTATE_MATURE,
        cipher: SADB_X_EALG_AESGCM16,
        key,
        ends: (THERE, HERE),
        more: Vec::new(),
    }
}

fn message(kind: u8, errno: u8, sequence: u32, pid: u32, extensions: &[u8]) -> Vec<u8> {
    let header = sadb_msg {
        sadb_msg_version: PF_KEY_V2,
        sadb_msg_type: kind,
        sadb_msg_errno: errno,
        sadb_msg_satype: SADB_SATYPE_ESP,
        sadb_msg_len: units(size_of::<sadb_msg>() + extensions.len()),
        sadb_msg_reserved: 0,
        sadb_msg_seq: sequence,
        sadb_msg_pid: pid,
    };
    [bytes_of(&header), extensions].concat()
}

fn lifetime(kind: u16, seconds: u64) -> Vec<u8> {
    let lifetime = sadb_lifetime {
        sadb_lifetime_len: units(size_of::<sadb_lifetime>()),
        sadb_lifetime_exttype: kind,
        sadb_lifetime_addtime: seconds,
        ..Zeroable::zeroed()
    };
    bytes_of(&lifetime).to_vec()
}

impl Kept {
    /// As everybody is told of it: without its keys.
    fn broadcast(&self) -> Vec<u8> {
        let sa = sadb_sa {
            sadb_sa_len: units(size_of::<sadb_sa>()),
            sadb_sa_exttype: SADB_EXT_SA,
            sadb_sa_spi: self.spi.to_be(),
            sadb_sa_replay: 32,
            sadb_sa_state: self.state,
            sadb_sa_auth: 0,
            sadb_sa_encrypt: self.cipher,
            sadb_sa_flags: SADB_X_SAFLAGS_ESN,
        };
        let sa2 = sadb_x_sa2 {
            sadb_x_sa2_len: units(size_of::<sadb_x_sa2>()),
            sadb_x_sa2_exttype: SADB_X_EXT_SA2,
            sadb_x_sa2_mode: IPSEC_MODE_TRANSPORT,
            sadb_x_sa2_reqid: 7,
            ..Zeroable::zeroed()
        };
        let source = address_extension(SADB_EXT_ADDRESS_SRC, self.ends.0);
        let destination = address_extension(SADB_EXT_ADDRESS_DST, self.ends.1);
        [bytes_of(&sa), bytes_of(&sa2), &source, &destination].concat()
    }

    /// As who asks is told of it.
    fn whole(&self) -> Vec<u8> {
        let length = (size_of::<sadb_key>() + self.key.len()).next_multiple_of(8);
        let header = sadb_key {
            sadb_key_len: units(length),
            sadb_key_exttype: SADB_EXT_KEY_ENCRYPT,
            sadb_key_bits: self.key.len() as u16 * 8,
            sadb_key_reserved: 0,
        };
        let mut key = [bytes_of(&header), &self.key].concat();
        key.resize(length, 0);
        let hard = lifetime(SADB_EXT_LIFETIME_HARD, 3600);
        [self.broadcast(), lifetime(SADB_EXT_LIFETIME_CURRENT, 1_790_000_000), hard, key, self.more.clone()]
            .concat()
    }
}

/// The kernel behind the socket: what it has, what is on its way to us, and what it loses.
#[derive(Default)]
struct Kernel {
    sas: Vec<Kept>,
    queue: VecDeque<io::Result<Vec<u8>>>,
    asked: Vec<u8>,
    /// Of each list, this part gets lost.
    loses: Option<usize>,
    /// It does not answer questions after SAs.
    mute: bool,
    /// So many messages may wait; the others get lost. And so many may when more room is asked for.
    room: Option<usize>,
    allowed: Option<usize>,
    /// It says so to whoever asks for all.
    refuses: bool,
    /// It tells that some got lost, when the others have been received.
    tells_of_loss: bool,
    lost: bool,
}

impl Kernel {
    fn tell(&mut self, message: Vec<u8>) {
        if self.room.is_some_and(|room| self.queue.len() >= room) {
            self.lost = self.tells_of_loss;
        } else {
            self.queue.push_back(Ok(message));
        }
    }

    /// charon installs an SA to send with: no number is reserved for it.
    fn add(&mut self, sa: Kept) {
        self.tell(message(SADB_ADD, 0, 7, CHARON, &sa.broadcast()));
        self.sas.push(sa);
    }

    /// charon reserves a number, frees it and installs the SA, as strongSwan does.
    fn install(&mut self, sa: Kept) {
        let larval = Kept { state: SADB_SASTATE_LARVAL, ..sa.clone() };
        self.tell(message(SADB_GETSPI, 0, 5, CHARON, &larval.broadcast()));
        self.tell(message(SADB_DELETE, 0, 6, CHARON, &larval.broadcast()));
        self.add(sa);
    }

    fn delete(&mut self, spi: u32) {
        let sa = kept(spi);
        self.sas.retain(|sa| sa.spi != spi);
        self.tell(message(SADB_DELETE, 0, 8, CHARON, &sa.broadcast()));
    }
}

#[derive(Clone, Default)]
struct Scripted(Rc<RefCell<Kernel>>);

impl KeySocket for Scripted {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        let mut kernel = self.0.borrow_mut();
        let asked = message::messages(request).next().expect("a message").expect("a whole one");
        let sadb_msg { sadb_msg_type: kind, sadb_msg_seq: sequence, sadb_msg_pid: pid, .. } = asked.header;
        kernel.asked.push(kind);
        match kind {
            SADB_DUMP if kernel.sas.is_empty() => {
                kernel.tell(message(SADB_DUMP, libc::ENOENT as u8, sequence, pid, &[]))
            }
            SADB_DUMP => {
                let count = kernel.sas.len();
                for (number, sa) in kernel.sas.clone().iter().enumerate() {
                    if kernel.loses != Some(number) {
                        let left = (count - 1 - number) as u32;
                        kernel.tell(message(SADB_DUMP, 0, left, pid, &sa.whole()));
                    }
                }
            }
            SADB_GET if !kernel.mute => {
                let (id, source) = asked.parts().expect("parts").id().expect("an id");
                let known = |sa: &&Kept| sa.spi == id.spi && sa.ends == (source, id.at);
                let answer = match kernel.sas.iter().find(known) {
                    Some(sa) => message(SADB_GET, 0, sequence, pid, &sa.whole()),
                    None => message(SADB_GET, libc::ESRCH as u8, sequence, pid, &[]),
                };
                kernel.tell(answer);
            }
            _ => {}
        }
        match kind == SADB_DUMP && kernel.refuses {
            true => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
            false => Ok(()),
        }
    }

    fn receive(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
        let mut kernel = self.0.borrow_mut();
        let Some(next) = kernel.queue.pop_front() else {
            return Err(match std::mem::take(&mut kernel.lost) {
                true => io::Error::from_raw_os_error(libc::ENOBUFS),
                false => io::ErrorKind::WouldBlock.into(),
            });
        };
        let next = next?;
        buffer[..next.len()].copy_from_slice(&next);
        Ok(next.len())
    }

    fn make_room(&mut self) {
        let mut kernel = self.0.borrow_mut();
        kernel.room = kernel.allowed;
    }
}

/// A source, the kernel that it listens to, and a clock.
struct Bench {
    kernel: Rc<RefCell<Kernel>>,
    source: PfKeySource<Scripted>,
    now: Instant,
}

impl Bench {
    /// The kernel has these SAs when the source is opened.
    fn new(sas: &[Kept]) -> Bench {
        let socket = Scripted::default();
        let kernel = Rc::clone(&socket.0);
        kernel.borrow_mut().sas = sas.to_vec();
        let now = Instant::now();
        Bench { kernel, source: PfKeySource::new(socket, now).expect("it is registered"), now }
    }

    /// A bench that has had its first list.
    fn following(sas: &[Kept]) -> Bench {
        let mut bench = Bench::new(sas);
        bench.heard();
        bench
    }

    fn kernel(&self) -> std::cell::RefMut<'_, Kernel> {
        self.kernel.borrow_mut()
    }

    /// What is said until there is nothing more to be heard.
    fn changes(&mut self) -> Vec<Change> {
        let (mut changes, now) = (Vec::new(), self.now);
        loop {
            changes.extend(self.source.step(|| now));
            let kernel = self.kernel.borrow();
            if kernel.queue.is_empty() && !kernel.lost {
                return changes;
            }
        }
    }

    fn heard(&mut self) -> Vec<String> {
        words(&self.changes())
    }

    /// How often all SAs were asked for.
    fn lists(&self) -> usize {
        self.kernel.borrow().asked.iter().filter(|kind| **kind == SADB_DUMP).count()
    }

    fn pass(&mut self, time: Duration) -> &mut Bench {
        self.now += time;
        self
    }
}

#[test]
fn it_is_registered_before_all_are_asked_for() {
    let mut bench = Bench::new(&[kept(0x101), kept(0x103)]);
    assert_eq!(bench.heard(), ["begins", "found 101", "found 103", "synchronised"]);
    assert_eq!(bench.kernel().asked, [SADB_REGISTER, SADB_DUMP]);
    assert_eq!(Bench::new(&[]).heard(), ["begins", "synchronised"]);
}

#[test]
fn an_sa_that_comes_is_asked_for_with_its_keys() {
    let mut bench = Bench::following(&[]);
    bench.kernel().install(kept(0x101));
    let changes = bench.changes();
    let [Change::Added(sa)] = changes.as_slice() else { panic!("one SA, not {changes:?}") };
    assert_eq!(sa.id.to_string(), "SA 0x00000101 at 192.0.2.1");
    assert_eq!((sa.ends.source, sa.ends.destination, sa.ends.udp), (THERE, HERE, None));
    assert_eq!((sa.suite, sa.mode, sa.direction), (Suite::Aes128Gcm16, Mode::Transport, None));
    assert_eq!((sa.reqid, sa.window, sa.esn, sa.ready), (7, 256, true, true));
    assert_eq!(sa.key.expose(), [1; 20]);
    assert_eq!(sa.limits.life, Some(Duration::from_secs(3600)));
    assert_eq!((sa.limits.bytes, sa.limits.packets), (None, None));
}

#[test]
fn esp_in_udp_other_ciphers_and_what_is_not_known() {
    let encap = sadb_x_nat_t_type {
        sadb_x_nat_t_type_len: 1,
        sadb_x_nat_t_type_exttype: SADB_X_EXT_NAT_T_TYPE,
        sadb_x_nat_t_type_type: 2,
        sadb_x_nat_t_type_reserved: [0; 3],
    };
    let port = |kind, port: u16| sadb_x_nat_t_port {
        sadb_x_nat_t_port_len: 1,
        sadb_x_nat_t_port_exttype: kind,
        sadb_x_nat_t_port_port: port.to_be(),
        sadb_x_nat_t_port_reserved: 0,
    };
    // As of FreeBSD 15: hardware offload, and whatever comes after.
    let unknown = [29_u16, 30, 31, 250]
        .map(|kind| [bytes_of(&sadb_ext { sadb_ext_len: 1, sadb_ext_type: kind }), &[7; 4]].concat());
    let (from, to) = (port(SADB_X_EXT_NAT_T_SPORT, 61_000), port(SADB_X_EXT_NAT_T_DPORT, 4500));
    let more = [unknown.concat().as_slice(), bytes_of(&encap), bytes_of(&from), bytes_of(&to)].concat();
    let (cipher, key) = (SADB_X_EALG_CHACHA20POLY1305, vec![9; 36]);
    let mut bench = Bench::new(&[Kept { cipher, key, more, ..kept(0x101) }]);
    let changes = bench.changes();
    let [_, Change::Found(sa), _] = changes.as_slice() else { panic!("one SA, not {changes:?}") };
    assert_eq!(sa.ends.udp, Some(UdpEncap { source: 61_000, destination: 4500 }));
    assert_eq!((sa.suite, sa.key.expose()), (Suite::ChaCha20Poly1305, [9; 36].as_slice()));

    let mut bench = Bench::following(&[]);
    bench.kernel().install(Kept { cipher: 12, ..kept(0x103) });
    assert_eq!(bench.heard(), ["unusable 7"], "AES-CBC is none of ours");
}

#[test]
fn sas_go_by_delete_hard_expiry_and_flush() {
    let mut bench = Bench::following(&[kept(0x101), kept(0x103), kept(0x105)]);
    bench.kernel().delete(0x101);
    let expire =
        |kind, spi| message(SADB_EXPIRE, 0, 0, 0, &[kept(spi).broadcast(), lifetime(kind, 1)].concat());
    bench.kernel().tell(expire(SADB_EXT_LIFETIME_SOFT, 0x103));
    assert_eq!(bench.heard(), ["removed 101"], "a soft end is charon's affair");
    bench.kernel().tell(expire(SADB_EXT_LIFETIME_HARD, 0x103));
    assert_eq!(bench.heard(), ["removed 103"]);
    let mut flush = message(SADB_FLUSH, 0, 0, CHARON, &[]);
    flush[3] = SADB_SATYPE_UNSPEC;
    bench.kernel().tell(flush);
    assert_eq!(bench.heard(), ["flushed"]);
    // What was refused changes nothing, nor does what is about another kind of SA.
    bench.kernel().tell(message(SADB_DELETE, libc::ESRCH as u8, 0, CHARON, &kept(0x105).broadcast()));
    let mut ah = message(SADB_ADD, 0, 0, CHARON, &kept(0x107).broadcast());
    ah[3] = 2;
    bench.kernel().tell(ah);
    assert_eq!(bench.heard(), [""; 0]);
}

/// An SA that goes before its keys are told does not come back with the answer.
#[test]
fn an_answer_that_comes_late_makes_nothing() {
    let mut bench = Bench::following(&[]);
    bench.kernel().install(kept(0x101));
    bench.kernel().delete(0x101);
    assert_eq!(bench.heard(), [""; 0], "the kernel has none any more when it is asked");
    bench.kernel().mute = true;
    bench.kernel().install(kept(0x103));
    bench.heard();
    bench.kernel().delete(0x103);
    let sequence = bench.source.sequence;
    bench.kernel().tell(message(SADB_GET, 0, sequence, std::process::id(), &kept(0x103).whole()));
    assert_eq!(bench.heard(), [""; 0], "an answer of before it went");
    let others = message(SADB_GET, 0, sequence, CHARON, &kept(0x105).whole());
    bench.kernel().tell(others);
    assert_eq!(bench.heard(), [""; 0], "another's answer");
}

/// Moved by a NAT: the same SA, with other ports.
#[test]
fn an_update_moves_an_sa() {
    let mut bench = Bench::following(&[kept(0x101)]);
    let encap = [1, 0, 20, 0, 2, 0, 0, 0];
    bench.kernel().sas[0].more = encap.to_vec();
    let update = message(SADB_UPDATE, 0, 9, CHARON, &kept(0x101).broadcast());
    bench.kernel().tell(update);
    assert_eq!(bench.heard(), ["moved 101 192.0.2.2 192.0.2.1"]);
}

/// Moved by MOBIKE, as strongSwan does it: the kernel tells the old addresses and the new ones, and knows the SA by the new ones.
#[test]
fn an_update_gives_an_sa_other_addresses() {
    let elsewhere = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9));
    let port =
        |kind, port: u16| [1_u16.to_ne_bytes(), u16::to_ne_bytes(kind), port.to_be_bytes(), [0; 2]].concat();
    let encap = [
        vec![1, 0, 20, 0, 2, 0, 0, 0],
        port(SADB_X_EXT_NAT_T_SPORT, 61_000),
        port(SADB_X_EXT_NAT_T_DPORT, 4500),
    ]
    .concat();
    let moves = |bench: &mut Bench, spi: u32, to: (IpAddr, IpAddr), more: &[u8]| {
        let mut kernel = bench.kernel();
        let sa = kernel.sas.iter_mut().find(|sa| sa.spi == spi).expect("an SA");
        let mut told = sa.broadcast();
        told.extend(more);
        for (kind, before, now) in
            [(SADB_X_EXT_NEW_ADDRESS_SRC, sa.ends.0, to.0), (SADB_X_EXT_NEW_ADDRESS_DST, sa.ends.1, to.1)]
        {
            if before != now {
                told.extend(address_extension(kind, now));
            }
        }
        (sa.ends, sa.more) = (to, more.to_vec());
        kernel.tell(message(SADB_UPDATE, 0, 9, CHARON, &told));
    };
    let mut bench = Bench::following(&[kept(0x101), Kept { ends: (HERE, THERE), ..kept(0x102) }]);
    moves(&mut bench, 0x101, (elsewhere, HERE), &encap);
    moves(&mut bench, 0x102, (HERE, elsewhere), &[]);
    let changes = bench.changes();
    assert_eq!(
        words(&changes),
        [format!("moved 101 {elsewhere} {HERE}"), format!("moved 102 {HERE} {elsewhere}")]
    );
    let Change::Moved(id, ends) = &changes[0] else { panic!("{changes:?}") };
    assert_eq!((id.at, ends.udp), (HERE, Some(UdpEncap { source: 61_000, destination: 4500 })));
    let Change::Moved(id, _) = &changes[1] else { panic!("{changes:?}") };
    assert_eq!(id.at, THERE, "as it was known");
    assert_eq!(bench.pass(AUDIT).heard(), [""; 0], "nothing is left to be found");
    // It is known by the new address alone.
    moves(&mut bench, 0x102, (elsewhere, THERE), &[]);
    let changes = bench.changes();
    let [Change::Moved(id, _)] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(id.at, elsewhere);
    // One that has just come, and whose keys are not told yet, is as new as it was.
    bench.kernel().install(kept(0x105));
    moves(&mut bench, 0x105, (elsewhere, HERE), &[]);
    assert_eq!(bench.heard(), ["added 105"]);
}

/// In silence or not: what was missed is found in the next list.
#[test]
fn what_was_missed_is_seen_in_the_next_list() {
    let mut bench = Bench::following(&[kept(0x101), kept(0x103)]);
    bench.kernel().sas = vec![kept(0x103), kept(0x105)];
    assert_eq!(bench.pass(AUDIT - Duration::from_secs(1)).heard(), [""; 0]);
    // What is new was perhaps there before, and cut off the first list.
    assert_eq!(bench.pass(Duration::from_secs(1)).heard(), ["found 105", "removed 101"]);
    // Told by the socket, it does not take as long.
    bench.kernel().sas = vec![kept(0x105)];
    bench.kernel().queue.push_back(Err(io::Error::from_raw_os_error(libc::ENOBUFS)));
    assert_eq!(bench.heard(), [""; 0]);
    assert_eq!(bench.pass(PAUSE).heard(), ["removed 103"]);
}

/// A list that was cut takes nothing away, wherever it was, and is asked for again where that shows.
#[test]
fn a_list_that_is_cut_takes_nothing_away() {
    for lost in 0..3 {
        let mut bench = Bench::following(&[kept(0x101), kept(0x103), kept(0x105)]);
        bench.kernel().loses = Some(lost);
        assert_eq!(bench.pass(AUDIT).heard(), [""; 0], "part {lost}");
        assert_eq!(bench.lists(), 2, "part {lost}");
        bench.pass(PAUSE).heard();
        bench.pass(PAUSE).heard();
        // Without its first part it looks like a whole one.
        assert_eq!(bench.lists() > 2, lost > 0, "part {lost}");
        assert_eq!(bench.source.ledger.count(), 3, "part {lost}");
    }
}

/// An SA that goes while the list is told is not in it.
#[test]
fn what_goes_while_all_are_told_is_gone() {
    let mut bench = Bench::new(&[kept(0x101), kept(0x103)]);
    let now = bench.now;
    assert_eq!(words(&bench.source.step(|| now)), ["begins"], "and the first part");
    let rest = bench.kernel().queue.pop_back().expect("the second part");
    bench.kernel().delete(0x101);
    bench.kernel().queue.push_back(rest);
    assert_eq!(bench.heard(), ["found 103", "synchronised"]);
}

/// Whatever is cut changes nothing that was there before, and has all SAs asked for.
#[test]
fn damage_has_all_asked_for() {
    let whole = message(SADB_DELETE, 0, 8, CHARON, &kept(0x101).broadcast());
    for length in 1..whole.len() {
        let mut bench = Bench::following(&[kept(0x101)]);
        bench.kernel().tell(whole[..length].to_vec());
        assert_eq!(bench.heard(), [""; 0], "{length} bytes");
        assert_eq!(bench.heard(), [""; 0], "{length} bytes");
        assert_eq!(bench.kernel().asked, [SADB_REGISTER, SADB_DUMP, SADB_DUMP], "{length} bytes");
    }
    // Lengths inside that lie.
    for place in (16..whole.len()).step_by(8) {
        for length in [0, 1, 200, 0xffff_u16] {
            let mut lying = whole.clone();
            lying[place..place + 2].copy_from_slice(&length.to_ne_bytes());
            let mut bench = Bench::following(&[kept(0x101)]);
            bench.kernel().tell(lying);
            bench.heard();
            bench.pass(AUDIT).heard();
            assert_eq!(bench.source.ledger.count(), 1, "what the kernel has is known again");
        }
    }
}

/// Five SAs, two of which there is no room for in a list.
fn crowded(tells_of_loss: bool) -> Bench {
    let bench = Bench::new(&[0x101, 0x103, 0x105, 0x107, 0x109].map(kept));
    let mut kernel = bench.kernel();
    (kernel.room, kernel.allowed, kernel.tells_of_loss) = (Some(3), Some(3), tells_of_loss);
    drop(kernel);
    bench
}

/// The same, whose first list has come to its early end.
fn cut() -> Bench {
    let mut bench = crowded(true);
    assert_eq!(bench.heard(), ["begins", "found 101", "found 103", "found 105"]);
    bench
}

/// What there is of it is used, whether or not the kernel says that it was cut; and it is asked for again, but not without end.
#[test]
fn a_first_list_that_is_cut_is_taken_as_far_as_it_goes() {
    for tells_of_loss in [false, true] {
        let mut bench = crowded(tells_of_loss);
        let mut told = bench.heard();
        let until_cut = (0..10).take_while(|_| {
            told.extend(bench.pass(PAUSE).heard());
            told.last().is_some_and(|last| last != "cut")
        });
        assert!(until_cut.count() < 10, "{told:?}");
        assert_eq!(told, ["begins", "found 101", "found 103", "found 105", "cut"]);
        assert_eq!(bench.lists(), TRIES as usize);
        for _ in 0..AUDIT.as_secs() - 1 {
            bench.kernel().lost = tells_of_loss;
            assert_eq!(bench.pass(PAUSE).heard(), [""; 0]);
        }
        assert_eq!(bench.lists(), TRIES as usize, "haste makes it no longer");
        // What was cut comes when others go.
        bench.kernel().sas.remove(0);
        let mut told = bench.pass(AUDIT - PAUSE).heard();
        told.extend(bench.pass(PAUSE).heard());
        assert_eq!(told, ["found 107"]);
        assert_eq!(bench.source.ledger.count(), 4, "nothing is taken away because it is not listed");
        // The operator gives more room, and all is well.
        bench.kernel().allowed = Some(9);
        assert_eq!(bench.pass(AUDIT).heard(), ["found 109", "synchronised", "removed 101"]);
    }
}

/// Whoever has told us of an SA's coming has told us that nobody has used it, whatever the lists were like.
#[test]
fn an_sa_that_comes_while_lists_are_cut_is_new() {
    let mut bench = cut();
    bench.kernel().add(kept(0x212));
    assert_eq!(bench.heard(), ["added 212"], "before the second");
    // It is listed before the question after it is answered.
    bench.kernel().sas.insert(0, kept(0x214));
    let now = bench.pass(PAUSE).now;
    assert!(bench.source.step(|| now).is_empty(), "the first part of the second");
    bench.kernel().mute = true;
    bench.kernel().queue.push_front(Ok(message(SADB_ADD, 0, 7, CHARON, &kept(0x214).broadcast())));
    assert_eq!(bench.heard(), ["added 214"]);
    bench.kernel().mute = false;
    bench.pass(PAUSE);
    assert_eq!(bench.heard(), ["cut"]);
    bench.kernel().add(kept(0x216));
    assert_eq!(bench.heard(), ["added 216"], "after the last");
    // One to receive by has a number first.
    bench.kernel().install(kept(0x111));
    assert_eq!(bench.heard(), ["found 111"]);
}

/// While the first list is told, what comes cannot be told from what was there, if it is moved by taking it away and adding it.
#[test]
fn an_sa_that_comes_with_the_first_list_is_found() {
    let mut bench = crowded(true);
    let now = bench.now;
    // What is told after that has been told of when all is: it is not taken for an orphan.
    assert_eq!(words(&bench.source.step(|| now)), ["begins"]);
    bench.kernel().queue.push_front(Ok(message(SADB_ADD, 0, 7, CHARON, &kept(0x107).broadcast())));
    assert_eq!(bench.heard(), ["found 107", "found 101", "found 103", "found 105"]);
}

/// One that was there and that no list has told of may have been used: it is found, by whatever we hear of it.
#[test]
fn what_was_cut_is_found_and_never_new() {
    let mut bench = cut();
    let tell = |bench: &mut Bench, kind, sa: &Kept, more: &[u8]| {
        bench.kernel().tell(message(kind, 0, 9, CHARON, &[sa.broadcast().as_slice(), more].concat()));
    };
    let soft = lifetime(SADB_EXT_LIFETIME_SOFT, 1);
    tell(&mut bench, SADB_EXPIRE, &kept(0x107), &soft);
    assert_eq!(bench.heard(), ["found 107"]);
    tell(&mut bench, SADB_EXPIRE, &kept(0x107), &soft);
    let questions = bench.kernel().asked.len();
    assert_eq!(bench.heard(), [""; 0]);
    assert_eq!(bench.kernel().asked.len(), questions, "it is known");
    tell(&mut bench, SADB_UPDATE, &kept(0x109), &[]);
    assert_eq!(bench.heard(), ["found 109"]);
    bench.kernel().delete(0x109);
    bench.kernel().add(kept(0x109));
    assert_eq!(bench.heard(), ["removed 109", "found 109"]);

    // Moved by taking it away and adding it again: what it goes by now is no matter.
    let elsewhere = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9));
    let mut bench = cut();
    bench.kernel().delete(0x107);
    bench.kernel().add(Kept { ends: (HERE, elsewhere), ..kept(0x107) });
    assert_eq!(bench.heard(), ["found 107"]);
}

/// A kernel without room for what it has to say may say so to whoever asks.
#[test]
fn a_kernel_out_of_room_is_asked_again() {
    let mut bench = Bench::new(&[kept(0x101)]);
    let refuses = message(SADB_DUMP, libc::ENOBUFS as u8, 1, std::process::id(), &[]);
    bench.kernel().loses = Some(0);
    bench.kernel().tell(refuses);
    assert_eq!(bench.heard(), ["begins"]);
    bench.kernel().loses = None;
    assert_eq!(bench.pass(PAUSE).heard(), ["found 101", "synchronised"]);
    // An answer that it has no room for takes nothing away.
    bench.kernel().mute = true;
    bench.kernel().tell(message(SADB_UPDATE, 0, 9, CHARON, &kept(0x101).broadcast()));
    bench.heard();
    let sequence = bench.source.sequence;
    bench.kernel().tell(message(SADB_GET, libc::ENOBUFS as u8, sequence, std::process::id(), &[]));
    assert_eq!(bench.heard(), [""; 0]);
    assert_eq!(bench.pass(PAUSE).heard(), [""; 0]);
    assert_eq!((bench.lists(), bench.source.ledger.count()), (3, 1));
    // What it tells of a list is heard all the same, and no more relied on than it may be.
    (bench.kernel().refuses, bench.kernel().mute) = (true, false);
    bench.kernel().sas = vec![kept(0x103)];
    assert_eq!(bench.pass(AUDIT).heard(), ["found 103"]);
    assert_eq!(bench.source.ledger.count(), 2);
}

/// A socket that there is none of when the daemon starts is asked for until there is.
#[test]
fn a_socket_is_asked_for_until_there_is_one() {
    let (failures, waits) = (std::cell::Cell::new(3), std::cell::Cell::new(0));
    let kernel = Scripted::default();
    kernel.0.borrow_mut().sas = vec![kept(0x101)];
    let open = || match failures.replace(failures.get() - 1) {
        0 => Ok(kernel.clone()),
        _ => Err(io::Error::from_raw_os_error(libc::EPROTONOSUPPORT)),
    };
    let mut source = PfKeySource::persist(open, |_| waits.set(waits.get() + 1));
    assert_eq!(waits.get(), 3);
    let now = Instant::now();
    assert_eq!(words(&source.step(|| now)), ["begins", "found 101", "synchronised"]);
    for (error, remedy) in [
        (libc::EPROTONOSUPPORT, "kldload ipsec"),
        (libc::EPERM, "root"),
        (libc::ENOBUFS, "net.key.recvspace"),
    ] {
        let words = super::words(&io::Error::from_raw_os_error(error));
        assert!(words.contains(remedy), "{words}");
    }
}

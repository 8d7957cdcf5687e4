//! The SAs of one tunnel, and which of them sends.
//!
//! - Every inbound SA receives for as long as its source has it: so a rekey loses nothing, whichever end switches first.
//! - One outbound SA sends. A new one takes over when the far end is sure to have its half: its source says so, or a packet
//!   came in by an inbound SA as young, or the old one is taken away, or [`PATIENCE`] has passed. Where two rekeys collide,
//!   the younger pair sends until it goes.
//! - An SA that was there before we listened may have sent packets that we know nothing of. It receives, and never sends
//!   (no key and nonce twice); the tunnel wants a new one ([`Want::Rekey`]).
//! - A key that comes back (some kernels move an SA by taking it away and adding it again) goes on with the numbers and the
//!   window that it had.
//! - A charon that starts anew has forgotten its SAs, and the far end has not: such orphans live until the new pair has been
//!   in use for a while, or their time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_engine::esp::replay::ReplayWindow;
use culvert_engine::esp::{InboundSa, IvRange, Key, OutboundSa, Router};
use culvert_engine::tunnel::UdpEncap;
use ring::digest::{SHA256, digest};

use super::sa::{Ends, Id, Origin, Sa};
use crate::config::Direction;
use crate::plan;
use crate::report::{Numbers, SaReport, sa_report};

/// How long a new outbound SA waits for a sign that the far end has its half: a round trip, and the time of its own doing.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long orphans are kept beside a pair that works.
const DRAIN: Duration = Duration::from_secs(5);
/// Of the sequence numbers and IVs of an SA, the part that is left when it is time for a rekey: one in so many.
const RESERVE: u64 = 8;
/// How long a rekey that was asked for is waited for before it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// How long the key of an SA without an end is remembered when the SA is gone.
const MEMORY: Duration = Duration::from_secs(24 * 3600);
/// IKE's port behind a NAT, and ESP's in UDP (RFC 3948 section 2.1). Whatever an SA says at first, its packets may come there:
/// a NAT can appear on the way.
const NAT_T_PORT: u16 = 4500;

/// What a tunnel wants of whoever negotiates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A new pair of SAs beside the one that is there.
    Rekey,
}

/// What all SAs have.
#[derive(Debug)]
struct About {
    id: Id,
    ends: Ends,
    sa: Sa,
    added: Instant,
    orphan: bool,
    /// Told of since the source began to tell anew.
    confirmed: bool,
}

/// An SA that receives.
#[derive(Debug)]
struct Receiver {
    about: About,
    inbound: Arc<InboundSa>,
    /// The window's edge when it was last looked at, and since when it stands there.
    edge: (u64, Instant),
    /// What the tunnel had received when it was installed.
    bytes_before: u64,
}

/// An SA that sends.
#[derive(Debug)]
struct Sender {
    about: About,
    outbound: Arc<OutboundSa>,
    ready: bool,
    /// What the tunnel had sent when it was installed.
    bytes_before: u64,
}

/// An SA that is gone, lest its key begin again with the first number.
#[derive(Debug)]
struct Retired {
    key: [u8; 32],
    engine: Engine,
    until: Instant,
}

/// What the engine had of an SA.
#[derive(Debug)]
enum Engine {
    In(Arc<InboundSa>),
    Out(Arc<OutboundSa>),
    /// It may have sent before we listened.
    Unknown,
}

/// What the tables need of it.
#[derive(Debug, Clone, Default)]
pub struct Installed {
    /// All that receive.
    pub inbound: Vec<Arc<InboundSa>>,
    /// The one that sends.
    pub outbound: Option<Arc<OutboundSa>>,
    /// The UDP ports of its packets.
    pub udp: Option<UdpEncap>,
    /// Where its packets come from and go to.
    pub ends: Option<Ends>,
}

/// Bytes of inner packets that went through the tunnel so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Out of it.
    pub received: u64,
    /// Into it.
    pub sent: u64,
}

/// What has gone through an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Bytes of inner packets that went the SA's way through its tunnel since it was installed; while a rekey drains, those of
    /// the other SA as well.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Time since the last, as far as it was looked.
    pub idle: Option<Duration>,
}

/// The SAs of a tunnel.
#[derive(Debug, Default)]
pub struct Associations {
    receivers: Vec<Receiver>,
    senders: Vec<Sender>,
    retired: Vec<Retired>,
    asked: Option<Instant>,
}

impl Associations {
    /// Takes in an SA; `fresh` where nobody can have used it.
    /// An SA that is there already stays as it is, with all that it has counted.
    ///
    /// # Errors
    /// The engine does not take it, in words.
    pub fn add(&mut self, sa: Sa, fresh: bool, traffic: Traffic, now: Instant) -> Result<(), String> {
        if let Some(about) = self.find(sa.id)
            && about.sa.key.expose() == sa.key.expose()
        {
            (about.confirmed, about.orphan) = (true, false);
            return Ok(());
        }
        let direction =
            sa.direction.ok_or("its packets go neither to this tunnel's ends nor come from them")?;
        // An SPI that is given out anew: the old SA is one that we were not told the end of.
        self.remove(sa.id, now);
        let fingerprint = fingerprint(&sa);
        let before = self.retired.iter().position(|retired| retired.key == fingerprint);
        let before = before.map(|place| self.retired.swap_remove(place).engine);
        let key = || Key::new(plan::suite(sa.suite), sa.key.expose()).map_err(|error| error.to_string());
        match direction {
            Direction::In => {
                let inbound = match before {
                    Some(Engine::In(inbound)) => inbound,
                    _ => {
                        let window =
                            ReplayWindow::new(sa.window, sa.esn).map_err(|error| error.to_string())?;
                        let port = sa.ends.udp.map_or(NAT_T_PORT, |udp| udp.destination);
                        Arc::new(InboundSa::new(sa.id.spi, key()?, sa.esn, window).in_udp(port))
                    }
                };
                let edge = (inbound.window().highest(), now);
                let bytes_before = traffic.received;
                self.receivers.push(Receiver { about: About::new(sa, now), inbound, edge, bytes_before });
            }
            Direction::Out => {
                let outbound = match before {
                    Some(Engine::Out(outbound)) => outbound,
                    None if fresh => {
                        // This key is new and only this process sends with it: the first run is the only one.
                        let iv = IvRange::of_run(Router::First, 0).ok_or("no IVs are left")?;
                        Arc::new(OutboundSa::new(sa.id.spi, key()?, sa.esn, iv, 1))
                    }
                    _ => {
                        self.retire(&sa, Engine::Unknown, now);
                        return Ok(());
                    }
                };
                let (ready, bytes_before) = (sa.ready, traffic.sent);
                self.senders.push(Sender { about: About::new(sa, now), outbound, ready, bytes_before });
                self.asked = None;
            }
        }
        Ok(())
    }

    fn retire(&mut self, sa: &Sa, engine: Engine, now: Instant) {
        let until = now + sa.limits.life.unwrap_or(MEMORY);
        self.retired.push(Retired { key: fingerprint(sa), engine, until });
    }

    fn find(&mut self, id: Id) -> Option<&mut About> {
        let receivers = self.receivers.iter_mut().map(|receiver| &mut receiver.about);
        receivers.chain(self.senders.iter_mut().map(|sender| &mut sender.about)).find(|about| about.id == id)
    }

    /// Takes an SA away. Returns whether it was there.
    pub fn remove(&mut self, id: Id, now: Instant) -> bool {
        self.end(|about| about.id == id, now)
    }

    /// Takes all of an origin away. Returns whether there were any.
    pub fn flush(&mut self, origin: Origin, now: Instant) -> bool {
        self.end(|about| about.sa.origin == origin, now)
    }

    /// Takes away all that are to end. Returns whether there were any.
    fn end(&mut self, ends: impl Fn(&About) -> bool, now: Instant) -> bool {
        let receivers: Vec<_> = self.receivers.extract_if(.., |receiver| ends(&receiver.about)).collect();
        let senders: Vec<_> = self.senders.extract_if(.., |sender| ends(&sender.about)).collect();
        let any = !receivers.is_empty() || !senders.is_empty();
        for receiver in receivers {
            self.retire(&receiver.about.sa, Engine::In(receiver.inbound), now);
        }
        for sender in senders {
            self.retire(&sender.about.sa, Engine::Out(sender.outbound), now);
        }
        any
    }

    /// The SA's packets come from and go to other places. Returns whether it is one of these.
    ///
    /// Sequence numbers, IVs and window go on: it is the same key.
    pub fn moved(&mut self, id: Id, ends: Ends) -> bool {
        let Some(about) = self.find(id) else { return false };
        about.ends = ends;
        about.id.at = ends.destination;
        true
    }

    /// The source begins to tell anew of all SAs that it has.
    pub fn begin(&mut self, origin: Origin) {
        self.each(origin, |about| about.confirmed = false);
    }

    /// The source has told of all. What it has not told of is kept for a while, as an orphan.
    pub fn synchronised(&mut self, origin: Origin) {
        self.each(origin, |about| about.orphan |= !about.confirmed);
    }

    fn each(&mut self, origin: Origin, change: impl FnMut(&mut About)) {
        let receivers = self.receivers.iter_mut().map(|receiver| &mut receiver.about);
        let all = receivers.chain(self.senders.iter_mut().map(|sender| &mut sender.about));
        all.filter(|about| about.sa.origin == origin).for_each(change);
    }

    /// Looks at the time, and at what has come in. Returns whether something else is to be installed now.
    pub fn tick(&mut self, now: Instant) -> bool {
        let before = (self.receivers.len(), self.current());
        for receiver in &mut self.receivers {
            let edge = receiver.inbound.window().highest();
            if edge != receiver.edge.0 {
                receiver.edge = (edge, now);
            }
        }
        let youngest_heard = self
            .receivers
            .iter()
            .filter(|receiver| receiver.edge.0 > 0)
            .map(|receiver| receiver.about.added)
            .max();
        for sender in &mut self.senders {
            // The far end's inbound SA of a pair comes with its outbound one, which has just been heard of.
            let heard =
                youngest_heard.is_some_and(|heard| heard + Duration::from_millis(500) >= sender.about.added);
            sender.ready |= heard || now >= sender.about.added + PATIENCE;
        }
        let settled = self
            .senders
            .iter()
            .any(|sender| !sender.about.orphan && sender.ready && now >= sender.about.added + DRAIN);
        let over = |about: &About| {
            about.sa.limits.life.is_some_and(|life| now >= about.added + life) || about.orphan && settled
        };
        self.end(over, now);
        self.retired.retain(|retired| now < retired.until);
        before != (self.receivers.len(), self.current())
    }

    /// The SA that sends: the youngest that is ready, else the oldest.
    fn sender(&self) -> Option<&Sender> {
        let usable = || self.senders.iter().filter(|sender| sender.outbound.remaining() > 0);
        usable().rfind(|sender| sender.ready).or_else(|| usable().next())
    }

    fn current(&self) -> Option<Id> {
        self.sender().map(|sender| sender.about.id)
    }

    /// What is to be installed.
    #[must_use]
    pub fn installed(&self) -> Installed {
        let sender = self.sender();
        let ends = sender.map(|sender| sender.about.ends);
        Installed {
            inbound: self.receivers.iter().map(|receiver| Arc::clone(&receiver.inbound)).collect(),
            outbound: sender.map(|sender| Arc::clone(&sender.outbound)),
            udp: ends.and_then(|ends| ends.udp).map(plan::udp),
            ends,
        }
    }

    /// What the tunnel wants now. Each want is told once in a while.
    pub fn want(&mut self, traffic: Traffic, now: Instant) -> Option<Want> {
        let due = match self.sender() {
            None => !self.receivers.is_empty(),
            Some(sender) => {
                let (used, left) = (sender.outbound.used(), sender.outbound.remaining());
                let limits = &sender.about.sa.limits;
                let beyond = |limit: Option<u64>, count: u64| limit.is_some_and(|limit| count >= limit);
                sender.about.orphan
                    || left < used / (RESERVE - 1)
                    || beyond(limits.rekey_packets, used)
                    || beyond(limits.rekey_bytes, traffic.sent.saturating_sub(sender.bytes_before))
            }
        };
        let asked_lately = self.asked.is_some_and(|asked| now < asked + ASK_AGAIN);
        if !due || asked_lately {
            return None;
        }
        self.asked = Some(now);
        Some(Want::Rekey)
    }

    /// Is there an SA to send with?
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.sender().is_some()
    }

    /// What has gone through that SA.
    #[must_use]
    pub fn used(&self, id: Id, traffic: Traffic, now: Instant) -> Option<Used> {
        let received = self.receivers.iter().find(|receiver| receiver.about.id == id).map(|receiver| Used {
            bytes: traffic.received.saturating_sub(receiver.bytes_before),
            packets: receiver.edge.0,
            idle: (receiver.edge.0 > 0).then(|| now.saturating_duration_since(receiver.edge.1)),
        });
        let sent = || {
            let sender = self.senders.iter().find(|sender| sender.about.id == id)?;
            let bytes = traffic.sent.saturating_sub(sender.bytes_before);
            Some(Used { bytes, packets: sender.outbound.used(), idle: None })
        };
        received.or_else(sent)
    }

    /// Where the SAs stand, and for how long they have been there: those that send first, the youngest last.
    pub fn report(&self, now: Instant) -> impl Iterator<Item = (SaReport, Duration)> {
        let told = move |direction, about: &About, numbers| {
            let Sa { id, suite, esn, .. } = about.sa;
            let age = now.saturating_duration_since(about.added);
            (sa_report(direction, id.spi, suite, esn, numbers), age)
        };
        let senders = self.senders.iter().map(move |Sender { about, outbound, .. }| {
            told(
                Direction::Out,
                about,
                Numbers::Out { used: outbound.used(), remaining: outbound.remaining() },
            )
        });
        senders.chain(self.receivers.iter().map(move |Receiver { about, inbound, .. }| {
            told(Direction::In, about, Numbers::In { highest: inbound.window().highest() })
        }))
    }
}

impl About {
    fn new(sa: Sa, now: Instant) -> About {
        About { id: sa.id, ends: sa.ends, sa, added: now, orphan: false, confirmed: true }
    }
}

/// What tells one key from another, without being one.
fn fingerprint(sa: &Sa) -> [u8; 32] {
    digest(&SHA256, sa.key.expose()).as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::config::{Mode, Secret, Suite};
    use crate::keys::sa::Limits;

    const HERE: &str = "192.0.2.1:4500";
    const THERE: &str = "192.0.2.2:4500";

    fn sa(direction: Direction, spi: u32, ready: bool) -> Sa {
        let (source, destination) = match direction {
            Direction::In => (THERE, HERE),
            Direction::Out => (HERE, THERE),
        };
        let ends =
            Ends::new(source.parse().expect("a socket"), destination.parse().expect("a socket"), false);
        Sa {
            id: Id { spi, at: ends.destination },
            origin: Origin::Plugin,
            direction: Some(direction),
            ends,
            reqid: 1,
            mode: Mode::Transport,
            suite: Suite::Aes128Gcm16,
            key: Secret::new(Zeroizing::new([[spi as u8; 16].as_slice(), &[7; 4]].concat())),
            window: 64,
            esn: true,
            ready,
            limits: Limits { life: Some(Duration::from_secs(3600)), ..Limits::default() },
        }
    }

    /// Associations, and a clock.
    struct Bench {
        associations: Associations,
        now: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { associations: Associations::default(), now: Instant::now() }
        }

        fn add(&mut self, sa: Sa) {
            self.associations
                .add(sa, true, Traffic::default(), self.now)
                .expect("an SA that the engine takes");
        }

        /// Both SAs of a pair: 0x1NN receives, 0x2NN sends.
        fn pair(&mut self, number: u32, ready: bool) {
            self.add(sa(Direction::In, 0x100 + number, ready));
            self.add(sa(Direction::Out, 0x200 + number, ready));
        }

        fn remove(&mut self, direction: Direction, spi: u32) {
            assert!(self.associations.remove(sa(direction, spi, true).id, self.now), "{spi:#x} is there");
        }

        fn pass(&mut self, time: Duration) -> &mut Bench {
            self.now += time;
            self.associations.tick(self.now);
            self
        }

        /// A genuine packet comes in.
        fn receive(&self, spi: u32) {
            let installed = self.associations.installed();
            let inbound = installed.inbound.iter().find(|inbound| inbound.spi() == spi).expect("it is there");
            let window = inbound.window();
            window.accept(window.highest() + 1).expect("a new number");
        }

        fn sends(&self) -> u32 {
            self.associations.installed().outbound.map_or(0, |outbound| outbound.spi())
        }

        fn receives(&self) -> Vec<u32> {
            self.associations.installed().inbound.iter().map(|inbound| inbound.spi()).collect()
        }
    }

    #[test]
    fn the_first_pair_sends_at_once() {
        let mut bench = Bench::new();
        bench.pair(1, false);
        assert_eq!((bench.sends(), bench.receives()), (0x201, vec![0x101]));
    }

    #[test]
    fn whoever_is_told_to_switches_at_once() {
        let mut bench = Bench::new();
        bench.pair(1, true);
        bench.pass(Duration::from_secs(60)).pair(2, true);
        assert_eq!((bench.sends(), bench.receives()), (0x202, vec![0x101, 0x102]), "both receive");
        bench.remove(Direction::Out, 0x201);
        bench.remove(Direction::In, 0x101);
        assert_eq!((bench.sends(), bench.receives()), (0x202, vec![0x102]));
    }

    #[test]
    fn others_switch_when_the_far_end_has() {
        let mut bench = Bench::new();
        bench.pair(1, false);
        bench.pass(Duration::from_secs(60)).receive(0x101);
        bench.pass(Duration::from_secs(1)).pair(2, false);
        bench.pass(Duration::from_millis(10));
        assert_eq!(bench.sends(), 0x201, "it may not be there yet");
        bench.receive(0x102);
        assert!(bench.associations.tick(bench.now), "something is to be installed");
        assert_eq!(bench.sends(), 0x202);
    }

    #[test]
    fn others_switch_when_the_old_one_is_taken_away_or_it_takes_too_long() {
        let mut bench = Bench::new();
        bench.pair(1, false);
        bench.pass(Duration::from_secs(60)).pair(2, false);
        bench.remove(Direction::Out, 0x201);
        assert_eq!(bench.sends(), 0x202);
        bench.pass(Duration::from_secs(60)).pair(3, false);
        assert_eq!(bench.pass(PATIENCE / 2).sends(), 0x202);
        assert_eq!(bench.pass(PATIENCE / 2).sends(), 0x203);
    }

    /// RFC 7296 section 2.8.1: both rekey at once; one of the new pairs is deleted, and so is the old one.
    #[test]
    fn of_colliding_rekeys_the_pair_that_stays_sends() {
        for loser in [2, 3] {
            let mut bench = Bench::new();
            bench.pair(1, true);
            bench.pass(Duration::from_secs(60)).pair(2, true);
            bench.pair(3, true);
            assert_eq!((bench.sends(), bench.receives().len()), (0x203, 3));
            for number in [loser, 1] {
                bench.remove(Direction::Out, 0x200 + number);
                assert_ne!(bench.sends(), 0);
                bench.remove(Direction::In, 0x100 + number);
            }
            assert_eq!((bench.sends(), bench.receives()), (0x205 - loser, vec![0x105 - loser]));
        }
    }

    /// Design, rule 1: what was there before we listened is not sent with.
    #[test]
    fn what_was_found_receives_and_does_not_send() {
        let mut bench = Bench::new();
        for found in [sa(Direction::In, 0x101, true), sa(Direction::Out, 0x201, true)] {
            bench.associations.add(found, false, Traffic::default(), bench.now).expect("taken");
        }
        assert_eq!((bench.sends(), bench.receives()), (0, vec![0x101]));
        assert_eq!(bench.associations.want(Traffic::default(), bench.now), Some(Want::Rekey));
        assert_eq!(bench.associations.want(Traffic::default(), bench.now), None, "asked for once");
        assert_eq!(
            bench.associations.want(Traffic::default(), bench.now + ASK_AGAIN),
            Some(Want::Rekey),
            "and again in a while"
        );
        bench.pair(2, true);
        assert_eq!((bench.sends(), bench.associations.want(Traffic::default(), bench.now)), (0x202, None));
    }

    /// A source that tells anew of what is there changes nothing: numbers go on where they were.
    #[test]
    fn what_is_told_again_is_the_same_sa() {
        let mut bench = Bench::new();
        bench.pair(1, true);
        let before = bench.associations.installed();
        let outbound = before.outbound.expect("it sends");
        outbound.take(5).expect("numbers");
        bench.associations.begin(Origin::Plugin);
        for found in [sa(Direction::In, 0x101, true), sa(Direction::Out, 0x201, true)] {
            bench.associations.add(found, false, Traffic::default(), bench.now).expect("taken");
        }
        bench.associations.synchronised(Origin::Plugin);
        let after = bench.associations.installed();
        assert!(Arc::ptr_eq(&outbound, after.outbound.as_ref().expect("it sends")));
        assert!(Arc::ptr_eq(&before.inbound[0], &after.inbound[0]));
        assert_eq!(bench.associations.want(Traffic::default(), bench.now), None);
        // The same SPI with another key is another SA.
        let other = Sa { key: Secret::new(Zeroizing::new(vec![9; 20])), ..sa(Direction::Out, 0x201, true) };
        bench.add(other);
        let after = bench.associations.installed().outbound.expect("it sends");
        assert!(!Arc::ptr_eq(&outbound, &after) && after.used() == 0);
    }

    /// As Linux moves an SA. Neither a number nor a packet is taken twice.
    #[test]
    fn a_key_that_comes_back_goes_on_where_it_was() {
        let mut bench = Bench::new();
        bench.pair(1, true);
        bench.receive(0x101);
        let before = bench.associations.installed();
        for direction in [Direction::In, Direction::Out] {
            bench.remove(direction, if direction == Direction::In { 0x101 } else { 0x201 });
        }
        assert_eq!((bench.sends(), bench.receives().len()), (0, 0));
        bench.pass(Duration::from_secs(1)).pair(1, true);
        let after = bench.associations.installed();
        assert!(Arc::ptr_eq(&before.inbound[0], &after.inbound[0]));
        assert!(Arc::ptr_eq(&before.outbound.expect("one"), &after.outbound.expect("one")));

        // One that was there before us stays one that does not send.
        bench
            .associations
            .add(sa(Direction::Out, 0x209, true), false, Traffic::default(), bench.now)
            .expect("taken");
        bench.add(sa(Direction::Out, 0x209, true));
        assert_eq!(bench.sends(), 0x201);
    }

    #[test]
    fn orphans_stay_until_a_new_pair_works() {
        let mut bench = Bench::new();
        bench.pair(1, true);
        bench.associations.begin(Origin::Plugin);
        bench.associations.synchronised(Origin::Plugin);
        assert_eq!((bench.sends(), bench.receives()), (0x201, vec![0x101]), "the far end has them still");
        assert_eq!(bench.associations.want(Traffic::default(), bench.now), Some(Want::Rekey));
        bench.pass(Duration::from_secs(30)).pair(2, true);
        assert_eq!((bench.sends(), bench.receives()), (0x202, vec![0x101, 0x102]));
        bench.pass(DRAIN);
        assert_eq!((bench.sends(), bench.receives()), (0x202, vec![0x102]));
    }

    #[test]
    fn an_sa_ends_with_its_time_and_wants_a_rekey_by_its_other_limits() {
        let mut bench = Bench::new();
        bench.add(sa(Direction::In, 0x101, true));
        let limits = Limits {
            life: Some(Duration::from_secs(100)),
            rekey_packets: Some(50),
            rekey_bytes: Some(10_000),
            ..Limits::default()
        };
        let sent = |sent| Traffic { sent, received: 7 };
        let bytes = 1_000_000;
        let limited = Sa { limits, ..sa(Direction::Out, 0x201, true) };
        bench.associations.add(limited, true, sent(bytes), bench.now).expect("taken");
        assert_eq!(bench.associations.want(sent(bytes + 9_999), bench.now), None);
        assert_eq!(bench.associations.want(sent(bytes + 10_000), bench.now), Some(Want::Rekey));
        bench.now += ASK_AGAIN;
        let outbound = bench.associations.installed().outbound.expect("it sends");
        outbound.take(49).expect("numbers");
        assert_eq!(bench.associations.want(sent(bytes), bench.now), None);
        outbound.take(1).expect("numbers");
        assert_eq!(bench.associations.want(sent(bytes), bench.now), Some(Want::Rekey));
        assert_eq!(bench.pass(Duration::from_secs(100)).sends(), 0);
    }

    #[test]
    fn a_life_that_no_clock_holds_is_a_long_one() {
        let mut bench = Bench::new();
        let limits = Limits { life: Some(Limits::lasting(u64::MAX)), ..Limits::default() };
        bench.add(Sa { limits, ..sa(Direction::In, 0x101, true) });
        bench.add(Sa { limits, ..sa(Direction::Out, 0x201, true) });
        assert_eq!(bench.pass(Duration::from_secs(10_000_000)).sends(), 0x201);
    }

    /// RFC 4303 section 3.3.3: the numbers of an SA without ESN end; there is a new one long before.
    #[test]
    fn the_end_of_the_sequence_numbers_wants_a_rekey() {
        let mut bench = Bench::new();
        bench.add(Sa { esn: false, ..sa(Direction::Out, 0x201, true) });
        let outbound = bench.associations.installed().outbound.expect("it sends");
        outbound.take(u64::from(u32::MAX) / 2).expect("numbers");
        assert_eq!(bench.associations.want(Traffic::default(), bench.now), None);
        outbound.take(u64::from(u32::MAX) / 2 - 1000).expect("numbers");
        assert_eq!(bench.associations.want(Traffic::default(), bench.now), Some(Want::Rekey));
        outbound.take(2000).expect("numbers");
        assert_eq!(bench.sends(), 0, "it is used up");
    }

    #[test]
    fn a_far_end_that_moves_keeps_its_sa() {
        let mut bench = Bench::new();
        bench.pair(1, true);
        let before = bench.associations.installed().outbound.expect("it sends");
        let ends =
            Ends::new(HERE.parse().expect("a socket"), "198.51.100.7:1025".parse().expect("a socket"), true);
        assert!(bench.associations.moved(sa(Direction::Out, 0x201, true).id, ends));
        let after = bench.associations.installed();
        assert!(Arc::ptr_eq(&before, after.outbound.as_ref().expect("it sends")));
        assert_eq!(after.udp, Some(UdpEncap { source: 4500, destination: 1025 }));
        assert_eq!(after.ends, Some(ends));
        bench.remove(Direction::In, 0x101);
        let id = Id { spi: 0x201, at: ends.destination };
        assert!(bench.associations.remove(id, bench.now), "it is known by its new place");
    }

    #[test]
    fn what_went_through_is_known() {
        let mut bench = Bench::new();
        let (before, after) = (Traffic { received: 10, sent: 20 }, Traffic { received: 110, sent: 60 });
        for sa in [sa(Direction::In, 0x101, true), sa(Direction::Out, 0x201, true)] {
            bench.associations.add(sa, true, before, bench.now).expect("taken");
        }
        let inbound = sa(Direction::In, 0x101, true).id;
        bench.pass(Duration::from_secs(1));
        let unused = Used { bytes: 0, packets: 0, idle: None };
        assert_eq!(bench.associations.used(inbound, before, bench.now), Some(unused));
        bench.receive(0x101);
        bench.pass(Duration::from_secs(1)).pass(Duration::from_secs(9));
        let used = Used { bytes: 100, packets: 1, idle: Some(Duration::from_secs(9)) };
        assert_eq!(bench.associations.used(inbound, after, bench.now), Some(used));
        let outbound = sa(Direction::Out, 0x201, true).id;
        assert_eq!(bench.associations.used(outbound, after, bench.now), Some(Used { bytes: 40, ..unused }));
        assert_eq!(bench.associations.used(Id { spi: 1, ..inbound }, after, bench.now), None);
    }
}

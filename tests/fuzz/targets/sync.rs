//! What the other router of a pair may say, true or not, between what this one does: nothing panics, what is a message is the same when it
//! is written again, and whatever the partner claims, this router sends with no number of a key twice.
#![no_main]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use culvert::config::{Direction, Secret, Suite};
use culvert::keys::associations::shared::Told;
use culvert::keys::associations::{Associations, Traffic};
use culvert::keys::sa::{Limits, Origin};
use culvert::sync::message::Message;
use culvert_engine::esp::Router;
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

/// One key for each SPI, whatever addresses it is told with; remembered for a day.
fn tame(told: &mut Told) {
    let spi = told.sa.id.spi.to_be_bytes();
    told.sa.suite = Suite::Aes128Gcm16;
    told.sa.key = Secret::new(Zeroizing::new(spi.repeat(5)));
    told.sa.window = 64;
    told.sa.limits = Limits { life: None, packets: told.sa.limits.packets, ..Limits::default() };
}

struct World {
    ours: Associations,
    now: Instant,
    /// SPIs and numbers.
    sent: HashSet<(u32, u64)>,
}

impl World {
    fn hear(&mut self, message: Message) {
        let World { ours, now, .. } = self;
        match message {
            Message::Begin => ours.begin(Origin::Partner),
            Message::Complete => drop(ours.partner_has_told(*now)),
            Message::Sa(_, mut told) => {
                tame(&mut told);
                let _ = ours.adopt(*told, Traffic::default(), *now);
            }
            Message::Removed(id) => drop(ours.partner_removed(id, *now)),
            Message::Moved(id, ends) => drop(ours.partner_moved(id, ends)),
            Message::Edge(id, edge) => ours.edge(id, edge),
            Message::Ask(id, count) => drop(ours.give(id, count)),
            Message::Give(id, first, last) => drop(ours.take(id, first..=last)),
            Message::Roles(_)
            | Message::PathMtu(..)
            | Message::Missing(_)
            | Message::Intervals(_)
            | Message::Stations(_) => {}
        }
    }

    fn send(&mut self, count: u64) {
        let installed = self.ours.installed();
        for sa in installed.outbound.into_iter().chain(installed.more) {
            let Ok(lease) = sa.take(count) else { continue };
            for number in lease.first..lease.first + lease.count {
                assert!(self.sent.insert((sa.spi(), number)), "SPI {:#x}, number {number}: twice", sa.spi());
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut world =
        World { ours: Associations::new(Router::Second), now: Instant::now(), sent: HashSet::new() };
    let mut rest = bytes;
    while let Some((what, after)) = rest.split_first() {
        rest = after;
        match what {
            0 => world.send(1),
            1 => world.send(200),
            2 => drop(world.ours.take_over()),
            3 => world.ours.hand_over(),
            4 => world.ours.forget_partner(),
            5 => world.ours.tell(world.now, drop),
            6 | 7 => {
                world.now += Duration::from_millis(if *what == 6 { 100 } else { 7000 });
                world.ours.tick(world.now);
                world.ours.limit(Traffic::default(), world.now);
            }
            // A strongSwan of ours has negotiated what the frame says.
            8 | 9.. => {
                let Some((length, after)) = rest.split_first() else { return };
                let Some((frame, after)) = after.split_at_checked(usize::from(*length)) else { return };
                rest = after;
                let Ok(message) = Message::decode(frame) else { continue };
                // Times that are too long to be true are shortened, once.
                let written = message.encode();
                assert_eq!(Message::decode(&written).unwrap().encode(), written);
                match message {
                    Message::Sa(_, mut told) if *what == 8 => {
                        tame(&mut told);
                        told.sa.origin = Origin::Plugin;
                        // Never one that it had before: strongSwan's SPIs for what we send are the far end's to choose, its keys are new.
                        let known = world.sent.iter().any(|(spi, _)| *spi == told.sa.id.spi);
                        if told.sa.direction == Some(Direction::In) || !known {
                            let _ = world.ours.add(told.sa, true, Traffic::default(), world.now);
                        }
                    }
                    message => world.hear(message),
                }
            }
        }
    }
});

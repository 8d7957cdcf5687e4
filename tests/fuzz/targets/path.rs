//! Frames of any content through a router with a tunnel of each kind: nothing panics, every frame is accounted for, and the
//! router goes on: what it is sent afterwards by its twin still arrives.
#![no_main]

use std::cell::RefCell;

use culvert::lab::{LAN, Lab, Plan, WAN};
use culvert_engine::esp::Suite;
use culvert_engine::ring::BATCH;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static LABS: RefCell<Vec<Lab>> = RefCell::new(
        [None, Some(Suite::Aes128Gcm16), Some(Suite::ChaCha20Poly1305)]
            .into_iter()
            .map(|suite| Lab::new(Plan { suite, tunnels: 2, longest: 1400 }).unwrap())
            .collect(),
    );
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    LABS.with_borrow_mut(|labs| {
        let count = labs.len();
        let lab = &mut labs[usize::from(*choice) % count];
        let received = |lab: &Lab| lab.a.counters.port(LAN).unwrap().rx.get();
        let before = received(lab);
        let mut sent = 0;
        // Frames are told apart by a length octet in front of each.
        let mut rest = bytes;
        // A batch of them: all that the wire holds at once.
        while sent < BATCH as u64
            && let Some((len, tail)) = rest.split_first()
        {
            let (frame, tail) = tail.split_at(tail.len().min(usize::from(*len)));
            sent += u64::from(lab.left.send_bytes(frame));
            rest = tail;
        }
        while lab.a.worker.turn(LAN) > 0 {}
        while lab.b.worker.turn(WAN) > 0 {}
        while lab.b.worker.turn(LAN) > 0 {}
        while lab.a.worker.turn(WAN) > 0 {}
        while lab.right.receive(|_| 100) > 0 {}
        while lab.left.receive(|_| 100) > 0 {}
        assert_eq!(received(lab) - before, sent);
        for router in [&lab.a, &lab.b] {
            let [rx, tx] = [0, 1].map(|which| {
                [LAN, WAN]
                    .iter()
                    .map(|port| router.counters.port(*port).unwrap())
                    .map(|p| if which == 0 { p.rx.get() } else { p.tx.get() })
                    .sum::<u64>()
            });
            assert_eq!(
                rx,
                tx + router.drops().map(|(_, count)| count).sum::<u64>(),
                "every frame is accounted for"
            );
        }
        let good = lab.right.good;
        lab.left.send(3, |_| 100);
        lab.a.worker.turn(LAN);
        lab.b.worker.turn(WAN);
        lab.right.receive(|_| 100);
        assert!(lab.right.good >= good + 3, "the tunnels still work");
    });
});

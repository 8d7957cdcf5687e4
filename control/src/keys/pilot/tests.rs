//! The pilot against a charon that is played by hand.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::config::{Auth, Certified, Config, KeyPair, Protect, Secret};

/// A pilot with one tunnel, a clock, and what it has asked for.
struct Bench {
    pilot: Pilot,
    now: Instant,
    asked: RefCell<Vec<(u64, &'static str, Message)>>,
    last: RefCell<u64>,
    config: Config,
}

const TUNNEL: &str = r#"
[[port]]
name = "wan"
device = "memory"
addresses = ["192.0.2.1/24"]
[[tunnel]]
name = "oslo"
local = "LOCAL"
remote = "192.0.2.2"
routes = ["10.2.0.0/16"]
enabled = ENABLED
[tunnel.protect]
suites = ["aes128gcm16"]
ike = { auth = "psk", psk = "secret" }
"#;

pub(in crate::keys) fn config(local: &str, enabled: bool) -> Config {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let text = TUNNEL.replace("LOCAL", local).replace("ENABLED", &enabled.to_string());
    let name = format!("culvert-pilot-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
    let config = Config::load(&path).map(|(config, _)| config);
    fs::remove_file(&path).expect("ours");
    config.expect("a configuration")
}

impl Bench {
    fn new(local: &str) -> Bench {
        let mut bench = Bench {
            pilot: Pilot::new(|| 0.0),
            now: Instant::now(),
            asked: RefCell::default(),
            last: RefCell::new(0),
            config: config(local, true),
        };
        bench.steer();
        bench
    }

    fn with<T>(
        &mut self,
        act: impl FnOnce(&mut Pilot, &Config, Instant, &mut dyn FnMut(Order) -> u64) -> T,
    ) -> T {
        let (asked, last) = (&self.asked, &self.last);
        let mut ask = |(command, message): Order| {
            *last.borrow_mut() += 1;
            asked.borrow_mut().push((*last.borrow(), command, message));
            *last.borrow()
        };
        act(&mut self.pilot, &self.config, self.now, &mut ask)
    }

    fn steer(&mut self) {
        self.with(|pilot, config, now, ask| {
            let tunnels = config.tunnels.iter().filter_map(|tunnel| match &tunnel.protect {
                Protect::Ike(ike) => Some((tunnel, &**ike, 7)),
                _ => None,
            });
            pilot.steer(tunnels, now, ask);
        });
    }

    fn hear(&mut self, told: Told) {
        self.with(|pilot, _, now, ask| pilot.hear(told, now, ask));
    }

    /// Time passes.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.with(|pilot, _, now, ask| pilot.tick(now, ask));
    }

    /// The requests since the last call, by their names; they are answered like this.
    fn answer(&mut self, answers: impl Fn(&str) -> (Message, Vec<Message>)) -> Vec<&'static str> {
        let asked = self.asked.take();
        for (number, command, _) in &asked {
            let (response, listed) = answers(command);
            self.hear(Told::Answer(Answer { number: *number, response: Ok(response), listed }));
        }
        asked.into_iter().map(|(_, command, _)| command).collect()
    }

    fn agree(&mut self) -> Vec<&'static str> {
        self.answer(|_| (Message::new(), Vec::new()))
    }

    /// All that is asked is answered, until nothing is; the tunnel has SAs if `installed`.
    fn settle(&mut self, installed: bool) -> Vec<&'static str> {
        let mut all = Vec::new();
        while !self.asked.borrow().is_empty() {
            let listed = if installed { vec![sa("INSTALLED")] } else { Vec::new() };
            all.extend(self.answer(|command| {
                (Message::new(), if command == "list-sas" { listed.clone() } else { Vec::new() })
            }));
        }
        all
    }

    fn trouble(&self) -> Option<String> {
        self.pilot.trouble("oslo")
    }
}

/// What charon lists of a tunnel whose child is in that state.
fn sa(state: &str) -> Message {
    let child = Message::new().with("state", state).with("uniqueid", "1");
    let child = Message::new().with_section("culvert-oslo-1", child);
    let sa = Message::new().with("state", "ESTABLISHED").with_section("child-sas", child);
    Message::new().with_section("culvert-oslo", sa)
}

/// A far end is followed where it alone is behind a NAT.
#[test]
fn it_is_known_who_is_behind_a_nat() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    bench.settle(true);
    assert!(!bench.pilot.has_nat_there("oslo"));
    for (behind, there) in
        [(&["nat-remote"][..], true), (&["nat-remote", "nat-local"], false), (&["nat-local"], false)]
    {
        let names = Message::new().with_section("culvert-oslo", Message::new());
        bench.hear(Told::Event("ike-update".to_owned(), names));
        bench.answer(|_| {
            let listed = sa("INSTALLED");
            let told = listed.section("culvert-oslo").cloned().expect("an SA");
            let told = behind.iter().fold(told, |told, who| told.with(who, "yes"));
            let begun = Message::new().with("state", "CONNECTING");
            let both = [begun, told].map(|sa| Message::new().with_section("culvert-oslo", sa));
            (Message::new(), both.to_vec())
        });
        assert_eq!(bench.pilot.has_nat_there("oslo"), there, "{behind:?}");
    }
}

#[test]
fn a_tunnel_is_loaded_looked_at_and_initiated() {
    let mut bench = Bench::new("192.0.2.1");
    assert!(bench.trouble().is_some_and(|why| why.contains("not answered")));
    assert!(bench.asked.borrow().is_empty(), "nobody is there to be asked");
    bench.hear(Told::Connected);
    assert_eq!(bench.agree(), ["version", "get-algorithms"]);
    assert_eq!(bench.agree(), ["load-shared", "load-conn"]);
    assert_eq!(bench.settle(false), ["list-sas"]);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.settle(false), ["initiate"]);
    assert_eq!(bench.trouble().as_deref(), Some("its keys are being negotiated"));
    bench.hear(Told::Event("child-updown".to_owned(), sa("INSTALLED").with("up", "yes")));
    assert_eq!(bench.settle(true), ["list-sas"]);
    assert_eq!(bench.trouble(), None);
}

/// Whose near end another router has as well waits until it is known whether that one is master; others do not.
#[test]
fn nothing_is_begun_while_it_is_held() {
    for (shared, begun) in [(false, vec!["initiate"]), (true, vec![])] {
        let mut bench = Bench::new("192.0.2.1");
        bench.pilot.tunnels.get_mut("oslo").expect("it is there").shared = shared;
        let until = bench.now + COURTESY;
        bench.pilot.hold(Some(until));
        bench.hear(Told::Connected);
        bench.settle(false);
        bench.pass(COURTESY / 2);
        assert_eq!(bench.settle(false), begun);
        if shared {
            assert_eq!(bench.pilot.deadline(), Some(until));
            bench.pilot.hold(None);
            bench.pass(Duration::ZERO);
            assert_eq!(bench.settle(false), ["initiate"], "it is known");
        }
    }
}

/// A daemon that starts beside a strongSwan that lives: while another router may be master, the SAs that are there are left alone.
#[test]
fn what_is_there_is_left_alone_while_it_is_held() {
    let mut bench = Bench::new("192.0.2.1");
    let flight = bench.pilot.tunnels.get_mut("oslo").expect("it is there");
    (flight.shared, flight.sas) = (true, 2);
    bench.pilot.hold(Some(bench.now + COURTESY));
    bench.hear(Told::Connected);
    bench.settle(true);
    bench.with(|pilot, _, now, ask| assert!(!pilot.rekey("oslo", now, ask)));
    bench.pass(COURTESY / 2);
    assert!(bench.settle(true).is_empty());
    bench.pass(COURTESY / 2);
    assert_eq!(bench.settle(true), ["list-sas", "initiate"], "the one of two that is missing");
    bench.with(|pilot, _, now, ask| assert!(pilot.rekey("oslo", now, ask)));
    assert_eq!(bench.settle(true), ["rekey"]);
}

/// The end with the lower address begins; the other waits a while for it.
#[test]
fn one_end_lets_the_other_begin() {
    let mut bench = Bench::new("192.0.2.9");
    bench.hear(Told::Connected);
    bench.settle(false);
    bench.pass(COURTESY / 2);
    assert!(bench.asked.borrow().is_empty());
    assert_eq!(bench.trouble().as_deref(), Some("it waits for the far end to begin"));
    bench.pass(COURTESY / 2);
    assert_eq!(bench.settle(false), ["initiate"]);
}

#[test]
fn what_fails_is_tried_again_with_growing_pauses_and_says_why() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    bench.settle(false);
    let mut pauses = Vec::new();
    for _ in 0..15 {
        let due = bench.pilot.deadline().expect("another attempt");
        pauses.push(due - bench.now);
        bench.pass(due - bench.now);
        assert_eq!(bench.settle(false), ["initiate"]);
        let log = Message::new()
            .with("ikesa-name", "culvert-oslo")
            .with("msg", "received AUTHENTICATION_FAILED notify error");
        bench.hear(Told::Event("log".to_owned(), log));
        assert!(bench.trouble().is_some_and(|why| why.contains("does not accept our proof")));
        let down = Message::new().with_section("culvert-oslo", Message::new());
        bench.hear(Told::Event("ike-updown".to_owned(), down));
        assert_eq!(bench.settle(false), ["list-sas"]);
    }
    assert_eq!((pauses[0], pauses[1], pauses[14]), (Duration::ZERO, PAUSES.0, PAUSES.1));
    assert!(pauses.is_sorted(), "{pauses:?}");
}

/// The far end refuses the child alone, or takes it away: the IKE SA that is left is no reason to wait for ever, unless it is at work.
#[test]
fn a_child_that_is_not_there_is_asked_for_again() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    assert_eq!(bench.settle(true).last(), Some(&"list-sas"));
    assert_eq!(bench.trouble(), None);
    let left = |tasks: &[&str]| {
        let sa = Message::new().with("state", "ESTABLISHED").with_list("tasks-active", tasks);
        vec![Message::new().with_section("culvert-oslo", sa)]
    };
    let down = Message::new().with_section("culvert-oslo", Message::new());
    bench.hear(Told::Event("child-updown".to_owned(), down));
    bench.answer(|_| (Message::new(), left(&["CHILD_CREATE"])));
    assert!(bench.trouble().is_some_and(|why| why.contains("being negotiated")), "{:?}", bench.trouble());
    bench.pass(LOOKS.1);
    bench.answer(|_| (Message::new(), left(&[])));
    bench.pass(PAUSES.0 * 2);
    assert_eq!(bench.answer(|_| (Message::new(), left(&[]))), ["initiate"]);
}

/// Of one failure, what charon says first is the reason, and what follows from it is not.
#[test]
fn causes_are_told_rather_than_consequences() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    bench.settle(false);
    bench.pass(Duration::ZERO);
    bench.settle(false);
    let says = |bench: &mut Bench, msg: &str| {
        let log = Message::new().with("ikesa-name", "culvert-oslo").with("msg", msg);
        bench.hear(Told::Event("log".to_owned(), log));
    };
    let revoked = |bench: &Bench| bench.trouble().is_some_and(|why| why.contains("was revoked"));
    says(&mut bench, "certificate was revoked on Nov 25 01:00:00 UTC 2026, reason: unspecified");
    says(&mut bench, "no trusted ECDSA public key found for 'oslo.example'");
    assert!(revoked(&bench), "{:?}", bench.trouble());
    bench.pass(ONE_STORY);
    bench.settle(false);
    says(&mut bench, "no trusted ECDSA public key found for 'oslo.example'");
    assert!(
        bench.trouble().is_some_and(|why| why.contains("is trusted")),
        "another failure: {:?}",
        bench.trouble()
    );
    // OpenIKED's answer to our proof, of which charon says no more than that.
    bench.pass(ONE_STORY);
    bench.settle(false);
    says(&mut bench, "parsed IKE_AUTH response 1 [ N(NO_PROP) ]");
    says(&mut bench, "IDr payload missing");
    assert!(
        bench.trouble().is_some_and(|why| why.contains("takes none of the suites")),
        "{:?}",
        bench.trouble()
    );
    for (first, means) in [
        ("unable to fetch from http://ca.example/ca.crl, no capable fetcher found", "load its curl plugin"),
        ("crl fetching failed", "cannot be fetched"),
        ("ocsp request to http://ca.example failed", "nobody answers (OCSP)"),
        ("  ocsp response contains no status on our certificate", "does not know the far end's certificate"),
    ] {
        bench.pass(ONE_STORY);
        bench.settle(false);
        says(&mut bench, first);
        says(&mut bench, "crl fetching failed");
        says(
            &mut bench,
            "constraint check failed: RULE_CRL_VALIDATION is FAILED, but requires at least GOOD",
        );
        assert!(bench.trouble().is_some_and(|why| why.contains(means)), "{:?}", bench.trouble());
    }
}

/// Two tunnels have one key: it goes with the last of them.
#[test]
fn private_keys_are_unloaded_when_no_tunnel_needs_them() {
    let mut bench = Bench::new("192.0.2.1");
    let Protect::Ike(ike) = &mut bench.config.tunnels[0].protect else { panic!("IKE") };
    ike.auth =
        Auth::PublicKey(KeyPair { private: Secret::new(vec![1].into()), public: vec![2], remote: vec![3] });
    let mut second = bench.config.tunnels[0].clone();
    second.name = "paris".to_owned();
    bench.config.tunnels.push(second);
    bench.steer();
    bench.hear(Told::Connected);
    bench.agree();
    bench.answer(|command| {
        let id = if command == "load-key" { Message::new().with("id", "cafe") } else { Message::new() };
        (id, Vec::new())
    });
    bench.settle(true);
    bench.config.tunnels.pop();
    bench.steer();
    assert_eq!(bench.settle(true), ["terminate", "unload-conn", "unload-conn", "unload-shared"]);
    bench.config.tunnels.pop();
    bench.steer();
    assert_eq!(
        bench.settle(true),
        ["terminate", "unload-conn", "unload-conn", "unload-shared", "unload-key"]
    );
}

/// The SAs that were negotiated with another far end are ended.
#[test]
fn another_far_end_is_negotiated_with_anew() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    bench.settle(true);
    bench.config = config("192.0.2.3", true);
    bench.steer();
    assert_eq!(bench.settle(false), ["terminate", "load-shared", "load-conn", "list-sas"]);
}

/// EAP's responder looks whether the far end has begun, and never begins itself.
#[test]
fn a_responder_never_begins() {
    let mut bench = Bench::new("192.0.2.1");
    let Protect::Ike(ike) = &mut bench.config.tunnels[0].protect else { panic!("IKE") };
    let certified = Certified { chain: vec![vec![1]], key: Secret::new(vec![1].into()) };
    ike.auth = Auth::EapMschapv2Responder(Secret::new(vec![2].into()), certified);
    bench.steer();
    bench.hear(Told::Connected);
    bench.settle(false);
    for _ in 0..5 {
        bench.pass(LOOKS.0);
        assert_eq!(bench.settle(false), ["list-sas"]);
        assert_eq!(bench.trouble().as_deref(), Some("it waits for the far end to begin"));
    }
}

#[test]
fn a_connection_that_charon_refuses_is_said() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    bench.agree();
    let refused = Message::new().with("success", "no").with("errmsg", "invalid proposal");
    bench.answer(|command| {
        (if command == "load-conn" { refused.clone() } else { Message::new() }, Vec::new())
    });
    assert!(bench.asked.borrow().is_empty());
    assert_eq!(bench.trouble().as_deref(), Some("strongSwan does not take it: invalid proposal"));
    assert_eq!(bench.pilot.deadline(), None, "until it is changed");
    bench.config = config("192.0.2.3", true);
    bench.steer();
    assert_eq!(bench.settle(true), ["load-shared", "load-conn", "list-sas"]);
    assert_eq!(bench.trouble(), None);
}

#[test]
fn a_charon_that_starts_anew_is_told_everything_anew() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    bench.settle(true);
    bench.hear(Told::Lost("it has ended".to_owned()));
    assert!(bench.trouble().is_some_and(|why| why.contains("it has ended")));
    bench.hear(Told::Connected);
    assert_eq!(bench.settle(false), ["version", "get-algorithms", "load-shared", "load-conn", "list-sas"]);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.settle(false), ["initiate"]);
}

/// An exchange that is going on when we come is left to end by itself.
#[test]
fn what_others_have_begun_is_waited_for() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    bench.agree();
    bench.agree();
    bench.answer(|_| (Message::new(), vec![sa("CREATED")]));
    bench.pass(Duration::from_secs(1));
    assert!(bench.asked.borrow().is_empty());
    bench.pass(LOOKS.1);
    assert_eq!(bench.settle(true), ["list-sas"]);
    assert_eq!(bench.trouble(), None);
}

/// charon gives an exchange up and says so in its log alone.
#[test]
fn an_exchange_that_ends_without_an_event_is_tried_again() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    bench.settle(false);
    bench.pass(Duration::ZERO);
    bench.settle(false);
    let log =
        Message::new().with("ikesa-name", "culvert-oslo").with("msg", "unable to allocate SPIs from kernel");
    bench.hear(Told::Event("log".to_owned(), log));
    bench.pass(SOON);
    assert_eq!(bench.settle(false), ["list-sas"]);
    assert!(bench.trouble().is_some_and(|why| why.contains("nobody to take its SAs")));
    bench.pass(PAUSES.0);
    assert_eq!(bench.settle(false), ["initiate"]);
}

#[test]
fn a_missed_event_is_made_up_for() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    bench.settle(true);
    bench.pass(LOOKS.0);
    assert_eq!(bench.settle(false), ["list-sas"]);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.settle(false), ["initiate"]);
}

#[test]
fn a_tunnel_that_is_taken_down_has_its_sas_ended_and_comes_up_again() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    bench.settle(true);
    bench.config = config("192.0.2.1", false);
    bench.steer();
    assert_eq!(bench.settle(false), ["terminate"]);
    bench.hear(Told::Event("ike-updown".to_owned(), sa("DELETING")));
    bench.pass(Duration::from_secs(600));
    assert!(bench.asked.borrow().is_empty(), "nothing is negotiated");
    bench.config = config("192.0.2.1", true);
    bench.steer();
    assert_eq!(bench.settle(false), ["list-sas"]);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.settle(false), ["initiate"]);
}

#[test]
fn a_tunnel_that_is_gone_is_unloaded() {
    let mut bench = Bench::new("192.0.2.1");
    bench.hear(Told::Connected);
    bench.settle(true);
    bench.config.tunnels.clear();
    bench.steer();
    assert_eq!(bench.settle(false), ["terminate", "unload-conn", "unload-conn", "unload-shared"]);
    assert_eq!(bench.trouble(), None);
}

#[test]
fn a_rekey_is_asked_for_where_there_is_something_to_replace() {
    let mut bench = Bench::new("192.0.2.1");
    bench.with(|pilot, _, now, ask| pilot.rekey("oslo", now, ask));
    assert!(bench.asked.borrow().is_empty());
    bench.hear(Told::Connected);
    bench.settle(true);
    bench.with(|pilot, _, now, ask| pilot.rekey("oslo", now, ask));
    assert_eq!(bench.settle(true), ["rekey"]);
}

/// ML-KEM is offered to a charon that has it, before what all have; without it `require` says so and nothing is loaded.
#[test]
fn ml_kem_is_offered_where_charon_has_it() {
    const PLAIN: &str = "aes128gcm16-x25519-ecp256-ecp384-esn";
    const BOTH: &str = "aes128gcm16-x25519-ecp256-ecp384-esn-ke1_mlkem768";
    let proposals = |message: &Message| {
        let connection = message.section("culvert-oslo").expect("the connection");
        let child = connection.section("children").and_then(|children| children.section("culvert-oslo"));
        let list = |message: &Message, name: &str| message.list(name).map(str::to_owned).collect::<Vec<_>>();
        let ike = list(connection, "proposals");
        let esp = list(child.expect("the child"), "esp_proposals");
        assert_eq!(ike.len(), esp.len());
        assert!(
            ike.iter().zip(&esp).all(|(ike, esp)| ike.ends_with("mlkem768") == esp.ends_with("mlkem768"))
        );
        esp
    };
    let mut bench = Bench::new("192.0.2.1");
    // A newer charon, an older one, and a newer one again.
    for (wanted, can, offered) in [
        (MlKem::Offer, true, vec![BOTH, PLAIN]),
        (MlKem::Offer, false, vec![PLAIN]),
        (MlKem::Require, true, vec![BOTH]),
        (MlKem::Require, false, vec![]),
        (MlKem::Require, true, vec![BOTH]),
        (MlKem::Forbid, true, vec![PLAIN]),
        (MlKem::Offer, true, vec![BOTH, PLAIN]),
    ] {
        let Protect::Ike(ike) = &mut bench.config.tunnels[0].protect else { panic!("IKE") };
        ike.ml_kem = wanted;
        bench.hear(Told::Lost("it has ended".to_owned()));
        bench.steer();
        bench.hear(Told::Connected);
        let algorithm = if can { "ML_KEM_768" } else { "CURVE_25519" };
        let algorithms = Message::new().with_section("ke", Message::new().with(algorithm, "openssl"));
        bench.answer(|command| {
            (if command == "get-algorithms" { algorithms.clone() } else { Message::new() }, Vec::new())
        });
        if offered.is_empty() {
            assert!(bench.asked.borrow().is_empty());
            assert!(bench.trouble().is_some_and(|why| why.contains("no ML-KEM")), "{:?}", bench.trouble());
            continue;
        }
        let loaded =
            bench.asked.borrow().iter().find(|asked| asked.1 == "load-conn").map(|asked| asked.2.clone());
        assert_eq!(proposals(&loaded.expect("load-conn")), offered, "{wanted:?}, {can}");
        bench.settle(true);
        // Told again of the same, nothing is done.
        bench.steer();
        assert!(bench.asked.borrow().is_empty());
    }
    // While charon is there, other wishes are other offers; one that it cannot fulfil ends what there is.
    let wish = |bench: &mut Bench, wanted| {
        let Protect::Ike(ike) = &mut bench.config.tunnels[0].protect else { panic!("IKE") };
        ike.ml_kem = wanted;
        bench.steer();
        bench.settle(true)
    };
    assert_eq!(wish(&mut bench, MlKem::Require), ["terminate", "load-shared", "load-conn", "list-sas"]);
    bench.hear(Told::Connected);
    bench.settle(true);
    assert!(bench.trouble().is_some_and(|why| why.contains("no ML-KEM")), "an older one");
    assert_eq!(wish(&mut bench, MlKem::Offer), ["load-shared", "load-conn", "list-sas"]);
    assert_eq!(wish(&mut bench, MlKem::Forbid), [""; 0]);
    assert_eq!(wish(&mut bench, MlKem::Require), ["terminate"]);
    assert!(bench.trouble().is_some_and(|why| why.contains("no ML-KEM")));
}

/// A tunnel with three pairs of SAs: those that are missing are begun, by the other end's turn if it has not; each has a child of its own.
#[test]
fn several_pairs_of_sas() {
    let installed = |children: &[&str]| {
        let mut all = Message::new();
        for (number, child) in children.iter().enumerate() {
            let child = Message::new().with("name", child).with("state", "INSTALLED");
            let child = child.with("uniqueid", (number + 7).to_string());
            all = all.with_section(&format!("{number}"), child);
        }
        let sa = Message::new().with("state", "ESTABLISHED").with_section("child-sas", all);
        vec![Message::new().with_section("culvert-oslo", sa)]
    };
    for (local, waits) in [("192.0.2.1", Duration::ZERO), ("192.0.2.9", COURTESY)] {
        let mut bench = Bench::new(local);
        let Protect::Ike(ike) = &mut bench.config.tunnels[0].protect else { panic!("IKE") };
        ike.sas = 3;
        bench.steer();
        bench.hear(Told::Connected);
        bench.agree();
        bench.agree();
        let begun = |bench: &Bench| {
            let asked = bench.asked.borrow();
            let begun = asked.iter().filter(|asked| asked.1 == "initiate");
            begun.filter_map(|asked| asked.2.text("child").map(str::to_owned)).collect::<Vec<_>>()
        };
        let look = |bench: &mut Bench, children: &[&str]| {
            let listed = installed(children);
            bench.answer(|command| {
                (Message::new(), if command == "list-sas" { listed.clone() } else { Vec::new() })
            });
        };
        look(&mut bench, &["culvert-oslo"]);
        if !waits.is_zero() {
            assert_eq!(begun(&bench), [""; 0], "it is the other's turn");
            bench.pass(waits);
            look(&mut bench, &["culvert-oslo"]);
        }
        assert_eq!(begun(&bench), ["culvert-oslo/3", "culvert-oslo/2"]);
        assert_eq!(bench.trouble(), None);
        bench.agree();
        // One has come: the other is on its way.
        bench.hear(Told::Event("child-updown".to_owned(), sa("INSTALLED")));
        look(&mut bench, &["culvert-oslo", "culvert-oslo/3"]);
        assert_eq!(begun(&bench), [""; 0]);
        bench.pass(LOOKS.0);
        look(&mut bench, &["culvert-oslo", "culvert-oslo/3"]);
        assert_eq!(begun(&bench), ["culvert-oslo/2"], "it has not come");
        bench.agree();
        bench.hear(Told::Event("child-updown".to_owned(), sa("INSTALLED")));
        // The far end has begun it, and by our first child.
        look(&mut bench, &["culvert-oslo", "culvert-oslo/3", "culvert-oslo"]);
        assert_eq!(begun(&bench), [""; 0]);
        bench.with(|pilot, _, now, ask| pilot.rekey("oslo", now, ask));
        let asked = bench.asked.borrow();
        let rekeyed = asked.iter().map(|(_, command, message)| (*command, message.text("child-id")));
        // And none that comes meanwhile, whose half the far end may not have yet.
        assert_eq!(rekeyed.collect::<Vec<_>>(), ["7", "8", "9"].map(|id| ("rekey", Some(id))));
    }
}

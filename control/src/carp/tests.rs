use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, listen, send, socket,
};

use super::kernel::{Kernel, Told};
use super::scripted::Script;
use super::*;
use crate::config::Position;
use crate::config::Router;
use crate::routes::{Address, Link};

fn group(text: &str) -> Group {
    text.parse().expect("a group")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn carp(groups: &[(&str, &str)]) -> Carp {
    let groups = groups.iter().map(|(of, address)| CarpGroup {
        group: group(of),
        address: ip(address),
        interval: None,
        at: Position::nowhere(),
    });
    Carp { router: Router::First, groups: groups.collect(), ..Carp::default() }
}

/// A host with the links `names`, numbered from 1.
fn host(names: &[&str]) -> HostState {
    let link = |name: &&str| Link {
        name: (*name).to_owned(),
        mac: None,
        mtu: 1500,
        up: true,
        carrier: true,
        kind: None,
    };
    HostState { links: (1..).zip(names.iter().map(link)).collect(), ..HostState::default() }
}

fn followed(script: &Script, groups: &[(&str, &str)]) -> Followed {
    let mut followed = Followed::new(Box::new(script.clone()));
    followed.steer(&carp(groups), Instant::now());
    followed
}

fn roles(followed: &Followed) -> BTreeMap<String, Role> {
    followed.members().map(|(group, member)| (group.to_string(), member.role)).collect()
}

#[test]
fn each_turn_is_told_once() {
    let (script, host, now) = (Script::default(), host(&["wan"]), Instant::now());
    let mut followed = followed(&script, &[("2@wan", "192.0.2.9"), ("3@wan", "192.0.2.10")]);
    for of in ["2@wan", "3@wan"] {
        script.set(&group(of), Role::Backup);
    }
    assert_eq!(followed.look(&host, |_| None, now).len(), 2);
    script.set(&group("2@wan"), Role::Master);
    let turn = Turn { group: group("2@wan"), from: Role::Backup, to: Role::Master, why: None };
    assert_eq!(followed.look(&host, |_| None, now), [turn]);
    assert_eq!(followed.look(&host, |_| None, now), []);
    assert_eq!(followed.role(&group("2@wan")), Role::Master);
    assert_eq!((followed.role(&group("3@wan")), followed.role(&group("9@wan"))), (Role::Backup, Role::Init));
}

#[test]
fn an_interface_that_is_lost_has_no_role() {
    let (script, mut host, now) = (Script::default(), host(&["wan"]), Instant::now());
    let mut followed = followed(&script, &[("2@wan", "192.0.2.9")]);
    script.set(&group("2@wan"), Role::Master);
    followed.look(&host, |_| None, now);
    let of = group("2@wan");
    for (spoil, why) in [
        ((|link| link.up = false) as fn(&mut Link), "wan is down"),
        (|link| link.carrier = false, "wan has no signal"),
        (|link| link.name = "other".to_owned(), "there is no interface wan"),
    ] {
        let before = host.clone();
        spoil(host.links.get_mut(&1).expect("it is there"));
        followed.notify(&of, Role::Master).expect("it is known");
        let turns = followed.look(&host, |_| None, now);
        let told: Vec<_> = turns.iter().map(|turn| (turn.to, turn.why.as_deref())).collect();
        assert_eq!(told, [(Role::Init, Some(why))]);
        host = before;
        assert_eq!(followed.look(&host, |_| None, now).len(), 1, "and comes back");
    }
}

#[test]
fn who_notifies_is_believed() {
    let (script, host, now) = (Script::default(), host(&["wan"]), Instant::now());
    let mut followed = followed(&script, &[("2@wan", "192.0.2.9")]);
    let of = group("2@wan");
    script.set(&of, Role::Master);
    followed.look(&host, |_| None, now);
    followed.notify(&of, Role::Backup).expect("it is known");
    assert_eq!(followed.look(&host, |_| None, now).len(), 1);
    script.set(&of, Role::Master);
    assert_eq!((followed.look(&host, |_| None, now), followed.role(&of)), (vec![], Role::Backup));
    assert!(followed.notify(&group("3@wan"), Role::Master).expect_err("none").contains("3@wan"));
}

#[test]
fn groups_that_stay_keep_their_roles() {
    let (script, host, now) = (Script::default(), host(&["wan", "lan"]), Instant::now());
    let mut followed = followed(&script, &[("2@wan", "192.0.2.9"), ("3@wan", "192.0.2.10")]);
    for of in ["2@wan", "3@wan", "1@lan"] {
        script.set(&group(of), Role::Master);
    }
    followed.look(&host, |_| None, now);
    followed.steer(&carp(&[("2@wan", "192.0.2.11"), ("1@lan", "10.0.0.1")]), now);
    let expected = [("1@lan".to_owned(), Role::Init), ("2@wan".to_owned(), Role::Master)];
    assert_eq!(roles(&followed), expected.into());
    assert_eq!(followed.look(&host, |_| None, now).len(), 1);
}

#[test]
fn who_has_the_address_is_master() {
    let mut followed = Followed::new(Box::new(address::Addresses));
    followed.steer(&carp(&[("2@wan", "192.0.2.9")]), Instant::now());
    let (mut host, now) = (host(&["wan", "lan"]), Instant::now());
    followed.look(&host, |_| None, now);
    assert_eq!(followed.role(&group("2@wan")), Role::Backup);
    let there = |link| Address { link, address: ip("192.0.2.9"), prefix_len: 32, peer: None };
    // On another interface it is not the group's.
    host.addresses.insert(there(2));
    followed.look(&host, |_| None, now);
    assert_eq!(followed.role(&group("2@wan")), Role::Backup);
    host.addresses.insert(there(1));
    followed.look(&host, |_| None, now);
    assert_eq!(followed.role(&group("2@wan")), Role::Master);
}

/// As carp(4) has it: the skew and what the host is demoted by, 240 at the most; else what the configuration says.
#[test]
fn how_often_it_advertises() {
    let nowhere = std::path::Path::new("/nonexistent/devd");
    let (host, now, of) = (host(&["wan"]), Instant::now(), group("2@wan"));
    let interval = |advskew, demotion, configured| {
        let told = move |_: &Group| match advskew {
            Some(advskew) => Ok(Told { state: 1, advbase: 1, advskew, demotion }),
            None => Err("it has no CARP".to_owned()),
        };
        let mut followed = Followed::new(Box::new(Kernel::with(nowhere, told)));
        let mut carp = carp(&[("2@wan", "192.0.2.9")]);
        carp.groups[0].interval = configured;
        followed.steer(&carp, now);
        followed.look(&host, |_| None, now);
        followed.members().find(|(group, _)| **group == of).and_then(|(_, member)| member.interval)
    };
    assert_eq!((interval(Some(0), 0, None), interval(Some(100), 0, Some(9))), (Some(256), Some(356)));
    assert_eq!((interval(Some(100), 240, None), interval(Some(10), -50, None)), (Some(496), Some(256)));
    assert_eq!((interval(None, 0, Some(300)), interval(None, 0, None)), (Some(300), None));
}

/// An address that was there before makes no master while the partner may be it, and one that is put there does at once. It is asked
/// for a while, and believed; without a partner, nobody is.
#[test]
fn an_address_that_was_there_before_is_doubted() {
    let (mut host, start, of) = (host(&["wan"]), Instant::now(), group("2@wan"));
    let there = Address { link: 1, address: ip("192.0.2.9"), prefix_len: 32, peer: None };
    host.addresses.insert(there);
    let (master, backup) = (|_: &Group| Some(Role::Master), |_: &Group| Some(Role::Backup));
    let nobody = |_: &Group| None;
    let sync = crate::config::Sync {
        listen: "10.9.0.1:1".parse().expect("an end"),
        partner: "10.9.0.2:1".parse().expect("an end"),
        proof: crate::config::SyncProof::Secret(crate::config::Secret::new(vec![7; 32].into())),
        heartbeat: Duration::from_secs(1),
        dead: Duration::from_secs(3),
        at: Position::nowhere(),
    };
    let with = |sync: Option<crate::config::Sync>| {
        let mut followed = Followed::new(Box::new(address::Addresses));
        followed.steer(&Carp { sync, ..carp(&[("2@wan", "192.0.2.9")]) }, start);
        followed
    };
    let mut alone = with(None);
    alone.look(&host, nobody, start);
    assert_eq!(alone.role(&of), Role::Master, "nobody else is there");
    // Nobody says anything.
    let mut followed = with(Some(sync.clone()));
    assert_eq!(followed.look(&host, nobody, start), []);
    let asked = |followed: &Followed| (followed.doubted().count(), followed.deadline());
    assert_eq!((followed.role(&of), asked(&followed)), (Role::Init, (1, Some(start + PATIENCE))));
    assert_eq!(followed.look(&host, nobody, start + PATIENCE).len(), 1);
    assert_eq!((followed.role(&of), asked(&followed)), (Role::Master, (0, None)));
    followed.look(&host, master, start + PATIENCE);
    assert_eq!(followed.role(&of), Role::Master, "both are, from then on");
    // It says that it is none.
    let mut followed = with(Some(sync.clone()));
    followed.look(&host, nobody, start);
    followed.look(&host, backup, start);
    assert_eq!((followed.role(&of), followed.is_in_doubt()), (Role::Master, false));
    // It says that it is, and is silent then; a link that is down changes nothing.
    let mut followed = with(Some(sync.clone()));
    followed.look(&host, nobody, start);
    followed.look(&host, master, start);
    followed.look(&host, nobody, start + PATIENCE * 2);
    assert_eq!((followed.role(&of), asked(&followed)), (Role::Backup, (0, None)));
    assert!(
        followed.members().all(|(_, member)| member.why.as_ref().is_some_and(|why| why.contains("ucarp")))
    );
    // It is taken away and put there again: by somebody who is alive.
    host.addresses.clear();
    followed.look(&host, master, start + PATIENCE * 2);
    host.addresses.insert(there);
    followed.look(&host, master, start + PATIENCE * 2);
    assert_eq!(followed.role(&of), Role::Master);
    // Who notifies is believed, and a link that is down asks nobody.
    let mut followed = with(Some(sync));
    host.links.get_mut(&1).expect("it is there").carrier = false;
    followed.look(&host, nobody, start);
    assert_eq!((followed.role(&of), asked(&followed)), (Role::Init, (0, None)));
    host.links.get_mut(&1).expect("it is there").carrier = true;
    followed.notify(&of, Role::Master).expect("it is known");
    followed.look(&host, master, start);
    assert_eq!(followed.role(&of), Role::Master);
}

/// devd's socket, played by the test: it wakes, and the kernel says what is so; it goes and comes back.
#[test]
fn devd_wakes_and_the_kernel_tells() {
    let folder = std::env::temp_dir().join(format!("culvert-devd-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("devd");
    let devd = || {
        let _ = std::fs::remove_file(&path);
        let devd =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).expect("a socket");
        bind(devd.as_raw_fd(), &UnixAddr::new(&path).expect("a path")).expect("bound");
        listen(&devd, Backlog::new(4).expect("a number")).expect("listening");
        devd
    };
    let is = |state| Ok(Told { state, advbase: 1, advskew: 100, demotion: 0 });
    let state = Rc::new(RefCell::new(is(1)));
    let told = Rc::clone(&state);
    let listener = devd();
    let mut followed = Followed::new(Box::new(Kernel::with(&path, move |_| told.borrow().clone())));
    followed.steer(&carp(&[("2@wan", "192.0.2.9")]), Instant::now());
    let client = accept(listener.as_raw_fd()).expect("it has connected");
    let (host, now, of) = (host(&["wan"]), Instant::now(), group("2@wan"));
    let readable = |followed: &Followed| {
        let waited = followed.wait_fd().expect("connected");
        let mut waited = [nix::poll::PollFd::new(waited, nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut waited, nix::poll::PollTimeout::ZERO).expect("asked") == 1
    };
    assert_eq!((followed.look(&host, |_| None, now).len(), readable(&followed)), (1, false));
    for (number, role) in [(2, Role::Master), (0, Role::Init), (1, Role::Backup)] {
        *state.borrow_mut() = is(number);
        let message = format!("!system=CARP subsystem=2@wan type={role}\n");
        send(client, message.as_bytes(), MsgFlags::empty()).expect("sent");
        assert!(readable(&followed));
        assert_eq!(followed.look(&host, |_| None, now).len(), 1);
        assert_eq!((followed.role(&of), readable(&followed)), (role, false));
    }
    *state.borrow_mut() = Err("2@wan: No such file or directory".to_owned());
    let turns = followed.look(&host, |_| None, now);
    assert_eq!(turns.first().map(|turn| (turn.to, turn.why.is_some())), Some((Role::Init, true)));
    nix::unistd::close(client).expect("ours");
    drop(listener);
    followed.look(&host, |_| None, now);
    assert!(followed.wait_fd().is_none(), "devd is gone, and nothing spins");
    let listener = devd();
    *state.borrow_mut() = is(2);
    followed.look(&host, |_| None, now);
    assert_eq!(followed.role(&of), Role::Master, "also without devd");
    let client = accept(listener.as_raw_fd()).expect("it is connected again");
    nix::unistd::close(client).expect("ours");
    std::fs::remove_dir_all(&folder).expect("ours");
}

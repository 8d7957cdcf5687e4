//! A thread that is limited, beside those that are not.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

use super::linux::{self, KEPT};
use super::{Needs, Privileges};

#[test]
fn a_limited_thread_does_its_work_and_nothing_else() {
    let folder = std::env::temp_dir().join(format!("culvert-privileges-{}", std::process::id()));
    fs::create_dir(&folder).expect("a folder");
    let elsewhere = folder.with_extension("elsewhere");
    let (inside, outside) = (folder.clone(), elsewhere.clone());
    let limited = move || {
        let mut privileges = Privileges::default();
        linux::limit(&Needs { read: Vec::new(), written: vec![inside.clone()] }, &mut privileges);
        // What the daemon does.
        fs::write(inside.join("new"), "state").expect("its own folder");
        fs::rename(inside.join("new"), inside.join("state")).expect("its own folder");
        assert_eq!(fs::read_to_string(inside.join("state")).expect("a file"), "state");
        UdpSocket::bind("127.0.0.1:0").expect("a socket");
        UnixStream::pair().expect("sockets");
        let thread = thread::spawn(|| fs::read_to_string("/proc/thread-self/status").expect("its own"));
        let status = thread.join().expect("a thread of a limited one");
        let of_thread = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).expect("a line of it");
        let of_thread = u64::from_str_radix(of_thread.trim(), 16).expect("a number");
        assert_eq!(of_thread & !KEPT.bits(), 0, "{of_thread:x}");
        // What it does not.
        let refused: Vec<u32> = netmap_sys::refused_calls().collect();
        assert_eq!(refused, [0; 0]);
        assert!(Command::new("/bin/true").status().is_err());
        let unshare = u32::try_from(libc::SYS_unshare).expect("a number");
        assert!(nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).is_err());
        let refused: Vec<u32> = netmap_sys::refused_calls().collect();
        assert!(refused.contains(&unshare), "{refused:?}");
        if privileges.writable.is_some() {
            assert!(fs::write(&outside, "x").is_err());
        }
        privileges
    };
    let privileges = thread::spawn(limited).join();
    fs::remove_dir_all(&folder).expect("ours");
    assert!(!elsewhere.exists());
    let privileges = privileges.expect("it did all that");
    assert!(
        privileges.system_calls.is_some() && !privileges.new_privileges && privileges.capabilities.is_some()
    );
    // Others are as they were.
    assert!(Command::new("/bin/true").status().expect("a program").success());
}

//! A network namespace for one test, and the host's side of an interface in it: a packet socket, and `ip`.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Runs a test in a thread with a network namespace of its own, without IPv6, so that the host says nothing unasked. The
/// namespace ends with the thread and what it opened.
pub(super) fn in_namespace(test: impl FnOnce() + Send) {
    in_namespace_with_ipv6(|| {
        for which in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").expect("IPv6 off");
        }
        test();
    });
}

/// One such test at a time: a child process that another one starts has, until it is its own program, all descriptors of this
/// one, and interfaces live as long as those.
static ALONE: Mutex<()> = Mutex::new(());

/// The same, with IPv6.
pub(super) fn in_namespace_with_ipv6(test: impl FnOnce() + Send) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let thread = move || {
        // SAFETY: changes the calling thread alone.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "a network namespace ({}): this test needs root", io::Error::last_os_error());
        test();
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(thread).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// `ip` with these arguments, separated by blanks, in the namespace of the calling thread. Returns what it prints.
pub(super) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip, of iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `ip` with a line for each interface, in one go.
pub(super) fn ip_each(lines: impl Iterator<Item = String>) {
    let mut child =
        Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip, of iproute2");
    let text: String = lines.map(|line| line + "\n").collect();
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "ip -batch");
}

/// What `ip` says of an interface.
pub(super) fn shown(interface: &str) -> String {
    ip(&format!("link show dev {interface}"))
}

/// The index of an interface.
pub(super) fn index_of(interface: &str) -> Option<u32> {
    let name = std::ffi::CString::new(interface).expect("a name");
    // SAFETY: a string ended by a zero.
    Some(unsafe { libc::if_nametoindex(name.as_ptr()) }).filter(|index| *index != 0)
}

/// The host's side of its interfaces, below its protocols.
pub(super) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// One for all interfaces of the namespace.
    pub(super) fn new() -> PacketSocket {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: a call without pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, all.into()) };
        assert!(fd >= 0, "a packet socket ({}): this test needs root", io::Error::last_os_error());
        let room: libc::c_int = 16 << 20;
        // SAFETY: the option takes an `int`; a fresh descriptor that nobody else has.
        unsafe {
            let (value, len) = ((&raw const room).cast(), size_of_val(&room) as u32);
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value, len);
            PacketSocket(OwnedFd::from_raw_fd(fd))
        }
    }

    /// Sends a frame, or on an interface without link layer a packet, out of an interface.
    pub(super) fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: zeros are a valid address.
        let mut address = unsafe { std::mem::zeroed::<libc::sockaddr_ll>() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = interface as i32;
        let version = frame.first().map_or(0, |byte| byte >> 4);
        address.sll_protocol = (if version == 6 { libc::ETH_P_IPV6 } else { libc::ETH_P_IP } as u16).to_be();
        let to = (&raw const address).cast();
        // SAFETY: both memories live during the call, with the lengths given.
        let sent = unsafe {
            let (bytes, len) = (frame.as_ptr().cast(), frame.len());
            libc::sendto(self.0.as_raw_fd(), bytes, len, 0, to, size_of_val(&address) as u32)
        };
        if sent == frame.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// A frame that an interface has received, with the interface's index; `None` when there is none.
    pub(super) fn receive(&self) -> Option<(u32, Vec<u8>)> {
        let mut frame = vec![0; 65536 + 64];
        loop {
            // SAFETY: zeros are a valid address.
            let mut address = unsafe { std::mem::zeroed::<libc::sockaddr_ll>() };
            let mut size = size_of_val(&address) as u32;
            // SAFETY: both memories live during the call, with the lengths given.
            let len = unsafe {
                let (to, room) = (frame.as_mut_ptr().cast(), frame.len());
                libc::recvfrom(self.0.as_raw_fd(), to, room, 0, (&raw mut address).cast(), &raw mut size)
            };
            let len = usize::try_from(len).ok()?;
            if address.sll_pkttype != libc::PACKET_OUTGOING {
                frame.truncate(len);
                return Some((address.sll_ifindex as u32, frame));
            }
        }
    }
}

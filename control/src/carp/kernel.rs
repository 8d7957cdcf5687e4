//! FreeBSD's own CARP: the kernel is asked for the state (`SIOCGVH`); devd(8) says when to ask. Where devd is not there, it is
//! tried again, and the kernel is asked as often as the daemon looks after its devices.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, socket};

use super::{CarpSource, Role};
use crate::config::Group;
use crate::routes::HostState;

/// Where devd tells what happens, a message in each record.
#[cfg(target_os = "freebsd")]
const DEVD: &str = "/var/run/devd.seqpacket.pipe";
/// The longest message of devd's (`DEVCTL_MAXBUF` and its prefix).
const LONGEST: usize = 1025;

/// What the kernel tells of a virtual host (`struct carpreq`), and of all (`net.inet.carp.demotion`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// As `carpr_state` has it.
    pub(super) state: i32,
    pub(super) advbase: i32,
    pub(super) advskew: i32,
    pub(super) demotion: i32,
}

/// The most that advertisements are put off (`CARP_MAXSKEW`), however far the host is demoted.
const MOST: i32 = 240;

impl Told {
    /// The time between two advertisements, in 1/256 s, as the kernel compares it with others'.
    fn interval(self) -> Option<u16> {
        let skew = self.advskew.saturating_add(self.demotion).clamp(0, MOST);
        u16::try_from(self.advbase.checked_mul(256)?.checked_add(skew)?).ok()
    }
}

/// By the interface's name and the number.
type Ask = dyn FnMut(&Group) -> Result<Told, String>;

/// See the module page.
pub struct Kernel {
    devd: Devd,
    ask: Box<Ask>,
}

impl Kernel {
    /// Asks the running kernel.
    #[cfg(target_os = "freebsd")]
    #[must_use]
    pub fn new() -> Kernel {
        Kernel { devd: Devd::at(Path::new(DEVD)), ask: Box::new(ask) }
    }

    #[cfg(test)]
    pub(super) fn with(devd: &Path, ask: impl FnMut(&Group) -> Result<Told, String> + 'static) -> Kernel {
        Kernel { devd: Devd::at(devd), ask: Box::new(ask) }
    }
}

impl CarpSource for Kernel {
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.devd.socket.as_ref().map(AsFd::as_fd)
    }

    fn drain(&mut self) {
        self.devd.drain();
    }

    fn interval(&mut self, group: &Group) -> Option<u16> {
        (self.ask)(group).ok()?.interval()
    }

    fn role(&mut self, group: &Group, _: IpAddr, _: &HostState) -> Result<Role, String> {
        match (self.ask)(group)?.state {
            0 => Ok(Role::Init),
            1 => Ok(Role::Backup),
            2 => Ok(Role::Master),
            other => {
                Err(format!("the kernel says that {group} is in state {other}, which is not known here"))
            }
        }
    }
}

#[cfg(target_os = "freebsd")]
fn ask(group: &Group) -> Result<Told, String> {
    use std::os::unix::net::UnixDatagram;

    let unknown = |error: std::io::Error| format!("{group}: {error}");
    let socket = UnixDatagram::unbound().map_err(unknown)?;
    let mut name = [0; 16];
    name.iter_mut().zip(group.interface.bytes()).for_each(|(to, byte)| *to = byte);
    let host = netmap_sys::carp_host(socket.as_fd(), &name, group.vhid).map_err(unknown)?;
    Ok(Told {
        state: host.carpr_state,
        advbase: host.carpr_advbase,
        advskew: host.carpr_advskew,
        demotion: netmap_sys::carp_demotion().unwrap_or(0),
    })
}

/// devd's messages. What they say, the kernel says better: they only wake whoever waits.
struct Devd {
    path: PathBuf,
    socket: Option<OwnedFd>,
}

impl Devd {
    fn at(path: &Path) -> Devd {
        let mut devd = Devd { path: path.to_owned(), socket: None };
        devd.socket = devd.connect();
        devd
    }

    fn connect(&self) -> Option<OwnedFd> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).ok()?;
        connect(socket.as_raw_fd(), &UnixAddr::new(&self.path).ok()?).ok()?;
        Some(socket)
    }

    /// Takes all messages that are there; connects where there is no connection.
    fn drain(&mut self) {
        let Some(socket) = &self.socket else {
            self.socket = self.connect();
            return;
        };
        let mut message = [0; LONGEST];
        loop {
            match recv(socket.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => break,
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(_) => break,
            }
        }
        self.socket = self.connect();
    }
}

//! The numbers of netmap's ioctls. FreeBSD and Linux encode the same commands differently, so both encodings are
//! computed everywhere (and compared with the C headers of both), and the one of the target is exported.

use crate::layout::Ioctl;
use crate::request::nmreq_header;

/// The type in which [`libc::ioctl`] takes its request.
#[cfg(target_os = "freebsd")]
pub type IoctlRequest = libc::c_ulong;
/// The type in which [`libc::ioctl`] takes its request.
#[cfg(target_os = "linux")]
pub type IoctlRequest = libc::Ioctl;

/// Hands over an [`nmreq_header`]: every request of API 12 and later.
pub const NIOCCTRL: IoctlRequest = CTRL.of_target();
/// Syncs the transmit rings of a descriptor: sends what was released, and takes back what has been sent. No argument.
pub const NIOCTXSYNC: IoctlRequest = TXSYNC.of_target();
/// Syncs the receive rings of a descriptor: gives back what was released, and takes what has come. No argument.
pub const NIOCRXSYNC: IoctlRequest = RXSYNC.of_target();

const CTRL: Ioctl = Ioctl::both_ways::<nmreq_header>("NIOCCTRL", 151);
const TXSYNC: Ioctl = Ioctl::without_argument("NIOCTXSYNC", 148);
const RXSYNC: Ioctl = Ioctl::without_argument("NIOCRXSYNC", 149);

pub(crate) const IOCTLS: &[Ioctl] = &[CTRL, TXSYNC, RXSYNC];

const _: () = {
    assert!(CTRL.freebsd == 0xc058_6997 && CTRL.linux == 0xc058_6997);
    assert!(TXSYNC.freebsd == 0x2000_6994 && TXSYNC.linux == 0x6994);
    assert!(RXSYNC.freebsd == 0x2000_6995 && RXSYNC.linux == 0x6995);
};

/// An argument is copied in and out; the same bits on both systems.
const IN_AND_OUT: u32 = 0xc000_0000;
/// FreeBSD: an argument is copied in.
const FREEBSD_IN: u32 = 0x8000_0000;
/// Linux: the same.
const LINUX_IN: u32 = 0x4000_0000;
/// There is no argument: FreeBSD's `<sys/ioccom.h>` says so by a bit (`IOC_VOID`), Linux's `<asm-generic/ioctl.h>` by
/// the absence of the others (`_IOC_NONE`).
const FREEBSD_VOID: u32 = 0x2000_0000;
const LINUX_VOID: u32 = 0;

impl Ioctl {
    pub(crate) const fn both_ways<Argument>(name: &'static str, number: u8) -> Self {
        let encoded = encode(IN_AND_OUT, size_of::<Argument>(), number);
        Self { name, freebsd: encoded, linux: encoded }
    }

    pub(crate) const fn inwards<Argument>(name: &'static str, number: u8) -> Self {
        let size = size_of::<Argument>();
        Self { name, freebsd: encode(FREEBSD_IN, size, number), linux: encode(LINUX_IN, size, number) }
    }

    const fn without_argument(name: &'static str, number: u8) -> Self {
        Self { name, freebsd: encode(FREEBSD_VOID, 0, number), linux: encode(LINUX_VOID, 0, number) }
    }

    pub(crate) const fn of_target(&self) -> IoctlRequest {
        (if cfg!(target_os = "freebsd") { self.freebsd } else { self.linux }) as IoctlRequest
    }
}

/// Direction, size of the argument, the group `i` of network interfaces, and the number in the group, as both systems place them.
const fn encode(direction: u32, argument_size: usize, number: u8) -> u32 {
    direction | (argument_size as u32) << 16 | (b'i' as u32) << 8 | number as u32
}

//! Why a netmap port could not be opened, in terms of what to do about it.

use std::io;

use crate::ring::offload::OffloadError;

/// Why a netmap port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum NetmapError {
    /// The name is none that netmap could know.
    #[error("netmap:{name}: not a port name: {why}")]
    Name {
        /// What stood behind `netmap:`.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// `/dev/netmap` may not be opened.
    #[error("/dev/netmap may not be opened by this user: run as root")]
    NotPermitted,
    /// The kernel has no netmap.
    #[error(
        "this kernel has no netmap: /dev/netmap is missing (FreeBSD: a kernel with `device netmap`; in a jail: a devfs rule \
         that shows it)"
    )]
    NoNetmap,
    /// The kernel speaks another version of netmap's API.
    #[error(
        "this kernel's netmap does not take API {}: FreeBSD 14 or later is needed",
        netmap_sys::NETMAP_API
    )]
    Version,
    /// There is no such interface.
    #[error("netmap:{name}: no such interface")]
    NoInterface {
        /// The port.
        name: String,
    },
    /// netmap does not take loopback interfaces.
    #[error("netmap:{name}: a loopback interface cannot be used")]
    Loopback {
        /// The port.
        name: String,
    },
    /// Another program has the port open.
    #[error("netmap:{name}: in use by another netmap program, or attached to a VALE switch")]
    Busy {
        /// The port.
        name: String,
    },
    /// The interface has no driver with netmap in it, and is of a kind that emulation is not safe on.
    #[error(
        "netmap:{name}: it is a {driver} interface, where netmap can only be emulated, and that is known to stall or to \
         panic kernels: use the interface below it, or allow it explicitly"
    )]
    Unsafe {
        /// The port.
        name: String,
        /// The driver's name.
        driver: String,
    },
    /// netmap has no driver for the port, and may not emulate one.
    #[error(
        "netmap:{name}: its driver has no netmap in it and emulation is switched off (dev.netmap.admode)"
    )]
    NotSupported {
        /// The port.
        name: String,
    },
    /// There are receive rings that no transmit ring goes with.
    #[error(
        "netmap:{name}: {receive} receive rings but only {transmit} transmit rings: set the driver's queue counts to be equal"
    )]
    Unpaired {
        /// The port.
        name: String,
        /// Receive rings of the NIC.
        receive: u32,
        /// Transmit rings of the NIC.
        transmit: u32,
    },
    /// netmap's memory is used up.
    #[error("netmap:{name}: netmap's memory is used up: raise dev.netmap.buf_num or dev.netmap.ring_num")]
    NoMemory {
        /// The port.
        name: String,
    },
    /// The kernel would not do as asked, most likely for the MTU.
    #[error(
        "netmap:{name}: netmap refuses this port as it is: its MTU may not fit dev.netmap.buf_size, or its memory region is \
         gone"
    )]
    Refused {
        /// The port.
        name: String,
    },
    /// What the kernel has laid out is not what netmap promises.
    #[error("netmap:{name}: the kernel's rings make no sense: {what}")]
    Layout {
        /// The port.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The interface's offloads could not be cleared.
    #[error(transparent)]
    Offload(#[from] OffloadError),
    /// Any other failure of the system.
    #[error("netmap:{name}: {doing}: {source}")]
    System {
        /// The port.
        name: String,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl NetmapError {
    /// What a failed registration or enquiry says of the port `name`.
    pub(super) fn of_request(name: &str, error: io::Error) -> NetmapError {
        let name = name.to_owned();
        match error.raw_os_error() {
            Some(libc::ENXIO | libc::ENODEV) => NetmapError::NoInterface { name },
            Some(libc::EBUSY) => NetmapError::Busy { name },
            Some(libc::EOPNOTSUPP) => NetmapError::NotSupported { name },
            Some(libc::ENOMEM) => NetmapError::NoMemory { name },
            Some(libc::EINVAL) => NetmapError::Refused { name },
            Some(libc::EPERM | libc::EACCES) => NetmapError::NotPermitted,
            _ => NetmapError::System { name, doing: "netmap's registration", source: error },
        }
    }

    /// What a failed open of the device says.
    pub(super) fn of_open(name: &str, error: io::Error) -> NetmapError {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => NetmapError::NoNetmap,
            Some(libc::EPERM | libc::EACCES) => NetmapError::NotPermitted,
            _ => NetmapError::System { name: name.to_owned(), doing: "opening /dev/netmap", source: error },
        }
    }
}

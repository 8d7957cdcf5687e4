//! What the system knows of a network interface before netmap is asked for it.

use std::ffi::CString;
use std::io;

use crate::ring::offload::Interface;

/// What the system knows of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InterfaceFacts {
    pub(super) index: u32,
    pub(super) loopback: bool,
    pub(super) mac: Option<[u8; 6]>,
    /// The driver's name, without a unit number.
    pub(super) driver: Option<String>,
    /// Does the driver have netmap in it? FreeBSD says so; elsewhere nobody knows.
    pub(super) native: Option<bool>,
}

/// What the system knows of the interface `name`; `None` where there is none.
pub(super) fn interface_facts(name: &str) -> io::Result<Option<InterfaceFacts>> {
    let c_name = CString::new(name)?;
    // SAFETY: a C string; the call only reads it.
    let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    if index == 0 {
        return Ok(None);
    }
    let (loopback, mac) = link_of(&c_name)?;
    let (driver, native) = driver_of(name, index);
    Ok(Some(InterfaceFacts { index, loopback, mac, driver, native }))
}

/// Is the interface a loopback one, and what is its MAC address?
fn link_of(name: &CString) -> io::Result<(bool, Option<[u8; 6]>)> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the call fills `first` with a list that stays ours until it is freed.
    if unsafe { libc::getifaddrs(&mut first) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let (mut loopback, mut mac) = (false, None);
    let mut at = first;
    while !at.is_null() {
        // SAFETY: an entry of the list, which has not been freed yet.
        let entry = unsafe { &*at };
        at = entry.ifa_next;
        // SAFETY: every entry has a name, a C string in the list's memory.
        if unsafe { std::ffi::CStr::from_ptr(entry.ifa_name) } == name.as_c_str() {
            loopback |= entry.ifa_flags & libc::IFF_LOOPBACK as libc::c_uint != 0;
            // SAFETY: an entry's address is null or a socket address of the family that it says.
            mac = mac.or_else(|| unsafe { mac_in(entry.ifa_addr) });
        }
    }
    // SAFETY: the list of the call above, of which nothing is used any more.
    unsafe { libc::freeifaddrs(first) };
    Ok((loopback, mac))
}

/// The MAC address in a link-layer socket address; `None` in any other.
///
/// # Safety
/// `address` is null or points to a complete socket address of the family in it.
#[cfg(target_os = "linux")]
unsafe fn mac_in(address: *const libc::sockaddr) -> Option<[u8; 6]> {
    // SAFETY: the caller's promise; the family tells the rest of the type.
    let link = unsafe {
        if address.is_null() || i32::from((*address).sa_family) != libc::AF_PACKET {
            return None;
        }
        address.cast::<libc::sockaddr_ll>().read_unaligned()
    };
    let mac = link.sll_addr.first_chunk().filter(|_| link.sll_halen == 6)?;
    (*mac != [0; 6]).then_some(*mac)
}

/// As on Linux.
///
/// # Safety
/// `address` is null or points to a complete socket address of the family in it.
#[cfg(target_os = "freebsd")]
unsafe fn mac_in(address: *const libc::sockaddr) -> Option<[u8; 6]> {
    // SAFETY: the caller's promise; the family tells the rest of the type, the length how much of it is there.
    let (name_len, link_len, data) = unsafe {
        if address.is_null() || i32::from((*address).sa_family) != libc::AF_LINK {
            return None;
        }
        let link = address.cast::<libc::sockaddr_dl>();
        let (name_len, link_len) = ((*link).sdl_nlen, (*link).sdl_alen);
        let data = std::mem::offset_of!(libc::sockaddr_dl, sdl_data);
        let len = usize::from((*address).sa_len).saturating_sub(data);
        (name_len, link_len, std::slice::from_raw_parts(address.cast::<u8>().add(data), len))
    };
    let start = usize::from(name_len);
    data.get(start..)?.first_chunk().copied().filter(|_| link_len == 6)
}

/// The driver's name, and whether it has netmap in it.
#[cfg(target_os = "linux")]
fn driver_of(name: &str, _index: u32) -> (Option<String>, Option<bool>) {
    (Interface::open(name).ok().and_then(|interface| interface.driver()), None)
}

/// The driver's name, and whether it has netmap in it.
#[cfg(target_os = "freebsd")]
fn driver_of(name: &str, index: u32) -> (Option<String>, Option<bool>) {
    let capabilities = Interface::open(name).and_then(|interface| interface.capabilities());
    let native = capabilities.ok().map(|(possible, _)| possible & netmap_sys::IFCAP_NETMAP != 0);
    (driver_name(index), native)
}

/// Name and unit of the driver, the unit taken off: a renamed interface keeps them.
#[cfg(target_os = "freebsd")]
fn driver_name(index: u32) -> Option<String> {
    use netmap_sys::{IFDATA_DRIVERNAME, IFMIB_IFDATA, NETLINK_GENERIC};
    let mut mib = [
        libc::CTL_NET,
        libc::PF_LINK,
        NETLINK_GENERIC,
        IFMIB_IFDATA,
        i32::try_from(index).ok()?,
        IFDATA_DRIVERNAME,
    ];
    let mut text = [0u8; 64];
    let mut len = text.len();
    // SAFETY: the mib has as many numbers as said; the kernel writes at most `len` bytes to `text`, which has as many.
    let result = unsafe {
        libc::sysctl(
            mib.as_mut_ptr(),
            mib.len() as libc::c_uint,
            text.as_mut_ptr().cast(),
            &mut len,
            std::ptr::null(),
            0,
        )
    };
    let text = text.get(..len).filter(|_| result == 0)?;
    let name = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).trim_end_matches(|last: char| last.is_ascii_digit()).to_owned();
    (!name.is_empty()).then_some(name)
}

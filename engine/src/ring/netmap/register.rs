//! Requests to netmap: asking about a port, and binding a descriptor to some of its rings.

use std::io;

use bytemuck::Zeroable;
use netmap_sys::{
    NETMAP_API, NETMAP_REQ_OPT_OFFSETS, NETMAP_REQ_PORT_INFO_GET, NETMAP_REQ_REGISTER, NR_EXCLUSIVE,
    nmreq_header, nmreq_opt_offsets, nmreq_option, nmreq_port_info_get, nmreq_register,
};

use super::kernel::Descriptor;
use super::name::PortName;
use crate::ring::HEADROOM;

/// Low bits of a slot's `ptr` that an offset takes; the rest is ours.
const OFFSET_BITS: u32 = 16;
/// The largest offset asked for. The kernel takes it off the length of every receive buffer (2048 bytes leave 1792), and cuts
/// larger ones in transmit slots down to it.
const MAX_OFFSET: u32 = 256;

/// Which rings to bind a descriptor to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rings {
    /// `NR_REG_*`.
    pub(super) mode: u32,
    /// The ring, where the mode is about a single one.
    pub(super) ring: u16,
}

/// What a descriptor has been bound to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registration {
    /// The kernel's answer.
    pub(super) reply: nmreq_register,
    /// The furthest from the start of its buffer that a frame may begin; `None` without offsets.
    pub(super) max_offset: Option<u32>,
}

fn header(request: u16, name: Option<&PortName>) -> nmreq_header {
    nmreq_header {
        nr_version: NETMAP_API,
        nr_reqtype: request,
        nr_name: name.map(PortName::to_field).unwrap_or([0; _]),
        ..Zeroable::zeroed()
    }
}

/// What the kernel says of a port without opening it, or of its memory in general, which it does when it takes our version of
/// the API.
pub(super) fn describe(
    descriptor: &dyn Descriptor,
    name: Option<&PortName>,
) -> io::Result<nmreq_port_info_get> {
    let mut body: nmreq_port_info_get = Zeroable::zeroed();
    let mut header = header(NETMAP_REQ_PORT_INFO_GET, name);
    header.nr_body = (&raw mut body).expose_provenance() as u64;
    // SAFETY: the body is of the request's type and lives until the call has returned; there are no options.
    unsafe { descriptor.control(&mut header) }?;
    Ok(body)
}

/// Binds the descriptor to rings of the port, for ourselves alone, where wanted with room in front of frames. Without that
/// room where the port cannot give it.
pub(super) fn register(
    descriptor: &dyn Descriptor,
    name: &PortName,
    rings: Rings,
    memory_id: u16,
    extra_buffers: u32,
    offsets: bool,
) -> io::Result<Registration> {
    let request = nmreq_register {
        nr_mem_id: memory_id,
        nr_ringid: rings.ring,
        nr_mode: rings.mode,
        nr_extra_bufs: extra_buffers,
        nr_flags: NR_EXCLUSIVE,
        ..Zeroable::zeroed()
    };
    if offsets {
        match register_with_offsets(descriptor, name, request) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            result => return result,
        }
    }
    let mut reply = request;
    let mut header = header(NETMAP_REQ_REGISTER, Some(name));
    header.nr_body = (&raw mut reply).expose_provenance() as u64;
    // SAFETY: the body is of the request's type and lives until the call has returned; there are no options.
    unsafe { descriptor.control(&mut header) }?;
    Ok(Registration { reply, max_offset: None })
}

fn register_with_offsets(
    descriptor: &dyn Descriptor,
    name: &PortName,
    request: nmreq_register,
) -> io::Result<Registration> {
    let mut option = nmreq_opt_offsets {
        nro_opt: nmreq_option { nro_reqtype: NETMAP_REQ_OPT_OFFSETS, ..Zeroable::zeroed() },
        nro_max_offset: MAX_OFFSET.into(),
        nro_initial_offset: HEADROOM.into(),
        nro_offset_bits: OFFSET_BITS,
        ..Zeroable::zeroed()
    };
    let mut reply = request;
    let mut header = header(NETMAP_REQ_REGISTER, Some(name));
    header.nr_body = (&raw mut reply).expose_provenance() as u64;
    header.nr_options = (&raw mut option).expose_provenance() as u64;
    // SAFETY: the body is of the request's type, the only option is complete and ends the chain, and both live until the
    // call has returned.
    unsafe { descriptor.control(&mut header) }?;
    if option.nro_opt.nro_status != 0 {
        return Err(io::Error::from_raw_os_error(option.nro_opt.nro_status as i32));
    }
    let granted = u32::try_from(option.nro_max_offset).unwrap_or(u32::MAX);
    // Not more than was asked for, whatever else the kernel would allow: receive buffers are that much shorter.
    Ok(Registration { reply, max_offset: Some(granted.min(MAX_OFFSET)) })
}

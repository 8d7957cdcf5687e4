//! Prints a C file that compiles only where the C headers agree with this crate on every structure and constant. With
//! `-DSKEW=1` every expectation is wrong, and the compiler must refuse each: that is how the assertions are tested.
//!
//! `cargo run -p netmap-sys --example layout-assertions >assertions.c && cc -c assertions.c`

use std::fmt::Display;

use netmap_sys::NETMAP_DEVICE_NAME;
use netmap_sys::layout::{
    CONSTANTS, Constant, FREEBSD_CONSTANTS, FREEBSD_IOCTLS, FREEBSD_STRUCTS, IOCTLS, LINUX_CONSTANTS,
    LINUX_STRUCTS, STRUCTS, Struct,
};

const OPENING: &str = "\
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <net/if.h>
#include <net/netmap.h>
#include <net/netmap_user.h>
#ifdef __FreeBSD__
#include <net/if_dl.h>
#include <net/if_mib.h>
#include <net/if_types.h>
#include <net/pfkeyv2.h>
#include <net/route.h>
#include <netinet/in.h>
#include <netinet/ip_carp.h>
#include <netipsec/ipsec.h>
#include <sys/sysctl.h>
#else
#include <linux/ethtool.h>
#include <linux/xfrm.h>
#endif

#ifndef SKEW
#define SKEW 0
#endif
#define EXPECT(what, actual, expected) _Static_assert((actual) == (expected) + SKEW, what)
#ifdef __FreeBSD__
#define FREEBSD_OR_LINUX(freebsd, linux) freebsd
#else
#define FREEBSD_OR_LINUX(freebsd, linux) linux
#endif
";

fn main() {
    println!("{OPENING}");
    STRUCTS.iter().for_each(print_struct);
    for constant in CONSTANTS.iter().copied().flatten() {
        expect(constant.name, constant.name, format_args!("{:#x}", constant.value));
    }
    print_device_name();
    for ioctl in IOCTLS {
        let expected = format_args!("FREEBSD_OR_LINUX({:#x}UL, {:#x}UL)", ioctl.freebsd, ioctl.linux);
        expect(ioctl.name, ioctl.name, expected);
    }
    println!("#ifdef __FreeBSD__");
    print_part(FREEBSD_STRUCTS, FREEBSD_CONSTANTS);
    for ioctl in FREEBSD_IOCTLS.iter().copied().flatten() {
        expect(ioctl.name, ioctl.name, ioctl.freebsd);
    }
    println!("#endif");
    println!("#ifdef __linux__");
    print_part(LINUX_STRUCTS, LINUX_CONSTANTS);
    println!("#endif");
}

/// What only one of the systems has.
fn print_part(structs: &[Struct], constants: &[&[Constant]]) {
    structs.iter().for_each(print_struct);
    for constant in constants.iter().copied().flatten() {
        expect(constant.name, constant.name, format_args!("{:#x}", constant.value));
    }
}

fn print_struct(layout: &Struct) {
    let name = layout.name;
    expect(format_args!("size of {name}"), format_args!("sizeof(struct {name})"), layout.size);
    expect(format_args!("alignment of {name}"), format_args!("_Alignof(struct {name})"), layout.align);
    for field in layout.fields {
        let path = format!("{name}.{}", field.name);
        let offset = format!("offsetof(struct {name}, {})", field.name);
        let size = format!("sizeof(((struct {name} *)0)->{})", field.name);
        expect(format_args!("offset of {path}"), offset, field.offset);
        expect(format_args!("size of {path}"), size, field.size);
    }
}

fn print_device_name() {
    let comparison = format!("__builtin_strcmp(NETMAP_DEVICE_NAME, {NETMAP_DEVICE_NAME:?})");
    expect("NETMAP_DEVICE_NAME", comparison, 0);
}

fn expect(what: impl Display, actual: impl Display, expected: impl Display) {
    println!("EXPECT(\"{what}\", {actual}, {expected});");
}

//! A plugin for charon, strongSwan's daemon: it stands where a kernel's IPsec would, and hands every security association (SA)
//! to Culvert. It is for kernels that have no ESP; elsewhere Culvert follows what charon installs in the kernel.
//!
//! - [`abi`]: the few structures of strongSwan that it touches, and which versions they are those of.
//! - [`kernel`]: the methods that charon calls.
//! - [`engine`]: the connection to Culvert, and what it has to be told again when it has been away.
//! - [`record`]: SAs as lines of text, which is what goes over the connection.
//!
//! charon loads `libstrongswan-culvert.so` and calls [`culvert_plugin_create`]. On a strongSwan whose structures it does not
//! know, the plugin says so and declines, and charon goes on without it.
#![allow(unsafe_code, reason = "charon and the plugin call each other through C")]

pub mod abi;
mod engine;
mod kernel;
pub mod record;

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

/// The entry that charon calls once. Returns null where the plugin cannot serve this strongSwan.
#[unsafe(no_mangle)]
pub extern "C" fn culvert_plugin_create() -> *mut abi::Plugin {
    if let Err(why) = abi::is_known() {
        eprintln!("culvert plugin: {why}; not loaded");
        return ptr::null_mut();
    }
    let Some(register) = abi::symbol(c"kernel_ipsec_register") else {
        eprintln!("culvert plugin: this is not charon (no kernel_ipsec_register); not loaded");
        return ptr::null_mut();
    };
    engine::start();
    let features = Box::new([
        abi::Feature::callback(register, kernel::create as *mut c_void),
        abi::Feature::provide_custom(c"kernel-ipsec".as_ptr()),
    ]);
    let plugin = Box::new(Registered {
        plugin: abi::Plugin { get_name, get_features, reload, destroy },
        features: Box::into_raw(features),
    });
    Box::into_raw(plugin).cast()
}

/// What the plugin keeps beside the methods that charon sees.
#[repr(C)]
struct Registered {
    plugin: abi::Plugin,
    features: *mut [abi::Feature; 2],
}

extern "C" fn get_name(_this: *mut abi::Plugin) -> *const c_char {
    c"culvert".as_ptr()
}

extern "C" fn get_features(this: *mut abi::Plugin, features: *mut *mut abi::Feature) -> c_int {
    // SAFETY: charon passes what `culvert_plugin_create` returned, a `Registered`, and a place to write a pointer to.
    unsafe {
        let registered: *mut Registered = this.cast();
        *features = (*registered).features.cast();
    }
    2
}

extern "C" fn reload(_this: *mut abi::Plugin) -> bool {
    false
}

extern "C" fn destroy(this: *mut abi::Plugin) {
    // SAFETY: charon destroys the plugin once, after it has unregistered all features, and passes what
    // `culvert_plugin_create` made of two boxes.
    unsafe {
        let registered: Box<Registered> = Box::from_raw(this.cast());
        drop(Box::from_raw(registered.features));
    }
}

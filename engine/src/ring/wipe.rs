//! Memory for keys: wiped when it is given back.
//!
//! `ring`'s key types hold expanded keys and do not clear them. Their bytes are overwritten here, after the value itself
//! has been dropped, with writes that the compiler may not leave out.

use std::mem::MaybeUninit;
use std::ops::Deref;
use std::sync::atomic::{Ordering, compiler_fence};

/// A value whose memory is overwritten with zeros when it is dropped. Its `Debug` shows nothing of it. It lies in place, so
/// that who has the address of what holds it can ask the processor for it: let that live in an `Arc` or a box, and not move.
pub struct Wiped<T>(MaybeUninit<T>);

impl<T> Wiped<T> {
    /// Takes charge of the value.
    pub fn new(value: T) -> Wiped<T> {
        Wiped(MaybeUninit::new(value))
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: initialised in `new`, and only `drop` ends that.
        unsafe { self.0.assume_init_ref() }
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, dropped once, here.
        unsafe { self.0.assume_init_drop() };
        let bytes = self.0.as_mut_ptr().cast::<u8>();
        for nth in 0..size_of::<T>() {
            // SAFETY: inside the value, whose memory is still ours; volatile, so that the writes happen.
            unsafe { bytes.add(nth).write_volatile(0) };
        }
        compiler_fence(Ordering::SeqCst);
    }
}

impl<T> std::fmt::Debug for Wiped<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<hidden>")
    }
}

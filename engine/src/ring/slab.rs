//! The allocator of a program whose packets meet thousands of tunnels: what each of them looks at lies close together, in
//! huge pages. In pages of 4 KiB it would be scattered over more of them than the processor remembers, and each packet would
//! wait for several to be found.
//!
//! What packets look at is known by its alignment to cache lines: security associations with their keys, replay windows,
//! counters, tables.
//! 1. Values of up to [`LARGEST`] bytes lie side by side in blocks of a huge page's size. A block is asked to become one once
//!    half of it is in use: who has few tunnels has few pages.
//! 2. Values of [`OWN_MAPPING`] bytes and more have a mapping of their own that starts where a huge page does.
//! 3. All else is the system's allocator's.
//!
//! Blocks are not given back to the system, but their places are used again: memory is bounded by the most that was in use
//! at once. Where there are no huge pages, all is the same in small ones.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{NonNull, null_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pages::{self, HUGE};

/// Bytes in a cache line; places are whole lines.
const LINE: usize = 64;
/// The longest values that share blocks, in bytes.
const LARGEST: usize = 16 << 10;
/// The shortest values with a mapping of their own, in bytes. It takes a whole huge page.
const OWN_MAPPING: usize = HUGE / 4;

/// The allocator. See the module page.
#[derive(Debug, Default, Clone, Copy)]
pub struct HugePages;

/// Where a value lies, by its layout alone.
enum Home {
    Block {
        /// Lines that it takes.
        lines: usize,
    },
    Mapping,
    System,
}

impl Home {
    fn of(layout: Layout) -> Home {
        match (layout.align(), layout.size()) {
            (32 | LINE, 1..=LARGEST) => Home::Block { lines: layout.size().div_ceil(LINE) },
            (16..=4096, OWN_MAPPING..) => Home::Mapping,
            _ => Home::System,
        }
    }
}

/// A place that is free again, and the next one of its size.
struct Free {
    next: Option<NonNull<Free>>,
}

struct Blocks {
    /// Places that are free again, by the lines that they have.
    free: [Option<NonNull<Free>>; LARGEST / LINE + 1],
    /// The block that is being filled, and the bytes of it that were given out.
    block: Option<NonNull<u8>>,
    used: usize,
}

// SAFETY: the pointers are to memory that this owns alone.
unsafe impl Send for Blocks {}

static BLOCKS: Mutex<Blocks> = Mutex::new(Blocks { free: [None; LARGEST / LINE + 1], block: None, used: 0 });

/// Nothing in here can panic, so what is behind the lock is whole.
fn blocks() -> MutexGuard<'static, Blocks> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Blocks {
    /// A place, and the block that it lies in where half of that is in use with it.
    fn take(&mut self, lines: usize) -> Option<(NonNull<u8>, Option<NonNull<u8>>)> {
        let free = self.free.get_mut(lines)?;
        if let Some(place) = *free {
            // SAFETY: a place in this list is of ours, nobody's, and begins with a `Free` that `give` wrote.
            *free = unsafe { place.read() }.next;
            return Some((place.cast(), None));
        }
        let bytes = lines * LINE;
        let block = match self.block {
            Some(block) if self.used + bytes <= HUGE => block,
            _ => {
                // What is left of the old one is less than a value of this size: rarely much.
                (self.block, self.used) = (Some(pages::map_aligned(HUGE)?), 0);
                self.block?
            }
        };
        let before = self.used;
        self.used += bytes;
        let half = before < HUGE / 2 && self.used >= HUGE / 2;
        // SAFETY: inside the block, as was asked above.
        Some((unsafe { block.add(before) }, half.then_some(block)))
    }

    /// # Safety
    /// `place` came from `take` with as many lines, and nobody uses it any more.
    unsafe fn give(&mut self, place: NonNull<u8>, lines: usize) {
        if let Some(free) = self.free.get_mut(lines) {
            let place = place.cast::<Free>();
            // SAFETY: a line at least, aligned to a line, and ours again.
            unsafe { place.write(Free { next: *free }) };
            *free = Some(place);
        }
    }
}

/// Bytes of the mapping for a value of `size`.
fn mapped(size: usize) -> usize {
    size.next_multiple_of(HUGE)
}

fn pointer(memory: Option<NonNull<u8>>) -> *mut u8 {
    memory.map_or(null_mut(), NonNull::as_ptr)
}

// SAFETY: places and mappings are as large and as aligned as asked for, and given to one user at a time; where one lies follows
// from its layout, so each goes back where it came from.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Home::of(layout) {
            Home::Block { lines } => {
                let taken = blocks().take(lines);
                // Nobody waits for this.
                if let Some((_, Some(block))) = taken {
                    pages::advise(block, HUGE);
                }
                pointer(taken.map(|(place, _)| place))
            }
            Home::Mapping => {
                let bytes = mapped(layout.size());
                let memory = pages::map_aligned(bytes);
                if let Some(memory) = memory {
                    // The last huge page only where a good part of it will be in use.
                    let last =
                        if layout.size() % HUGE < OWN_MAPPING { layout.size() / HUGE * HUGE } else { bytes };
                    pages::advise(memory, last);
                }
                pointer(memory)
            }
            // SAFETY: the caller's promise.
            Home::System => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let Some(place) = NonNull::new(memory) else { return };
        match Home::of(layout) {
            // SAFETY: the layout is that of the allocation, by the caller's promise, so it was taken with as many lines.
            Home::Block { lines } => unsafe { blocks().give(place, lines) },
            // SAFETY: likewise mapped with this length.
            Home::Mapping => unsafe { pages::unmap(place, mapped(layout.size())) },
            // SAFETY: the caller's promise.
            Home::System => unsafe { System.dealloc(memory, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let Home::System = Home::of(layout) {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise.
        let memory = unsafe { self.alloc(layout) };
        // Mappings are zero.
        if let (Home::Block { .. }, false) = (Home::of(layout), memory.is_null()) {
            // SAFETY: as large as asked for.
            unsafe { memory.write_bytes(0, layout.size()) };
        }
        memory
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that it is a size that layouts can have.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if let (Home::System, Home::System) = (Home::of(layout), Home::of(wanted)) {
            // SAFETY: the caller's promise.
            return unsafe { System.realloc(memory, layout, size) };
        }
        // SAFETY: the caller's promise.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both are as large as that, and the new one is nobody else's.
            unsafe { memory.copy_to_nonoverlapping(new, layout.size().min(size)) };
            // SAFETY: the caller's promise; it will not be used any more.
            unsafe { self.dealloc(memory, layout) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("a layout")
    }

    /// Values of all sizes and alignments lie apart from each other, hold what is put in, also as they grow and shrink from one
    /// home to another, and come zeroed where that is asked for, whatever lay there before.
    #[test]
    fn values_lie_apart_and_keep_what_they_hold() {
        let sizes =
            [1, 64, 65, 700, 768, LARGEST - 1, LARGEST, LARGEST + 1, OWN_MAPPING - 1, OWN_MAPPING, HUGE + 1];
        let mut held = Vec::new();
        let mut seed = 1_u32;
        for _ in 0..400 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let pick = |n: usize| (seed >> 8) as usize % n;
            let (size, align) = (sizes[pick(sizes.len())], 1 << (pick(49) % 8));
            if held.len() > 30 || seed >> 30 == 0 && !held.is_empty() {
                let (memory, old, mark): (*mut u8, Layout, u8) = held.swap_remove(pick(held.len()));
                // SAFETY: allocated below with that layout.
                unsafe {
                    let bytes = std::slice::from_raw_parts(memory, old.size());
                    assert!(bytes == vec![mark; bytes.len()], "{old:?}");
                    let new = HugePages.realloc(memory, old, size);
                    let new_layout = layout(size, old.align());
                    let kept = std::slice::from_raw_parts(new, old.size().min(size));
                    assert!(kept == vec![mark; kept.len()], "{old:?} to {size}");
                    assert_eq!(new.addr() % old.align(), 0);
                    HugePages.dealloc(new, new_layout);
                }
                continue;
            }
            let (layout, mark) = (layout(size, align), seed as u8 | 1);
            // SAFETY: of a size that is not 0; written whole.
            unsafe {
                let memory = HugePages.alloc_zeroed(layout);
                assert_eq!(memory.addr() % align, 0);
                assert!(std::slice::from_raw_parts(memory, size) == vec![0; size], "{layout:?}");
                memory.write_bytes(mark, size);
                held.push((memory, layout, mark));
            }
        }
        for (memory, layout, mark) in held {
            // SAFETY: as above.
            unsafe {
                assert!(std::slice::from_raw_parts(memory, layout.size()) == vec![mark; layout.size()]);
                HugePages.dealloc(memory, layout);
            }
        }
    }

    /// What was given back is what is given out next: keys that come and go take no more memory than were there at once.
    #[test]
    fn places_are_used_again() {
        // A size that no other test takes.
        let layout = layout(LARGEST - 5 * LINE, LINE);
        // SAFETY: of a size that is not 0; given back with the same layout, once each.
        unsafe {
            let both = [HugePages.alloc(layout), HugePages.alloc(layout)];
            both.iter().for_each(|memory| HugePages.dealloc(*memory, layout));
            for _ in 0..1000 {
                let again = [HugePages.alloc(layout), HugePages.alloc(layout)];
                assert!(again.iter().all(|memory| both.contains(memory)) && again[0] != again[1]);
                again.iter().for_each(|memory| HugePages.dealloc(*memory, layout));
            }
        }
    }
}

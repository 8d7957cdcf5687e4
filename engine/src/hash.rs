//! Exact-match tables of the packet path: SAs by SPI, tunnels by addresses and key. A table is built once and
//! never changed afterwards; the control plane publishes a new one whole.
//!
//! A lookup touches one cache line nearly always, because entries stand in the slots themselves:
//! 1. the upper bits of the key's hash pick the first slot, of at least twice as many as there are entries;
//! 2. from there, slot after slot: the key is the answer, an empty slot means there is none.
//!
//! Keys are put in by the operator and by the key exchange of authenticated peers, never by a packet, so
//! nobody can choose them to collide: the hash is one multiplication for each 64 or 128 bits, without a
//! secret.

use std::error::Error;
use std::fmt;

/// A key of a [`FlatMap`].
pub trait FastHash {
    /// A type that has the alignment that slots with this key take. With [`Align32`] and [`Align64`] for slots of up to so
    /// many bytes, no slot straddles two cache lines.
    type Align;

    /// 64 bits of which the *upper* ones are well mixed.
    fn fast_hash(&self) -> u64;
}

/// Alignment for slots of up to 32 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct Align32;

/// Alignment for slots of a whole cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Align64;

/// An odd number near 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, 6.4):
/// consecutive keys land far apart.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// The first 64 bits behind the point of pi: any number with no pattern to it does.
const PI: u64 = 0x243f_6a88_85a3_08d3;

/// Both words mixed: the 128-bit product, folded. The constants keep the product from vanishing where a word
/// is 0.
#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ GOLDEN) * u128::from(b ^ PI);
    (product as u64) ^ ((product >> 64) as u64)
}

/// An optional GRE key as a word. No key hashes as key 0; comparing the keys tells them apart.
#[inline]
fn key_word(key: Option<u32>) -> u64 {
    key.map_or(0, u64::from)
}

/// An SPI.
impl FastHash for u32 {
    type Align = Align64;

    #[inline]
    fn fast_hash(&self) -> u64 {
        u64::from(*self).wrapping_mul(GOLDEN)
    }
}

impl FastHash for u64 {
    type Align = Align32;

    #[inline]
    fn fast_hash(&self) -> u64 {
        fold(*self, 0)
    }
}

impl FastHash for u128 {
    type Align = Align64;

    #[inline]
    fn fast_hash(&self) -> u64 {
        fold(*self as u64, (*self >> 64) as u64)
    }
}

/// A GRE tunnel over IPv4: local address, remote address, key.
impl FastHash for (u32, u32, Option<u32>) {
    type Align = Align32;

    #[inline]
    fn fast_hash(&self) -> u64 {
        let (local, remote, key) = *self;
        fold(u64::from(local) << 32 | u64::from(remote), key_word(key))
    }
}

/// A GRE tunnel over IPv6: local address, remote address, key.
impl FastHash for (u128, u128, Option<u32>) {
    type Align = Align64;

    #[inline]
    fn fast_hash(&self) -> u64 {
        let (local, remote, key) = self;
        // Local first and hashed once more than remote: a tunnel and its reverse do not collide.
        fold(fold(local.fast_hash(), remote.fast_hash()), key_word(*key))
    }
}

/// One place of a [`FlatMap`]: empty, or a key and its value. Opaque; it is seen only as something to
/// prefetch.
pub struct Slot<K: FastHash, V> {
    _align: [K::Align; 0],
    entry: Option<(K, V)>,
}

impl<K: FastHash, V> Slot<K, V> {
    const EMPTY: Self = Self { _align: [], entry: None };
}

/// The same key came twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplicateKey<K>(pub K);

impl<K: fmt::Debug> fmt::Display for DuplicateKey<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "two entries with key {:?}", self.0)
    }
}

impl<K: fmt::Debug> Error for DuplicateKey<K> {}

/// An immutable open-addressing hash table.
pub struct FlatMap<K: FastHash, V> {
    /// A power of two of slots where a search can start, then a tail for entries pushed over their end: so a
    /// search goes straight on and never wraps around. It ends at an empty slot or behind the last.
    slots: Box<[Slot<K, V>]>,
    /// The hash shifted by this is the first slot.
    shift: u32,
}

impl<K: Copy + Eq + FastHash, V> FlatMap<K, V> {
    /// The table of these entries.
    ///
    /// # Errors
    /// A key comes twice; the error has it.
    pub fn build(entries: impl IntoIterator<Item = (K, V)>) -> Result<Self, DuplicateKey<K>> {
        let entries: Vec<(K, V)> = entries.into_iter().collect();
        // Two at least, so that the shift stays below 64.
        let starts = entries.len().max(1).saturating_mul(2).next_power_of_two();
        let shift = u64::BITS - starts.trailing_zeros();
        let mut slots = Vec::new();
        slots.resize_with(starts, || Slot::EMPTY);
        for (key, value) in entries {
            place(&mut slots, start(&key, shift), key, value)?;
        }
        Ok(Self { slots: slots.into_boxed_slice(), shift })
    }

    /// The value of `key`.
    #[inline(always)] // a call would hand the key over in memory
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        Some(self.find(key)?.1)
    }

    /// The place and the value of `key`.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, key: &K) -> Option<(u32, &V)> {
        let start = start(key, self.shift);
        for (place, slot) in (start..).zip(self.slots.get(start..)?) {
            match &slot.entry {
                Some((found, value)) if found == key => return Some((place as u32, value)),
                Some(_) => {}
                None => return None,
            }
        }
        None
    }

    /// The value at a place that [`FlatMap::find`] gave.
    #[inline]
    #[must_use]
    pub fn at(&self, place: u32) -> Option<&V> {
        self.slots.get(place as usize)?.entry.as_ref().map(|(_, value)| value)
    }

    /// All of it, to be laid out in memory.
    #[must_use]
    pub fn slots(&self) -> &[Slot<K, V>] {
        &self.slots
    }

    /// The slot that `get` looks at first, to be prefetched. There always is one.
    #[inline]
    #[must_use]
    pub fn slot_hint(&self, key: &K) -> Option<&Slot<K, V>> {
        self.slots.get(start(key, self.shift))
    }
}

/// An empty table.
impl<K: FastHash, V> Default for FlatMap<K, V> {
    fn default() -> Self {
        Self { slots: Box::new([Slot::EMPTY, Slot::EMPTY]), shift: u64::BITS - 1 }
    }
}

/// Where the search for `key` starts.
#[inline]
fn start<K: FastHash>(key: &K, shift: u32) -> usize {
    (key.fast_hash() >> shift) as usize
}

/// Puts an entry into the first empty slot from `start` on, or behind the last.
fn place<K: Eq + FastHash, V>(
    slots: &mut Vec<Slot<K, V>>,
    start: usize,
    key: K,
    value: V,
) -> Result<(), DuplicateKey<K>> {
    for slot in slots.iter_mut().skip(start) {
        match &slot.entry {
            Some((found, _)) if *found == key => return Err(DuplicateKey(key)),
            Some(_) => {}
            None => {
                slot.entry = Some((key, value));
                return Ok(());
            }
        }
    }
    slots.push(Slot { _align: [], entry: Some((key, value)) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::fmt::Debug;
    use std::hash::Hash;

    /// How many slots a search for `key` looks at.
    fn probes<K: Copy + Eq + FastHash, V>(map: &FlatMap<K, V>, key: K) -> usize {
        let slots = &map.slots[start(&key, map.shift)..];
        1 + slots.iter().position(|slot| slot.entry.as_ref().is_none_or(|(found, _)| *found == key)).unwrap()
    }

    fn mean_probes<K: Copy + Eq + FastHash>(keys: impl Iterator<Item = K> + Clone) -> f64 {
        let Ok(map) = FlatMap::build(keys.clone().map(|key| (key, 0_u32))) else { panic!("keys are unique") };
        let (sum, count) = keys.fold((0, 0), |(sum, count), key| (sum + probes(&map, key), count + 1));
        sum as f64 / f64::from(count)
    }

    #[test]
    fn an_empty_table_has_nothing() {
        let built = FlatMap::<u32, u32>::build([]).unwrap_or_default();
        for key in [0, 1, 1 << 31, u32::MAX] {
            assert_eq!(built.get(&key), None);
            assert_eq!(FlatMap::<u32, u32>::default().get(&key), None);
            assert!(built.slot_hint(&key).is_some());
        }
    }

    #[test]
    fn a_duplicate_is_reported_with_its_key() {
        let error = FlatMap::build([(7_u32, 'a'), (8, 'b'), (7, 'c')]).err();
        assert_eq!(error, Some(DuplicateKey(7)));
        assert_eq!(DuplicateKey(7).to_string(), "two entries with key 7");
    }

    #[test]
    fn no_key_and_key_zero_are_different_tunnels() {
        let map = FlatMap::build([((1_u32, 2_u32, None), 'n'), ((1, 2, Some(0)), '0')]).unwrap_or_default();
        assert_eq!(map.get(&(1, 2, None)), Some(&'n'));
        assert_eq!(map.get(&(1, 2, Some(0))), Some(&'0'));
        assert_eq!(map.get(&(1, 2, Some(1))), None);
        assert_eq!(map.get(&(2, 1, None)), None);
    }

    #[test]
    fn entries_pushed_over_the_end_are_found() {
        /// All start at the last slot.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        struct Last(u32);
        impl FastHash for Last {
            type Align = Align32;
            fn fast_hash(&self) -> u64 {
                u64::MAX
            }
        }
        let map = FlatMap::build((0..10).map(|key| (Last(key), key))).unwrap_or_default();
        for key in 0..10 {
            assert_eq!(map.get(&Last(key)), Some(&key));
        }
        assert_eq!(map.get(&Last(10)), None);
        assert_eq!(
            FlatMap::build([(Last(1), 0), (Last(2), 0), (Last(2), 0)]).err(),
            Some(DuplicateKey(Last(2)))
        );
    }

    #[test]
    fn no_slot_straddles_two_cache_lines() {
        assert_eq!(size_of::<Slot<u32, crate::tables::Inbound>>(), 64);
        assert_eq!(size_of::<Slot<u64, u32>>(), 32);
        assert_eq!(size_of::<Slot<u128, u32>>(), 64);
        assert_eq!(size_of::<Slot<(u32, u32, Option<u32>), u32>>(), 32);
        assert_eq!(size_of::<Slot<(u128, u128, Option<u32>), u32>>(), 64);
        assert_eq!(align_of::<Slot<(u128, u128, Option<u32>), u32>>(), 64);
    }

    /// At load 1/2, the highest, a random hash costs 1.5 looks on average (Knuth 6.4).
    #[test]
    fn keys_as_operators_choose_them_spread() {
        let n = 10_000_u32;
        let net = 0x2001_0db8_u128 << 96;
        assert!(mean_probes(1..=n) < 1.5);
        assert!(mean_probes((1..=n).map(|i| i << 12)) < 1.5);
        assert!(mean_probes((1..=n).map(|i| u64::from(i) << 32)) < 1.5);
        assert!(mean_probes((1..=n).map(|i| net | u128::from(i) << 64)) < 1.5);
        assert!(mean_probes((1..=n).map(|i| (0xc000_0201, 0x0a00_0000 + i, None))) < 1.5);
        assert!(mean_probes((1..=n).map(|i| (0xc000_0201, 0x0a00_0000 + (i << 8), Some(i)))) < 1.5);
        assert!(mean_probes((1..=n).map(|i| (0xc000_0201_u32, 0xc000_0202_u32, Some(i)))) < 1.5);
        assert!(mean_probes((1..=n).map(|i| (0x0a00_0000 + i, 0xc000_0201, None))) < 1.5);
        assert!(mean_probes((1..=n).map(|i| (net | 1, net | u128::from(i), None))) < 1.5);
        assert!(mean_probes((1..=n).map(|i| (net | u128::from(i), net | 1, None))) < 1.5);
        assert!(mean_probes((1..=n).map(|i| (net | 1, net | 2, Some(i)))) < 1.5);
        assert!(mean_probes((1..=n).map(|i| (net | 1, net | u128::from(i) << 80, Some(7)))) < 1.5);
    }

    fn agrees<K: Copy + Eq + Hash + Debug + FastHash>(
        entries: &[(K, u32)],
        others: &[K],
    ) -> Result<(), TestCaseError> {
        let mut reference = HashMap::new();
        let duplicate = entries.iter().find(|(key, value)| reference.insert(*key, *value).is_some());
        match FlatMap::build(entries.iter().copied()) {
            Err(error) => prop_assert_eq!(Some(error.0), duplicate.map(|(key, _)| *key)),
            Ok(map) => {
                prop_assert!(duplicate.is_none());
                for key in entries.iter().map(|(key, _)| key).chain(others) {
                    prop_assert_eq!(map.get(key), reference.get(key));
                    prop_assert_eq!(map.find(key).and_then(|(place, _)| map.at(place)), reference.get(key));
                }
            }
        }
        Ok(())
    }

    /// Small numbers, which collide now and then, and any numbers.
    fn word() -> impl Strategy<Value = u32> {
        prop_oneof![0..3000_u32, any::<u32>()]
    }

    fn wide() -> impl Strategy<Value = u128> {
        prop_oneof![0..4_u128, any::<u128>()]
    }

    proptest! {
        #[test]
        fn spis_agree_with_a_hash_map(
            entries in prop::collection::vec((word(), any::<u32>()), 0..100),
            others in prop::collection::vec(word(), 50),
        ) {
            agrees(&entries, &others)?;
        }

        #[test]
        fn words_agree_with_a_hash_map(entries in prop::collection::vec((any::<u64>(), any::<u32>()), 0..100)) {
            agrees(&entries, &[0, 1, GOLDEN, PI])?;
        }

        #[test]
        fn wide_words_agree_with_a_hash_map(entries in prop::collection::vec((wide(), any::<u32>()), 0..100)) {
            agrees(&entries, &[0, 1, 2, 3])?;
        }

        #[test]
        fn ipv4_tunnels_agree_with_a_hash_map(
            entries in prop::collection::vec(((0..4_u32, word(), prop::option::of(0..3_u32)), any::<u32>()), 0..60),
            others in prop::collection::vec((0..4_u32, word(), prop::option::of(0..3_u32)), 50),
        ) {
            agrees(&entries, &others)?;
        }

        #[test]
        fn ipv6_tunnels_agree_with_a_hash_map(
            entries in prop::collection::vec(((wide(), wide(), prop::option::of(any::<u32>())), any::<u32>()), 0..60),
            others in prop::collection::vec((wide(), wide(), prop::option::of(any::<u32>())), 50),
        ) {
            agrees(&entries, &others)?;
        }
    }
}

//! The cipher, called by the batch: lists of jobs, each sealed or opened in place. This file chooses the library (`ring`);
//! one that works on several packets at once could take its place without the path knowing.

use ring::aead;

use super::{ICV_LEN, IV_LEN};
use crate::ring::Wiped;

/// An AEAD suite for ESP, with a 16-byte ICV and a 4-byte salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-128-GCM (RFC 4106).
    Aes128Gcm16,
    /// AES-256-GCM (RFC 4106).
    Aes256Gcm16,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
}

/// Bytes of salt behind the cipher key in a suite's keying material (RFC 4106 section 8.1, RFC 7634 section 2).
pub const SALT_LEN: usize = 4;

impl Suite {
    /// All suites, in the order of preference of the configuration's default.
    pub const ALL: [Suite; 3] = [Suite::Aes128Gcm16, Suite::Aes256Gcm16, Suite::ChaCha20Poly1305];

    /// The name that configurations and reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Suite::Aes128Gcm16 => "aes128gcm16",
            Suite::Aes256Gcm16 => "aes256gcm16",
            Suite::ChaCha20Poly1305 => "chacha20poly1305",
        }
    }

    /// Bytes of keying material: the cipher key, then the salt.
    pub fn material_len(self) -> usize {
        self.algorithm().key_len() + SALT_LEN
    }

    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Suite::Aes128Gcm16 => &aead::AES_128_GCM,
            Suite::Aes256Gcm16 => &aead::AES_256_GCM,
            Suite::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

/// Keying material of the wrong length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} wants {wanted} bytes of key and salt, not {found}", suite.name())]
pub struct KeyError {
    /// The suite the key was for.
    pub suite: Suite,
    /// Bytes that it takes: the cipher key and 4 bytes of salt.
    pub wanted: usize,
    /// Bytes that were given.
    pub found: usize,
}

/// Cache lines of an expanded key that packets of up to a kilobyte read.
const KEY_LINES: usize = 12;
/// How many jobs ahead keys are asked for: a job takes longer than the memory does.
const AHEAD: usize = 3;

/// Walks through the jobs, the keys of those to come on their way.
#[inline]
fn each<J>(jobs: &mut [J], key: impl Fn(&J) -> &Key, mut work: impl FnMut(&mut J)) {
    for job in jobs.iter().take(AHEAD) {
        key(job).prefetch();
    }
    let mut rest = jobs;
    while let Some((job, following)) = rest.split_first_mut() {
        // In a row of jobs with one key, it is here already.
        if let (Some(ahead), Some(before)) = (following.get(AHEAD - 1), following.get(AHEAD - 2))
            && !std::ptr::eq(key(ahead), key(before))
        {
            key(ahead).prefetch();
        }
        work(job);
        rest = following;
    }
}

/// An expanded key with its salt, wiped when dropped, and never shown.
#[derive(Debug)]
pub struct Key {
    inner: Wiped<Expanded>,
}

#[repr(C)]
struct Expanded {
    salt: [u8; SALT_LEN],
    key: aead::LessSafeKey,
}

impl Key {
    /// Expands `material`, the cipher key followed by the salt.
    ///
    /// # Errors
    /// [`KeyError`] when the length is not the suite's.
    pub fn new(suite: Suite, material: &[u8]) -> Result<Key, KeyError> {
        let wrong = KeyError { suite, wanted: suite.material_len(), found: material.len() };
        let (key, salt) = material.split_last_chunk::<SALT_LEN>().ok_or(wrong)?;
        let key = aead::UnboundKey::new(suite.algorithm(), key).map_err(|_| wrong)?;
        Ok(Key { inner: Wiped::new(Expanded { salt: *salt, key: aead::LessSafeKey::new(key) }) })
    }

    /// The suite that it is for.
    pub fn suite(&self) -> Suite {
        let algorithm = self.inner.key.algorithm();
        let found = Suite::ALL.into_iter().find(|suite| suite.algorithm() == algorithm);
        // A key is made of one of them.
        found.unwrap_or(Suite::Aes128Gcm16)
    }

    /// Asks the processor for the round keys and the powers of the hash key.
    #[inline]
    fn prefetch(&self) {
        crate::ring::prefetch_many(&self.inner, KEY_LINES);
    }

    #[inline]
    fn nonce(&self, iv: [u8; IV_LEN]) -> aead::Nonce {
        let [s0, s1, s2, s3] = self.inner.salt;
        let [i0, i1, i2, i3, i4, i5, i6, i7] = iv;
        aead::Nonce::assume_unique_for_key([s0, s1, s2, s3, i0, i1, i2, i3, i4, i5, i6, i7])
    }
}

/// What the ICV protects beside the ciphertext: SPI and sequence number, 12 bytes with ESN (RFC 4106 section 5).
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))] // moved as one word: pieces would have to wait for each other
pub struct Aad {
    bytes: [u8; 12],
    len: u32,
}

impl Aad {
    /// `spi` and `sequence` as ESP orders them; with `esn` all 64 bits of the number, else the low 32.
    #[inline]
    pub fn new(spi: u32, sequence: u64, esn: bool) -> Aad {
        let [s0, s1, s2, s3] = spi.to_be_bytes();
        let [h0, h1, h2, h3, l0, l1, l2, l3] = sequence.to_be_bytes();
        if esn {
            Aad { bytes: [s0, s1, s2, s3, h0, h1, h2, h3, l0, l1, l2, l3], len: 12 }
        } else {
            Aad { bytes: [s0, s1, s2, s3, l0, l1, l2, l3, 0, 0, 0, 0], len: 8 }
        }
    }
}

impl AsRef<[u8]> for Aad {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len as usize).unwrap_or(&self.bytes)
    }
}

/// One packet to be sealed in place.
pub struct SealJob<'a> {
    /// The outbound SA's key.
    pub key: &'a Key,
    /// The packet's IV, never used before with this key.
    pub iv: [u8; IV_LEN],
    /// What is authenticated beside the text.
    pub aad: Aad,
    /// The padded plaintext with its trailer, then [`ICV_LEN`] bytes of room.
    pub data: &'a mut [u8],
}

/// Seals every job. A job whose data is too short to hold an ICV, or too long for the cipher, is zeroed instead: plaintext
/// must not leave. (The path makes no such jobs.)
#[inline]
pub fn seal(jobs: &mut [SealJob<'_>]) {
    each(
        jobs,
        |job| job.key,
        |job| {
            let sealed = job.data.split_last_chunk_mut::<ICV_LEN>().and_then(|(text, icv)| {
                let nonce = job.key.nonce(job.iv);
                let tag = job
                    .key
                    .inner
                    .key
                    .seal_in_place_separate_tag(nonce, aead::Aad::from(job.aad), text)
                    .ok()?;
                icv.copy_from_slice(tag.as_ref().first_chunk::<ICV_LEN>()?);
                Some(())
            });
            if sealed.is_none() {
                job.data.fill(0);
            }
        },
    );
}

/// One packet to be opened in place.
pub struct OpenJob<'a> {
    /// The inbound SA's key.
    pub key: &'a Key,
    /// The IV that the packet carries.
    pub iv: [u8; IV_LEN],
    /// What is authenticated beside the text.
    pub aad: Aad,
    /// Room that the plaintext may move forward into, then ciphertext and ICV.
    pub data: &'a mut [u8],
    /// Bytes of that room: the plaintext is written from the start of `data`, shifted by so many bytes as it is decrypted.
    pub shift: usize,
    /// Was the ICV right? Set by [`open`]. If not, what `data` holds is worthless.
    pub authentic: bool,
}

/// Opens every job.
#[inline]
pub fn open(jobs: &mut [OpenJob<'_>]) {
    each(
        jobs,
        |job| job.key,
        |job| {
            let nonce = job.key.nonce(job.iv);
            job.authentic =
                job.key.inner.key.open_within(nonce, aead::Aad::from(job.aad), job.data, job.shift..).is_ok();
        },
    );
}

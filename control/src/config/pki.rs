//! Certificates, revocation lists and keys as files hold them: PEM (RFC 7468) or DER (X.690). Read just far enough that a file
//! which strongSwan could not use is refused before anything runs: what it is, until when it is good, and whose key it has.

use zeroize::Zeroizing;

use super::report::Fault;

const SEQUENCE: u8 = 0x30;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]` and `[1]` around a value.
const TAGGED_0: u8 = 0xa0;
const TAGGED_1: u8 = 0xa1;
/// `[3]` around a value: a certificate's extensions.
const TAGGED_3: u8 = 0xa3;

/// Object identifiers, as DER has their contents: rsaEncryption, id-ecPublicKey (RFC 3279), id-Ed25519 (RFC 8410).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// id-ce-basicConstraints (RFC 5280 section 4.2.1.9).
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// One object of a file.
pub(super) struct Block {
    /// What PEM calls it; `None` in a DER file.
    label: Option<String>,
    /// Its DER.
    pub(super) der: Zeroizing<Vec<u8>>,
}

impl Block {
    /// Is it what OpenSSL writes in front of an elliptic curve's private key?
    pub(super) fn is_parameters(&self) -> bool {
        self.label.as_deref() == Some("EC PARAMETERS")
    }
}

/// The objects in a file of PEM or DER: at least one.
pub(super) fn blocks(file: &[u8]) -> Result<Vec<Block>, Fault> {
    if file.first() == Some(&SEQUENCE) {
        return Ok(vec![Block { label: None, der: Zeroizing::new(file.to_vec()) }]);
    }
    let neither = |why: &str| Fault::new(why, "name a file in PEM (-----BEGIN ..) or DER");
    let mut rest = std::str::from_utf8(file).map_err(|_| neither("is neither PEM nor DER"))?;
    let mut blocks = Vec::new();
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let broken = || neither("has a PEM object that is cut off or damaged");
        let (label, after) = after.split_once("-----").ok_or_else(broken)?;
        let (body, after) = after.split_once(&format!("-----END {label}-----")).ok_or_else(broken)?;
        if label.contains("ENCRYPTED") || body.contains("ENCRYPTED") {
            let remedy = "take the passphrase off (openssl pkey -in OLD -out NEW) and keep the file for its owner alone";
            return Err(Fault::new(
                "the key is encrypted, and nobody is there to enter a passphrase",
                remedy,
            ));
        }
        let der = base64(body).ok_or_else(broken)?;
        blocks.push(Block { label: Some(label.to_owned()), der });
        rest = after;
    }
    if blocks.is_empty() {
        return Err(neither("is neither PEM nor DER"));
    }
    Ok(blocks)
}

/// The bytes that base64 (RFC 4648 section 4) stands for; white space between is skipped.
fn base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let (mut bits, mut count, mut padding) = (0_u32, 0, 0);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                continue;
            }
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        bits = bits << 6 | u32::from(value);
        count += 1;
        if count == 4 {
            bytes.extend_from_slice(bits.to_be_bytes().get(1..)?);
            (bits, count) = (0, 0);
        }
    }
    match (count, padding) {
        (0, 0) => {}
        (2, 2) => bytes.push(u8::try_from(bits >> 4 & 0xff).ok()?),
        (3, 1) => bytes.extend_from_slice((bits << 6).to_be_bytes().get(1..3)?),
        _ => return None,
    }
    Some(bytes)
}

/// A value of DER: its tag, its contents, and all of it.
struct Value<'d> {
    tag: u8,
    contents: &'d [u8],
    whole: &'d [u8],
}

/// Values of DER, one after another.
#[derive(Clone, Copy)]
struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    /// Takes the next value.
    fn any(&mut self) -> Option<Value<'d>> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Value { tag: *tag, contents, whole })
    }

    /// Takes the next value if it has that tag.
    fn optional(&mut self, tag: u8) -> Option<Value<'d>> {
        let mut ahead = *self;
        let value = ahead.any().filter(|value| value.tag == tag)?;
        *self = ahead;
        Some(value)
    }

    /// Takes the next value, which has to be a sequence, and gives what is in it.
    fn sequence(&mut self) -> Option<Reader<'d>> {
        self.optional(SEQUENCE).map(|value| Reader(value.contents))
    }

    /// The sequence that is all of it.
    fn only(der: &'d [u8]) -> Option<Reader<'d>> {
        let mut all = Reader(der);
        all.sequence().filter(|_| all.0.is_empty())
    }
}

/// What a certificate says (RFC 5280 section 4.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Its key: the SubjectPublicKeyInfo, in DER.
    pub(super) key: Vec<u8>,
    /// The first and the last moment at which it is valid, in seconds since 1970.
    pub(super) valid: (i64, i64),
    /// The name of who signed it, and of whose it is, in DER.
    pub(super) issuer: Vec<u8>,
    pub(super) subject: Vec<u8>,
    /// May it sign others?
    pub(super) authority: bool,
}

/// The certificate in a block.
pub(super) fn certificate(block: &Block) -> Result<Certificate, Fault> {
    wanted(block, &["CERTIFICATE", "X509 CERTIFICATE"], "certificate", read_certificate(&block.der))
}

fn read_certificate(der: &[u8]) -> Option<Certificate> {
    let mut signed = Reader::only(der)?;
    let mut body = signed.sequence()?;
    signed.sequence()?;
    signed.optional(BIT_STRING)?;
    body.optional(TAGGED_0);
    body.optional(INTEGER)?;
    // Signature algorithm.
    body.sequence()?;
    let issuer = body.optional(SEQUENCE)?.whole.to_vec();
    let mut validity = body.sequence()?;
    let valid = (time(&validity.any()?)?, time(&validity.any()?)?);
    let subject = body.optional(SEQUENCE)?.whole.to_vec();
    let key = body.optional(SEQUENCE)?.whole.to_vec();
    // Unique identifiers of version 2 may stand before the extensions.
    let mut authority = false;
    while let Some(value) = body.any() {
        authority |= value.tag == TAGGED_3 && read_authority(value.contents)?;
    }
    Some(Certificate { key, valid, issuer, subject, authority })
}

/// Do a certificate's extensions say that it is a CA's?
fn read_authority(extensions: &[u8]) -> Option<bool> {
    let mut all = Reader::only(extensions)?;
    while let Some(mut extension) = all.sequence() {
        let kind = extension.optional(OBJECT)?.contents;
        // Whether it is critical.
        extension.optional(BOOLEAN);
        if kind == BASIC_CONSTRAINTS {
            let mut constraints = Reader::only(extension.optional(OCTET_STRING)?.contents)?;
            return Some(constraints.optional(BOOLEAN).is_some_and(|value| value.contents != [0]));
        }
    }
    Some(false)
}

/// The moment, in seconds since 1970, at which the revocation list in a block is to be replaced by the next; `None` where it
/// does not say (RFC 5280 section 5.1).
pub(super) fn revocation_list(block: &Block) -> Result<Option<i64>, Fault> {
    wanted(block, &["X509 CRL"], "revocation list", read_revocation_list(&block.der))
}

fn read_revocation_list(der: &[u8]) -> Option<Option<i64>> {
    let mut signed = Reader::only(der)?;
    let mut body = signed.sequence()?;
    signed.sequence()?;
    signed.optional(BIT_STRING)?;
    body.optional(INTEGER);
    body.sequence()?;
    body.sequence()?;
    time(&body.any()?)?;
    Some(body.any().and_then(|next| time(&next)))
}

/// The public key in a block: the SubjectPublicKeyInfo, in DER.
pub(super) fn public_key(block: &Block) -> Result<Vec<u8>, Fault> {
    let read = || {
        let mut key = Reader::only(&block.der)?;
        key.sequence()?;
        key.optional(BIT_STRING)?;
        Some(block.der.to_vec())
    };
    wanted(block, &["PUBLIC KEY"], "public key", read())
}

/// The public half (SubjectPublicKeyInfo, in DER) of the private key in a block: RSA, elliptic curve or Ed25519.
pub(super) fn public_half(block: &Block) -> Result<Vec<u8>, Fault> {
    let labels = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
    let der = &block.der;
    let read = pkcs8(der).or_else(|| rsa_public(der)).or_else(|| ec_public(der, None));
    wanted(block, &labels, "private key (RSA, elliptic curve with its public half, or Ed25519)", read)
}

/// PKCS #8 (RFC 5208, RFC 5958).
fn pkcs8(der: &[u8]) -> Option<Vec<u8>> {
    let mut key = Reader::only(der)?;
    key.optional(INTEGER)?;
    let mut algorithm = key.sequence()?;
    let kind = algorithm.optional(OBJECT)?;
    let inner = key.optional(OCTET_STRING)?.contents;
    match kind.contents {
        RSA => rsa_public(inner),
        EC => ec_public(inner, Some(algorithm.optional(OBJECT)?.whole)),
        ED25519 => {
            let mut seed = Reader(inner);
            let seed = seed.optional(OCTET_STRING)?.contents;
            let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
            let public = ring::signature::KeyPair::public_key(&pair);
            Some(key_info(&tlv(OBJECT, ED25519), public.as_ref()))
        }
        _ => None,
    }
}

/// PKCS #1 (RFC 8017 appendix A.1.2).
fn rsa_public(der: &[u8]) -> Option<Vec<u8>> {
    let mut key = Reader::only(der)?;
    key.optional(INTEGER)?;
    let (modulus, exponent) = (key.optional(INTEGER)?.whole, key.optional(INTEGER)?.whole);
    key.optional(INTEGER)?;
    let public = tlv(SEQUENCE, &[modulus, exponent].concat());
    Some(key_info(&[tlv(OBJECT, RSA), tlv(NULL, &[])].concat(), &public))
}

/// RFC 5915; the curve stands in the key itself unless it is known from outside.
fn ec_public(der: &[u8], curve: Option<&[u8]>) -> Option<Vec<u8>> {
    let mut key = Reader::only(der)?;
    key.optional(INTEGER)?;
    key.optional(OCTET_STRING)?;
    let named = key.optional(TAGGED_0).and_then(|value| Reader(value.contents).optional(OBJECT));
    let curve = curve.or(named.map(|value| value.whole))?;
    let public = Reader(key.optional(TAGGED_1)?.contents).optional(BIT_STRING)?;
    let (unused, point) = public.contents.split_first()?;
    (*unused == 0).then(|| key_info(&[&tlv(OBJECT, EC), curve].concat(), point))
}

/// A SubjectPublicKeyInfo.
fn key_info(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let bits = tlv(BIT_STRING, &[&[0], key].concat());
    tlv(SEQUENCE, &[tlv(SEQUENCE, algorithm), bits].concat())
}

/// A value in DER.
fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len().to_be_bytes();
    let digits = length.get(length.iter().take_while(|byte| **byte == 0).count()..).unwrap_or_default();
    let mut out = vec![tag];
    match contents.len() {
        // Short enough for one byte.
        short @ 0..=0x7f => out.push(short.to_le_bytes()[0]),
        _ => {
            out.push(0x80 | digits.len().to_le_bytes()[0]);
            out.extend_from_slice(digits);
        }
    }
    out.extend_from_slice(contents);
    out
}

/// What was read, if it is what was wanted.
fn wanted<T>(block: &Block, labels: &[&str], what: &str, read: Option<T>) -> Result<T, Fault> {
    let remedy = format!("name the file of a {what}");
    match &block.label {
        Some(label) if !labels.contains(&label.as_str()) => {
            Err(Fault::new(format!("has a {} where a {what} is wanted", label.to_lowercase()), remedy))
        }
        _ => read.ok_or_else(|| Fault::new(format!("is no {what} that can be read"), remedy)),
    }
}

/// Seconds since 1970 of a time in UTC (RFC 5280 section 4.1.2.5).
fn time(value: &Value<'_>) -> Option<i64> {
    let digits = std::str::from_utf8(value.contents).ok()?.strip_suffix('Z')?;
    let digits = match value.tag {
        UTC_TIME if digits < "50" => format!("20{digits}"),
        UTC_TIME => format!("19{digits}"),
        GENERALIZED_TIME => digits.to_owned(),
        _ => return None,
    };
    if digits.len() != 14 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| digits.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let seconds = number(8, 10)? * 3600 + number(10, 12)? * 60 + number(12, 14)?;
    Some(days(year, month, day) * 86400 + seconds)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years from March on, so that a leap day is the last of one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (month * 153 + 2) / 5
        + day
        - 1
        - 719_468
}

/// The day of a moment in seconds since 1970, as `YYYY-MM-DD`.
pub(super) fn date(moment: i64) -> String {
    let day = moment.div_euclid(86400);
    // Leap days make the guess late by a few years.
    let guess = 1970 + day.div_euclid(365);
    let year = (guess - 70..=guess).rev().find(|year| days(*year, 1, 1) <= day).unwrap_or(guess);
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= day).unwrap_or(1);
    format!("{year:04}-{month:02}-{:02}", day - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever a file holds, it is read or refused.
        #[test]
        fn any_file(text in "(-----BEGIN |[A-Z]{0,9}|-----|-----END |[A-Za-z0-9+/=\\n]{0,40}){0,9}", der: Vec<u8>) {
            let mut framed = vec![SEQUENCE, u8::try_from(der.len().min(127)).unwrap_or(0)];
            framed.extend(&der);
            for file in [text.as_bytes(), &der, &framed] {
                for block in blocks(file).into_iter().flatten() {
                    let _ = certificate(&block);
                    let _ = revocation_list(&block);
                    let _ = public_key(&block);
                    let _ = public_half(&block);
                }
            }
        }
    }

    #[test]
    fn base64_is_read_whole_or_not() {
        for (text, bytes) in [("", &b""[..]), ("Zg==", b"f"), ("Zm8=", b"fo"), ("Zm9v\nYmFy", b"foobar")] {
            assert_eq!(base64(text).as_deref().map(Vec::as_slice), Some(bytes), "{text}");
        }
        for text in ["Z", "Zg", "Zg=", "Zm8", "Zg==Zg==", "Zm9v!", "Z==="] {
            assert!(base64(text).is_none(), "{text}");
        }
    }

    #[test]
    fn days_and_dates() {
        let utc = |tag, text: &str| time(&Value { tag, contents: text.as_bytes(), whole: &[] });
        assert_eq!(utc(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(utc(GENERALIZED_TIME, "20240229123456Z"), Some(1_709_210_096));
        assert_eq!(utc(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(utc(UTC_TIME, "240229123456"), None);
        assert_eq!(utc(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for (moment, day) in [
            (0, "1970-01-01"),
            (1_709_210_096, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (2_524_607_999, "2049-12-31"),
            (253_402_300_799, "9999-12-31"),
        ] {
            assert_eq!(date(moment), day);
        }
    }

    /// Whatever is cut off or changed, reading ends, and nothing beyond the bytes is looked at.
    #[test]
    fn damaged_files_are_refused() {
        let mut key = vec![SEQUENCE, 0x82, 0xff, 0xff];
        assert!(Reader::only(&key).is_none());
        key = tlv(SEQUENCE, &[tlv(INTEGER, &[0]), tlv(INTEGER, &[1; 256])].concat());
        for end in 0..key.len() {
            assert!(Reader::only(&key[..end]).is_none());
            for read in [rsa_public, pkcs8] {
                assert!(read(&key[..end]).is_none());
            }
        }
        assert!(rsa_public(&key).is_none(), "an RSA key has more");
    }
}

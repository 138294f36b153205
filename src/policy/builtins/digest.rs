//! `crypto.*`: hashes and message authentication codes, as lower-case hexadecimal.
//!
//! In: texts, taken as their UTF-8 bytes. Out: OPA's text, undefined for anything that is no text. MD5 and SHA-1 are here because
//! policies compare what others computed with them; nothing of the gate relies on either.

use aws_lc_rs::hmac;
use md5::Md5;
use regorus::Value;
use sha2::Digest;

use super::encoding::hex;
use super::text;

/// `crypto.md5(x)`
pub(super) fn md5(arguments: &[Value]) -> Option<Value> {
    let [value] = arguments else { return None };
    Some(hex(&Md5::digest(text(value)?)).into())
}

/// `crypto.sha1(x)`
pub(super) fn sha1(arguments: &[Value]) -> Option<Value> {
    let [value] = arguments else { return None };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text(value)?.as_bytes());
    Some(hex(digest.as_ref()).into())
}

/// `crypto.sha256(x)`
pub(super) fn sha256(arguments: &[Value]) -> Option<Value> {
    let [value] = arguments else { return None };
    Some(hex(&sha2::Sha256::digest(text(value)?)).into())
}

fn hmac(algorithm: hmac::Algorithm, arguments: &[Value]) -> Option<Value> {
    let [message, key] = arguments else { return None };
    let tag = hmac::sign(&hmac::Key::new(algorithm, text(key)?.as_bytes()), text(message)?.as_bytes());
    Some(hex(tag.as_ref()).into())
}

/// `crypto.hmac.sha1(x, key)`
pub(super) fn hmac_sha1(arguments: &[Value]) -> Option<Value> {
    hmac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, arguments)
}

/// `crypto.hmac.sha256(x, key)`
pub(super) fn hmac_sha256(arguments: &[Value]) -> Option<Value> {
    hmac(hmac::HMAC_SHA256, arguments)
}

/// `crypto.hmac.sha512(x, key)`
pub(super) fn hmac_sha512(arguments: &[Value]) -> Option<Value> {
    hmac(hmac::HMAC_SHA512, arguments)
}

/// `crypto.hmac.md5(x, key)`, written out after RFC 2104: aws-lc-rs has no MD5.
pub(super) fn hmac_md5(arguments: &[Value]) -> Option<Value> {
    let [message, key] = arguments else { return None };
    let (message, key) = (text(message)?, text(key)?);
    let mut block = [0_u8; 64];
    let hashed = Md5::digest(key);
    let key = if key.len() > block.len() { hashed.as_slice() } else { key.as_bytes() };
    block.iter_mut().zip(key).for_each(|(slot, byte)| *slot = *byte);
    let inner = Md5::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Some(hex(&Md5::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize()).into())
}

/// `crypto.hmac.equal(mac1, mac2)`, in the same time wherever they differ.
pub(super) fn hmac_equal(arguments: &[Value]) -> Option<Value> {
    let [one, other] = arguments else { return None };
    Some(aws_lc_rs::constant_time::verify_slices_are_equal(text(one)?.as_bytes(), text(other)?.as_bytes()).is_ok().into())
}

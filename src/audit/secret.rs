//! What must not stand in a record as it is: credentials in headers and parameters, and targets nobody could parse.
//!
//! In: names and values of a request. Out: whether the value is a credential, and what stands for it: a hash, by which two records
//! of one credential still find each other. A name that only sounds like a credential is hashed too; the other error would leak.
//! Not a list of exact names: every product has an `x-…-token` of its own.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

/// The longest target that is kept of a request nobody could parse.
const TARGET: usize = 2048;

/// True when a header of this name carries a credential.
pub fn is_secret_header(name: &str) -> bool {
    contains_secret_word(name) || name.eq_ignore_ascii_case("dpop")
}

/// True when a query parameter or form field of this (decoded) name carries a credential.
pub fn is_secret_parameter(name: &str) -> bool {
    const WHOLE: &[&str] = &["sig", "key", "code", "auth", "jwt", "assertion", "pwd", "pass", "pin", "otp", "sas", "sid"];
    contains_secret_word(name) || WHOLE.iter().any(|word| name.eq_ignore_ascii_case(word))
}

/// What stands in a record for a credential: equal for equal ones, and no way back for one that was drawn at random.
pub fn hash_secret(value: impl AsRef<[u8]>) -> String {
    let digest = Sha256::digest(value.as_ref());
    let mut text = String::with_capacity("sha256:".len() + 16);
    text.push_str("sha256:");
    for byte in digest.iter().take(8) {
        for digit in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text
}

/// The target of a request that was refused, as far as it can be read without keeping a credential: user information is dropped and
/// every value of the query is hashed, because in a target nobody could parse no name can be trusted to be the name.
pub fn readable_target(target: &[u8]) -> String {
    let (kept, rest) = target.split_at_checked(TARGET).unwrap_or((target, &[]));
    let text = String::from_utf8_lossy(kept);
    let (path, query) = match text.find(['?', '#']) {
        Some(at) => text.split_at(at),
        None => (&*text, ""),
    };
    let mut readable = without_user(path).into_owned();
    let mut name_ends = false;
    for part in query.split_inclusive(['?', '#', '&', ';']) {
        let (value, separator) = match part.strip_suffix(['?', '#', '&', ';']) {
            Some(value) => (value, part.get(value.len()..).unwrap_or("")),
            None => (part, ""),
        };
        match value.split_once('=') {
            Some((name, value)) if name_ends => readable.extend([name, "=", &hash_secret(value)]),
            _ if value.is_empty() => {}
            _ => readable.push_str(&hash_secret(value)),
        }
        readable.push_str(separator);
        name_ends = true;
    }
    if !rest.is_empty() {
        readable.push('…');
    }
    readable
}

fn without_user(path: &str) -> Cow<'_, str> {
    let start = path.find("//").map_or(0, |at| at + 2);
    let authority = path.get(start..).unwrap_or("");
    let end = authority.find('/').unwrap_or(authority.len());
    match authority.get(..end).and_then(|authority| authority.rfind('@')) {
        Some(at) => Cow::Owned([path.get(..start).unwrap_or(""), authority.get(at + 1..).unwrap_or("")].concat()),
        None => Cow::Borrowed(path),
    }
}

fn contains_secret_word(name: &str) -> bool {
    let bytes = name.as_bytes();
    (0..bytes.len()).any(|at| bytes.get(at..).is_some_and(starts_with_secret_word))
}

fn starts_with_secret_word(rest: &[u8]) -> bool {
    // By first letter: this runs for each header of each recorded request.
    let words: &[&str] = match rest.first().map(u8::to_ascii_lowercase) {
        Some(b'a') => &["authorization", "api-key", "apikey", "api_key", "access-key", "access_key", "accesskey"],
        Some(b'c') => &["cookie", "credential"],
        Some(b'p') => &["password", "passwd", "passphrase", "private-key", "private_key"],
        Some(b's') => &["secret", "signature", "session-id", "session_id", "sessionid"],
        Some(b't') => &["token"],
        _ => return false,
    };
    words.iter().any(|word| rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_known_by_their_names() {
        for name in [
            "authorization",
            "Proxy-Authorization",
            "Cookie",
            "set-cookie",
            "X-Api-Key",
            "x-vault-token",
            "X-Amz-Security-Token",
            "dpop",
        ] {
            assert!(is_secret_header(name), "{name}");
        }
        for name in ["content-type", "accept", "host", "user-agent", "x-request-id", "traceparent", "", "tok", "key"] {
            assert!(!is_secret_header(name), "{name}");
        }
        for name in
            ["token", "access_token", "api_key", "apikey", "Password", "client_secret", "X-Amz-Signature", "sig", "code", "KEY"]
        {
            assert!(is_secret_parameter(name), "{name}");
        }
        for name in ["page", "id", "keyboard", "", "signed", "author"] {
            assert!(!is_secret_parameter(name), "{name}");
        }
    }

    #[test]
    fn a_hash_is_the_start_of_the_sha256_of_the_value() {
        assert_eq!(hash_secret("abc"), "sha256:ba7816bf8f01cfea");
        assert_ne!(hash_secret("abc"), hash_secret("abd"));
    }

    #[test]
    fn a_target_nobody_could_parse_keeps_its_shape_and_no_value() {
        let hashed = hash_secret("CANARY");
        for (target, wanted) in [
            ("/v1/users", "/v1/users".to_owned()),
            ("/a?b=CANARY&c=CANARY", format!("/a?b={hashed}&c={hashed}")),
            ("/a?CANARY", format!("/a?{hashed}")),
            ("/a#CANARY?CANARY", format!("/a#{hashed}?{hashed}")),
            ("http://user:CANARY@host/p?x=CANARY", format!("http://host/p?x={hashed}")),
            ("CANARY@host:443", "host:443".to_owned()),
            ("//CANARY@host/x@y", "//host/x@y".to_owned()),
        ] {
            assert_eq!(readable_target(target.as_bytes()), wanted, "{target}");
            assert!(!readable_target(target.as_bytes()).contains("CANARY"));
        }
        assert_eq!(readable_target(b"/\xff\n"), "/\u{fffd}\n");
        assert!(readable_target(&[b'a'; 10_000]).len() < 2100);
    }
}

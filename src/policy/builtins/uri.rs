//! A URI as Go's `url.URL` looks in JSON, which is how OPA shows the ones in a certificate.
//!
//! In: the text of a URI. Out: its parts by Go's names, nothing where an escape is broken or a port is no number. `RawPath` is kept
//! only where the plain path would not be written that way again, as in Go.

use std::collections::BTreeMap;

use regorus::Value;

/// The parts of a URI.
pub(super) fn shown(text: &str) -> Option<Value> {
    if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return None;
    }
    let (text, raw_fragment) = text.split_once('#').unwrap_or((text, ""));
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
        _ => (String::new(), text),
    };
    let force_query = rest.ends_with('?') && rest.matches('?').count() == 1;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (mut opaque, mut host, mut user, mut raw_path) = ("", String::new(), Value::Null, rest);
    if !rest.starts_with('/') && !scheme.is_empty() {
        (opaque, raw_path) = (rest, "");
    } else if let Some(authority) = rest.strip_prefix("//") {
        let (authority, path) = authority.find('/').map_or((authority, ""), |at| authority.split_at(at));
        let (info, named) = authority.rsplit_once('@').map_or((None, authority), |(info, named)| (Some(info), named));
        if info.is_some() {
            user = Value::new_object();
        }
        let port = named.rsplit_once(':').map(|(_, port)| port).filter(|_| !named.ends_with(']'));
        if port.is_some_and(|port| !port.bytes().all(|byte| byte.is_ascii_digit())) {
            return None;
        }
        (host, raw_path) = (unescaped(named)?, path);
    }
    let (path, fragment) = (unescaped(raw_path)?, unescaped(raw_fragment)?);
    let kept = |raw: &str, plain: &str, safe: &str| if escaped(plain, safe) == raw { String::new() } else { raw.to_owned() };
    let members = [
        ("Scheme", Value::from(scheme)),
        ("Opaque", opaque.into()),
        ("User", user),
        ("Host", host.into()),
        ("RawPath", kept(raw_path, &path, "$&+,/:;=@").into()),
        ("Path", path.into()),
        ("ForceQuery", force_query.into()),
        ("RawQuery", query.into()),
        ("RawFragment", kept(raw_fragment, &fragment, "$&+,/:;=@?!()*").into()),
        ("Fragment", fragment.into()),
        ("OmitHost", false.into()),
    ];
    Some(members.into_iter().map(|(name, value)| (Value::from(name), value)).collect::<BTreeMap<_, _>>().into())
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn escaped(text: &str, safe: &str) -> String {
    text.bytes().fold(String::new(), |mut written, byte| {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || safe.as_bytes().contains(&byte);
        if plain {
            written.push(char::from(byte))
        } else {
            written.push_str(&format!("%{byte:02X}"))
        }
        written
    })
}

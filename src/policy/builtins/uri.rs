//! `uri.parse` and `uri.is_valid`, and the URIs in a certificate: URIs as Go's `url.Parse` takes them apart.
//!
//! In: a text. Out: its parts, nothing where Go refuses it. What must stay true: a text is refused or cut exactly where OPA does it, so
//! that a host a policy compares is the host OPA would compare. Crates that follow the WHATWG rules mend what Go refuses and
//! normalise what Go leaves alone.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use regorus::Value;

use super::text;

/// What Go leaves unescaped in a path, and what more in a fragment and in a host.
const PATH: &str = "-_.~$&+,/:;=@";
const FRAGMENT: &str = "-_.~$&+,/:;=@?!()*";
const HOST: &str = "-_.~!$&'()*+,;=:[]<>\"";
const USER: &str = "-._:~!$&'()*+,;=%@";

/// The parts of a URI, unescaped.
#[derive(Default)]
struct Parts {
    scheme: String,
    opaque: String,
    user: bool,
    host: String,
    path: Escaped,
    query: String,
    force_query: bool,
    omit_host: bool,
    fragment: Escaped,
}

/// A part, and how it was written where that cannot be told from the part.
#[derive(Default)]
struct Escaped {
    plain: String,
    raw: String,
}

impl Escaped {
    fn read(raw: &str, safe: &str) -> Option<Self> {
        let bytes = unescaped(raw)?;
        let usual = bytes.iter().fold(String::with_capacity(raw.len()), |mut written, byte| {
            match char::from(*byte) {
                plain if plain.is_ascii_alphanumeric() || (plain.is_ascii() && safe.contains(plain)) => written.push(plain),
                _ => written.push_str(&format!("%{byte:02X}")),
            }
            written
        });
        let raw = if usual == raw { String::new() } else { raw.to_owned() };
        Some(Self { plain: String::from_utf8_lossy(&bytes).into_owned(), raw })
    }
}

impl Parts {
    fn read(text: &str) -> Option<Self> {
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return None;
        }
        let mut parts = Self { fragment: Escaped::read(fragment, FRAGMENT)?, ..Self::default() };
        if text == "*" {
            "*".clone_into(&mut parts.path.plain);
            return Some(parts);
        }
        let (scheme, rest) = scheme(text)?;
        parts.scheme = scheme.to_ascii_lowercase();
        parts.force_query = rest.ends_with('?') && rest.matches('?').count() == 1;
        let (mut rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        query.clone_into(&mut parts.query);
        if !rest.starts_with('/') {
            if !scheme.is_empty() {
                rest.clone_into(&mut parts.opaque);
                return Some(parts);
            }
            if rest.split('/').next().is_some_and(|first| first.contains(':')) {
                return None;
            }
        }
        match rest.strip_prefix("//") {
            Some(after) if !scheme.is_empty() || !rest.starts_with("///") => {
                let (authority, path) = after.find('/').map_or((after, ""), |at| after.split_at(at));
                rest = path;
                parts.authority(authority)?;
            }
            _ => parts.omit_host = !scheme.is_empty() && rest.starts_with('/'),
        }
        parts.path = Escaped::read(rest, PATH)?;
        Some(parts)
    }

    fn authority(&mut self, authority: &str) -> Option<()> {
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        self.host = host_of(&self.scheme, host)?;
        if let Some(user) = user {
            if !user.chars().all(|character| character.is_ascii_alphanumeric() || USER.contains(character)) {
                return None;
            }
            user.split(':').try_for_each(|part| unescaped(part).map(drop))?;
            self.user = true;
        }
        Some(())
    }
}

/// The scheme before the first colon, empty where there is none.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|character: char| !(character.is_ascii_alphanumeric() || "+-.".contains(character)));
    match end.map(|end| text.split_at(end)) {
        Some(("", rest)) if rest.starts_with(':') => None,
        Some((scheme, rest)) if rest.starts_with(':') && scheme.starts_with(|first: char| first.is_ascii_alphabetic()) => {
            Some((scheme, rest.get(1..)?))
        }
        _ => Some(("", text)),
    }
}

fn host_of(scheme: &str, host: &str) -> Option<String> {
    match host.rfind('[') {
        Some(0) => {
            let end = host.rfind(']')?;
            let (inner, port) = (host.get(1..end)?, host.get(end + 1..)?);
            if !is_port(port) {
                return None;
            }
            let (address, zone) = inner.find("%25").map_or((inner, ""), |at| inner.split_at(at));
            let address = unescaped_host(address, false)?;
            let zone = unescaped_host(zone, true)?;
            address.parse::<Ipv6Addr>().ok().filter(|_| zone.is_empty() || zone.len() > 1)?;
            Some(format!("[{address}{zone}]{port}"))
        }
        Some(_) => None,
        None => {
            if let Some(first) = host.find(':') {
                let strict = matches!(scheme, "http" | "https");
                let colon = if strict { first } else { host.rfind(':')? };
                if !is_port(host.get(colon..)?) {
                    return None;
                }
            }
            unescaped_host(host, false)
        }
    }
}

/// Empty, or a colon and digits.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
}

/// In a host only what is not ASCII may be escaped; in a zone also a space and what a host may hold.
fn unescaped_host(text: &str, zone: bool) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || HOST.contains(char::from(byte)) && byte.is_ascii();
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        if first == b'%' {
            let value = u8::from_str_radix(rest.get(1..3)?, 16).ok()?;
            let percent = value == b'%';
            if (!zone && value < 0x80 && !percent) || (zone && !percent && value != b' ' && !plain(value)) {
                return None;
            }
            rest = rest.get(3..)?;
            continue;
        }
        if first < 0x80 && !plain(first) {
            return None;
        }
        rest = rest.get(rest.chars().next()?.len_utf8()..)?;
    }
    Some(String::from_utf8_lossy(&unescaped(text)?).into_owned())
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
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
    Some(bytes)
}

fn object(members: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    members.into_iter().map(|(name, value)| (Value::from(name), value)).collect::<BTreeMap<_, _>>().into()
}

/// A URI as Go's `url.URL` looks in JSON.
pub(super) fn shown(text: &str) -> Option<Value> {
    let parts = Parts::read(text)?;
    Some(object([
        ("Scheme", parts.scheme.into()),
        ("Opaque", parts.opaque.into()),
        ("User", if parts.user { Value::new_object() } else { Value::Null }),
        ("Host", parts.host.into()),
        ("Path", parts.path.plain.into()),
        ("RawPath", parts.path.raw.into()),
        ("ForceQuery", parts.force_query.into()),
        ("RawQuery", parts.query.into()),
        ("Fragment", parts.fragment.plain.into()),
        ("RawFragment", parts.fragment.raw.into()),
        ("OmitHost", parts.omit_host.into()),
    ]))
}

/// A URI as Go writes it again: with its scheme in lower case.
pub(super) fn written(text: &str) -> String {
    match scheme(text) {
        Some((scheme, rest)) if !scheme.is_empty() => format!("{}:{rest}", scheme.to_ascii_lowercase()),
        _ => text.to_owned(),
    }
}

/// `uri.parse(uri)`: the parts that are there.
pub(super) fn parse(arguments: &[Value]) -> Option<Value> {
    let [uri] = arguments else { return None };
    let parts = Parts::read(text(uri)?)?;
    let colon = parts.host.rfind(':').filter(|at| parts.host.get(*at..).is_some_and(is_port)).unwrap_or(parts.host.len());
    let (host, port) = parts.host.split_at(colon);
    let name = host.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(host);
    let raw = if parts.path.raw.is_empty() { &parts.path.plain } else { &parts.path.raw };
    let members = [
        ("scheme", parts.scheme.as_str()),
        ("hostname", name),
        ("port", port.trim_start_matches(':')),
        ("path", &parts.path.plain),
        ("raw_path", raw),
        ("raw_query", &parts.query),
        ("fragment", &parts.fragment.plain),
    ];
    Some(object(members.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, value.into()))))
}

/// `uri.is_valid(uri)`: false for the empty text and for what is no text.
pub(super) fn is_valid(arguments: &[Value]) -> Option<Value> {
    let [uri] = arguments else { return None };
    Some(text(uri).is_some_and(|uri| !uri.is_empty() && Parts::read(uri).is_some()).into())
}

//! The authority a request names: its host in one spelling, its port apart.
//!
//! In: a Host field, an `:authority`, or the authority of an absolute-form target. Out: a lower-case host without a trailing dot,
//! or `[address]`, and a port if one was given. Anything that two programs could take for two hosts is refused: userinfo, commas,
//! escapes, empty labels, `0x7f.1` and its kin (RFC 9110 section 7.2).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::decision::Refusal;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

impl Authority {
    /// Reads `host` or `host:port`.
    ///
    /// # Errors
    ///
    /// [`Refusal::Host`] when it has more than one reading.
    pub(super) fn read(text: &str) -> Result<Self, Refusal> {
        Self::parse(text).ok_or(Refusal::Host)
    }

    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']')?;
                let address: Ipv6Addr = address.parse().ok()?;
                let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
                (format!("[{address}]"), port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (name(host)?, Some(port)),
                None => (name(text)?, None),
            },
        };
        let port = match port {
            Some(digits) => Some(number(digits)?),
            None => None,
        };
        Some(Self { host, port })
    }
}

fn name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &[u8]| {
        matches!(label.len(), 1..=63) && label.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if text.len() > 253 || !text.as_bytes().split(|&byte| byte == b'.').all(is_label) {
        return None;
    }
    // `127.1`, `2130706433` and `0x7f.0.0.1` are one address to inet_aton and three names to everybody else.
    let last = text.rsplit('.').next()?;
    if is_numeric(last) && text.parse::<Ipv4Addr>().is_err() {
        return None;
    }
    Some(text.to_ascii_lowercase())
}

fn is_numeric(label: &str) -> bool {
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(hex) => hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

fn number(digits: &str) -> Option<u16> {
    let canonical = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    if canonical { digits.parse().ok() } else { None }
}

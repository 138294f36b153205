//! Patterns over host names: an exact name, `*.example.org` for any one label, or `*`.
//!
//! In: text from a configuration. Out: a pattern that compares with the host of a normalised request, which is lower-case and has
//! neither port nor trailing dot. A star stands for one label only: `*.example.org` that took `a.b.example.org` would promise
//! more names than a certificate with the same text does (RFC 9525 section 6.3).

use std::net::Ipv6Addr;
use std::str::FromStr;

/// Which hosts a route or a resource is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    Any,
    /// The suffix after the star, with its dot: `.example.org`.
    OneLabel(String),
    Exact(String),
}

/// Why a text is not a host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a host pattern; write api.example.org, *.example.org, [2001:db8::1] or *, without a port")]
pub struct HostPatternError(String);

impl HostPattern {
    /// True when `host` is one of those the pattern names.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => name == host,
            Self::OneLabel(suffix) => {
                host.strip_suffix(suffix.as_str()).is_some_and(|label| !label.is_empty() && !label.contains(['.', '[']))
            }
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let lower = text.to_ascii_lowercase();
        if lower == "*" {
            return Ok(Self::Any);
        }
        if let Some(address) = lower.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: Ipv6Addr = address.parse().map_err(|_| HostPatternError(text.to_owned()))?;
            return Ok(Self::Exact(format!("[{address}]")));
        }
        let pattern = match lower.strip_prefix('*') {
            Some(suffix) => suffix.strip_prefix('.').filter(|name| is_name(name)).map(|_| Self::OneLabel(suffix.to_owned())),
            None => is_name(&lower).then(|| Self::Exact(lower.clone())),
        };
        pattern.ok_or_else(|| HostPatternError(text.to_owned()))
    }
}

fn is_name(text: &str) -> bool {
    text.split('.').all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_exactly_one_label() {
        let cases = [
            ("*", "anything.example", true),
            ("api.example.org", "api.example.org", true),
            ("API.Example.org", "api.example.org", true),
            ("api.example.org", "api.example.org.evil", false),
            ("*.example.org", "a.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", "a.b.example.org", false),
            ("*.example.org", ".example.org", false),
            ("*.example.org", "aexample.org", false),
            ("[2001:DB8:0:0:0:0:0:1]", "[2001:db8::1]", true),
        ];
        for (pattern, host, expected) in cases {
            assert_eq!(pattern.parse::<HostPattern>().unwrap().matches(host), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn what_could_never_match_a_normalised_host_is_refused() {
        for text in ["", ".", "a..b", "a.", "*a.example", "a.*.b", "**", "*.", "*.*", "a:443", "a/b", "a b", "[::1", "[zz]", "é"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}

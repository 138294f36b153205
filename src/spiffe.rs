//! SPIFFE words: the identities of the `spiffe` crate, and patterns over them.
//!
//! In: text from a certificate or a configuration. Out: an identity that obeys SPIFFE-ID.md, or an error; never a repaired one.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use ::spiffe::{SpiffeId, TrustDomain};

/// A SPIFFE ID in which a whole path segment may be `*` (any one segment) and a last segment `**` (any rest, at least one).
///
/// Stars inside a segment are refused: `agents/re*` reads like a promise about names that registration does not make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    trust_domain: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Exact(String),
    One,
    Rest,
}

/// The socket an endpoint of the Workload API names (SPIFFE_Workload_Endpoint.md 4).
///
/// The specification knows tcp://IP:port too. It is refused: our private key would cross it in the clear, and an agent cannot tell who
/// is on the other end of it.
///
/// # Errors
/// What is wrong with it, as the end of a sentence about it.
pub fn agent_socket(endpoint: &str) -> Result<&Path, &'static str> {
    if endpoint.starts_with("tcp:") {
        return Err("is tcp, where our private key would be readable on the way; write unix:///run/spire/agent.sock");
    }
    let form = "is not the endpoint of a SPIFFE agent; write unix:///run/spire/agent.sock";
    let path = endpoint.strip_prefix("unix:").ok_or(form)?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let is_path = path.len() > 1 && path.starts_with('/') && !path.contains(['?', '#', '%', '\0']);
    if is_path { Ok(Path::new(path)) } else { Err(form) }
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a SPIFFE ID pattern: {why}; write spiffe://example.org/agents/* or a whole SPIFFE ID")]
pub struct PatternError {
    text: String,
    why: &'static str,
}

impl Pattern {
    /// True when `id` is one of those the pattern names.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if id.trust_domain_name() != self.trust_domain {
            return false;
        }
        let mut found = id.path().split('/').skip(1);
        for segment in &self.segments {
            match (segment, found.next()) {
                (Segment::Rest, Some(_)) => return true,
                (Segment::One, Some(_)) => {}
                (Segment::Exact(wanted), Some(text)) if wanted == text => {}
                _ => return false,
            }
        }
        found.next().is_none()
    }
}

impl From<&SpiffeId> for Pattern {
    /// The pattern that names this one identity.
    fn from(id: &SpiffeId) -> Self {
        let segments = id.path().split('/').skip(1).map(|segment| Segment::Exact(segment.to_owned())).collect();
        Self { trust_domain: id.trust_domain_name().to_owned(), segments }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = |why| PatternError { text: text.to_owned(), why };
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| wrong("it does not start with spiffe://"))?;
        let mut parts = rest.split('/');
        let domain = parts.next().unwrap_or_default();
        let known = TrustDomain::new(domain).map_err(|_| wrong("the trust domain is not valid"))?;
        if known.as_str() != domain {
            return Err(wrong("the trust domain must be written in lower case"));
        }
        let mut segments = Vec::new();
        for part in parts {
            if segments.last() == Some(&Segment::Rest) {
                return Err(wrong("`**` may only stand last"));
            }
            segments.push(match part {
                "**" => Segment::Rest,
                "*" => Segment::One,
                part if part.contains('*') => return Err(wrong("a star must be a whole segment")),
                part => {
                    SpiffeId::new(format!("spiffe://{domain}/{part}")).map_err(|_| wrong("a path segment is not valid"))?;
                    Segment::Exact(part.to_owned())
                }
            });
        }
        if segments.is_empty() {
            return Err(wrong("it has no path"));
        }
        Ok(Self { trust_domain: domain.to_owned(), segments })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Exact(text) => write!(f, "/{text}"),
            Segment::One => f.write_str("/*"),
            Segment::Rest => f.write_str("/**"),
        })
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SpiffeIdPattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^spiffe://",
            "description": "a SPIFFE ID, in which a whole segment may be * and the last one **"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_by_whole_segments() {
        let id = |text: &str| SpiffeId::new(text).unwrap();
        let agents: Pattern = "spiffe://example.org/agents/*".parse().unwrap();
        assert!(agents.matches(&id("spiffe://example.org/agents/research")));
        assert!(!agents.matches(&id("spiffe://example.org/agents/research/deep")));
        assert!(!agents.matches(&id("spiffe://example.org/agents")));
        assert!(!agents.matches(&id("spiffe://example.com/agents/research")));
        let all: Pattern = "spiffe://example.org/**".parse().unwrap();
        assert!(all.matches(&id("spiffe://example.org/agents/research/deep")));
        let exact: Pattern = "spiffe://example.org/ops/bob".parse().unwrap();
        assert!(exact.matches(&id("spiffe://example.org/ops/bob")));
        assert!(!exact.matches(&id("spiffe://example.org/ops/bobby")));
    }

    #[test]
    fn an_agent_is_reached_by_a_socket_with_an_absolute_path() {
        for text in ["unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock"] {
            assert_eq!(agent_socket(text), Ok(Path::new("/run/spire/agent.sock")));
        }
        for text in
            ["", "/run/agent.sock", "unix:", "unix://", "unix:///", "unix://host/agent.sock", "unix:agent.sock", "unix:///a?b"]
        {
            assert!(agent_socket(text).is_err(), "{text}");
        }
        assert!(agent_socket("tcp://127.0.0.1:8081").unwrap_err().contains("readable"));
    }

    #[test]
    fn what_is_not_a_pattern_is_refused_with_its_reason() {
        for text in [
            "",
            "example.org/a",
            "spiffe://",
            "spiffe://Example.org/a",
            "spiffe://example.org",
            "spiffe://example.org/a*",
            "spiffe://example.org/**/a",
            "spiffe://example.org/%61",
            "spiffe://example.org//a",
            "spiffe://example.org/../a",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}

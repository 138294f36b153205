//! What a judge returns, as plain words: allow with edits and a lease, or deny, each deny possibly with a kill.
//!
//! `judge/answer.rs` makes one from a policy's answer, `proxy` and `reassess` act on it. Nothing here knows Rego.

use std::time::Duration;

use crate::decision::{Reason, Scope};

/// The answer to "may this request pass, now?".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    pub allowed: bool,
    /// Set on a denial: the gate's own word for it. `Policy` whenever the policy itself said no.
    pub reason: Option<Reason>,
    /// Codes of the policy, for the record.
    pub reasons: Vec<String>,
    pub edits: Edits,
    pub denial: Denial,
    pub kill: Option<KillOrder>,
    pub lease: Lease,
    /// `dynamic_metadata`, for the record.
    pub metadata: Option<serde_json::Value>,
    /// Keys of an Envoy-shaped result nobody reads; counted.
    pub ignored_keys: usize,
}

/// Changes to a request that is let through, and to the head of its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Set on the upstream request, replacing what was there; several values of one name are several fields.
    pub headers: Vec<(String, Vec<String>)>,
    pub request_headers_to_remove: Vec<String>,
    pub response_headers_to_add: Vec<(String, Vec<String>)>,
    pub query_parameters_to_set: Vec<(String, Vec<String>)>,
    pub query_parameters_to_remove: Vec<String>,
    pub rewrite: Option<Rewrite>,
}

/// A change of what is asked for; it is judged once more before it may pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub path: Option<String>,
    /// RFC 6902 operations on the parsed JSON body.
    pub body: Option<Vec<serde_json::Value>>,
}

/// What a policy wants a denied client to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    pub status: Option<u16>,
    pub body: Option<String>,
    pub headers: Vec<(String, Vec<String>)>,
}

/// A kill a policy asks for; only with a denial, and only in a scope the configuration lends to policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KillOrder {
    pub scope: Scope,
    /// How long it stands; `None`: until lifted.
    pub ttl: Option<Duration>,
}

/// How long and how far an allow holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    pub max_age: Option<Duration>,
    pub reassess_every: Option<Duration>,
    pub max_bytes_in: Option<u64>,
    pub max_bytes_out: Option<u64>,
}

impl Verdict {
    /// A denial in the gate's own name.
    pub fn deny(reason: Reason) -> Self {
        Self { reason: Some(reason), ..Self::default() }
    }
}

impl Edits {
    /// True when the request that leaves asks for something else than the one that was judged.
    pub fn change_the_question(&self) -> bool {
        self.rewrite.is_some() || !self.query_parameters_to_set.is_empty() || !self.query_parameters_to_remove.is_empty()
    }

    /// True when the body that leaves is not the one that came.
    pub fn patch_the_body(&self) -> bool {
        self.rewrite.as_ref().is_some_and(|rewrite| rewrite.body.is_some())
    }
}

impl Lease {
    /// The tighter of both, bound by bound: a lease never loosens.
    #[must_use]
    pub fn tightened(self, other: Self) -> Self {
        fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            }
        }
        Self {
            max_age: least(self.max_age, other.max_age),
            reassess_every: least(self.reassess_every, other.reassess_every),
            max_bytes_in: least(self.max_bytes_in, other.max_bytes_in),
            max_bytes_out: least(self.max_bytes_out, other.max_bytes_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_only_tightens() {
        let minute = Lease { max_age: Some(Duration::from_secs(60)), max_bytes_in: Some(10), ..Lease::default() };
        let hour = Lease { max_age: Some(Duration::from_secs(3600)), max_bytes_out: Some(5), ..Lease::default() };
        let both = minute.tightened(hour);
        assert_eq!(both, hour.tightened(minute));
        assert_eq!(both.max_age, Some(Duration::from_secs(60)));
        assert_eq!((both.max_bytes_in, both.max_bytes_out, both.reassess_every), (Some(10), Some(5), None));
    }
}

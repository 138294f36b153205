//! Which signed bundles may come into force: none that is older than what was.
//!
//! In: the verified signature of a bundle, and what was in force under its name. Out: why it is older, or the new memory. What must
//! stay true: a signature stays good for ever, so whoever can put files in place could put back a policy that was withdrawn, with
//! its holes; an old one is refused, also after a restart, unless an operator names it.
//!
//! The order is the signature's own `iat`, and nothing else that is written: one clock cannot contradict itself, and a revision is
//! a name. Where signatures say no time, the order is what happened: content that was in force and was replaced is older. Content is
//! told by the hashes that were signed, so that space in a document nobody signed makes no new bundle. A bundle without a time after
//! one with a time has no order, and is refused. Not a counter of our own: there is nobody to hand it out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::bundle::signature::Signature;

const MARK: &str = "mark:";
const SEEN: &str = "seen:";

/// What stands of one bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub revision: String,
    pub issued_at: Option<u64>,
    /// Contents that may be in force: the newest, and those an operator went back to since it came.
    standing: BTreeSet<String>,
}

/// How a policy comes into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its bundles were read.
    Loaded,
    /// An operator ordered the policy before this one back; what was in force stays good as well.
    Returned,
}

/// What was in force, by the names of bundles.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    marks: BTreeMap<String, Mark>,
    /// Keys of contents that were ever in force.
    seen: BTreeSet<String>,
}

/// Something to keep: a key and its bytes.
pub type Row = (String, Vec<u8>);

impl Memory {
    /// Reads what was kept.
    ///
    /// # Errors
    /// A row that is not one of ours: what it forbade is not known.
    pub fn of(rows: impl IntoIterator<Item = Row>) -> Result<Self, String> {
        let mut memory = Self::default();
        for (key, bytes) in rows {
            if let Some(name) = key.strip_prefix(MARK) {
                let mark = serde_json::from_slice(&bytes).map_err(|error| format!("what is kept of bundle `{name}`: {error}"))?;
                memory.marks.insert(name.to_owned(), mark);
            } else if key.starts_with(SEEN) {
                memory.seen.insert(key);
            } else {
                return Err(format!("what is kept of bundles has an entry `{key}` that nobody knows"));
            }
        }
        Ok(memory)
    }

    /// Why this bundle is older than what was in force; nothing where it is not.
    pub fn older(&self, name: &str, signature: &Signature) -> Option<String> {
        let mark = self.marks.get(name)?;
        if mark.standing.contains(&signature.content) {
            return None;
        }
        match (mark.issued_at, signature.issued_at) {
            (Some(then), Some(now)) if now < then => Some(format!(
                "it was signed at {}, and revision `{}`, which was in force, at {}",
                moment(now),
                mark.revision,
                moment(then)
            )),
            (Some(then), Some(now)) if now > then => None,
            (None, Some(_)) => None,
            (Some(_), None) => Some(format!(
                "its signature says no time (`iat`), and that of revision `{}`, which was in force, does",
                mark.revision
            )),
            _ if self.seen.contains(&seen(name, &signature.content)) => {
                Some(format!("it was in force before, and revision `{}` replaced it", mark.revision))
            }
            _ => None,
        }
    }

    /// The memory once these are in force, and what of it must be kept first.
    pub fn after<'s>(&self, signed: impl IntoIterator<Item = (&'s str, &'s str, &'s Signature)>, way: Way) -> (Self, Vec<Row>) {
        let mut next = self.clone();
        let mut rows = Vec::new();
        for (name, revision, signature) in signed {
            let mark = next.marks.entry(name.to_owned()).or_default();
            let before = mark.clone();
            if mark.standing.contains(&signature.content) {
                mark.issued_at = mark.issued_at.max(signature.issued_at);
            } else if way == Way::Returned {
                mark.standing.insert(signature.content.clone());
            } else {
                let standing = BTreeSet::from([signature.content.clone()]);
                *mark = Mark { revision: revision.to_owned(), issued_at: signature.issued_at, standing };
            }
            if *mark != before {
                rows.push((format!("{MARK}{name}"), serde_json::to_vec(mark).unwrap_or_default()));
            }
            let key = seen(name, &signature.content);
            if next.seen.insert(key.clone()) {
                rows.push((key, Vec::new()));
            }
        }
        (next, rows)
    }
}

pub(super) fn moment(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    at.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok()).unwrap_or_else(|| seconds.to_string())
}

/// The digest first: it has one length, and a name may hold anything.
fn seen(name: &str, content: &str) -> String {
    format!("{SEEN}{content}:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::bundle::signature::Algorithm;

    fn signed(content: &str, issued_at: Option<u64>) -> Signature {
        let text = String::new();
        Signature { key: text.clone(), algorithm: Algorithm::RS256, scope: text, issued_at, content: content.to_owned() }
    }

    /// The memory after these came into force one after the other, read again from what was kept.
    fn after(steps: &[(&str, Option<u64>, Way)]) -> Memory {
        let mut kept: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (content, issued_at, way) in steps {
            let memory = Memory::of(kept.clone()).unwrap();
            kept.extend(memory.after([("authz", *content, &signed(content, *issued_at))], *way).1);
        }
        Memory::of(kept).unwrap()
    }

    #[test]
    fn an_older_bundle_is_told_by_its_time_or_by_what_happened() {
        use Way::{Loaded, Returned};
        type Row<'a> = (&'a [(&'a str, Option<u64>, Way)], (&'a str, Option<u64>), Option<&'a str>);
        let rows: &[Row<'_>] = &[
            (&[], ("a", None), None),
            (&[("a", Some(10), Loaded)], ("a", Some(10)), None),
            (&[("a", Some(10), Loaded)], ("b", Some(11)), None),
            (&[("a", Some(10), Loaded)], ("b", Some(9)), Some("signed at 1970-01-01T00:00:09Z")),
            (&[("a", Some(10), Loaded)], ("b", None), Some("says no time")),
            (&[("a", Some(10), Loaded)], ("b", Some(10)), None),
            // Two of one second: which came first is not written, and what happened decides.
            (&[("a", Some(10), Loaded), ("b", Some(10), Loaded)], ("a", Some(10)), Some("was in force before")),
            // Signed anew, old content is a new bundle: somebody with the key wants it.
            (&[("a", Some(10), Loaded), ("b", Some(11), Loaded)], ("a", Some(12)), None),
            (&[("a", None, Loaded), ("b", None, Loaded)], ("a", None), Some("revision `b` replaced it")),
            (&[("a", None, Loaded), ("b", None, Loaded)], ("b", None), None),
            (&[("a", None, Loaded), ("b", None, Loaded)], ("c", None), None),
            (&[("a", None, Loaded)], ("b", Some(1)), None),
            // After an operator's own order both stand, until a third one comes.
            (&[("a", None, Loaded), ("b", None, Loaded), ("a", None, Returned)], ("a", None), None),
            (&[("a", None, Loaded), ("b", None, Loaded), ("a", None, Returned)], ("b", None), None),
            (
                &[("a", None, Loaded), ("b", None, Loaded), ("a", None, Returned), ("c", None, Loaded)],
                ("a", None),
                Some("replaced"),
            ),
            (&[("a", Some(1), Loaded), ("b", Some(2), Loaded), ("a", Some(1), Returned)], ("a", Some(1)), None),
            (&[("a", Some(1), Loaded), ("b", Some(3), Loaded), ("a", Some(1), Returned)], ("c", Some(2)), Some("signed at")),
            // One that was let back by name is what stands.
            (&[("a", Some(1), Loaded), ("b", Some(3), Loaded), ("a", Some(1), Loaded)], ("c", Some(2)), None),
        ];
        for (steps, (content, issued_at), expected) in rows {
            let said = after(steps).older("authz", &signed(content, *issued_at));
            match expected {
                None => assert_eq!(said, None, "{steps:?} {content}"),
                Some(part) => assert!(said.as_ref().is_some_and(|said| said.contains(part)), "{steps:?} {content}: {said:?}"),
            }
            assert_eq!(after(steps).older("other", &signed(content, *issued_at)), None);
        }
    }

    #[test]
    fn a_memory_nobody_can_read_forbids_the_start() {
        assert!(Memory::of([("mark:authz".to_owned(), b"{".to_vec())]).unwrap_err().contains("authz"));
        assert!(Memory::of([("what".to_owned(), Vec::new())]).is_err());
    }
}

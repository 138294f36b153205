//! The shadow: a second policy that judges the same requests without effect, and what came of comparing the two.
//!
//! In: a loaded policy; pairs of verdicts on one request. Out: a bench of its own, and bounded tables for operators: where the two
//! disagree, and what routes that only observe let pass. What must stay true: nothing here is read by whoever admits, so a shadow that
//! is slow, wrong or not there changes no verdict; a group that finds no room is counted, never silently lost; a new shadow begins with
//! an empty table, since what an earlier one said tells nothing of it.
//! Not a second entry of the first bench: a generation is one set of policy, and a shadow that fails to load must not hold it up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Bench;
use crate::action::{Effect, Sensitivity};
use crate::decision::{Opinion, Unjudged};

/// How many groups a table holds.
pub const GROUPS: usize = 1000;
/// The longest text of a group that a request or a policy chose.
const LONGEST: usize = 160;
/// How many segments of a path a group tells.
const SEGMENTS: usize = 8;

/// See the module.
pub struct Shadow {
    pub bench: Bench,
    /// Where the two policies disagree.
    pub disagreements: Ledger<Group>,
    /// What was let through although it was denied.
    pub observed: Ledger<Observed>,
    /// Listener and route of what only observes.
    observing: Mutex<BTreeSet<(String, String)>>,
    counts: Mutex<Counts>,
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow").field("generation", &self.bench.generation()).finish_non_exhaustive()
    }
}

/// What was compared since the shadow in force came.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub compared: u64,
    pub disagreed: u64,
    /// Requests the shadow did not judge, by why.
    pub unjudged: BTreeMap<Unjudged, u64>,
}

/// Requests that differ in nothing an operator would act on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    pub listener: String,
    pub route: String,
    pub method: String,
    /// A gRPC method, or the path with what looks like an id as `*`.
    pub action: String,
    pub resource: String,
    pub sensitivity: Sensitivity,
    pub spiffe_id: String,
    pub from: Opinion,
    pub to: Opinion,
    /// The codes of whichever policy denied, or the gate's word for what went wrong.
    pub reason: String,
}

/// Requests a route let through although they were denied.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Observed {
    pub listener: String,
    pub route: String,
    pub resource: String,
    pub sensitivity: Sensitivity,
    pub effect: Effect,
}

/// How often, and when. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    pub count: u64,
    pub first: u64,
    pub last: u64,
    /// The last one's.
    pub decision_id: String,
}

/// A bounded table of groups.
#[derive(Debug)]
pub struct Ledger<K> {
    rows: Mutex<HashMap<K, Tally>>,
    /// Requests of groups that found no room.
    beyond: AtomicU64,
}

impl<K> Default for Ledger<K> {
    fn default() -> Self {
        Self { rows: Mutex::default(), beyond: AtomicU64::new(0) }
    }
}

impl<K: Clone + Eq + Hash> Ledger<K> {
    /// Counts one more of a group.
    pub fn note(&self, group: K, at: u64, decision_id: &str) {
        let mut rows = self.lock();
        if let Some(tally) = rows.get_mut(&group) {
            tally.count += 1;
            tally.last = at;
            decision_id.clone_into(&mut tally.decision_id);
        } else if rows.len() < GROUPS {
            rows.insert(group, Tally { count: 1, first: at, last: at, decision_id: decision_id.to_owned() });
        } else {
            self.beyond.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The groups, the most frequent first.
    pub fn rows(&self) -> Vec<(K, Tally)>
    where
        K: Ord,
    {
        let mut rows: Vec<_> = self.lock().iter().map(|(group, tally)| (group.clone(), tally.clone())).collect();
        rows.sort_by(|(a, x), (b, y)| y.count.cmp(&x.count).then_with(|| a.cmp(b)));
        rows
    }

    /// Requests of groups that found no room.
    pub fn beyond(&self) -> u64 {
        self.beyond.load(Ordering::Relaxed)
    }

    fn clear(&self) {
        self.lock().clear();
        self.beyond.store(0, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Tally>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shadow {
    /// Nobody judges yet.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            bench: Bench::without_force(workers),
            disagreements: Ledger::default(),
            observed: Ledger::default(),
            observing: Mutex::default(),
            counts: Mutex::default(),
        })
    }

    pub fn compared(&self, disagreed: bool) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.compared += 1;
        counts.disagreed += u64::from(disagreed);
    }

    pub fn unjudged(&self, why: Unjudged) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).unjudged.entry(why).or_default() += 1;
    }

    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what an earlier shadow said.
    pub fn begin_anew(&self) {
        self.disagreements.clear();
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = Counts::default();
    }

    /// Says which routes only observe, so that one nobody would have been denied on is listed as well.
    pub fn observe(&self, routes: impl Iterator<Item = (String, String)>) {
        *self.observing.lock().unwrap_or_else(PoisonError::into_inner) = routes.collect();
    }

    pub fn observing(&self) -> BTreeSet<(String, String)> {
        self.observing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A path as a group tells it: its first segments, each that looks like an id as `*`.
pub fn template(segments: &[String]) -> String {
    let told = |segment: &String| if is_id(segment) { "*".to_owned() } else { segment.clone() };
    let mut text = segments.iter().take(SEGMENTS).fold(String::new(), |text, segment| format!("{text}/{}", told(segment)));
    if segments.len() > SEGMENTS {
        text.push_str("/**");
    }
    if text.is_empty() { "/".to_owned() } else { bounded(&text) }
}

/// Digits in it, or more than people write.
fn is_id(segment: &str) -> bool {
    let version = segment.strip_prefix('v').is_some_and(|rest| rest.len() <= 2 && rest.bytes().all(|byte| byte.is_ascii_digit()));
    !version && (segment.len() > 32 || segment.bytes().any(|byte| byte.is_ascii_digit()))
}

/// A text of a group, not longer than a row may be.
pub fn bounded(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_without_its_ids_and_in_bounds() {
        let told = |path: &str| template(&path.split('/').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(told("v1/users/42"), "/v1/users/*");
        assert_eq!(told("users/3f2a3f2a-0000-4000-8000-000000000000/keys"), "/users/*/keys");
        assert_eq!(told("a/b/c/d/e/f/g/h/i/j"), "/a/b/c/d/e/f/g/h/**");
        assert_eq!(template(&[]), "/");
        assert!(told(&"ü".repeat(500)).len() < 2 * LONGEST, "an id");
        assert!(bounded(&"ü".repeat(500)).chars().count() == LONGEST + 1);
    }

    #[test]
    fn groups_are_bounded_and_what_finds_no_room_is_counted() {
        let ledger = Ledger::default();
        for number in 0..GROUPS + 7 {
            ledger.note(number, 1, "a");
        }
        ledger.note(3, 9, "b");
        let rows = ledger.rows();
        assert_eq!((rows.len(), ledger.beyond()), (GROUPS, 7));
        assert_eq!(rows[0], (3, Tally { count: 2, first: 1, last: 9, decision_id: "b".to_owned() }));
        ledger.clear();
        assert_eq!((ledger.rows().len(), ledger.beyond()), (0, 0));
    }
}

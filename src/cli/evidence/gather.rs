//! What a log says of each identity in a period.
//!
//! In: lines. Out: counts, what was done, the revisions that judged, what the record lacks. What must stay true: memory is bounded
//! whatever the log holds: identities, kinds of requests and samples have limits, and what found no room is counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;

use crate::cli::log::{Body, Call, Core, Line, Revision};
use crate::cli::period::Period;

const IDENTITIES: usize = 10_000;
/// Kinds of requests: of one identity, and of all of them.
const KINDS: usize = 5_000;
/// Words kept of a sort: reasons, exceptions, sessions.
const WORDS: usize = 200;
const OPEN: usize = 200_000;
/// A recorded input longer than this is no sample.
const SAMPLE: usize = 64 * 1024;

/// A kind of request: ids in its path are told as `{id}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Did {
    pub(super) action: String,
    pub(super) path: String,
    pub(super) resource: Option<String>,
    pub(super) sensitivity: Option<String>,
    pub(super) effect: Option<String>,
}

/// How often, from when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// By the policy, or let through by a route that only observes.
    pub(super) allowed: u64,
    pub(super) denied: u64,
    pub(super) first: OffsetDateTime,
    pub(super) last: OffsetDateTime,
}

impl Use {
    fn note(this: &mut Option<Self>, at: OffsetDateTime, passed: bool) {
        let used = this.get_or_insert(Self { allowed: 0, denied: 0, first: at, last: at });
        *(if passed { &mut used.allowed } else { &mut used.denied }) += 1;
        (used.first, used.last) = (used.first.min(at), used.last.max(at));
    }
}

/// One identity.
#[derive(Debug, Default)]
pub(super) struct Identity {
    pub(super) owner: Option<String>,
    pub(super) all: Option<Use>,
    pub(super) did: BTreeMap<Did, Option<Use>>,
    pub(super) reasons: BTreeMap<String, u64>,
    pub(super) exceptions: BTreeMap<String, u64>,
    pub(super) approvals: BTreeMap<String, u64>,
    pub(super) break_glass: BTreeMap<String, u64>,
    /// Let through although the policy denied it.
    pub(super) observed: u64,
    /// Exchanges a kill cut, and requests a standing kill refused.
    pub(super) cut: u64,
    pub(super) refused: u64,
    sessions: BTreeSet<String>,
    /// How often each kill struck it, by its id.
    pub(super) kills: BTreeMap<String, u64>,
    /// By rule: the last input it was judged by.
    pub(super) last_input: BTreeMap<String, String>,
}

/// A kill by a call.
#[derive(Clone, Debug)]
pub(super) struct Killed {
    /// `None`: the kill of one exchange.
    pub(super) id: Option<String>,
    pub(super) at: OffsetDateTime,
    pub(super) by: Option<String>,
    pub(super) reason: Option<String>,
}

/// A recorded request of a kind.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) input: String,
    pub(super) bundles: BTreeMap<String, String>,
    pub(super) no_body: bool,
    /// Pointers to what is not in it as it was.
    pub(super) taken_out: Vec<String>,
    allowed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gathered {
    period: Period,
    pub(super) decisions: u64,
    /// Refused before anybody was known.
    pub(super) nobody: u64,
    pub(super) identities: BTreeMap<String, Identity>,
    /// By rule.
    pub(super) samples: BTreeMap<(String, Did), Sample>,
    pub(super) revisions: BTreeMap<(String, String), Option<Use>>,
    pub(super) lost: u64,
    pub(super) refused: u64,
    pub(super) torn: u64,
    /// Decisions the policy kept out, as the operator lets it.
    pub(super) dropped: u64,
    pub(super) checkpoints: u64,
    /// The first and the last of the period, and the next after it, as they stand.
    pub(super) first_checkpoint: Option<Value>,
    pub(super) last_checkpoint: Option<Value>,
    pub(super) next_checkpoint: Option<Value>,
    /// Decisions whose identity, kind or sample found no room.
    pub(super) no_room: u64,
    /// By decision id: who made an exchange that is still open.
    open: HashMap<String, String>,
    calls: Vec<(Option<String>, Option<String>, Killed)>,
}

impl Gathered {
    pub(super) fn new(period: Period) -> Self {
        Self {
            period,
            decisions: 0,
            nobody: 0,
            identities: BTreeMap::new(),
            samples: BTreeMap::new(),
            revisions: BTreeMap::new(),
            lost: 0,
            refused: 0,
            torn: 0,
            dropped: 0,
            checkpoints: 0,
            first_checkpoint: None,
            last_checkpoint: None,
            next_checkpoint: None,
            no_room: 0,
            open: HashMap::new(),
            calls: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, line: &Line<'_>) {
        if let Body::Closing(closing) = &line.body {
            // Of an exchange of the period, whenever it ended.
            let who = line.envelope.decision_id.as_ref().and_then(|id| self.open.remove(id));
            if closing.end.cause.as_deref() == Some("kill")
                && let Some(identity) = who.and_then(|who| self.identities.get_mut(&who))
            {
                identity.cut += 1;
                identity.struck(closing.end.kill.as_ref(), &mut self.no_room);
            }
            return;
        }
        if !self.period.holds(line.at) {
            if let Body::Checkpoint(checkpoint) = &line.body
                && self.next_checkpoint.is_none()
                && self.period.to.is_some_and(|to| to <= line.at)
            {
                self.next_checkpoint = Some(checkpoint.clone());
            }
            return;
        }
        match &line.body {
            Body::Decision(core) => self.decision(line, core),
            Body::Control(call) => self.call(line.at, call),
            Body::Loss(losses) => {
                self.lost += losses.lost;
                self.refused += losses.refused;
                self.torn += losses.torn;
                self.dropped += losses.dropped;
            }
            Body::Checkpoint(checkpoint) => {
                self.checkpoints += 1;
                self.first_checkpoint.get_or_insert_with(|| checkpoint.clone());
                self.last_checkpoint = Some(checkpoint.clone());
            }
            Body::Closing(_) | Body::Other => {}
        }
    }

    /// The kills of the period that name this identity or one of its sessions, or that struck it.
    pub(super) fn kills_of<'a>(&'a self, name: &'a str, identity: &'a Identity) -> impl Iterator<Item = &'a Killed> {
        let named = move |(id, session, killed): &&(Option<String>, Option<String>, Killed)| {
            killed.id.as_ref().is_some_and(|kill| identity.kills.contains_key(kill))
                || id.as_deref() == Some(name)
                || session.as_ref().is_some_and(|session| identity.sessions.contains(session))
        };
        self.calls.iter().filter(named).map(|(_, _, killed)| killed)
    }

    fn call(&mut self, at: OffsetDateTime, call: &Call) {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let Some(selector) = call.detail.get("selector").filter(|_| call.outcome.starts_with("killed")) else { return };
        if self.calls.len() < IDENTITIES {
            let (id, reason) = (text(call.detail.get("kill")), text(call.detail.get("reason")));
            let killed = Killed { id, at, by: call.caller.clone(), reason };
            self.calls.push((text(selector.get("spiffe_id")), text(selector.get("session")), killed));
        } else {
            self.no_room += 1;
        }
    }

    fn decision(&mut self, line: &Line<'_>, core: &Core) {
        self.decisions += 1;
        let passed = core.passed();
        for (name, Revision { revision }) in &line.envelope.bundles {
            let key = (name.clone(), revision.clone());
            if self.revisions.len() < KINDS || self.revisions.contains_key(&key) {
                Use::note(self.revisions.entry(key).or_default(), line.at, passed);
            } else {
                self.no_room += 1;
            }
        }
        let Some(name) = &core.peer else {
            self.nobody += 1;
            return;
        };
        if self.identities.len() >= IDENTITIES && !self.identities.contains_key(name) {
            self.no_room += 1;
            return;
        }
        let did = did(core);
        let identity = self.identities.entry(name.clone()).or_default();
        identity.note(line.at, core, &did, &mut self.no_room);
        if core.end.ending.is_none()
            && let Some(id) = line.envelope.decision_id.clone().filter(|_| self.open.len() < OPEN)
        {
            self.open.insert(id, name.clone());
        }
        let (Some(rule), Some(input)) = (&line.envelope.path, line.envelope.input.filter(|input| input.get().len() <= SAMPLE))
        else {
            return;
        };
        identity.last_input.insert(rule.clone(), input.get().to_owned());
        let key = (rule.clone(), did);
        if self.samples.len() >= KINDS && !self.samples.contains_key(&key) {
            self.no_room += 1;
            return;
        }
        let sample = || Sample {
            input: input.get().to_owned(),
            bundles: line.envelope.bundles.iter().map(|(name, it)| (name.clone(), it.revision.clone())).collect(),
            no_body: core.end.bytes_in == 0 && core.end.ending.is_some(),
            taken_out: line.envelope.erased.iter().chain(&line.envelope.masked).cloned().collect(),
            allowed: core.allowed(),
        };
        // One that was allowed shows best what it takes.
        let kept = self.samples.entry(key).or_insert_with(sample);
        if core.allowed() && !kept.allowed {
            *kept = sample();
        }
    }
}

impl Identity {
    fn note(&mut self, at: OffsetDateTime, core: &Core, did: &Did, no_room: &mut u64) {
        let passed = core.passed();
        Use::note(&mut self.all, at, passed);
        self.owner = core.owner.clone().or_else(|| self.owner.take());
        if self.did.len() < KINDS || self.did.contains_key(did) {
            Use::note(self.did.entry(did.clone()).or_default(), at, passed);
        } else {
            *no_room += 1;
        }
        let mut word = |words: &mut BTreeMap<String, u64>, word: Option<&String>| {
            let Some(word) = word else { return };
            if words.len() < WORDS || words.contains_key(word) {
                *words.entry(word.clone()).or_default() += 1;
            } else {
                *no_room += 1;
            }
        };
        if core.verdict.as_deref() != Some("allow") {
            word(&mut self.reasons, core.reason.as_ref());
            core.reasons.iter().for_each(|reason| word(&mut self.reasons, Some(&format!("policy: {reason}"))));
        }
        word(&mut self.exceptions, core.exception.as_ref());
        word(&mut self.approvals, core.approval.as_ref());
        word(&mut self.break_glass, core.break_glass.as_ref());
        self.observed += u64::from(core.verdict.as_deref() == Some("observe_deny"));
        self.refused += u64::from(core.reason.as_deref() == Some("killed"));
        self.cut += u64::from(core.end.cause.as_deref() == Some("kill"));
        self.struck(core.end.kill.as_ref(), no_room);
        if let Some(session) = core.session.as_ref().filter(|_| self.sessions.len() < WORDS) {
            self.sessions.insert(session.clone());
        }
    }
}

impl Identity {
    fn struck(&mut self, kill: Option<&String>, no_room: &mut u64) {
        let Some(kill) = kill else { return };
        if self.kills.len() < WORDS || self.kills.contains_key(kill) {
            *self.kills.entry(kill.clone()).or_default() += 1;
        } else {
            *no_room += 1;
        }
    }

    /// The kills that struck it and are in no call of the period: of a policy, an anomaly rule, or given before.
    pub(super) fn kills_without_call<'a>(&'a self, calls: &[&Killed]) -> Vec<(&'a String, u64)> {
        let given = |id: &String| calls.iter().any(|killed| killed.id.as_ref() == Some(id));
        self.kills.iter().filter(|(id, _)| !given(id)).map(|(id, times)| (id, *times)).collect()
    }
}

fn did(core: &Core) -> Did {
    let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    // What a tunnel or an agent asks for is its host.
    let path = match core.path.as_deref() {
        None | Some("") => word(&core.host),
        Some(path) => template(path),
    };
    let resource = core.resource.as_ref();
    Did {
        action: core.tool.clone().unwrap_or_else(|| word(&core.method)),
        path,
        resource: resource.map(|resource| resource.r#type.clone()),
        sensitivity: resource.map(|resource| resource.sensitivity.clone()),
        effect: resource.map(|resource| resource.effect.clone()),
    }
}

/// A path with `{id}` for each segment that names one thing among many.
pub(super) fn template(path: &str) -> String {
    let is_id = |part: &str| {
        let hex = |c: char| c.is_ascii_hexdigit() || c == '-';
        let digits = !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
        digits || (part.len() >= 16 && part.chars().all(hex)) || part.len() > 64
    };
    path.split('/').map(|part| if is_id(part) { "{id}" } else { part }).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_one_kind_are_one() {
        assert_eq!(template("/v1/users/7"), "/v1/users/{id}");
        assert_eq!(template("/v1/keys/3f2a3f2a-0000-4000-8000-000000000000/uses"), "/v1/keys/{id}/uses");
        assert_eq!(template("/cafe"), "/cafe");
        assert_eq!(template("/"), "/");
    }
}

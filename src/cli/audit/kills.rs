//! Who gave the kill that ended or refused something.
//!
//! In: the control calls of a log, then what was cut or refused. Out: the call that did it, where the line names its kill; else the one that
//! most likely did. What must stay true: a selector matches here only where the log shows that each of its fields does. The kill of one
//! exchange has no name, and neither has any in the lines of an older gate. The line of a call is written after the cut (a call waits for
//! workers and for the disk), so calls are gathered before the timeline is told.

use std::collections::HashMap;

use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use crate::cli::log::Call;
use crate::units::Span;

/// How long before its call's line a kill may have struck.
const CALL_LASTS: Duration = Duration::seconds(35);
/// How long after a kill's line what it cut may end.
const CUT_LASTS: Duration = Duration::seconds(5);
/// Of kills filed together, so many before and after a moment are looked at.
const LOOKED_AT: usize = 64;
/// More calls than this are not remembered.
const MOST: usize = 100_000;

/// A kill that was given by a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kill {
    pub(super) at: OffsetDateTime,
    pub(super) by: String,
    pub(super) reason: String,
    /// What stands; `None`: the kill of one exchange.
    pub(super) id: Option<String>,
    selector: Map<String, Value>,
    until: Option<OffsetDateTime>,
}

/// What a selector can be held against.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    pub(super) exchange: Option<String>,
    pub(super) identity: Option<String>,
    pub(super) session: Option<String>,
    pub(super) task: Option<String>,
    pub(super) tool: Option<String>,
    pub(super) upstream: Option<String>,
    pub(super) host: Option<String>,
    pub(super) address: Option<String>,
    pub(super) certificate: Option<String>,
}

/// All of them, in the order of their calls; filed under one field of each selector, so that a look costs the same however many there are.
#[derive(Debug, Default)]
pub(super) struct Kills {
    given: Vec<Kill>,
    /// Field and value → places in `given`.
    drawers: HashMap<(String, String), Vec<usize>>,
    by_id: HashMap<String, usize>,
    /// Those there was no room for.
    pub(super) more: u64,
}

impl Kills {
    /// Takes note of a call, if it gives or lifts a kill.
    pub(super) fn note(&mut self, at: OffsetDateTime, call: &Call) {
        let detail = |name: &str| call.detail.get(name).and_then(Value::as_str);
        if call.outcome == "lifted" {
            let id = detail("kill");
            self.given
                .iter_mut()
                .filter(|kill| kill.id.is_some() && kill.id.as_deref() == id)
                .for_each(|kill| kill.until = Some(at));
        }
        let Some(selector) = call.detail.get("selector").and_then(Value::as_object) else { return };
        if !call.outcome.starts_with("killed") {
            return;
        }
        if self.given.len() >= MOST {
            self.more += 1;
            return;
        }
        let Some((name, Value::String(value))) = selector.iter().next() else { return };
        self.drawers.entry((name.clone(), value.clone())).or_default().push(self.given.len());
        self.by_id.extend(detail("kill").map(|id| (id.to_owned(), self.given.len())));
        let ttl = detail("ttl").and_then(|ttl| ttl.parse::<Span>().ok()).and_then(|ttl| Duration::try_from(ttl.0).ok());
        self.given.push(Kill {
            at,
            by: call.caller.clone().unwrap_or_else(|| "nobody known".to_owned()),
            reason: detail("reason").unwrap_or_default().to_owned(),
            id: detail("kill").map(str::to_owned),
            selector: selector.clone(),
            until: ttl.and_then(|ttl| at.checked_add(ttl)),
        });
    }

    /// The kill a line names; `None` where no call in the log gave it: a policy or an anomaly rule did, or a call in an older file.
    pub(super) fn named(&self, id: &str) -> Option<&Kill> {
        self.by_id.get(id).and_then(|place| self.given.get(*place))
    }

    /// The kill that cut something at a time.
    pub(super) fn cut(&self, target: &Target, ended: OffsetDateTime) -> Option<&Kill> {
        let near = self.near(target, ended).filter(|kill| kill.at - ended <= CALL_LASTS && ended - kill.at <= CUT_LASTS);
        near.min_by_key(|kill| (kill.at - ended).abs())
    }

    /// The standing kill that refused something at a time: the last whose call was told before, or else the first told after.
    pub(super) fn refused(&self, target: &Target, at: OffsetDateTime) -> Option<&Kill> {
        let stood = |kill: &&Kill| {
            kill.id.is_some() && kill.at - at <= CALL_LASTS && kill.until.is_none_or(|until| at - until <= CUT_LASTS)
        };
        self.near(target, at).filter(stood).min_by_key(|kill| (kill.at > at, (kill.at - at).abs()))
    }

    /// The kills about a target that were told around a time.
    fn near<'a, 't>(&'a self, target: &'t Target, at: OffsetDateTime) -> impl Iterator<Item = &'a Kill> + use<'a, 't> {
        let drawers =
            target.fields().into_iter().filter_map(|(name, value)| self.drawers.get(&(name.to_owned(), value.to_owned())));
        let around = drawers.flat_map(move |drawer| {
            let after = drawer.partition_point(|place| self.given.get(*place).is_some_and(|kill| kill.at <= at));
            let from = after.saturating_sub(LOOKED_AT);
            drawer.get(from..(after + LOOKED_AT).min(drawer.len())).unwrap_or_default()
        });
        around.filter_map(|place| self.given.get(*place)).filter(|kill| kill.reaches(target))
    }
}

impl Target {
    /// What fields of a selector may say of it.
    fn fields(&self) -> Vec<(&'static str, &str)> {
        let domain = self.identity.as_deref().and_then(|id| id.strip_prefix("spiffe://")?.split('/').next());
        let all = [
            ("spiffe_id", self.identity.as_deref()),
            ("trust_domain", domain),
            ("session", self.session.as_deref()),
            ("task", self.task.as_deref()),
            ("tool", self.tool.as_deref()),
            ("exchange", self.exchange.as_deref()),
            ("upstream", self.upstream.as_deref()),
            ("upstream", self.host.as_deref()),
            ("certificate", self.certificate.as_deref()),
            ("address", self.address.as_deref()),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

impl Kill {
    /// True when every field of the selector is seen to hold.
    fn reaches(&self, target: &Target) -> bool {
        let fields = target.fields();
        let holds =
            |name: &String, wanted: &Value| fields.iter().any(|(field, value)| field == name && wanted.as_str() == Some(value));
        self.selector.iter().all(|(name, wanted)| holds(name, wanted))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cut_is_given_to_the_call_beside_it_and_a_refusal_to_the_kill_that_stood() {
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds);
        let call = |outcome: &str, detail: Value| Call {
            caller: Some("alice".to_owned()),
            outcome: outcome.to_owned(),
            detail,
            ..Call::default()
        };
        let mut kills = Kills::default();
        let selector = json!({"spiffe_id": "spiffe://a.org/x"});
        kills.note(at(99), &call("rehearsed: 1 cut", json!({"selector": selector, "reason": "no"})));
        kills.note(at(100), &call("killed: 1 cut", json!({"selector": selector, "reason": "stolen", "kill": "k1", "ttl": "15m"})));
        kills.note(at(500), &call("lifted", json!({"kill": "k1"})));
        kills.note(at(5_000), &call("killed: 0 cut", json!({"selector": {"exchange": "e9"}, "reason": "slow"})));
        let x = Target { identity: Some("spiffe://a.org/x".to_owned()), ..Target::default() };
        let y = Target { identity: Some("spiffe://a.org/y".to_owned()), exchange: Some("e9".to_owned()), ..Target::default() };
        assert_eq!(kills.cut(&x, at(99)).unwrap().reason, "stolen", "the call is told after the cut");
        assert!(kills.cut(&x, at(300)).is_none() && kills.cut(&y, at(99)).is_none());
        assert_eq!(kills.cut(&y, at(5_000)).unwrap().reason, "slow");
        assert_eq!(kills.refused(&x, at(400)).unwrap().id.as_deref(), Some("k1"));
        assert!(kills.refused(&x, at(900)).is_none(), "it was lifted");
        kills.note(at(430), &call("killed: 0 cut", json!({"selector": selector, "reason": "again", "kill": "k2"})));
        assert_eq!(kills.refused(&x, at(429)).unwrap().id.as_deref(), Some("k1"), "a call told before goes before one told after");
        assert_eq!(kills.refused(&x, at(600)).unwrap().id.as_deref(), Some("k2"));
        assert!(kills.refused(&y, at(5_000)).is_none(), "the kill of one exchange stands for nothing");
        assert_eq!(kills.named("k2").unwrap().reason, "again");
        assert!(kills.named("k3").is_none());
    }
}

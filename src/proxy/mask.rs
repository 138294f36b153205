//! What the policy keeps out of the record: parts of a line, and where the operator lets it whole decisions.
//!
//! In: input and result as they would be written, before secrets are hashed and bodies left out. Out: both as `data.system.log.mask`
//! of the policy leaves them; or that there is to be no line, as `data.system.log.drop` says. What must stay true: where a mask was
//! wanted and is not to be had, input and result are withheld and the record says so; nothing is dropped but what a policy itself
//! allowed or denied, and by a rule that said so; a policy without these rules pays for nothing.
//! Unlike OPA, which keeps a decision out of its log where the drop rule fails, a failure drops nothing.
//! The judge in force masks, as in OPA; it may be of a later generation than the one that judged. Where only one of the two masks and
//! it is not in force, nobody can say what was to be hidden.

use std::borrow::Cow;

use regorus::Value;
use serde_json::{Map, Value as Json, json};

use super::open::{Open, Story};
use crate::audit::Why;
use crate::decision::Reason;
use crate::policy::Masked;

/// What may be written.
#[derive(Debug, Default)]
pub(super) struct Mask<'a> {
    pub(super) input: Option<Cow<'a, Value>>,
    pub(super) result: Option<Cow<'a, Value>>,
    pub(super) erased: Vec<String>,
    pub(super) masked: Vec<String>,
    /// Why both are withheld.
    pub(super) fault: Option<String>,
}

pub(super) fn of<'a>(
    open: &Open,
    story: &Story,
    path: Option<&str>,
    input: Option<&'a Value>,
    result: Option<&'a Value>,
) -> Mask<'a> {
    let wanted = story.generation.as_ref().is_some_and(|generation| generation.policy.masks());
    let asked = input.is_some() || result.is_some();
    let in_force = || open.worker.with_judge(|judge| judge.generation.policy.masks());
    if !asked || (!wanted && in_force() == Some(false)) {
        return Mask { input: input.map(Cow::Borrowed), result: result.map(Cow::Borrowed), ..Mask::default() };
    }
    let masked = masked(open, story, path, input, result, wanted).and_then(|masked| {
        let owned = |value: Option<Json>| {
            value
                .map(|value| Value::from_json_str(&value.to_string()).map(Cow::Owned))
                .transpose()
                .map_err(|error| error.to_string())
        };
        let (input, result) = (owned(masked.input)?, owned(masked.result)?);
        Ok(Mask { input, result, erased: masked.erased, masked: masked.masked, fault: None })
    });
    masked.unwrap_or_else(|why| {
        tracing::error!(decision_id = %open.id, why, "a record's mask failed; its input and result are withheld");
        let judged = story.fault.as_deref().or_else(|| story.judgement.as_ref()?.fault.as_deref());
        let fault = format!("input and result are withheld: the mask of the record failed: {why}");
        Mask { fault: Some(judged.map_or(fault.clone(), |judged| format!("{judged}; {fault}"))), ..Mask::default() }
    })
}

fn masked(
    open: &Open,
    story: &Story,
    path: Option<&str>,
    input: Option<&Value>,
    result: Option<&Value>,
    wanted: bool,
) -> Result<Masked, String> {
    let (input, result) = (json(input)?, json(result)?);
    let event = event(open, story, path);
    let judged = open.worker.with_judge(|judge| {
        if wanted && !judge.generation.policy.masks() {
            return Err("the policy in force has no mask, and the one that judged had".to_owned());
        }
        judge.mask(event, input, result)
    });
    judged.unwrap_or_else(|| Err("there is no judge to ask".to_owned()))
}

/// Whether the policy keeps this decision out of the record, and may. Control calls never come by here; refusals, kills, cuts and what
/// the gate itself denied stay in, and so does a decision whose policy failed.
pub(super) fn drops(open: &Open, story: &Story, path: Option<&str>, input: Option<&Value>, result: Option<&Value>) -> bool {
    let by_policy = matches!(story.why, None | Some(Why::Denied(Reason::Policy)));
    let judgement = story.judgement.as_ref().filter(|judgement| by_policy && judgement.verdict.kill.is_none());
    let may = story.settings.as_ref().is_some_and(|settings| settings.may_drop);
    if !may || judgement.is_none() || open.exchange().cut.cause().is_some() || std::thread::panicking() {
        return false;
    }
    let asked = open.worker.with_judge(|judge| {
        if !judge.generation.policy.drops() {
            return Ok(false);
        }
        let mut event = event(open, story, path);
        event.extend(json(input)?.map(|input| ("input".to_owned(), input)));
        event.extend(json(result)?.map(|result| ("result".to_owned(), result)));
        judge.drops(&Json::Object(event))
    });
    asked.unwrap_or(Ok(false)).unwrap_or_else(|why| {
        tracing::error!(decision_id = %open.id, why, "the drop rule of the record failed; the decision is recorded");
        false
    })
}

fn json(value: Option<&Value>) -> Result<Option<Json>, String> {
    value.map(serde_json::to_value).transpose().map_err(|error| error.to_string())
}

/// What both rules read beside input and result: the fields of a line in OPA's schema that are known before it is written.
fn event(open: &Open, story: &Story, path: Option<&str>) -> Map<String, Json> {
    let revisions = story.generation.iter().flat_map(|generation| generation.policy.revisions());
    let bundles: Map<String, Json> = revisions.map(|(name, revision)| (name.clone(), json!({"revision": revision}))).collect();
    let mut event = Map::new();
    event.insert("decision_id".to_owned(), json!(open.id.to_string()));
    event.insert("requested_by".to_owned(), json!(open.downstream.remote));
    event.insert("bundles".to_owned(), Json::Object(bundles));
    event.extend(path.map(|path| ("path".to_owned(), json!(path))));
    event
}

//! What the policy keeps out of the record of an exchange.
//!
//! In: input and result as they would be written, before secrets are hashed and bodies left out. Out: both as `data.system.log.mask`
//! of the policy leaves them. What must stay true: where a mask was wanted and is not to be had, input and result are withheld and the
//! record says so; a policy without the rule pays for nothing.
//! The judge in force masks, as in OPA; it may be of a later generation than the one that judged. Where only one of the two masks and
//! it is not in force, nobody can say what was to be hidden.

use std::borrow::Cow;

use regorus::Value;
use serde_json::{Map, Value as Json, json};

use super::open::{Open, Story};
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
    let json = |value: Option<&Value>| value.map(serde_json::to_value).transpose().map_err(|error| error.to_string());
    let (input, result) = (json(input)?, json(result)?);
    let revisions = story.generation.iter().flat_map(|generation| generation.policy.revisions());
    let bundles: Map<String, Json> = revisions.map(|(name, revision)| (name.clone(), json!({"revision": revision}))).collect();
    let mut event = Map::new();
    event.insert("decision_id".to_owned(), json!(open.id.to_string()));
    event.insert("requested_by".to_owned(), json!(open.downstream.remote));
    event.insert("bundles".to_owned(), Json::Object(bundles));
    event.extend(path.map(|path| ("path".to_owned(), json!(path))));
    let judged = open.worker.with_judge(|judge| {
        if wanted && !judge.generation.policy.masks() {
            return Err("the policy in force has no mask, and the one that judged had".to_owned());
        }
        judge.mask(event, input, result)
    });
    judged.unwrap_or_else(|| Err("there is no judge to ask".to_owned()))
}

//! `status`: what the gate reports of its bundles, in OPA's status format.
//!
//! In: a [`Status`] and the labels of the record. Out: the body of `POST {service}/status[/PARTITION]`. Fields are OPA's; what the gate
//! knows and OPA has no field for is not in it. Times are RFC 3339.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::status::{BundleStatus, ServiceError, Status};
use crate::audit::Labels;

/// `status`: where reports go.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct StatusConfig {
    /// One of `services`.
    pub service: String,
    /// Reports go to status/PARTITION instead of status.
    #[serde(default)]
    pub partition: Option<String>,
}

impl StatusConfig {
    /// What the service is sent reports at.
    pub fn resource(&self) -> String {
        self.partition.as_ref().map_or_else(|| "status".to_owned(), |partition| format!("status/{partition}"))
    }
}

/// A report of how things stand.
pub fn report(status: &Status, labels: &Labels) -> Value {
    let mut bundles: Map<String, Value> = status.bundles.iter().map(|row| (row.name.clone(), bundle(row))).collect();
    for (name, revision) in &status.policy.revisions {
        // One that lies on this machine is fetched from nobody; that it is in force is all there is to say.
        let activated = moment(status.policy.activated_at);
        bundles.entry(name.clone()).or_insert_with(
            || json!({"name": name, "active_revision": revision, "last_successful_activation": activated, "type": "snapshot"}),
        );
    }
    let state = if status.ready { "OK" } else { "NOT_READY" };
    let mut told = json!({"labels": labels, "bundles": bundles, "plugins": {"bundle": {"state": state}}});
    if let Some(delivery) = &status.delivery {
        let mut logs = Map::new();
        tell_error(&mut logs, delivery.error.as_ref());
        told["decision_logs"] = Value::Object(logs);
    }
    told
}

/// What went wrong, in OPA's fields.
fn tell_error(told: &mut Map<String, Value>, error: Option<&ServiceError>) {
    let Some(error) = error else { return };
    told.insert("code".to_owned(), json!(error.code));
    told.insert("message".to_owned(), json!(error.message));
    // OPA writes it as a text.
    told.extend(error.http_code.map(|code| ("http_code".to_owned(), json!(code.to_string()))));
}

fn bundle(row: &BundleStatus) -> Value {
    let mut told = Map::from_iter([("name".to_owned(), json!(row.name)), ("type".to_owned(), json!("snapshot"))]);
    let mut tell = |key: &str, value: Option<Value>| told.extend(value.map(|value| (key.to_owned(), value)));
    tell("active_revision", row.active_revision.as_ref().map(|revision| json!(revision)));
    for (key, at) in [
        ("last_request", row.last_request),
        ("last_successful_request", row.last_successful_request),
        ("last_successful_download", row.last_successful_download),
        ("last_successful_activation", row.last_successful_activation),
    ] {
        tell(key, moment(at));
    }
    tell("size", (row.size > 0).then(|| json!(row.size)));
    tell_error(&mut told, row.error.as_ref());
    Value::Object(told)
}

fn moment(seconds: u64) -> Option<Value> {
    let at = i64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
    OffsetDateTime::from_unix_timestamp(at).ok()?.format(&Rfc3339).ok().map(Value::String)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_fields_of_opa() {
        let labels = Labels { id: "i".to_owned(), version: "1".to_owned(), environment: "test".to_owned(), extra: [].into() };
        let error = ServiceError { since: 1, code: "bundle_error".to_owned(), message: "away".to_owned(), http_code: Some(503) };
        let row =
            BundleStatus { name: "authz".to_owned(), last_request: 1_764_000_000, error: Some(error), ..BundleStatus::default() };
        let mut status = Status { bundles: vec![row], ..Status::default() };
        status.policy.revisions.insert("local".to_owned(), "7".to_owned());
        let told = report(&status, &labels);
        assert_eq!(told["labels"]["id"], "i");
        assert_eq!(told["bundles"]["local"]["active_revision"], "7");
        let expected = json!({"name": "authz", "type": "snapshot", "last_request": "2025-11-24T16:00:00Z", "code": "bundle_error",
            "message": "away", "http_code": "503"});
        assert_eq!(told["bundles"]["authz"], expected);
        assert_eq!(told["plugins"]["bundle"]["state"], "NOT_READY");
        let at =
            |partition: Option<&str>| StatusConfig { service: "s".to_owned(), partition: partition.map(str::to_owned) }.resource();
        assert_eq!((at(None), at(Some("eu"))), ("status".to_owned(), "status/eu".to_owned()));
    }
}

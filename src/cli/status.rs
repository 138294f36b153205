//! `portcullis status`: how a running gate stands.

use std::time::SystemTime;

use clap::Args;

use super::client::Remote;
use super::failure::Failure;
use super::table::{ago, clean, count, moment, or_dash, pairs};
use crate::control::answers::StatusAnswer;
use crate::control::{BundleStatus, DeliveryStatus, FaultKind, IdentityStatus, ServiceError, SignatureStatus};
use crate::units::since_epoch;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let answer = arguments.remote.get("/v1/status")?;
    arguments.remote.show(&answer, words)
}

fn source(identity: &IdentityStatus) -> String {
    let from = match &identity.endpoint {
        Some(endpoint) => format!("the SPIFFE agent at {endpoint}"),
        None => identity.source.clone(),
    };
    match identity.updated_at {
        0 => format!("{from}, nothing yet"),
        at => format!("{from}, last at {}", moment(at)),
    }
}

fn at(seconds: u64) -> String {
    if seconds == 0 { "never".to_owned() } else { moment(seconds) }
}

/// A bundle that a service gives, and what is wrong with that.
fn bundle(row: &BundleStatus) -> String {
    let revision = row.active_revision.as_deref().unwrap_or("none");
    let mut text = format!(
        "bundle {} from service {} ({}): {} in force since {}, last given or confirmed {}",
        clean(&row.name),
        clean(&row.service),
        clean(&row.resource),
        clean(revision),
        at(row.last_successful_activation),
        at(row.last_successful_request),
    );
    if let Some(limit) = row.max_staleness.filter(|_| row.stale) {
        text =
            format!("{text}\n  stale: not confirmed by its service for {limit} (max_staleness); everything is denied until it is");
    }
    if let Some(since) = row.held_since {
        text = format!(
            "{text}\n  held: what the service gives was left by a rollback at {}; it stays out until the service gives another or \
             `portcullis policy activate` takes it",
            moment(since)
        );
    }
    text + &trouble(row.error.as_ref())
}

/// Where the record's lines go beside the file, and what is wrong with that.
fn delivery(row: &DeliveryStatus) -> String {
    let text = format!(
        "decisions to service {} ({}): {} delivered, {} dropped, last taken {}",
        clean(&row.service),
        clean(&row.resource),
        row.delivered,
        row.dropped,
        at(row.last_success),
    );
    text + &trouble(row.error.as_ref())
}

fn trouble(error: Option<&ServiceError>) -> String {
    let Some(error) = error else { return String::new() };
    let lines = error.message.lines().map(|line| format!("\n  {}", clean(line)));
    format!("\n  since {}:{}", moment(error.since), lines.collect::<String>())
}

/// Who vouches for a bundle.
pub(super) fn signature(signed: &SignatureStatus) -> String {
    let at = signed.issued_at.map_or_else(|| "no time is said".to_owned(), moment);
    format!("signed by {} ({}), {at}", clean(&signed.key), clean(&signed.algorithm))
}

fn seconds_now() -> u64 {
    since_epoch(SystemTime::now()).as_secs()
}

fn words(status: StatusAnswer) -> String {
    let state = match (status.draining, status.ready) {
        (true, _) => "draining: nothing new is admitted",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    let listeners = status.listeners.iter().map(|listener| format!("{} on {}", listener.name, listener.address));
    let signed = |bundle: &String| status.signatures.get(bundle).map_or_else(String::new, |it| format!(", {}", signature(it)));
    let revisions = status.revisions.iter().map(|(bundle, revision)| format!("{bundle} {revision}{}", signed(bundle)));
    let identity = status.svid.as_ref().map(|svid| match svid.not_after.checked_sub(seconds_now()) {
        Some(left) => format!("{} until {}, {} from now", svid.spiffe_id, moment(svid.not_after), ago(left)),
        None => format!("{}, expired at {}", svid.spiffe_id, moment(svid.not_after)),
    });
    let source = source(&status.identity);
    let shadow = status.shadow.as_ref().map(|shadow| match (shadow.generation, shadow.loading) {
        (0, true) => "loading".to_owned(),
        (0, false) => "none could be loaded".to_owned(),
        (generation, loading) => {
            let next = if loading { "; another is loading" } else { "" };
            format!("generation {generation} since {}, without effect{next}", moment(shadow.activated_at))
        }
    });
    let caller = status.you.name.unwrap_or_else(|| format!("uid {} without a name", status.you.uid));
    let mut text = pairs([
        ("portcullis", format!("{}, {}, up since {}", status.version, status.environment, moment(status.started))),
        ("state", state.to_owned()),
        ("listeners", listeners.collect::<Vec<_>>().join(", ")),
        ("identity", or_dash(identity)),
        ("given by", source),
        ("trusts", or_dash((!status.identity.trust_domains.is_empty()).then(|| status.identity.trust_domains.join(", ")))),
        (
            "policy",
            match status.generation {
                0 => "none: everything is denied".to_owned(),
                generation => {
                    let back = if status.rolled_back { ", by a rollback" } else { "" };
                    format!("generation {generation} since {}{back}", moment(status.activated_at))
                }
            },
        ),
        ("shadow", or_dash(shadow)),
        ("bundles", revisions.collect::<Vec<_>>().join("; ")),
        (
            "open",
            format!(
                "{} on {}, {}",
                count(status.exchanges, "exchange"),
                count(status.connections, "connection"),
                count(status.sessions, "session")
            ),
        ),
        ("kills", status.kills.to_string()),
        ("you", format!("{caller}, may {}", if status.you.may_operate { "operate" } else { "view" })),
    ]);
    if status.warnings > 0 {
        text = format!("{text}\n\n{} about the policy; see `portcullis policy`", count(status.warnings, "warning"));
    }
    if let Some(fault) = &status.identity.fault {
        let what = match fault.kind {
            FaultKind::Unreachable => "the SPIFFE agent cannot be reached; what it gave holds until it expires",
            FaultKind::Denied => "the SPIFFE agent gives the gate no identity",
            FaultKind::Missing => "the SPIFFE agent does not give the gate its SVID",
            FaultKind::Refused => "the newest certificates are not in force",
        };
        text = format!("{text}\n\n{what}, since {}:", moment(fault.since));
        for line in fault.report.lines() {
            text = format!("{text}\n  {}", clean(line));
        }
    }
    for row in &status.bundles {
        text = format!("{text}\n\n{}", bundle(row));
    }
    if let Some(row) = &status.delivery {
        text = format!("{text}\n\n{}", delivery(row));
    }
    if let Some(error) = status.shadow.and_then(|shadow| shadow.last_error) {
        text = format!("{text}\n\nthe newest bundles of the shadow are not loaded since {}:", moment(error.at));
        for line in error.report.lines() {
            text = format!("{text}\n  {}", clean(line));
        }
    }
    if let Some(error) = status.last_error {
        text = format!("{text}\n\nthe newest bundles are not in force since {}:", moment(error.at));
        for line in error.report.lines() {
            text = format!("{text}\n  {}", clean(line));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{SourceFault, Status, SvidStatus};

    /// An answer like the one `GET /v1/status` makes of this.
    fn told(status: Status) -> String {
        let mut answer = serde_json::to_value(&status).unwrap();
        for (key, value) in [
            ("generation", 0.into()),
            ("activated_at", 0.into()),
            ("revisions", serde_json::json!({})),
            ("warnings", 0.into()),
            ("last_error", serde_json::Value::Null),
            ("connections", 0.into()),
            ("exchanges", 0.into()),
            ("sessions", 0.into()),
            ("kills", 0.into()),
            ("you", serde_json::json!({"uid": 0, "name": null, "may_operate": true})),
        ] {
            answer[key] = value;
        }
        words(serde_json::from_value(answer).unwrap())
    }

    #[test]
    fn the_identity_is_told_with_its_end_its_source_and_what_is_wrong_with_that() {
        let mut status = Status::default();
        status.identity.source = "workload_api".to_owned();
        status.identity.endpoint = Some("unix:///run/agent.sock".to_owned());
        let report = "connect\u{1b}[31m: No such file".to_owned();
        status.identity.fault = Some(SourceFault { since: 1_764_000_000, kind: FaultKind::Unreachable, report });
        let text = told(status.clone());
        assert!(text.contains("the SPIFFE agent at unix:///run/agent.sock, nothing yet"), "{text}");
        assert!(text.contains("cannot be reached; what it gave holds until it expires, since 2025-11-24T16:00:00Z"), "{text}");
        assert!(text.contains("No such file") && !text.contains('\u{1b}'), "{text}");

        let spiffe_id = "spiffe://example.org/gate".to_owned();
        status.svid = Some(SvidStatus { spiffe_id, not_after: seconds_now() + 3700 });
        status.identity.updated_at = 1_764_000_000;
        status.identity.trust_domains = vec!["example.org".to_owned(), "partner.test".to_owned()];
        status.identity.fault = None;
        let text = told(status.clone());
        assert!(text.contains("spiffe://example.org/gate until ") && text.contains(", 1h 1m from now"), "{text}");
        assert!(text.contains("last at 2025-11-24T16:00:00Z") && text.contains("example.org, partner.test"), "{text}");

        status.svid.as_mut().unwrap().not_after = 1_764_000_000;
        assert!(told(status).contains("expired at 2025-11-24T16:00:00Z"));
    }
}

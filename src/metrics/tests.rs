use std::collections::BTreeSet;

use super::*;
use crate::decision::{Basis, Enforcement};

/// The families of DESIGN.md ("Contract: metrics") that can exist with what is built, and those the rooms need besides.
const FAMILIES: &[(&str, &[&str])] = &[
    ("requests_total", &["listener", "verdict", "reason", "mode", "basis"]),
    ("exchanges_open", &["listener", "protocol"]),
    ("connections_open", &["listener"]),
    ("sessions_open", &[]),
    ("cuts_total", &["cause", "protocol"]),
    ("cut_seconds", &["cause"]),
    ("kills_standing", &[]),
    ("decision_seconds", &["phase", "engine"]),
    ("verdict_reuse_total", &["outcome"]),
    ("shadow_generation", &[]),
    ("shadow_failures_total", &[]),
    ("shadow_compared_total", &[]),
    ("shadow_disagreements_total", &["from", "to"]),
    ("shadow_unjudged_total", &["reason"]),
    ("shadow_seconds", &[]),
    ("decision_errors_total", &["kind"]),
    ("policy_generation", &[]),
    ("bundle_last_success_timestamp_seconds", &["bundle"]),
    ("bundle_stale", &["bundle"]),
    ("bundle_failures_total", &["bundle", "code"]),
    ("svid_expiry_timestamp_seconds", &[]),
    ("identity_source_up", &[]),
    ("handshakes_total", &["listener"]),
    ("handshakes_open", &[]),
    ("handshake_errors_total", &["reason"]),
    ("requests_refused_total", &["reason"]),
    ("upstream_seconds", &["upstream"]),
    ("upstream_errors_total", &["upstream", "kind"]),
    ("audit_records_total", &["outcome"]),
    ("audit_lag_seconds", &[]),
    ("delivery_lines_total", &["outcome"]),
    ("delivery_waiting_lines", &[]),
    ("delivery_failures_total", &[]),
    ("engine_disagreements_total", &[]),
    ("ignored_verdict_keys_total", &[]),
    ("panics_total", &[]),
    ("build_info", &["version"]),
];

fn resolved() -> (Metrics, ListenerMetrics) {
    let metrics = Metrics::new("1.2.3").unwrap();
    let listener = metrics.listener("admin-api");
    metrics.upstream("payroll");
    metrics.bundle("authz");
    (metrics, listener)
}

fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    metrics.encode().lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn every_family_of_the_contract_is_there_with_its_labels_before_the_first_event() {
    let (metrics, _listener) = resolved();
    let found: Vec<_> = metrics.registry.gather();
    let names: BTreeSet<String> = found.iter().map(|family| family.name().to_owned()).collect();
    let wanted: BTreeSet<String> = FAMILIES.iter().map(|(name, _)| format!("portcullis_{name}")).collect();
    assert_eq!(names, wanted);
    for family in &found {
        let (_, labels) = FAMILIES.iter().find(|(name, _)| family.name() == format!("portcullis_{name}")).unwrap();
        let labels: BTreeSet<&str> = labels.iter().copied().collect();
        for metric in family.get_metric() {
            assert_eq!(metric.get_label().iter().map(|label| label.name()).collect::<BTreeSet<_>>(), labels, "{}", family.name());
        }
    }
}

#[test]
fn a_listener_has_every_verdict_and_reason_at_zero_and_counts_each_where_it_belongs() {
    let (metrics, listener) = resolved();
    let series = |verdict: &str, reason: &str, mode: &str| {
        format!(
            "portcullis_requests_total{{basis=\"standing\",listener=\"admin-api\",mode=\"{mode}\",reason=\"{reason}\",verdict=\"{verdict}\"}}"
        )
    };
    for reason in Reason::ALL {
        for (verdict, mode) in [("deny", "enforce"), ("deny", "observe"), ("observe_deny", "observe")] {
            assert_eq!(value(&metrics, &series(verdict, reason.code(), mode)), Some(0.0), "{verdict} {reason} {mode}");
        }
        assert_eq!(value(&metrics, &series("observe_deny", reason.code(), "enforce")), None);
    }
    listener.allowed(Enforcement::Enforce, Basis::Standing);
    listener.denied(Enforcement::Observe, Basis::Standing, Reason::Killed);
    listener.observed(Basis::Standing, Reason::Policy);
    assert_eq!(value(&metrics, &series("allow", "none", "enforce")), Some(1.0));
    assert_eq!(value(&metrics, &series("deny", "killed", "observe")), Some(1.0));
    assert_eq!(value(&metrics, &series("observe_deny", "policy", "observe")), Some(1.0));
    let total: f64 = metrics.encode().lines().filter(|line| line.starts_with("portcullis_requests_total{")).map(last_number).sum();
    assert!((total - 3.0).abs() < f64::EPSILON, "{total}");
}

fn last_number(line: &str) -> f64 {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn what_is_open_is_counted_until_its_guard_is_dropped() {
    let (metrics, listener) = resolved();
    let series = "portcullis_exchanges_open{listener=\"admin-api\",protocol=\"h2\"}";
    let first = listener.exchange(Protocol::Http2);
    let second = listener.exchange(Protocol::Http2);
    let connection = listener.connection();
    assert_eq!(value(&metrics, series), Some(2.0));
    assert_eq!(value(&metrics, "portcullis_connections_open{listener=\"admin-api\"}"), Some(1.0));
    drop((first, second, connection));
    assert_eq!(value(&metrics, series), Some(0.0));
    assert_eq!(value(&metrics, "portcullis_connections_open{listener=\"admin-api\"}"), Some(0.0));
}

#[test]
fn two_gates_in_one_process_share_no_number() {
    let (first, _) = resolved();
    let (second, _) = resolved();
    first.requests_refused.of(Refusal::Host).inc();
    let series = "portcullis_requests_refused_total{reason=\"host\"}";
    assert_eq!((value(&first, series), value(&second, series)), (Some(1.0), Some(0.0)));
}

#[test]
fn the_word_of_an_event_is_the_word_of_its_series() {
    let (metrics, _) = resolved();
    metrics.cuts.of(Cause::CertificateExpired).of(Protocol::Http1).inc();
    metrics.decision_seconds.of(Phase::Reassess).of(Engine::Interpreter).observe(0.000_003);
    metrics.handshake_errors.of(HandshakeError::NotX509Svid).inc();
    metrics.upstream("payroll").errors.of(UpstreamError::Reset).inc();
    metrics.bundle("authz").failures.of(BundleFailure::Compile).inc();
    for (series, wanted) in [
        ("portcullis_cuts_total{cause=\"certificate_expired\",protocol=\"http/1.1\"}", 1.0),
        ("portcullis_decision_seconds_bucket{engine=\"interpreter\",phase=\"reassess\",le=\"0.0000025\"}", 0.0),
        ("portcullis_decision_seconds_bucket{engine=\"interpreter\",phase=\"reassess\",le=\"0.000005\"}", 1.0),
        ("portcullis_handshake_errors_total{reason=\"not_x509_svid\"}", 1.0),
        ("portcullis_upstream_errors_total{kind=\"reset\",upstream=\"payroll\"}", 1.0),
        ("portcullis_bundle_failures_total{bundle=\"authz\",code=\"compile\"}", 1.0),
        ("portcullis_build_info{version=\"1.2.3\"}", 1.0),
    ] {
        assert_eq!(value(&metrics, series), Some(wanted), "{series}");
    }
}

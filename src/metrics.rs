//! Prometheus metrics; no path, id or SPIFFE ID is ever a label.
//!
//! In: events by handle. Out: the text a scrape reads. One struct with a registry of its own, so that two gates in one process
//! (tests) never share a number.
//! Every label value is a name from the configuration or a word of a closed set, and every series of a closed set is there, at
//! zero, from the moment its listener, upstream or bundle is resolved: `rate()` sees the first event, and nothing a client sends
//! can add a series. Handles are resolved once and kept, because looking a series up by its labels costs more than the event.

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::decision::{Cause, Opinion, Phase, Protocol, Reason, Refusal, Reuse, Unjudged};

mod buckets;
mod handles;
mod words;

pub use handles::{BundleMetrics, ListenerMetrics, Open, UpstreamMetrics};
pub use words::{AuditOutcome, BundleFailure, DeliveryOutcome, Engine, HandshakeError, UpstreamError, Word, Words};

/// Everything the gate counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    pub sessions_open: IntGauge,
    pub kills_standing: IntGauge,
    pub policy_generation: IntGauge,
    pub svid_expiry: Gauge,
    pub engine_disagreements: IntCounter,
    pub identity_source_up: IntGauge,
    pub ignored_verdict_keys: IntCounter,
    pub panics: IntCounter,
    pub audit_records: Words<AuditOutcome, IntCounter>,
    pub audit_lag: Gauge,
    pub delivery_lines: Words<DeliveryOutcome, IntCounter>,
    pub delivery_waiting: IntGauge,
    /// Uploads the service did not take.
    pub delivery_failures: IntCounter,
    pub requests_refused: Words<Refusal, IntCounter>,
    /// Judgements that failed, by the reason they became; `Policy` and `Killed` are answers, not failures, and stay at zero.
    pub decision_errors: Words<Reason, IntCounter>,
    pub decision_seconds: Words<Phase, Words<Engine, Histogram>>,
    pub shadow_generation: IntGauge,
    /// Versions of the shadow policy that did not load.
    pub shadow_failures: IntCounter,
    pub shadow_compared: IntCounter,
    /// By what the policy in force said and what the shadow did; where both agree nothing is counted.
    pub shadow_disagreements: Words<Opinion, Words<Opinion, IntCounter>>,
    pub shadow_unjudged: Words<Unjudged, IntCounter>,
    pub shadow_seconds: Histogram,
    pub verdict_reuse: Words<Reuse, IntCounter>,
    pub cuts: Words<Cause, Words<Protocol, IntCounter>>,
    pub cut_seconds: Words<Cause, Histogram>,
    pub handshake_errors: Words<HandshakeError, IntCounter>,
    pub handshakes_open: IntGauge,
}

/// What has a name from the configuration among its labels, and so is resolved by name.
#[derive(Clone, Debug)]
struct Families {
    requests: IntCounterVec,
    exchanges_open: IntGaugeVec,
    connections_open: IntGaugeVec,
    handshakes: IntCounterVec,
    bundle_last_success: GaugeVec,
    bundle_stale: IntGaugeVec,
    bundle_failures: IntCounterVec,
    upstream_seconds: HistogramVec,
    upstream_errors: IntCounterVec,
    anomaly_fired: IntCounterVec,
}

/// Why the metrics could not be built: a name or a label is wrong in this file, never in the configuration.
#[derive(Debug, thiserror::Error)]
#[error("a metric cannot be registered: {0}; this is a fault of the gate, please report it")]
pub struct MetricsError(#[from] prometheus::Error);

impl Metrics {
    /// Registers every metric, at zero.
    ///
    /// # Errors
    ///
    /// When two metrics share a name or a label is malformed.
    pub fn new(version: &str) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let register = Register(&registry);
        let build = register.gauges("build_info", "Always 1; the version of the gate is in its label.", &["version"])?;
        build.with_label_values(&[version]).set(1);
        let decision_errors = register.counters("decision_errors_total", "Judgements that failed, and so denied.", &["kind"])?;
        let (disagreements, agreed) = register.disagreements()?;
        let unjudged =
            register.counters("shadow_unjudged_total", "Requests the shadow policy was to judge and did not.", &["reason"])?;
        let reuse =
            register.counters("verdict_reuse_total", "Verdicts, by whether an equal question had been answered.", &["outcome"])?;
        let refused = register.counters("requests_refused_total", "Requests refused before a policy was asked.", &["reason"])?;
        let handshake_errors = register.counters("handshake_errors_total", "TLS handshakes that failed.", &["reason"])?;
        let decisions =
            register.histograms("decision_seconds", "Time one judgement took.", &["phase", "engine"], buckets::DECISION)?;
        let cuts = register.counters("cuts_total", "Open exchanges that were cut.", &["cause", "protocol"])?;
        let cut_seconds =
            register.histograms("cut_seconds", "Time from the cause of a cut to the last byte.", &["cause"], buckets::CUT)?;
        let records = register.counters(
            "audit_records_total",
            "Lines of the record: written, lost, and exchanges refused for want of room.",
            &["outcome"],
        )?;
        let delivered = register.counters(
            "delivery_lines_total",
            "Lines of the record a service was to get: delivered, and dropped; the file has both.",
            &["outcome"],
        )?;

        Ok(Self {
            sessions_open: register.gauge("sessions_open", "Sessions that are watched.")?,
            kills_standing: register.gauge("kills_standing", "Kills that stand.")?,
            policy_generation: register.gauge("policy_generation", "The active generation of policy and data.")?,
            svid_expiry: register.seconds("svid_expiry_timestamp_seconds", "When the gate's own SVID ends, in Unix time.")?,
            engine_disagreements: register.counter(
                "engine_disagreements_total",
                "Requests the two policy engines judged differently; each was denied, and the interpreter took over.",
            )?,
            identity_source_up: register
                .gauge("identity_source_up", "1 while what gives the gate its identity does; 0 while it fails.")?,
            ignored_verdict_keys: register
                .counter("ignored_verdict_keys_total", "Keys of Envoy-shaped verdicts that nobody reads.")?,
            panics: register.counter("panics_total", "Panics that were caught; each denied one request.")?,
            audit_records: Words::new(|outcome: AuditOutcome| records.with_label_values(&[outcome.code()])),
            audit_lag: register.seconds("audit_lag_seconds", "Age of the oldest line of the record that is not written yet.")?,
            delivery_lines: Words::new(|outcome: DeliveryOutcome| delivered.with_label_values(&[outcome.code()])),
            delivery_waiting: register
                .gauge("delivery_waiting_lines", "Lines of the record that wait to be delivered to their service.")?,
            delivery_failures: register
                .counter("delivery_failures_total", "Uploads of lines of the record that their service did not take.")?,
            requests_refused: Words::new(|refusal: Refusal| refused.with_label_values(&[refusal.code()])),
            decision_errors: Words::new(|reason: Reason| decision_errors.with_label_values(&[reason.code()])),
            decision_seconds: Words::new(|phase: Phase| {
                Words::new(|engine: Engine| decisions.with_label_values(&[phase.code(), engine.code()]))
            }),
            shadow_generation: register.gauge("shadow_generation", "The generation of the shadow policy; 0 while none judges.")?,
            shadow_failures: register
                .counter("shadow_failures_total", "Versions of the shadow policy that did not load; enforcement goes on.")?,
            shadow_compared: register.counter("shadow_compared_total", "Requests both policies judged.")?,
            shadow_disagreements: Words::new(|from: Opinion| {
                Words::new(
                    |to: Opinion| {
                        if from == to { agreed.clone() } else { disagreements.with_label_values(&[from.code(), to.code()]) }
                    },
                )
            }),
            shadow_unjudged: Words::new(|why: Unjudged| unjudged.with_label_values(&[why.code()])),
            shadow_seconds: register.histogram(
                "shadow_seconds",
                "Time one judgement of the shadow policy took.",
                buckets::DECISION,
            )?,
            verdict_reuse: Words::new(|outcome: Reuse| reuse.with_label_values(&[outcome.code()])),
            cuts: Words::new(|cause: Cause| {
                Words::new(|protocol: Protocol| cuts.with_label_values(&[cause.code(), protocol.code()]))
            }),
            cut_seconds: Words::new(|cause: Cause| cut_seconds.with_label_values(&[cause.code()])),
            handshake_errors: Words::new(|error: HandshakeError| handshake_errors.with_label_values(&[error.code()])),
            handshakes_open: register.gauge("handshakes_open", "TLS handshakes under way.")?,
            families: Families::new(&register)?,
            registry,
        })
    }

    /// The text a scrape reads (Prometheus text format 0.0.4).
    pub fn encode(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| format!("# not encoded: {error}\n"))
    }

    /// The media type of [`Metrics::encode`].
    pub fn content_type(&self) -> String {
        TextEncoder::new().format_type().to_owned()
    }
}

impl Families {
    fn new(register: &Register<'_>) -> Result<Self, MetricsError> {
        Ok(Self {
            requests: register.counters(
                "requests_total",
                "Requests a verdict was reached on.",
                &["listener", "verdict", "reason", "mode", "basis"],
            )?,
            exchanges_open: register.gauges("exchanges_open", "Exchanges under way.", &["listener", "protocol"])?,
            connections_open: register.gauges("connections_open", "Downstream connections.", &["listener"])?,
            handshakes: register.counters("handshakes_total", "TLS handshakes that succeeded.", &["listener"])?,
            bundle_last_success: register.timestamps(
                "bundle_last_success_timestamp_seconds",
                "When the bundle was last activated, or found unchanged by its service, in Unix time.",
                &["bundle"],
            )?,
            bundle_stale: register.gauges(
                "bundle_stale",
                "1 while the bundle was not confirmed by its service for longer than it may go without, and everything is denied.",
                &["bundle"],
            )?,
            bundle_failures: register.counters(
                "bundle_failures_total",
                "Versions of the bundle that were not activated; the last good one judges on.",
                &["bundle", "code"],
            )?,
            upstream_seconds: register.histograms(
                "upstream_seconds",
                "Time from the first byte sent upstream to the response head.",
                &["upstream"],
                buckets::UPSTREAM,
            )?,
            upstream_errors: register.counters("upstream_errors_total", "Exchanges the upstream failed.", &["upstream", "kind"])?,
            anomaly_fired: register.counters("anomaly_fired_total", "Anomaly rules that fired.", &["rule", "action"])?,
        })
    }
}

/// Makes metrics under the gate's prefix and puts them into its registry.
struct Register<'a>(&'a Registry);

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("portcullis")
}

impl Register<'_> {
    fn keep<M: prometheus::core::Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> Result<M, MetricsError> {
        let metric = metric?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        self.keep(IntCounter::with_opts(options(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricsError> {
        self.keep(IntCounterVec::new(options(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        self.keep(IntGauge::with_opts(options(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        self.keep(IntGaugeVec::new(options(name, help), labels))
    }

    fn seconds(&self, name: &str, help: &str) -> Result<Gauge, MetricsError> {
        self.keep(Gauge::with_opts(options(name, help)))
    }

    fn timestamps(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, MetricsError> {
        self.keep(GaugeVec::new(options(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, MetricsError> {
        let options = HistogramOpts { common_opts: options(name, help), buckets: buckets.to_vec() };
        self.keep(Histogram::with_opts(options))
    }

    /// The series of disagreements, and a counter nobody scrapes for where there is none.
    fn disagreements(&self) -> Result<(IntCounterVec, IntCounter), MetricsError> {
        let help = "Requests the shadow policy judged otherwise than the policy in force.";
        let agreed = IntCounter::with_opts(options("shadow_agreements", help))?;
        Ok((self.counters("shadow_disagreements_total", help, &["from", "to"])?, agreed))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec, MetricsError> {
        let options = HistogramOpts { common_opts: options(name, help), buckets: buckets.to_vec() };
        self.keep(HistogramVec::new(options, labels))
    }
}

#[cfg(test)]
mod tests;

//! Handles of what is counted by a name from the configuration: listeners, upstreams, bundles.
//!
//! In: a name, once, at start-up. Out: a struct of resolved series; the hot path increments through it and looks nothing up.

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::Metrics;
use super::words::{BundleFailure, UpstreamError, Word, Words};
use crate::decision::{Basis, Enforcement, Protocol, Reason};

/// What one listener counts.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    modes: Words<Enforcement, Words<Basis, Verdicts>>,
    exchanges_open: Words<Protocol, IntGauge>,
    connections_open: IntGauge,
    /// TLS handshakes that succeeded.
    pub handshakes: IntCounter,
}

#[derive(Clone, Debug)]
struct Verdicts {
    allow: IntCounter,
    deny: Words<Reason, IntCounter>,
    /// What `observe` let through although it was denied; `None` where denials block.
    observe_deny: Option<Words<Reason, IntCounter>>,
}

/// What one upstream counts.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    /// From the first byte sent upstream to the response head.
    pub seconds: Histogram,
    pub errors: Words<UpstreamError, IntCounter>,
}

/// What one bundle counts.
#[derive(Clone, Debug)]
pub struct BundleMetrics {
    /// When it was last activated, in seconds of Unix time.
    pub last_success: Gauge,
    /// 1 while it is older than it may be and everything is denied.
    pub stale: IntGauge,
    pub failures: Words<BundleFailure, IntCounter>,
}

/// One thing that is open; dropping it counts it closed.
#[derive(Debug)]
pub struct Open(IntGauge);

impl Metrics {
    /// Resolves what the listener `name` counts.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        let requests = |verdict: &str, reason: &str, mode: Enforcement, basis: Basis| {
            self.families.requests.with_label_values(&[name, verdict, reason, mode.code(), basis.code()])
        };
        let verdicts = |mode: Enforcement, basis: Basis| Verdicts {
            allow: requests("allow", "none", mode, basis),
            deny: Words::new(|reason: Reason| requests("deny", reason.code(), mode, basis)),
            observe_deny: match mode {
                Enforcement::Enforce => None,
                Enforcement::Observe => Some(Words::new(|reason: Reason| requests("observe_deny", reason.code(), mode, basis))),
            },
        };
        ListenerMetrics {
            modes: Words::new(|mode| Words::new(|basis| verdicts(mode, basis))),
            exchanges_open: Words::new(|protocol: Protocol| {
                self.families.exchanges_open.with_label_values(&[name, protocol.code()])
            }),
            connections_open: self.families.connections_open.with_label_values(&[name]),
            handshakes: self.families.handshakes.with_label_values(&[name]),
        }
    }

    /// Resolves what the upstream `name` counts.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            seconds: self.families.upstream_seconds.with_label_values(&[name]),
            errors: Words::new(|error: UpstreamError| self.families.upstream_errors.with_label_values(&[name, error.code()])),
        }
    }

    /// Has the series of anomaly rules there, at zero: name, action, and whether it only observes.
    pub fn expect_anomalies<'r>(&self, rules: impl Iterator<Item = (&'r str, &'r str, bool)>) {
        for (rule, action, observes) in rules {
            // On a route that only observes every rule does.
            self.anomaly_fired(rule, "observe");
            if !observes {
                self.anomaly_fired(rule, action);
            }
        }
    }

    /// Resolves what counts an anomaly rule that fired. Looked up when it fires, which is rare by its nature.
    pub fn anomaly_fired(&self, rule: &str, action: &str) -> IntCounter {
        self.families.anomaly_fired.with_label_values(&[rule, action])
    }

    /// Resolves what the bundle `name` counts.
    pub fn bundle(&self, name: &str) -> BundleMetrics {
        BundleMetrics {
            last_success: self.families.bundle_last_success.with_label_values(&[name]),
            stale: self.families.bundle_stale.with_label_values(&[name]),
            failures: Words::new(|code: BundleFailure| self.families.bundle_failures.with_label_values(&[name, code.code()])),
        }
    }
}

impl ListenerMetrics {
    /// Counts a request that was allowed.
    pub fn allowed(&self, mode: Enforcement, basis: Basis) {
        self.modes.of(mode).of(basis).allow.inc();
    }

    /// Counts a request that was denied and stopped, in either mode: `observe` still stops what identity, normalising or a kill
    /// forbids.
    pub fn denied(&self, mode: Enforcement, basis: Basis, reason: Reason) {
        self.modes.of(mode).of(basis).deny.of(reason).inc();
    }

    /// Counts a request that `observe` let through although it was denied.
    pub fn observed(&self, basis: Basis, reason: Reason) {
        if let Some(counters) = &self.modes.of(Enforcement::Observe).of(basis).observe_deny {
            counters.of(reason).inc();
        }
    }

    /// Counts an exchange as open until the guard is dropped.
    #[must_use = "dropping the guard counts the exchange closed"]
    pub fn exchange(&self, protocol: Protocol) -> Open {
        Open::new(self.exchanges_open.of(protocol))
    }

    /// Counts a connection as open until the guard is dropped.
    #[must_use = "dropping the guard counts the connection closed"]
    pub fn connection(&self) -> Open {
        Open::new(&self.connections_open)
    }
}

impl Open {
    /// Counts one more as open in `gauge`.
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

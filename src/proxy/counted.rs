//! What the metrics count of an open exchange. Handles are resolved by listener and upstream already; here they are only found.

use super::open::Open;
use super::settings::{Listener, Target};
use crate::audit::Why;
use crate::decision::{Basis, Enforcement, Phase, Reason, Reuse};
use crate::judge::Judgement;
use crate::metrics;
use crate::policy::Kind;

impl Open {
    pub(super) fn count_upstream_error(&self, kind: metrics::UpstreamError) {
        self.with_target(|target| target.metrics.errors.of(kind).inc());
    }

    pub(super) fn with_target(&self, count: impl FnOnce(&Target)) {
        let story = self.story.borrow();
        let settings = story.settings.as_deref();
        let route = settings.zip(story.route).and_then(|(settings, place)| settings.route_at(self.downstream.listener, place));
        if let Some(target) = settings.zip(route).and_then(|(settings, route)| settings.upstreams.get(route.upstream)) {
            count(target);
        }
    }

    pub(super) fn count_denied(&self, reason: Reason) {
        self.with_listener(|listener, mode| listener.metrics.denied(mode, Basis::Standing, reason));
    }

    /// Counts a request that went on: allowed, or only observed.
    pub(super) fn count_passed(&self) {
        let why = self.story.borrow().why;
        if let Some(Why::Denied(reason)) = why {
            self.suspect_denial(reason);
            self.note_observed();
        }
        self.with_listener(|listener, mode| match why {
            Some(Why::Denied(reason)) => listener.metrics.observed(Basis::Standing, reason),
            Some(Why::Refused(_)) | None => listener.metrics.allowed(mode, Basis::Standing),
        });
    }

    pub(super) fn count_judgement(&self, phase: Phase, judgement: &Judgement) {
        let metrics = &self.worker.services.metrics;
        metrics.verdict_reuse.of(judgement.reuse).inc();
        metrics.ignored_verdict_keys.inc_by(judgement.verdict.ignored_keys as u64);
        // Each request that is denied for it counts, also where an equal one was before.
        if let Some(reason) = judgement.verdict.reason.filter(|reason| *reason != Reason::Policy) {
            metrics.decision_errors.of(reason).inc();
        }
        // What a policy takes would be hidden under what it takes to remember.
        if judgement.reuse == Reuse::Reused {
            return;
        }
        let engine = match judgement.engine {
            Kind::Vm => metrics::Engine::Vm,
            Kind::Interpreter => metrics::Engine::Interpreter,
        };
        metrics.decision_seconds.of(phase).of(engine).observe(judgement.took.as_secs_f64());
        if judgement.disagreed {
            metrics.engine_disagreements.inc();
            tracing::error!(
                generation = judgement.generation,
                "the two policy engines disagreed; the request is denied, and from now on the interpreter judges this entry point"
            );
        }
    }

    fn with_listener(&self, count: impl FnOnce(&Listener, Enforcement)) {
        let story = self.story.borrow();
        if let Some(listener) = self.worker.settings().listener(self.downstream.listener) {
            count(listener, story.enforcement.unwrap_or(Enforcement::Enforce));
        }
    }
}

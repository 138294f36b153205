//! The shadow policy: loaded, replaced and withdrawn beside the one in force.
//!
//! In: the configuration at the start, on a reload, and when a bundle of the shadow changed. Out: a generation of the shadow's own, or
//! the last good one and a report. What must stay true: whatever is wrong with it is told (log, metric, status) and touches nothing else:
//! no generation of the policy in force fails with it, and nothing open is judged again for it. It is compiled where the other one is, so
//! an order given meanwhile waits for that.

use std::sync::Arc;
use std::time::SystemTime;

use super::Shared;
use super::change::blocking;
use crate::config::Config;
use crate::control::{PolicyStatus, Unloaded};
use crate::policy::{self, Policy, Report};
use crate::units::since_epoch;

impl Shared {
    /// Loads the shadow anew, on a thread for such things.
    pub(super) async fn follow_shadow(&self, config: &Config) {
        let (shared, policy) = (self.clone(), config.policy.clone());
        if let Err(error) = blocking(move || shared.load_shadow(&policy)).await {
            tracing::error!(%error, "the shadow policy was not loaded; enforcement goes on");
        }
    }

    /// Loads the shadow the configuration names, or withdraws the one there is where it names none. Slow.
    pub(super) fn load_shadow(&self, config: &policy::Config) {
        let settings = self.services.settings();
        let shadow = &self.services.shadow;
        shadow.observe(settings.observing());
        let (Some(loading), Some(shadowing)) = (config.of_shadow(), &settings.shadow) else {
            shadow.bench.withdraw();
            shadow.begin_anew();
            self.services.metrics.shadow_generation.set(0);
            self.status.update(|status| status.shadow = None);
            return;
        };
        let loaded = Policy::load(&loading, &shadowing.asked()).map(Arc::new);
        let activated = loaded
            .and_then(|policy| Ok((shadow.bench.activate(Arc::clone(&policy), &loading.may_kill, || Ok(()), |_| {})?, policy)));
        match activated {
            Ok((generation, policy)) => self.shadow_stands(&policy, generation),
            Err(report) => self.shadow_refused(&report),
        }
    }

    fn shadow_stands(&self, policy: &Policy, generation: u64) {
        self.services.shadow.begin_anew();
        self.services.metrics.shadow_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        tracing::info!(generation, revisions = ?policy.revisions(), "a shadow policy judges, without effect");
        let now = since_epoch(SystemTime::now()).as_secs();
        self.status.update(|status| status.shadow = Some(PolicyStatus::new(policy, generation, now)));
    }

    fn shadow_refused(&self, report: &Report) {
        let report = report.to_string();
        self.services.metrics.shadow_failures.inc();
        tracing::error!(%report, "the shadow policy was refused; the last good one is compared on, and enforcement goes on");
        let at = since_epoch(SystemTime::now()).as_secs();
        self.status.update(|status| status.shadow.get_or_insert_default().last_error = Some(Unloaded { at, report }));
    }
}

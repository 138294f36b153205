//! The shadow policy: loaded, replaced and withdrawn beside the one in force.
//!
//! In: the configuration at the start, on a reload, and when a bundle of the shadow changed. Out: a generation of the shadow's own, or
//! the last good one and a report. What must stay true: whatever is wrong with it is told (log, metric, status) and touches nothing else:
//! no generation of the policy in force fails with it, nothing open is judged again for it, and nobody waits for it. It is compiled on a
//! thread of its own, one after another; of those that are asked for meanwhile only the last.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::Shared;
use crate::control::{PolicyStatus, StatusBoard, Unloaded};
use crate::judge::shadow::Shadow;
use crate::metrics::Metrics;
use crate::policy::{self, Entry, Policy, Report};
use crate::units::since_epoch;

/// What is loaded, and what waits for that. It knows no more of the gate than it needs: what it holds is let go of only when it is done.
#[derive(Debug)]
pub(super) struct Loads {
    shadow: Arc<Shadow>,
    metrics: Arc<Metrics>,
    status: Arc<StatusBoard>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The last that was asked for.
    next: Option<Wanted>,
    running: bool,
}

/// A shadow and the rules it is asked; none where the configuration names none.
type Wanted = Option<(policy::Config, Vec<Entry>)>;

impl Shared {
    /// Has the shadow loaded that the configuration names, or the one there is withdrawn where it names none. Waits for neither.
    pub(super) fn follow_shadow(&self, config: &policy::Config) {
        let settings = self.services.settings();
        self.services.shadow.observe(settings.observing());
        let asked = settings.shadow.as_ref().map(|shadowing| shadowing.asked());
        self.shadows.follow(config.of_shadow().zip(asked));
    }
}

impl Loads {
    pub(super) fn new(shadow: Arc<Shadow>, metrics: Arc<Metrics>, status: Arc<StatusBoard>) -> Self {
        Self { shadow, metrics, status, queue: Mutex::default() }
    }

    fn follow(self: &Arc<Self>, wanted: Wanted) {
        let loads = wanted.is_some();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.next = Some(wanted);
        if loads {
            self.status.update(|status| status.shadow.get_or_insert_default().loading = true);
        }
        if std::mem::replace(&mut queue.running, true) {
            return;
        }
        drop(queue);
        let this = Arc::clone(self);
        let body = move || {
            while let Some(wanted) = this.next() {
                this.load(wanted);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("shadow".to_owned()).spawn(body) {
            self.queue.lock().unwrap_or_else(PoisonError::into_inner).running = false;
            tracing::error!(%error, "the shadow policy was not loaded; enforcement goes on");
        }
    }

    fn next(&self) -> Option<Wanted> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let next = queue.next.take();
        queue.running = next.is_some();
        next
    }

    fn load(&self, wanted: Wanted) {
        let Some((loading, asked)) = wanted else {
            self.shadow.bench.withdraw();
            self.shadow.begin_anew();
            self.metrics.shadow_generation.set(0);
            self.status.update(|status| status.shadow = None);
            return;
        };
        self.status.update(|status| status.shadow.get_or_insert_default().loading = true);
        let loaded = Policy::load(&loading, &asked).map(Arc::new);
        let activated = loaded.and_then(|policy| {
            Ok((self.shadow.bench.activate(Arc::clone(&policy), &loading.may_kill, || Ok(()), |_| {})?, policy))
        });
        match activated {
            Ok((generation, policy)) => self.stands(&policy, generation),
            Err(report) => self.refused(&report),
        }
    }

    fn stands(&self, policy: &Policy, generation: u64) {
        self.shadow.begin_anew();
        let now = since_epoch(SystemTime::now()).as_secs();
        self.status.update(|status| status.shadow = Some(PolicyStatus::new(policy, generation, now)));
        self.metrics.shadow_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        tracing::info!(generation, revisions = ?policy.revisions(), "a shadow policy judges, without effect");
    }

    fn refused(&self, report: &Report) {
        let report = report.to_string();
        self.metrics.shadow_failures.inc();
        tracing::error!(%report, "the shadow policy was refused; the last good one is compared on, and enforcement goes on");
        let at = since_epoch(SystemTime::now()).as_secs();
        self.status.update(|status| {
            let shadow = status.shadow.get_or_insert_default();
            (shadow.loading, shadow.last_error) = (false, Some(Unloaded { at, report }));
        });
    }
}

//! The record's lines on their way to the service that collects them: a thread of its own, from the first line to after the last.
//!
//! In: `decision_logs` of the configuration. Out: an outbox the record's writer fills, and a thread that empties it and tells `status`
//! and the reports how that goes.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::{AppError, Shared};
use crate::audit::{Outbox, OutboxMetrics};
use crate::config::Config;
use crate::control::{DeliveryStatus, ServiceError, StatusBoard};
use crate::delivery::{Delivery, Tried};
use crate::metrics::{DeliveryOutcome, Metrics};
use crate::units::since_epoch;

/// What the record's writer fills; none where nobody collects.
pub(super) fn outbox(config: &Config, metrics: &Metrics) -> Option<Arc<Outbox>> {
    let wanted = config.decision_logs.as_ref()?;
    let of = |outcome| metrics.delivery_lines.of(outcome).clone();
    let counted = OutboxMetrics {
        delivered: of(DeliveryOutcome::Delivered),
        dropped: of(DeliveryOutcome::Dropped),
        waiting: metrics.delivery_waiting.clone(),
    };
    Some(Arc::new(Outbox::new(wanted.reporting.buffer_size_limit, wanted.lines.into(), counted)))
}

/// A delivery that goes on, on its thread.
pub(super) struct Delivering {
    outbox: Arc<Outbox>,
    thread: JoinHandle<()>,
}

impl Delivering {
    /// Begins it; none where nobody collects.
    pub(super) fn start(shared: &Shared, config: &Config, outbox: Option<Arc<Outbox>>) -> Result<Option<Self>, AppError> {
        let (Some(wanted), Some(outbox)) = (&config.decision_logs, outbox) else { return Ok(None) };
        let Some(service) = shared.supply.services.get(&wanted.service) else { return Ok(None) };
        let (name, resource) = (wanted.service.clone(), wanted.resource.clone());
        shared.status.update(|status| {
            status.delivery = Some(DeliveryStatus { service: name, resource, ..DeliveryStatus::default() });
        });
        let delivery = Delivery {
            service: Arc::clone(service),
            resource: wanted.resource.clone(),
            reporting: wanted.reporting,
            outbox: Arc::clone(&outbox),
            audit: shared.services.audit.clone(),
            failures: shared.services.metrics.delivery_failures.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AppError::Thread)?;
        let (status, changed, metrics) = (Arc::clone(&shared.status), shared.changed.clone(), Arc::clone(&shared.services.metrics));
        let told = move |tried: Tried| {
            let counted = |outcome| metrics.delivery_lines.of(outcome).get();
            let counts = (counted(DeliveryOutcome::Delivered), counted(DeliveryOutcome::Dropped));
            if tell(&status, tried, counts) {
                changed.send_modify(|count| *count = count.wrapping_add(1));
            }
        };
        let body = move || runtime.block_on(delivery.run(told));
        let thread = std::thread::Builder::new().name("delivery".to_owned()).spawn(body).map_err(AppError::Thread)?;
        Ok(Some(Self { outbox, thread }))
    }

    /// Has the record told what the service will never get; call it while lines can still be written.
    pub(super) fn tell_losses(&self, shared: &Shared) {
        let lost = self.outbox.untold();
        if lost > 0 {
            shared.services.audit.undelivered(lost);
        }
    }

    /// Delivers what is left, if that can be done in a few seconds. Call it when the record is closed.
    pub(super) async fn end(self) {
        self.outbox.close();
        let thread = self.thread;
        // One that panicked has told so; the record's file has every line.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

/// Puts a try into the status; true where a report has news of it.
fn tell(status: &StatusBoard, tried: Tried, (delivered, dropped): (u64, u64)) -> bool {
    let at = since_epoch(tried.at).as_secs();
    let mut news = false;
    status.update(|status| {
        let Some(row) = &mut status.delivery else { return };
        (row.delivered, row.dropped) = (delivered, dropped);
        let since = row.error.as_ref().map_or(at, |error| error.since);
        let error = tried.failure.map(|(message, http_code)| ServiceError {
            since,
            code: "decision_log_error".to_owned(),
            message,
            http_code,
        });
        if error.is_none() {
            row.last_success = at;
        }
        news = row.error != error;
        row.error = error;
    });
    news
}

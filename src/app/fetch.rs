//! Bundles that come from services: what is heard of them, put in force and told.
//!
//! In: [`Fetched`]. Out: a new generation, or the last good one and the reason, in the log, the metrics, `status` and the reports. What
//! must stay true: bundles come into force as a set, through the same door as files do; and whatever a service does, what judges
//! goes on judging.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use http::HeaderValue;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::Shared;
use super::change::blocking;
use super::history::Coming;
use super::identity::seconds_as_f64;
use super::supply::{Archive, Offer, archives, fetched};
use super::worker::{Command, Handle};
use crate::audit::Labels;
use crate::config::Config;
use crate::control::{self, BundleStatus, ServiceError, StatusBoard, Unloaded};
use crate::intake::bundles::{self, Feed, Fetched, Outcome};
use crate::metrics::BundleFailure;
use crate::policy::{Archives, Policy, Report};
use crate::service::{Call, Service};
use crate::units::since_epoch;

/// Why a bundle that came is not in force.
struct Refused {
    code: BundleFailure,
    report: String,
}

/// Begins to ask services for the bundles they give, and to report to the one that wants reports.
pub(super) fn start(shared: &Shared, config: &Config, tasks: &mut JoinSet<()>) -> mpsc::Receiver<Fetched> {
    let (news, heard) = mpsc::channel(8);
    for (name, source) in &config.policy.bundles {
        let Some(remote) = source.remote() else { continue };
        let Some(service) = shared.supply.services.get(&remote.service) else { continue };
        let feed = Feed {
            name: name.clone(),
            service: Arc::clone(service),
            resource: remote.resource(name),
            polling: remote.polling.clone(),
            most: remote.size_limit,
            etag: shared.supply.etag(name),
        };
        tasks.spawn(bundles::follow(feed, news.clone()));
    }
    if let Some(wanted) = &config.status
        && let Some(service) = shared.supply.services.get(&wanted.service)
    {
        let (status, labels) = (Arc::clone(&shared.status), Arc::clone(&shared.labels));
        tasks.spawn(report(Arc::clone(service), wanted.resource(), status, labels, shared.changed.subscribe()));
    }
    heard
}

/// Reports each time something changed. One that does not arrive is told in the log; the next one says what it would have said.
async fn report(
    service: Arc<Service>,
    resource: String,
    status: Arc<StatusBoard>,
    labels: Arc<Labels>,
    mut changed: watch::Receiver<u64>,
) {
    changed.mark_changed();
    let mut told = None;
    while changed.changed().await.is_ok() {
        let body = control::report(&status.read(), &labels).to_string();
        let call = Call::post(&resource, HeaderValue::from_static("application/json"), body.into());
        let problem = match service.send(call).await {
            Ok(answer) if answer.status.is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status)),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem.as_ref().filter(|_| problem != told) {
            tracing::warn!(service = %service.name, %resource, %problem, "the status report was not taken");
        }
        told = problem;
    }
}

impl Shared {
    /// Says which bundles are fetched, and from whom.
    pub(super) fn describe_bundles(&self, config: &Config) {
        let row = |name: &str| {
            let remote = config.policy.bundles.get(name)?.remote()?;
            let (service, resource) = (remote.service.clone(), remote.resource(name));
            let max_staleness = remote.max_staleness;
            Some(BundleStatus { name: name.to_owned(), service, resource, max_staleness, ..BundleStatus::default() })
        };
        let rows: Vec<BundleStatus> = fetched(config).filter_map(row).collect();
        // Counted from the start, so that the first failure is seen.
        rows.iter().for_each(|row| drop(self.services.metrics.bundle(&row.name)));
        self.status.update(|status| status.bundles = rows);
        self.tell_held();
    }

    /// Takes in what came of asking for a bundle once.
    pub(super) async fn take_in(&self, config: &Config, workers: &[Handle], fetched: Fetched) {
        let Fetched { bundle, outcome } = fetched;
        let now = seconds_now();
        match outcome {
            Outcome::Failed(failure) => {
                self.row(&bundle, |row| row.last_request = now);
                self.bundle_failed(&bundle, BundleFailure::Download, &failure.message, failure.http_code);
            }
            Outcome::Unchanged => {
                let mut confirmed = false;
                self.row(&bundle, |row| {
                    (row.last_request, row.last_successful_request) = (now, now);
                    confirmed = row.active_revision.is_some();
                    row.error = row.error.take().filter(|_| !confirmed);
                });
                if confirmed {
                    self.confirm(config, &bundle).await;
                    self.services.metrics.bundle(&bundle).last_success.set(seconds_as_f64(now));
                }
            }
            Outcome::Archive { bytes, etag, taken } => {
                self.row(&bundle, |row| {
                    (row.last_request, row.last_successful_request, row.last_successful_download) = (now, now, now);
                    row.size = bytes.len() as u64;
                });
                let result = self.take_over(config, workers, &bundle, Archive { bytes, etag }).await;
                self.tell_held();
                let _ = taken.send(result.is_ok());
                if let Err(Refused { code, report }) = result {
                    self.status.update(|status| {
                        status.policy.last_error = Some(Unloaded { at: now, report: report.clone() });
                    });
                    self.bundle_failed(&bundle, code, &report, None);
                }
            }
        }
        self.look_at_staleness(config, workers);
        self.look_at_identity();
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What is in force of this bundle is the newest, says its service.
    async fn confirm(&self, config: &Config, bundle: &str) {
        let remote = config.policy.bundles.get(bundle).and_then(|source| source.remote());
        let limit = remote.and_then(|remote| remote.max_staleness);
        if self.supply.confirmed(bundle, limit) && remote.is_some_and(|remote| remote.persist) {
            let (shared, bundle) = (self.clone(), bundle.to_owned());
            let _ = blocking(move || shared.supply.note_confirmed(&bundle)).await;
        }
    }

    /// Denies everything while a bundle in force is older than it may be, and cuts what is open; says so once when that changes.
    pub(super) fn look_at_staleness(&self, config: &Config, workers: &[Handle]) {
        let stale = self.supply.stale(config);
        for name in fetched(config) {
            self.services.metrics.bundle(name).stale.set(i64::from(stale.iter().any(|stale| stale == name)));
        }
        self.status.update(|status| status.bundles.iter_mut().for_each(|row| row.stale = stale.contains(&row.name)));
        let before = self.services.stale.swap(!stale.is_empty(), Ordering::Relaxed);
        if !before && !stale.is_empty() {
            tracing::error!(bundles = ?stale, "not confirmed by their services for longer than max_staleness; everything is denied until they are");
            for worker in workers {
                // Cut, not waited for: whoever carries the bytes is as busy as it is.
                let _ = worker.porter.commands.send(Command::Reassess(oneshot::channel().0));
            }
        }
        if before && stale.is_empty() {
            tracing::info!("every bundle is confirmed by its service again");
        }
    }

    /// Says which bundles have a version that is held back.
    pub(super) fn tell_held(&self) {
        self.status.update(|status| {
            status.bundles.iter_mut().for_each(|row| row.held_since = self.supply.held_since(&row.name));
        });
    }

    /// Puts a new archive in force, together with what the other bundles are; or keeps it until the others have come as well.
    async fn take_over(&self, config: &Config, workers: &[Handle], bundle: &str, archive: Archive) -> Result<(), Refused> {
        let Some(source) = config.policy.bundles.get(bundle).cloned() else { return Ok(()) };
        let (name, alone) = (bundle.to_owned(), Archives::from([(bundle.to_owned(), archive.bytes.clone())]));
        let read = blocking(move || source.read(&name, &alone).map(drop)).await;
        let unread = |report: Report| {
            let unsigned = !report.signatures_and_ages().0.is_empty();
            let code = if unsigned { BundleFailure::Signature } else { BundleFailure::Malformed };
            Refused { code, report: report.to_string() }
        };
        let failed = |report: String| Refused { code: BundleFailure::Malformed, report };
        read.map_err(failed)?.map_err(|findings| unread(Report::sorted(findings)))?;

        let Offer::Sets(sets) = self.supply.offer(bundle, archive) else {
            tracing::info!(bundle, "the service gives what an operator went back from; it stays out of force");
            self.confirm(config, bundle).await;
            self.row(bundle, |row| row.error = None);
            return Ok(());
        };
        if sets.is_empty() {
            tracing::info!(bundle, "the bundle was fetched; it waits for the others");
            self.row(bundle, |row| row.error = None);
        }
        let mut refused = Ok(());
        for set in sets {
            match self.enact(config, workers, archives(&set)).await {
                Ok(()) => {
                    self.confirm(config, bundle).await;
                    let (shared, config) = (self.clone(), config.clone());
                    let new = blocking(move || shared.supply.in_force(&config, &set)).await.unwrap_or_default();
                    new.iter().for_each(|name| self.row(name, |row| row.error = None));
                    self.row(bundle, |row| row.error = None);
                    return Ok(());
                }
                Err(refusal) => refused = Err(refusal),
            }
        }
        refused
    }

    /// Loads a policy and puts it in force, and judges everything open by it.
    async fn enact(&self, config: &Config, workers: &[Handle], archives: Archives) -> Result<(), Refused> {
        let failed = |report: String| Refused { code: BundleFailure::Refused, report };
        let refused = |report: Report| {
            let older = !report.signatures_and_ages().1.is_empty();
            let code = if older { BundleFailure::Rollback } else { BundleFailure::Refused };
            Refused { code, report: report.to_string() }
        };
        let (loading, entries) = (config.policy.clone(), self.services.settings().entries.clone());
        let loaded = blocking(move || Policy::load_with(&loading, &entries, &archives)).await.map_err(failed)?;
        let policy = loaded.map_err(refused)?;
        let switched = self.switch(config, workers, Arc::new(policy), None, Coming::new()).await.map_err(failed)?;
        switched.map(drop).map_err(refused)
    }

    fn bundle_failed(&self, bundle: &str, code: BundleFailure, message: &str, http_code: Option<u16>) {
        self.services.metrics.bundle(bundle).failures.of(code).inc();
        let now = seconds_now();
        let mut news = false;
        self.row(bundle, |row| {
            let since = row.error.as_ref().map_or(now, |error| error.since);
            let error = ServiceError { since, code: "bundle_error".to_owned(), message: message.to_owned(), http_code };
            news = row.error.as_ref() != Some(&error);
            row.error = Some(error);
        });
        // Asked again and again, it fails in the same way again and again.
        if news {
            tracing::error!(bundle, error = message, "the bundle is not in force; the last good policy judges on, if there is one");
        }
    }

    fn row(&self, bundle: &str, change: impl FnOnce(&mut BundleStatus)) {
        self.status.update(|status| {
            if let Some(row) = status.bundles.iter_mut().find(|row| row.name == bundle) {
                change(row);
            }
        });
    }
}

fn seconds_now() -> u64 {
    since_epoch(SystemTime::now()).as_secs()
}

//! Changes while the gate stands: policy activated, rolled back or rehearsed, configuration and certificates read again.
//!
//! In: an order of an operator, a file that changed, SIGHUP. Out: a new generation and how many open exchanges it cut, or the old
//! state and a report. What must stay true: a bad policy, configuration or certificate keeps the last good one, and says so in the
//! log, the metrics and `status`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::value::to_raw_value;
use tokio::sync::oneshot;

use super::history::Coming;
use super::identity::seconds_as_f64;
use super::supply::{Set, archives};
use super::worker::{Command, Handle};
use super::{Addresses, Shared, reread};
use crate::audit::ControlCall;
use crate::config::Config;
use crate::control::{Activated, ExchangeRow, ListenerStatus, Unloaded};
use crate::judge::Judge;
use crate::judge::unknown;
use crate::metrics::BundleFailure;
use crate::policy::{KillScope, Policy, Report};
use crate::proxy::settings::Settings;
use crate::proxy::watched::Row;
use crate::reassess::Reassessed;
use crate::units::since_epoch;

/// Whose order an activation is.
#[derive(Clone, Debug)]
pub(super) enum Ordered {
    /// A file changed. What an operator went back from stays out.
    ByItself,
    /// An operator's; the bundles named may be older than what was in force.
    ByOperator(Vec<String>),
}

impl Ordered {
    fn allowed(self) -> Vec<String> {
        match self {
            Self::ByItself => Vec::new(),
            Self::ByOperator(allowed) => allowed,
        }
    }
}

impl Shared {
    /// Says what stands where.
    pub(super) fn describe(&self, config: &Config, addresses: &Addresses) {
        self.describe_identity(config);
        self.describe_bundles(config);
        self.status.update(|status| {
            status.version = env!("CARGO_PKG_VERSION").to_owned();
            status.environment = config.environment.clone();
            status.started = since_epoch(SystemTime::now()).as_secs();
            status.listeners = addresses
                .listeners
                .iter()
                .map(|(name, address)| ListenerStatus { name: name.clone(), address: address.to_string() })
                .collect();
        });
    }

    /// Compiles a policy and puts it in force for every worker, together with the settings it was loaded for where those are new.
    /// Slow: never on a worker, nor where operators wait for other answers.
    /// Tells which of its signed bundles are older than what was in force, and were let back by name.
    pub(super) fn put_in_force(
        &self,
        config: &Config,
        policy: Arc<Policy>,
        settings: Option<Settings>,
        coming: &Coming,
    ) -> Result<(u64, Vec<String>), Report> {
        let older = self.history.examine(config, &policy, coming)?;
        for warning in policy.warnings().iter().chain(&unknown::reads(&policy)) {
            tracing::warn!(%warning, "the policy has a warning");
        }
        let ignored = policy.ignored_drop().filter(|_| !config.audit.allow_drop).map(|ignored| ignored.to_string());
        if let Some(warning) = &ignored {
            tracing::warn!(%warning, "the policy has a warning");
        }
        let publish = |generation| {
            if let Some(settings) = settings {
                self.services.publish_settings(settings, generation);
            }
        };
        let keep = || self.history.keep(&policy, coming);
        let generation = self.bench.activate(Arc::clone(&policy), &config.policy.may_kill, keep, publish)?;
        if matches!(coming, Coming::Loaded(named) if named.is_empty()) && !older.is_empty() {
            self.record_older(&older, &policy);
        }
        let metrics = &self.services.metrics;
        metrics.policy_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        let now = since_epoch(SystemTime::now()).as_secs();
        for bundle in policy.revisions().keys() {
            metrics.bundle(bundle).last_success.set(seconds_as_f64(now));
        }
        tracing::info!(generation, revisions = ?policy.revisions(), "policy in force");
        self.status.in_force(policy, generation, now);
        self.status.update(|status| status.policy.warnings.extend(ignored));
        Ok((generation, older))
    }

    /// What the configuration let back nobody called for, so no call in the record tells of it.
    fn record_older(&self, older: &[String], policy: &Policy) {
        let revisions: BTreeMap<&str, Option<&String>> =
            older.iter().map(|name| (name.as_str(), policy.revisions().get(name))).collect();
        let detail = to_raw_value(&revisions).ok();
        self.services.audit.control(&ControlCall {
            at: SystemTime::now(),
            caller: None,
            call: "signing.allow_rollback_to",
            status: 200,
            outcome: "older bundles were let back by the configuration",
            detail: detail.as_deref(),
        });
    }

    /// Reads the bundles again and puts them in force, then judges everything open anew. `dry_run` only counts.
    pub(super) async fn activate(
        &self,
        config: &Config,
        workers: &[Handle],
        dry_run: bool,
        by: Ordered,
    ) -> Result<Activated, String> {
        let entries = self.services.settings().entries.clone();
        let set = match &by {
            Ordered::ByItself => self.supply.standing(),
            Ordered::ByOperator(allowed) => self.supply.ordered(allowed),
        };
        let allowed = by.allowed();
        let (loading, set) = (config.policy.clone(), set.unwrap_or_default());
        let given = archives(&set);
        let loaded = blocking(move || Policy::load_with(&loading, &entries, &given)).await?;
        let policy = loaded.map(Arc::new).map_err(|report| self.refused(config, &report, dry_run))?;
        let activated = self.switch_to(config, workers, policy, None, Coming::Loaded(allowed), dry_run).await?;
        if !dry_run {
            self.stands(config, set).await;
        }
        Ok(activated)
    }

    /// What services gave has come into force.
    async fn stands(&self, config: &Config, set: Set) {
        let (shared, config) = (self.clone(), config.clone());
        let _ = blocking(move || shared.supply.in_force(&config, &set)).await;
        self.tell_held();
        self.look_at_identity();
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Puts the policy before the one in force back.
    pub(super) async fn roll_back(&self, config: &Config, workers: &[Handle], dry_run: bool) -> Result<Activated, String> {
        let previous = self.bench.previous().ok_or("there is no earlier policy to go back to")?;
        if previous.entries() != self.services.settings().entries {
            return Err(
                "the earlier policy was loaded for routes that ask other rules; put its bundle back and activate it".to_owned()
            );
        }
        let left = self.status.read().policy.revisions;
        let mut activated = self.switch_to(config, workers, previous, None, Coming::Returned, dry_run).await?;
        if !dry_run {
            self.status.update(|status| status.policy.rolled_back = true);
            activated.notes = self.went_back(config).await;
        }
        let on_files = config.policy.bundles.iter().filter(|(name, _)| left.get(*name) != activated.revisions.get(*name));
        activated.notes.extend(on_files.filter_map(|(name, source)| {
            let path = source.path()?.display();
            Some(format!("bundle `{name}`: what lies at {path} is newer, and comes into force with the next change or restart"))
        }));
        Ok(activated)
    }

    /// What services gave stays out of force from now on; tells how that stands.
    async fn went_back(&self, config: &Config) -> Vec<String> {
        let (shared, config) = (self.clone(), config.clone());
        let now = since_epoch(SystemTime::now()).as_secs();
        let notes = blocking(move || shared.supply.went_back(&config, now)).await.unwrap_or_default();
        self.tell_held();
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        notes
    }

    async fn switch_to(
        &self,
        config: &Config,
        workers: &[Handle],
        policy: Arc<Policy>,
        settings: Option<Settings>,
        coming: Coming,
        dry_run: bool,
    ) -> Result<Activated, String> {
        let revisions: BTreeMap<String, String> = policy.revisions().clone();
        let (generation, older, found) = if dry_run {
            let older = self.history.examine(config, &policy, &coming).map_err(|older| self.refused(config, &older, true))?;
            (None, older, self.rehearse(&config.policy.may_kill, workers, policy).await?)
        } else {
            let switched = self.switch(config, workers, policy, settings, coming).await?;
            let (generation, older, found) = switched.map_err(|report| self.refused(config, &report, false))?;
            (Some(generation), older, found)
        };
        Ok(Activated { generation, open: found.open, cut: found.cut, revisions, older, notes: Vec::new(), dry_run })
    }

    /// Puts a policy in force and judges everything open by it. The outer error is the gate's own.
    pub(super) async fn switch(
        &self,
        config: &Config,
        workers: &[Handle],
        policy: Arc<Policy>,
        settings: Option<Settings>,
        coming: Coming,
    ) -> Result<Result<(u64, Vec<String>, Reassessed), Report>, String> {
        let (shared, switching) = (self.clone(), config.clone());
        match blocking(move || shared.put_in_force(&switching, policy, settings, &coming)).await? {
            Ok((generation, older)) => {
                let found = ask(workers, Command::Reassess).await;
                tracing::info!(generation, open = found.open, cut = found.cut, "open exchanges judged again");
                Ok(Ok((generation, older, found)))
            }
            Err(report) => Ok(Err(report)),
        }
    }

    async fn rehearse(&self, may_kill: &[KillScope], workers: &[Handle], policy: Arc<Policy>) -> Result<Reassessed, String> {
        let (bench, may_kill) = (Arc::clone(&self.bench), may_kill.to_vec());
        let candidates: Vec<Judge> =
            blocking(move || bench.candidates(&policy, &may_kill, 0)).await?.map_err(|report| report.to_string())?;
        let mut replies = Vec::new();
        for (worker, candidate) in workers.iter().zip(candidates) {
            let (reply, answer) = oneshot::channel();
            let _ = worker.porter.commands.send(Command::Rehearse(Box::new(candidate), reply));
            replies.push(answer);
        }
        Ok(sum(replies).await)
    }

    fn refused(&self, config: &Config, report: &Report, dry_run: bool) -> String {
        let text = report.to_string();
        if !dry_run {
            self.count_refused(config, report);
            tracing::error!(report = %text, "the policy was refused; the last good one judges on");
            let at = since_epoch(SystemTime::now()).as_secs();
            self.status.update(|status| status.policy.last_error = Some(Unloaded { at, report: text.clone() }));
        }
        text
    }

    /// Counts a policy that was refused: by the bundles whose signature or age it was, or else by all of them, which judge together.
    pub(super) fn count_refused(&self, config: &Config, report: &Report) {
        let failed = |bundle: &str, code| self.services.metrics.bundle(bundle).failures.of(code).inc();
        let (signatures, ages) = report.signatures_and_ages();
        signatures.iter().for_each(|bundle| failed(bundle, BundleFailure::Signature));
        ages.iter().for_each(|bundle| failed(bundle, BundleFailure::Rollback));
        if signatures.is_empty() && ages.is_empty() {
            config.policy.bundles.keys().for_each(|bundle| failed(bundle, BundleFailure::Refused));
        }
    }

    /// Reads the configuration again; a reload is an activation.
    pub(super) async fn reload(&self, file: &Path, now: &Config, workers: &[Handle]) -> Option<Config> {
        let new = match reread(file, now) {
            Ok(new) => new,
            Err(report) => {
                tracing::error!(%report, "the configuration was refused; the last good one stays");
                return None;
            }
        };
        let settings = Settings::new(&new.parts(), &self.services.metrics);
        match settings.and_then(|settings| settings.check_files().map(|()| settings)) {
            Ok(settings) => {
                let (loading, entries) = (new.policy.clone(), settings.entries.clone());
                let set = self.supply.standing().unwrap_or_default();
                let given = archives(&set);
                let loaded = blocking(move || Policy::load_with(&loading, &entries, &given)).await;
                let policy = match loaded {
                    Ok(Ok(policy)) => Arc::new(policy),
                    Ok(Err(report)) => {
                        self.refused(&new, &report, false);
                        return None;
                    }
                    Err(error) => {
                        tracing::error!(%error, "the configuration was not reloaded");
                        return None;
                    }
                };
                self.services.sessions.keep_for(new.keeps_sessions_for());
                if let Err(error) = self.switch_to(&new, workers, policy, Some(settings), Coming::new(), false).await {
                    tracing::error!(%error, "the policy of the new configuration was refused; the last good configuration stays");
                    return None;
                }
                self.stands(&new, set).await;
            }
            Err(mistakes) => {
                tracing::error!(report = %mistakes.join("; "), "the configuration was refused; the last good one stays");
                return None;
            }
        }
        self.services.audit.reopen();
        self.reload_identity(&new, workers);
        Some(new)
    }
}

/// What is open, from every worker.
pub(super) async fn exchanges(workers: &[Handle]) -> Vec<ExchangeRow> {
    let mut rows = Vec::new();
    for worker in workers {
        let (reply, answer) = oneshot::channel();
        let _ = worker.porter.commands.send(Command::List(reply));
        rows.extend(answer.await.unwrap_or_default());
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.age));
    rows.into_iter().map(exchange_row).collect()
}

fn exchange_row(row: Row) -> ExchangeRow {
    ExchangeRow {
        id: row.id,
        spiffe_id: row.spiffe_id,
        session: row.session,
        listener: row.listener,
        protocol: row.protocol.code().to_owned(),
        method: row.method,
        host: row.host,
        path: row.path,
        upstream: row.upstream,
        status: row.status,
        age_seconds: row.age.as_secs(),
        bytes_in: row.bytes_in,
        bytes_out: row.bytes_out,
        generation: row.generation,
    }
}

async fn ask(workers: &[Handle], command: impl Fn(oneshot::Sender<Reassessed>) -> Command) -> Reassessed {
    let mut replies = Vec::new();
    for worker in workers {
        let (reply, answer) = oneshot::channel();
        let _ = worker.porter.commands.send(command(reply));
        replies.push(answer);
    }
    sum(replies).await
}

async fn sum(replies: Vec<oneshot::Receiver<Reassessed>>) -> Reassessed {
    let mut total = Reassessed::default();
    for reply in replies {
        let found = reply.await.unwrap_or_default();
        total.open += found.open;
        total.cut += found.cut;
    }
    total
}

/// Runs what would hold up everybody else on a thread for such things.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| format!("the gate failed while reading: {error}"))
}

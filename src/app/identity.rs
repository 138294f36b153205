//! Who the gate is: taken from files or from the SPIFFE agent, put in force, told, and missed when it is gone.
//!
//! In: files that changed, [`News`] of the agent, the tick of the control thread. Out: the [`Holder`](crate::tls::Holder)'s next
//! snapshot, and what `status`, the metrics, `/readyz` and the log say of it. What must stay true: an agent that is away changes
//! nothing until our SVID expires; one that takes our SVID back has taken it; and without a valid one every handshake and every
//! request is refused, while what is open goes on as long as its peer would still be let in.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use rustls::pki_types::UnixTime;

use super::worker::{Command, Handle};
use super::{AppError, Shared, told};
use crate::config::Config;
use crate::control::{FaultKind, IdentityStatus, SourceFault, Status, SvidStatus};
use crate::intake::agent::News;
use crate::spiffe::{SpiffeId, agent_socket};
use crate::tls::{self, Identity, Source, Wanted};
use crate::units::since_epoch;

/// The agent that gives us our identity, and which of its SVIDs is ours.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) socket: PathBuf,
    wanted: Wanted,
}

impl Agent {
    /// None where the identity comes from files.
    pub(super) fn of(config: &Config) -> Result<Option<Self>, AppError> {
        let Source::WorkloadApi(agent) = &config.identity.source else { return Ok(None) };
        let wrong = |text: &str, why: &str| AppError::Config(format!("identity.source.workload_api: `{text}` {why}"));
        let endpoint = agent.endpoint.as_deref().unwrap_or_default();
        let socket = agent_socket(endpoint).map_err(|why| wrong(endpoint, why))?.to_owned();
        let named = |text: &String| SpiffeId::new(text).map_err(|_| wrong(text, "is not a SPIFFE ID"));
        let trust_domain = tls::trust_domain(&config.identity.trust_domain).map_err(|error| AppError::Config(error.to_string()))?;
        let spiffe_id = agent.spiffe_id.as_ref().map(named).transpose()?;
        Ok(Some(Self { socket, wanted: Wanted { trust_domain, spiffe_id, hint: agent.hint.clone() } }))
    }
}

/// Reads what the configuration names; nobody where the SPIFFE agent has yet to answer.
pub(super) fn load(config: &Config) -> Result<Identity, AppError> {
    let identity = Identity::load(&config.identity, now()).map_err(|mistakes| AppError::Config(told(&mistakes)))?;
    warn(&identity);
    Ok(identity)
}

/// What cannot change while the gate stands; of files only that they are the source.
pub(super) fn fixed(source: &Source) -> Option<&tls::WorkloadApi> {
    match source {
        Source::Files(_) => None,
        Source::WorkloadApi(agent) => Some(agent),
    }
}

impl Shared {
    /// Says where the identity comes from, and what it is at the start.
    pub(super) fn describe_identity(&self, config: &Config) {
        let (source, endpoint) = match &config.identity.source {
            Source::Files(_) => ("files", None),
            Source::WorkloadApi(agent) => ("workload_api", agent.endpoint.clone()),
        };
        self.status.update(|status| {
            let updated_at = if endpoint.is_none() { seconds_now() } else { 0 };
            status.identity = IdentityStatus { source: source.to_owned(), endpoint, updated_at, ..IdentityStatus::default() };
        });
        let identity = self.holder.current();
        self.tell(&identity);
        let found = identity.spiffe_id().is_some();
        self.services.identified.store(identity.is_presentable(now()), Ordering::Relaxed);
        self.services.metrics.identity_source_up.set(i64::from(found));
    }

    /// Reads certificate, key and bundles again.
    pub(super) fn reload_identity(&self, config: &Config, workers: &[Handle]) {
        if matches!(config.identity.source, Source::WorkloadApi(_)) {
            return;
        }
        match load(config) {
            Ok(identity) => {
                self.put_identity(identity, workers);
                self.mended();
            }
            Err(error) => {
                tracing::error!(%error, "certificates were refused; the last good ones stay");
                self.faulty(FaultKind::Refused, &error.to_string());
            }
        }
    }

    /// Takes in what is heard of the SPIFFE agent.
    pub(super) fn hear(&self, news: News, agent: &Agent, workers: &[Handle]) {
        let socket = agent.socket.display();
        match news {
            News::Answer(answer) => match tls::given(&answer, &agent.wanted, now()) {
                Ok((identity, missing)) => {
                    let known = self.holder.current();
                    if identity.warnings() != known.warnings() {
                        warn(&identity);
                    }
                    self.put_identity(identity, workers);
                    match missing {
                        None => self.mended(),
                        Some(missing) => {
                            if self.faulty(FaultKind::Missing, &missing.to_string()) {
                                tracing::error!(%socket, %missing, "the gate has no SVID");
                            }
                        }
                    }
                }
                Err(error) => {
                    if self.faulty(FaultKind::Refused, &error.to_string()) {
                        tracing::error!(%socket, %error, "what the SPIFFE agent gives was refused; what it gave before stays");
                    }
                }
            },
            News::Denied(why) => {
                // Nothing is left of what it gave, bundles included: whoever they let in is cut.
                self.put_identity(Identity::none(), workers);
                if self.faulty(FaultKind::Denied, &why) {
                    let step = "create a registration entry for this process, or see why its selectors do not match any more";
                    tracing::error!(%socket, error = %why, "the SPIFFE agent gives the gate no identity; {step}");
                }
            }
            News::Faulty(why) => {
                if self.faulty(FaultKind::Refused, &why) {
                    let step = "is it the socket of a SPIFFE Workload API?";
                    tracing::error!(%socket, error = %why, "the SPIFFE agent says what nobody can use; {step}");
                }
            }
            News::Gone(why) => {
                if self.faulty(FaultKind::Unreachable, &why) {
                    let until = self.holder.current().not_after();
                    let step = "see that it runs, and that its socket is here and may be opened by this process";
                    tracing::warn!(%socket, error = %why, our_svid_ends = until, "the SPIFFE agent cannot be reached; {step}");
                }
            }
        }
    }

    /// Ready only with a valid SVID, between the start and the drain; says so once when that changes.
    pub(super) fn look_at_identity(&self) {
        let identity = self.holder.current();
        let identified = identity.is_presentable(now());
        let before = self.services.identified.swap(identified, Ordering::Relaxed);
        if before && !identified {
            let not_after = identity.not_after();
            tracing::error!(not_after, "the gate has no valid SVID any more; handshakes and requests are refused until it has one");
        }
        if !before && identified {
            tracing::info!(not_after = identity.not_after(), "the gate has a valid SVID again");
        }
        let stale = self.services.stale.load(Ordering::Relaxed);
        let ready = identified && self.bench.policy().is_some() && !stale && self.status.is_standing();
        if self.services.ready.swap(ready, Ordering::Relaxed) != ready {
            self.status.update(|status| status.ready = ready);
        }
    }

    /// Puts a snapshot in force. Connections stay; workers ask of each whether its peer would still be let in.
    fn put_identity(&self, identity: Identity, workers: &[Handle]) {
        if !identity.is_same(&self.holder.current()) {
            let identity = self.holder.replace(identity);
            for worker in workers {
                let _ = worker.porter.commands.send(Command::CheckIdentities);
            }
            if let Some(spiffe_id) = identity.spiffe_id() {
                tracing::info!(%spiffe_id, not_after = identity.not_after(), "the gate's identity was taken over");
            }
        }
        self.tell(&self.holder.current());
        self.look_at_identity();
    }

    fn tell(&self, identity: &Identity) {
        self.services.metrics.svid_expiry.set(seconds_as_f64(identity.not_after()));
        let svid = identity.spiffe_id().map(|id| SvidStatus { spiffe_id: id.to_string(), not_after: identity.not_after() });
        let trust_domains = identity.trust_domains().map(ToString::to_string).collect();
        self.status.update(|status| {
            (status.svid, status.identity.trust_domains) = (svid, trust_domains);
        });
    }

    fn mended(&self) {
        self.services.metrics.identity_source_up.set(1);
        let mut fault = None;
        self.status.update(|status| {
            status.identity.updated_at = seconds_now();
            fault = status.identity.fault.take();
        });
        if let Some(fault) = fault {
            tracing::info!(since = fault.since, fault = fault.report, "the source of the gate's identity is well again");
        }
    }

    /// Notes what is wrong with the source; true when that is news.
    fn faulty(&self, kind: FaultKind, report: &str) -> bool {
        self.services.metrics.identity_source_up.set(0);
        let mut news = false;
        self.status.update(|status| {
            let known = status.identity.fault.as_ref().filter(|fault| fault.kind == kind);
            news = known.is_none();
            let since = known.map_or_else(seconds_now, |fault| fault.since);
            status.identity.fault = Some(SourceFault { since, kind, report: report.to_owned() });
        });
        news
    }
}

/// Why a gate that stands is not ready; short, because anybody who reaches the port reads it.
pub(super) fn why_not_ready(status: &Status) -> String {
    if let Some(bundle) = status.bundles.iter().find(|row| row.active_revision.is_none() && row.last_successful_download == 0) {
        return format!("there is no policy: bundle `{}` was not fetched yet", bundle.name);
    }
    if let Some(bundle) = status.bundles.iter().find(|row| row.active_revision.is_none()) {
        return format!("there is no policy: bundle `{}` was fetched and is not in force", bundle.name);
    }
    if let Some(bundle) = status.bundles.iter().find(|row| row.stale) {
        return format!("the policy is stale: bundle `{}` was not confirmed by its service for too long", bundle.name);
    }
    let why = match (&status.svid, status.identity.fault.as_ref().map(|fault| fault.kind)) {
        (Some(svid), _) if svid.not_after < seconds_now() => "the gate's SVID has expired",
        (Some(_), _) => "starting",
        (None, Some(FaultKind::Denied)) => "the SPIFFE agent gives the gate no SVID",
        (None, Some(FaultKind::Missing)) => "the SPIFFE agent gives the gate other SVIDs than its configuration names",
        (None, Some(FaultKind::Unreachable | FaultKind::Refused) | None) => "the gate has no SVID yet",
    };
    why.to_owned()
}

fn warn(identity: &Identity) {
    for warning in identity.warnings() {
        tracing::warn!("{warning}");
    }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(since_epoch(SystemTime::now()))
}

fn seconds_now() -> u64 {
    now().as_secs()
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a double's 53 bits for 285 million years")]
pub(super) fn seconds_as_f64(seconds: u64) -> f64 {
    seconds as f64
}

//! The only builder: binds every socket first, starts one runtime per core, drains, and returns real addresses.
//!
//! In: a configuration. Out: a gate, on threads of its own or on the caller's. What must stay true: [`App::bind`] fails before
//! anything is served, and tests come through the same door as `portcullis run`. Who runs where: a worker per core carries
//! connections and judges; one control thread accepts, serves operators and watches files; the record and the kills have a thread
//! each. Nothing slow ever runs on a worker.

mod accept;
mod change;
mod deliver;
mod fetch;
mod history;
mod identity;
mod run;
mod shadow;
mod supply;
mod worker;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use crate::audit::{self, Audit, AuditMetrics, Labels};
use crate::config::{self, Config};
use crate::control::{self, StatusBoard};
use crate::exchange::Registry;
use crate::judge::shadow::Shadow;
use crate::judge::{Bench, Judge};
use crate::kill::{Door, DoorError};
use crate::listener::{Entrance, House};
use crate::metrics::{AuditOutcome, Metrics, MetricsError};
use crate::policy::Report;
use crate::proxy::settings::Settings;
use crate::proxy::worker::{Published, Services, Stirred};
use crate::session::Sessions;
use crate::store::{Store, StoreError};
use crate::tls::{self, Holder, IdentityError, ListenerRules};

use history::{Coming, History};
use identity::Agent;
pub use run::Running;
use shadow::Loads;
use supply::Supply;

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A mistake of whoever configured it.
    #[error("{0}")]
    Config(String),
    #[error("the policy was refused:\n{0}")]
    Policy(#[from] Report),
    #[error("cannot bind {what} {address}: {source}; is another process there, or is the address not this machine's?")]
    Bind { what: &'static str, address: String, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Door(#[from] DoorError),
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    #[error(transparent)]
    AuditKey(#[from] audit::KeyError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error(transparent)]
    Control(#[from] control::ControlError),
    #[error("TLS cannot be configured: {0}")]
    Tls(#[from] rustls::Error),
    #[error("starting a thread: {0}")]
    Thread(#[source] std::io::Error),
    #[error("the record: {0}")]
    Record(#[from] audit::Unwritten),
    #[error("a thread of the gate panicked; see the log")]
    Panicked,
}

impl AppError {
    /// True for mistakes of whoever configured it (exit code 64).
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Policy(_))
    }
}

/// Where a gate really listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub listeners: Vec<(String, SocketAddr)>,
    pub admin: SocketAddr,
    pub control: PathBuf,
}

/// A gate that is bound and not yet open.
pub struct App {
    config: Config,
    /// Read again on SIGHUP.
    file: Option<PathBuf>,
    read: run::Bundles,
    addresses: Addresses,
    listeners: Vec<(TcpListener, Arc<Entrance>)>,
    admin: TcpListener,
    control: std::os::unix::net::UnixListener,
    writer: audit::Writer,
    outbox: Option<Arc<audit::Outbox>>,
    retired: mpsc::Receiver<Judge>,
    house: Arc<House>,
    parts: Shared,
}

/// What outlives the start: used by the control thread for every change.
#[derive(Clone)]
struct Shared {
    services: Arc<Services>,
    bench: Arc<Bench>,
    holder: Arc<Holder>,
    agent: Option<Agent>,
    status: Arc<StatusBoard>,
    supply: Arc<Supply>,
    history: Arc<History>,
    shadows: Arc<Loads>,
    /// Who writes the record and the reports.
    labels: Arc<Labels>,
    /// Counts what reports tell of.
    changed: tokio::sync::watch::Sender<u64>,
}

impl App {
    /// Reads what the configuration names, checks it, and binds every socket.
    ///
    /// # Errors
    /// The first thing that keeps the gate from standing; for identity and policy all their mistakes at once.
    pub fn bind(config: Config) -> Result<Self, AppError> {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))?);
        let settings = Settings::new(&config.parts(), &metrics).map_err(|mistakes| AppError::Config(mistakes.join("\n")))?;
        settings.check_files().map_err(|mistakes| AppError::Config(mistakes.join("\n")))?;
        let agent = Agent::of(&config)?;
        let holder = Arc::new(Holder::new(identity::load(&config)?));
        let supply = Arc::new(Supply::open(&config, &holder)?);
        // Before they are read: what changes from here on is looked at.
        let read = run::fingerprints(&config);
        let policy = supply.first(&config, &settings.entries)?.map(Arc::new);

        let registry = Arc::new(Registry::new(workers));
        let store = Arc::new(Store::open(&config.state)?);
        let history = Arc::new(History::open(Arc::clone(&store))?);
        let door = Arc::new(Door::open(Arc::clone(&registry), store, Arc::clone(&metrics))?);
        let labels = Arc::new(labels(&config));
        let signer = audit::Signer::open(config.audit.checkpoint.key.as_deref(), &config.state.directory)?;
        let (audit, writer) = Audit::open(&config.audit, &labels, audit_metrics(&metrics), Some(signer))?;
        let outbox = deliver::outbox(&config, &metrics);
        let writer = match &outbox {
            Some(outbox) => writer.delivering_to(Arc::clone(outbox)),
            None => writer,
        };
        let sessions = Sessions::new(config.sessions.clone());
        sessions.keep_for(config.keeps_sessions_for());
        let (retire, retired) = mpsc::channel();
        let services = Arc::new(Services {
            registry: Arc::clone(&registry),
            door,
            sessions: Arc::new(sessions),
            holder: Arc::clone(&holder),
            audit,
            metrics,
            settings: Mutex::new(Published::new(settings)),
            retained: AtomicU64::new(0),
            stirred: (0..workers).map(|_| Stirred::default()).collect(),
            ready: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            own: std::sync::OnceLock::new(),
            identified: AtomicBool::new(false),
            shadow: Shadow::new(workers),
            retired: Mutex::new(retire),
        });

        let house = Arc::new(House::new(&config.limits));
        let mut listeners = Vec::new();
        for (place, listener) in config.listeners.iter().enumerate() {
            let entrance =
                Entrance::new(place, listener, rules(&config, listener)?, Arc::clone(&holder), &config.limits, Arc::clone(&house))?;
            listeners.push((bind("listener", listener.address)?, Arc::new(entrance)));
        }
        let admin = bind("the admin port", config.admin.address)?;
        let control = control::bind(&config.control)?;
        let addresses = addresses(&config, &listeners, &admin)?;
        services.own.get_or_init(|| addresses.listeners.iter().map(|(_, own)| *own).chain([addresses.admin]).collect());

        let bench = Arc::new(Bench::new(workers, registry));
        let (status, changed) = (Arc::new(StatusBoard::default()), tokio::sync::watch::Sender::new(0));
        let of_shadow = Loads::new(Arc::clone(&services.shadow), Arc::clone(&services.metrics), Arc::clone(&status));
        let shadows = Arc::new(of_shadow);
        let parts = Shared { services, bench, holder, agent, status, supply, history, shadows, labels, changed };
        parts.describe(&config, &addresses);
        if let Some(policy) = policy {
            match parts.put_in_force(&config, policy, None, &Coming::new()) {
                Ok(_) => {}
                Err(report) if parts.supply.forget() => {
                    parts.count_refused(&config, &report);
                    tracing::error!(%report, "the bundles kept from before were refused; everything is denied until they are fetched");
                }
                Err(report) => return Err(report.into()),
            }
        }
        parts.look_at_staleness(&config, &[]);
        parts.follow_shadow(&config.policy);
        Ok(Self { config, file: None, read, addresses, listeners, admin, control, writer, outbox, retired, house, parts })
    }

    /// Where the configuration is read from again on SIGHUP.
    #[must_use]
    pub fn reloading_from(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// The real addresses: a port 0 of the configuration is a number here.
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

fn told(mistakes: &[IdentityError]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn rules(config: &Config, listener: &crate::listener::Config) -> Result<ListenerRules, AppError> {
    let own = [config.identity.trust_domain.clone()];
    let named = if listener.trust_domains.is_empty() { own.as_slice() } else { listener.trust_domains.as_slice() };
    let trust_domains = named.iter().map(|name| tls::trust_domain(name)).collect::<Result<Vec<_>, _>>();
    Ok(ListenerRules {
        trust_domains: trust_domains.map_err(|error| AppError::Config(error.to_string()))?,
        max_svid_lifetime: listener.max_svid_lifetime.map(|span| span.0),
        minimum: listener.minimum_tls,
        require_certificate: listener.health.is_none(),
    })
}

fn labels(config: &Config) -> Labels {
    Labels {
        id: uuid::Uuid::new_v4().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        environment: config.environment.clone(),
        extra: BTreeMap::new(),
    }
}

fn audit_metrics(metrics: &Metrics) -> AuditMetrics {
    let of = |outcome| metrics.audit_records.of(outcome).clone();
    AuditMetrics {
        written: of(AuditOutcome::Written),
        lost: of(AuditOutcome::Lost),
        refused: of(AuditOutcome::Refused),
        dropped: of(AuditOutcome::Dropped),
        lag: metrics.audit_lag.clone(),
    }
}

fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, AppError> {
    let failed = |source| AppError::Bind { what, address: address.to_string(), source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn addresses(config: &Config, listeners: &[(TcpListener, Arc<Entrance>)], admin: &TcpListener) -> Result<Addresses, AppError> {
    let real = |listener: &TcpListener| {
        listener.local_addr().map_err(|source| AppError::Bind {
            what: "a socket at",
            address: "its own address".to_owned(),
            source,
        })
    };
    let listeners = listeners
        .iter()
        .map(|(listener, entrance)| Ok((entrance.name.clone(), real(listener)?)))
        .collect::<Result<_, AppError>>()?;
    Ok(Addresses { listeners, admin: real(admin)?, control: config.control.socket.clone() })
}

/// Reads the configuration file again; what cannot change while the gate stands is a mistake.
fn reread(file: &Path, now: &Config) -> Result<Config, String> {
    let new = Config::read(file).map_err(|report: config::Report| report.to_string())?;
    let listeners = |config: &Config| {
        let fixed = |l: &crate::listener::Config| {
            let takes = (l.trust_domains.clone(), l.max_svid_lifetime, l.minimum_tls, l.health.is_some());
            (l.name.clone(), l.address, l.mode, l.identity, takes)
        };
        config.listeners.iter().map(fixed).collect::<Vec<_>>()
    };
    let sources = |config: &Config| identity::fixed(&config.identity.source).cloned();
    let fetched = |config: &Config| {
        let remotes = config.policy.bundles.iter().filter_map(|(name, source)| Some((name.clone(), source.remote()?.clone())));
        remotes.collect::<BTreeMap<_, _>>()
    };
    let audit = audit::Config { input: now.audit.input, ..new.audit.clone() };
    // What is built once. Taking the rest and staying silent about these would be a gate that stands otherwise than it is written.
    let fixed = [
        ("environment", new.environment != now.environment),
        ("listeners (all but their routes, enforcement, server names and the path of health)", listeners(&new) != listeners(now)),
        ("limits", new.limits != now.limits),
        ("sessions", new.sessions != now.sessions),
        ("admin.address", new.admin.address != now.admin.address),
        ("control", new.control != now.control),
        ("services", new.services != now.services),
        ("policy.bundles (those of services)", fetched(&new) != fetched(now)),
        ("status", new.status != now.status),
        ("decision_logs", new.decision_logs != now.decision_logs),
        ("state.directory", new.state.directory != now.state.directory),
        ("audit (all but its input)", audit != now.audit),
        ("identity.source (all but the paths of files)", sources(&new) != sources(now)),
        ("identity.trust_domain", new.identity.trust_domain != now.identity.trust_domain),
    ];
    let changed: Vec<&str> = fixed.iter().filter(|(_, changed)| *changed).map(|(name, _)| *name).collect();
    if changed.is_empty() {
        Ok(new)
    } else {
        Err(format!("{}: cannot change while the gate stands; restart it", changed.join(", ")))
    }
}

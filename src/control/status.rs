//! What the gate tells of itself: written by whoever builds and activates, read by the API and by `check`.
//!
//! In: changes. Out: a copy. Times are Unix seconds. One mutex held for a copy is enough, since nothing on the data path comes here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::judge::{facts, reuse, unknown};
use crate::policy::{Chosen, Entry, Footprint, Kind, Policy, ResultShape, Signature};
use crate::units::Span;

/// The one place where the gate's state is told.
#[derive(Debug, Default)]
pub struct StatusBoard {
    status: Mutex<Status>,
    /// Asked at each reading who judges: two engines may disagree at any time.
    policy: Mutex<Option<Arc<Policy>>>,
}

/// The gate as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub environment: String,
    pub started: u64,
    /// The threads run, and every socket is served.
    pub started_up: bool,
    pub ready: bool,
    pub draining: bool,
    pub listeners: Vec<ListenerStatus>,
    pub svid: Option<SvidStatus>,
    pub identity: IdentityStatus,
    /// Those that come from services.
    pub bundles: Vec<BundleStatus>,
    pub policy: PolicyStatus,
    /// Who gets the record's lines beside its file; `None` where nobody does.
    pub delivery: Option<DeliveryStatus>,
    /// The shadow policy; `None` where the configuration names none.
    pub shadow: Option<PolicyStatus>,
}

/// A listener and where it really listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    pub name: String,
    pub address: String,
}

/// The gate's own identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SvidStatus {
    pub spiffe_id: String,
    pub not_after: u64,
}

/// Where the gate's identity comes from, and how that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// files or workload_api
    pub source: String,
    /// Where the SPIFFE agent is, for workload_api.
    pub endpoint: Option<String>,
    /// When something was last taken from it; 0 before the first time.
    pub updated_at: u64,
    /// Whose SVIDs can be checked.
    pub trust_domains: Vec<String>,
    /// Nothing while the source does what it should.
    pub fault: Option<SourceFault>,
}

/// What is wrong with the source of the gate's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFault {
    pub since: u64,
    pub kind: FaultKind,
    pub report: String,
}

/// The kinds of fault a source can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The SPIFFE agent cannot be reached; what it gave holds.
    Unreachable,
    /// The SPIFFE agent gives us nothing, and has taken back what it gave.
    Denied,
    /// Our SVID is not among those the SPIFFE agent gives us.
    Missing,
    /// What it gives cannot be used; what it gave before holds.
    Refused,
}

/// A bundle that comes from a service. A time is 0 before the first time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleStatus {
    pub name: String,
    pub service: String,
    pub resource: String,
    /// Nothing before the first activation.
    pub active_revision: Option<String>,
    /// Bytes of the archive that came last.
    pub size: u64,
    pub last_request: u64,
    /// It was given, or found unchanged.
    pub last_successful_request: u64,
    pub last_successful_download: u64,
    pub last_successful_activation: u64,
    /// How long it may judge without its service confirming it.
    #[serde(default)]
    pub max_staleness: Option<Span>,
    /// It has judged for longer: everything is denied.
    #[serde(default)]
    pub stale: bool,
    /// Since when an operator's rollback holds back the version the service gives.
    #[serde(default)]
    pub held_since: Option<u64>,
    /// Nothing while the service does what it should and what it gives is in force.
    pub error: Option<ServiceError>,
}

/// How the record's lines reach the service that collects them, as of the last try.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryStatus {
    pub service: String,
    pub resource: String,
    /// 0 before the first time.
    pub last_success: u64,
    /// Lines it took.
    pub delivered: u64,
    /// Lines it never got; the record's file has them.
    pub dropped: u64,
    /// Nothing while it takes them.
    pub error: Option<ServiceError>,
}

/// Why a service did not do what it should: the newest version of a bundle is not in force, or lines were not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceError {
    pub since: u64,
    pub code: String,
    pub message: String,
    /// What the service answered, where it answered.
    pub http_code: Option<u16>,
}

/// The policy in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// 0 before the first activation: then everything is denied.
    pub generation: u64,
    pub activated_at: u64,
    /// Of a shadow: another one is being loaded.
    #[serde(default)]
    pub loading: bool,
    /// By an operator's rollback: something newer is there.
    #[serde(default)]
    pub rolled_back: bool,
    /// Bundle → revision.
    pub revisions: BTreeMap<String, String>,
    /// Bundle → who vouches for it; what is not signed is not here.
    #[serde(default)]
    pub signatures: BTreeMap<String, SignatureStatus>,
    pub entries: Vec<EntryStatus>,
    pub warnings: Vec<String>,
    /// Why the newest bundles are not in force; nothing when they are.
    pub last_error: Option<Unloaded>,
}

/// Who vouches for a bundle in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureStatus {
    /// Its key's name in `keys`.
    pub key: String,
    pub algorithm: String,
    pub scope: String,
    /// When it was signed, where the signature says so.
    pub issued_at: Option<u64>,
}

/// Bundles that did not load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unloaded {
    pub at: u64,
    pub report: String,
}

/// One rule that judges, and what it depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryStatus {
    pub decision: String,
    /// How its answer is read: portcullis or envoy.
    pub result: String,
    pub reads: Vec<Read>,
    /// It may read any part of the input.
    pub whole: bool,
    /// Bodies are buffered for it.
    pub body: bool,
    /// It asks for the time, or for chance.
    pub clock: bool,
    pub builtins: Vec<String>,
    /// Who judges it: vm or interpreter.
    pub engine: String,
    /// Why the bytecode VM may not; empty where it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_vm: String,
    /// Why its verdicts are never reused; empty where an equal question gets the verdict given before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_reused: String,
}

/// A path of the input, and one place that reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub path: String,
    /// file:line
    pub place: String,
}

impl StatusBoard {
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// True between the start and the drain: whatever keeps the gate from being ready then may pass.
    pub fn is_standing(&self) -> bool {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.started_up && !status.draining
    }

    /// Tells of a policy that came into force as `generation` at `now`.
    pub fn in_force(&self, policy: Arc<Policy>, generation: u64, now: u64) {
        self.update(|status| {
            status.policy = PolicyStatus::new(&policy, generation, now);
            for row in &mut status.bundles {
                let revision = status.policy.revisions.get(&row.name);
                if row.active_revision.as_ref() != revision {
                    row.last_successful_activation = now;
                }
                row.active_revision = revision.cloned();
            }
        });
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = Some(policy);
    }

    pub fn read(&self) -> Status {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(policy) = self.policy.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            for (place, entry) in status.policy.entries.iter_mut().enumerate() {
                entry.judged_by(policy.chosen(place));
            }
        }
        status
    }
}

impl PolicyStatus {
    /// A loaded policy that came into force as `generation` at `now`.
    pub fn new(policy: &Policy, generation: u64, now: u64) -> Self {
        let entries = policy.entries().iter().enumerate();
        Self {
            generation,
            activated_at: now,
            loading: false,
            rolled_back: false,
            revisions: policy.revisions().clone(),
            signatures: policy.signatures().iter().map(|(name, it)| (name.clone(), SignatureStatus::of(it))).collect(),
            entries: entries.map(|(place, entry)| EntryStatus::new(entry, policy.footprint(place), policy.chosen(place))).collect(),
            warnings: policy.warnings().iter().chain(&unknown::reads(policy)).map(ToString::to_string).collect(),
            last_error: None,
        }
    }
}

impl SignatureStatus {
    fn of(signature: &Signature) -> Self {
        let Signature { key, algorithm, scope, issued_at, .. } = signature.clone();
        Self { key, algorithm: algorithm.to_string(), scope, issued_at }
    }
}

impl EntryStatus {
    /// One entry point, its footprint, and who judges it.
    pub fn new(entry: &Entry, footprint: &Footprint, chosen: Chosen) -> Self {
        let result = match entry.shape {
            ResultShape::Portcullis => "portcullis",
            ResultShape::Envoy => "envoy",
        };
        let reads = footprint.paths.iter().map(|(path, at)| Read {
            path: std::iter::once("input").chain(path.iter().map(String::as_str)).collect::<Vec<_>>().join("."),
            place: format!("{}:{}", at.file, at.line),
        });
        let mut told = Self {
            decision: entry.decision.clone(),
            result: result.to_owned(),
            reads: reads.collect(),
            whole: footprint.whole,
            body: facts::Plan::new(footprint).needs_body,
            clock: footprint.clock,
            builtins: footprint.builtins.keys().cloned().collect(),
            engine: String::new(),
            not_vm: String::new(),
            not_reused: reuse::never(footprint).unwrap_or_default(),
        };
        told.judged_by(chosen);
        told
    }

    fn judged_by(&mut self, chosen: Chosen) {
        let (engine, not_vm) = match chosen {
            Chosen::Vm => (Kind::Vm, String::new()),
            Chosen::Interpreter { why } => (Kind::Interpreter, why),
        };
        self.engine = engine.code().to_owned();
        self.not_vm = not_vm;
    }
}

//! The folder the demo stands in: throw-away certificates, the policy bundle, the configuration of the gate.
//!
//! In: a directory, ports, where the demo API listens. Out: files as somebody would lay them out by hand, which can be read, edited and
//! given to `portcullis run`. What must stay true: nothing is touched in a directory that is not ours; keys are readable by their owner
//! only; certificates that still live are kept, so that lines pasted an hour ago go on working. The authority is not kept: its key
//! never touches the disk, so when one certificate has to be renewed all of them are.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::UnixTime;

use super::authority::{Authority, Lifetime};
use super::configuration::{self, HEADING};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::tls::{self, Identity};

/// How long an SVID lives: as long as the gate accepts.
pub const LIFETIME_SECONDS: u64 = 24 * 3600;
/// What has less than this left is issued anew, so that a demo started in the morning lasts the day.
const NEAR_EXPIRY_SECONDS: u64 = 8 * 3600;

const TRUST_DOMAIN: &str = "example.org";
const DATA: &str = include_str!("../../policies/admin-api/data.json");
const POLICY: [(&str, &str); 4] = [
    (".manifest", include_str!("../../policies/admin-api/.manifest")),
    ("data.json", DATA),
    ("policy.rego", include_str!("../../policies/admin-api/policy.rego")),
    ("policy_test.rego", include_str!("../../policies/admin-api/policy_test.rego")),
];

/// Who takes part in the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Gate,
    /// An agent that may read, and create users.
    Research,
    /// An operator that may delete.
    Alice,
}

/// Where the gate of a stage listens; 0 takes a free port.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub gate: u16,
    pub admin: u16,
}

/// A prepared folder.
#[derive(Clone, Debug)]
pub struct Stage {
    directory: PathBuf,
}

/// Why the folder cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error("{}: {error}; name a directory that may be written", path.display())]
    Files { path: PathBuf, error: io::Error },
    #[error("{} holds files that `portcullis dev` did not put there; name an empty directory", path.display())]
    Foreign { path: PathBuf },
    #[error("no throw-away certificate can be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("`{0}` is not a SPIFFE ID, which is a fault of the demo")]
    Name(String),
    #[error("{}: the policy's data is not JSON any more: {error}; start again, which copies the policy anew", path.display())]
    Data { path: PathBuf, error: serde_json::Error },
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Gate, Self::Research, Self::Alice];

    pub const fn spiffe_id(self) -> &'static str {
        match self {
            Self::Gate => "spiffe://example.org/gate",
            Self::Research => "spiffe://example.org/agents/research",
            Self::Alice => "spiffe://example.org/ops/alice",
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Research => "research",
            Self::Alice => "alice",
        }
    }
}

impl Stage {
    /// Makes or refreshes the folder: certificates where they are missing or end soon, policy and configuration always.
    ///
    /// # Errors
    /// When the directory is somebody else's, or cannot be written.
    pub fn prepare(directory: &Path, ports: Ports, upstream: SocketAddr, now: u64) -> Result<Self, StageError> {
        let stage = Self { directory: directory.to_owned() };
        stage.take_over()?;
        if !Role::ALL.into_iter().all(|role| stage.lives(role, now)) {
            stage.issue(now)?;
        }
        let policy = stage.directory.join("policy");
        remove(&policy)?;
        make_directory(&policy)?;
        for (name, text) in POLICY {
            stage.write(&policy.join(name), text, 0o644)?;
        }
        stage.write(&stage.gate_yaml(), &configuration::text(ports, upstream), 0o644)?;
        Ok(stage)
    }

    /// Forgets what an earlier run left: kills that still stand, and its record.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self) -> Result<(), StageError> {
        remove(&self.directory.join("state"))?;
        remove(&self.decisions())
    }

    /// Opens or closes the export, as somebody would who edits the policy's data in place.
    ///
    /// # Errors
    /// When the data cannot be read or written.
    pub fn set_export_open(&self, open: bool) -> Result<(), StageError> {
        let path = self.policy_data();
        let text = fs::read_to_string(&path).map_err(|error| StageError::Files { path: path.clone(), error })?;
        let broken = |error| StageError::Data { path: path.clone(), error };
        let mut data: serde_json::Value = serde_json::from_str(&text).map_err(broken)?;
        if let Some(switch) = data.pointer_mut("/portcullis/export_open") {
            *switch = serde_json::Value::Bool(open);
        }
        let text = serde_json::to_string_pretty(&data).map_err(broken)?;
        self.write(&path, &format!("{text}\n"), 0o644)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn gate_yaml(&self) -> PathBuf {
        self.directory.join("gate.yaml")
    }

    pub fn bundle(&self) -> PathBuf {
        self.directory.join("bundle.pem")
    }

    pub fn certificate(&self, role: Role) -> PathBuf {
        self.directory.join(format!("{}.pem", role.file()))
    }

    pub fn key(&self, role: Role) -> PathBuf {
        self.directory.join(format!("{}.key", role.file()))
    }

    pub fn policy_data(&self) -> PathBuf {
        self.directory.join("policy/data.json")
    }

    pub fn decisions(&self) -> PathBuf {
        self.directory.join("decisions.jsonl")
    }

    /// The files of one workload, as the gate's own configuration would name them.
    pub fn identity(&self, role: Role) -> tls::Config {
        tls::Config {
            trust_domain: TRUST_DOMAIN.to_owned(),
            source: tls::Source::Files(tls::Files {
                certificate: self.certificate(role),
                private_key: self.key(role),
                bundles: BTreeMap::from([(TRUST_DOMAIN.to_owned(), self.bundle())]),
            }),
        }
    }

    /// Makes the directory ours, unless it is somebody else's.
    fn take_over(&self) -> Result<(), StageError> {
        let failed = |error| StageError::Files { path: self.directory.clone(), error };
        if self.directory.exists() {
            let ours = fs::read_to_string(self.gate_yaml()).is_ok_and(|text| text.starts_with(HEADING));
            for entry in fs::read_dir(&self.directory).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                if !ours && !name.to_str().is_some_and(is_early) {
                    return Err(StageError::Foreign { path: self.directory.clone() });
                }
            }
        }
        make_directory(&self.directory)?;
        fs::set_permissions(&self.directory, Permissions::from_mode(0o700)).map_err(failed)?;
        self.write(&self.directory.join(".gitignore"), "*\n", 0o644)
    }

    /// True when a certificate, its key and the bundle belong together and have a while to live.
    fn lives(&self, role: Role, now: u64) -> bool {
        let clock = UnixTime::since_unix_epoch(Duration::from_secs(now));
        Identity::load(&self.identity(role), clock).is_ok_and(|identity| {
            identity.spiffe_id().is_some_and(|id| id.to_string() == role.spiffe_id())
                && identity.not_after() > now.saturating_add(NEAR_EXPIRY_SECONDS)
        })
    }

    fn issue(&self, now: u64) -> Result<(), StageError> {
        let trust_domain = TrustDomain::new(TRUST_DOMAIN).map_err(|_| StageError::Name(TRUST_DOMAIN.to_owned()))?;
        let authority = Authority::new(&trust_domain)?;
        let lifetime = Lifetime::starting(now, LIFETIME_SECONDS);
        for role in Role::ALL {
            let id = SpiffeId::new(role.spiffe_id()).map_err(|_| StageError::Name(role.spiffe_id().to_owned()))?;
            let issued = match role {
                Role::Gate => authority.issue_local(&id, lifetime)?,
                Role::Research | Role::Alice => authority.issue(&id, lifetime)?,
            };
            self.write(&self.key(role), &issued.key_pem, 0o600)?;
            self.write(&self.certificate(role), &issued.certificate_pem, 0o644)?;
        }
        self.write(&self.bundle(), authority.ca_pem(), 0o644)
    }

    /// Writes a file whole: under another name first, so that nobody reads half of it, or a key with the mode of an older file; and in
    /// our own directory, so that the policy's never holds a file that is not policy.
    fn write(&self, path: &Path, text: &str, mode: u32) -> Result<(), StageError> {
        let failed = |error| StageError::Files { path: path.to_owned(), error };
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = self.directory.join(name);
        remove(&fresh)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        fs::rename(&fresh, path).map_err(failed)
    }
}

/// True for what a run that was interrupted before it wrote gate.yaml may have left, and for the folder of the tour.
fn is_early(name: &str) -> bool {
    let finished = name.strip_suffix(".new").unwrap_or(name);
    let issued = finished.strip_suffix(".pem").or_else(|| finished.strip_suffix(".key"));
    [".gitignore", "bundle.pem", "policy", "tour"].contains(&finished)
        || name == "gate.yaml.new"
        || issued.is_some_and(|name| Role::ALL.iter().any(|role| role.file() == name))
}

fn make_directory(path: &Path) -> Result<(), StageError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| StageError::Files { path: path.to_owned(), error })
}

fn remove(path: &Path) -> Result<(), StageError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StageError::Files { path: path.to_owned(), error }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const PORTS: Ports = Ports { gate: 0, admin: 0 };

    fn prepare(directory: &Path, now: u64) -> Stage {
        Stage::prepare(directory, PORTS, SocketAddr::from(([127, 0, 0, 1], 9000)), now).unwrap()
    }

    fn now() -> u64 {
        UnixTime::now().as_secs()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_folder_is_private_ignored_and_its_keys_are_their_owners() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("stage");
        let stage = prepare(&directory, now());
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(fs::read_to_string(directory.join(".gitignore")).unwrap(), "*\n");
        for role in Role::ALL {
            assert_eq!(mode(&stage.key(role)), 0o600, "{role:?}");
            let identity = Identity::load(&stage.identity(role), UnixTime::now()).unwrap();
            assert_eq!(identity.spiffe_id().unwrap().to_string(), role.spiffe_id());
            assert!(identity.warnings().is_empty(), "{:?}", identity.warnings());
        }
        assert!(fs::read_dir(&directory).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().ends_with(".new")));
    }

    #[test]
    fn the_configuration_has_no_mistake_and_stays_in_the_folder() {
        let scratch = tempfile::tempdir().unwrap();
        let stage = prepare(scratch.path(), now());
        let config = Config::read(&stage.gate_yaml()).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(config.upstreams["users"].endpoint, "http://127.0.0.1:9000");
        let policy = config.policy.bundles["authz"].path().unwrap();
        for path in [config.control.socket.as_path(), &config.audit.file, &config.state.directory, policy] {
            assert_eq!(path.parent(), Some(scratch.path()), "{}", path.display());
        }
        assert_eq!(config.audit.file, stage.decisions());
    }

    #[test]
    fn certificates_are_kept_until_they_end_soon_and_then_all_are_issued_anew() {
        let scratch = tempfile::tempdir().unwrap();
        let start = now();
        let certificates = |stage: &Stage| Role::ALL.map(|role| fs::read_to_string(stage.certificate(role)).unwrap());
        let first = certificates(&prepare(scratch.path(), start));
        let kept = certificates(&prepare(scratch.path(), start + LIFETIME_SECONDS - NEAR_EXPIRY_SECONDS - 60));
        assert_eq!(kept, first);
        let later = prepare(scratch.path(), start + LIFETIME_SECONDS - NEAR_EXPIRY_SECONDS);
        let renewed = certificates(&later);
        assert!(first.iter().zip(&renewed).all(|(old, new)| old != new));
        fs::remove_file(later.key(Role::Alice)).unwrap();
        let repaired = certificates(&prepare(scratch.path(), start));
        assert!(renewed.iter().zip(&repaired).all(|(old, new)| old != new));
    }

    #[test]
    fn the_policy_is_copied_afresh_and_its_export_can_be_closed_and_opened() {
        let scratch = tempfile::tempdir().unwrap();
        let stage = prepare(scratch.path(), now());
        let export = || {
            let data: serde_json::Value = serde_json::from_str(&fs::read_to_string(stage.policy_data()).unwrap()).unwrap();
            (data["portcullis"]["export_open"].as_bool(), data["portcullis"]["streams"].is_array())
        };
        assert_eq!(export(), (Some(true), true));
        stage.set_export_open(false).unwrap();
        assert_eq!(export(), (Some(false), true));
        stage.set_export_open(true).unwrap();
        assert_eq!(export(), (Some(true), true));
        let stray = scratch.path().join("policy/extra.rego");
        fs::write(&stray, "package x").unwrap();
        prepare(scratch.path(), now());
        assert!(!stray.exists());
        assert_eq!(fs::read_to_string(stage.policy_data()).unwrap(), DATA);
    }

    #[test]
    fn somebody_elses_directory_is_left_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("theirs");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.join("gate.yaml"), "environment: production\n").unwrap();
        let refused = Stage::prepare(&directory, PORTS, SocketAddr::from(([127, 0, 0, 1], 1)), now());
        assert!(matches!(refused, Err(StageError::Foreign { .. })), "{refused:?}");
        assert_eq!(mode(&directory), 0o755);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn an_earlier_run_is_forgotten_only_when_asked() {
        let scratch = tempfile::tempdir().unwrap();
        let stage = prepare(scratch.path(), now());
        let state = scratch.path().join("state/kills");
        fs::create_dir_all(&state).unwrap();
        fs::write(stage.decisions(), "{}\n").unwrap();
        prepare(scratch.path(), now());
        assert!(state.exists() && stage.decisions().exists());
        stage.forget().unwrap();
        stage.forget().unwrap();
        assert!(!state.exists() && !stage.decisions().exists());
    }
}

//! Signed bundles do not go back: what was in force, kept under `state.directory`, and asked before anything comes into force.
//!
//! In: a policy that was loaded, what an operator allows by name. Out: that it may come into force, or a report. What must stay true: what is about to be in force is on the disk before it is, so that no crash forgets it; and where
//! that cannot be written, the last good policy stays.

use std::sync::{Arc, Mutex, PoisonError};

use super::AppError;
use crate::config::Config;
use crate::policy::rollback::{Memory, Way};
use crate::policy::{About, Finding, Policy, Report};
use crate::store::Store;

/// How a policy comes into force.
#[derive(Clone, Debug)]
pub(super) enum Coming {
    /// Its bundles were read; those named here may be older than what was in force.
    Loaded(Vec<String>),
    /// An operator ordered the policy before this one back, whatever its age.
    Returned,
}

impl Coming {
    /// Read, and nothing is allowed by name.
    pub(super) const fn new() -> Self {
        Self::Loaded(Vec::new())
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct History {
    store: Arc<Store>,
    memory: Mutex<Memory>,
}

impl History {
    pub(super) fn open(store: Arc<Store>) -> Result<Self, AppError> {
        let memory = Memory::of(store.bundle_marks()?).map_err(|why| {
            AppError::Config(format!(
                "state.directory: {why}; restore it from a backup, or move it away and look which bundles come"
            ))
        })?;
        Ok(Self { store, memory: Mutex::new(memory) })
    }

    /// The bundles of this policy that are older than what was in force and may come back all the same.
    ///
    /// # Errors
    /// One of them may not.
    pub(super) fn examine(&self, config: &Config, policy: &Policy, coming: &Coming) -> Result<Vec<String>, Report> {
        let Coming::Loaded(named) = coming else { return Ok(Vec::new()) };
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut findings, mut allowed) = (Vec::new(), Vec::new());
        for name in named.iter().filter(|name| !config.policy.bundles.contains_key(*name)) {
            findings.push(Finding::whole(&format!("policy.bundles.{name}"), "there is no bundle of that name to allow", ""));
        }
        for (name, signature) in policy.signatures() {
            let Some(why) = memory.older(name, signature) else { continue };
            let revision = policy.revisions().get(name).map(String::as_str).unwrap_or_default();
            let signing = config.policy.bundles.get(name).and_then(|source| source.signing.as_ref());
            let configured = signing.and_then(|signing| signing.allow_rollback_to.as_deref());
            if named.contains(name) || configured == Some(revision) {
                tracing::warn!(bundle = %name, %revision, %why, "an older bundle is let back by name");
                allowed.push(name.clone());
                continue;
            }
            let older = Finding::whole(
                &format!("policy.bundles.{name}"),
                format!("revision `{revision}` is older than what was in force: {why}"),
                format!(
                    "sign it anew if it shall come back, or allow it by name: `portcullis policy activate --allow-rollback {name}`, or \
                     `signing: {{allow_rollback_to: {revision}}}`"
                ),
            );
            findings.push(Finding { about: About::Age(name.clone()), ..older });
        }
        if findings.is_empty() { Ok(allowed) } else { Err(Report::sorted(findings)) }
    }

    /// Keeps what is about to be in force.
    ///
    /// # Errors
    /// It cannot be kept, so it may not come into force.
    pub(super) fn keep(&self, policy: &Policy, coming: &Coming) -> Result<(), Report> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let signed = policy.signatures().iter().map(|(name, signature)| {
            let revision = policy.revisions().get(name).map(String::as_str).unwrap_or_default();
            (name.as_str(), revision, signature)
        });
        let way = if matches!(coming, Coming::Returned) { Way::Returned } else { Way::Loaded };
        let (next, rows) = memory.after(signed, way);
        self.store.keep_bundle_marks(rows).map_err(|error| {
            let told = format!("what comes into force cannot be kept, and could be rolled back unseen: {error}");
            Report { findings: vec![Finding::whole("state.directory", told, "")] }
        })?;
        *memory = next;
        Ok(())
    }
}

//! Where a bundle comes from: a path on this machine, or a service it is fetched from.
//!
//! In: one of `policy.bundles`, and the archives that were fetched. Out: the bundle, read and understood the same way from either. What
//! must stay true: loading a policy never calls anybody; what a service gave is handed in by whoever fetched it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

use super::Finding;
use super::bundle::signature::{Signatures, Signing};
use super::bundle::{self, Bounds, Bundle};
use crate::units::{Size, Span};

/// Bundle → the archive that was fetched for it.
pub type Archives = BTreeMap<String, Bytes>;

/// One of `policy.bundles`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "SourceKeys")]
pub struct BundleSource {
    pub origin: Origin,
    /// Whose signature it must carry.
    pub signing: Option<Signing>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A directory, or a .tar.gz.
    Path(PathBuf),
    Service(Remote),
}

/// A bundle a service gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// One of `services`.
    pub service: String,
    /// `bundles/NAME` when absent, as for OPA.
    resource: Option<String>,
    pub polling: Polling,
    /// The last one that was activated is kept under `state.directory`, for a start while the service is away.
    pub persist: bool,
    /// The largest archive that is taken.
    pub size_limit: Size,
    /// How long it may judge without its service saying that it is the newest; then everything is denied.
    pub max_staleness: Option<Span>,
}

/// When a bundle is asked for again.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Polling {
    /// The next time is at random between this and `max_delay`, so that a fleet does not come at once.
    pub min_delay: Span,
    /// Also the longest pause after failures.
    pub max_delay: Span,
    /// How long a server that can may hold the answer until there is a new bundle; others are asked by turns as ever.
    pub long_polling: Option<Span>,
}

impl Default for Polling {
    fn default() -> Self {
        Self { min_delay: Span::seconds(60), max_delay: Span::seconds(120), long_polling: None }
    }
}

/// How a [`BundleSource`] is written: flat, and not derived from the enum, whose schema could not say which key is misspelt.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SourceKeys {
    /// A directory, or a .tar.gz bundle; looked at again when it changes.
    #[serde(default)]
    path: Option<PathBuf>,
    /// One of `services`, from which the bundle is fetched.
    #[serde(default)]
    service: Option<String>,
    /// What to ask the service for, joined to its url; bundles/NAME when absent.
    #[serde(default)]
    resource: Option<String>,
    #[serde(default)]
    polling: Option<Polling>,
    /// Keeps the last bundle that was activated under `state.directory`, for a start while the service is away; true when absent.
    #[serde(default)]
    persist: Option<bool>,
    /// The largest archive that is taken; 64MiB when absent.
    #[serde(default)]
    size_limit: Option<Size>,
    /// How long it may judge without its service saying that it is the newest; then everything is denied until the service says so. Without
    /// it the last good one judges on, however old.
    #[serde(default)]
    max_staleness: Option<Span>,
    /// Whose signature it must carry; a signed bundle is refused where this is absent.
    #[serde(default)]
    signing: Option<Signing>,
}

/// How a bundle is written that must lie on this machine.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "it is there for its schema; `BundleSource` reads it")]
pub struct LocalKeys {
    /// A directory, or a .tar.gz bundle; looked at again when it changes.
    path: PathBuf,
    /// Whose signature it must carry; a signed bundle is refused where this is absent.
    #[schemars(default)]
    signing: Option<Signing>,
}

/// The keys of a bundle that is fetched, and of no other.
pub const OF_A_SERVICE: [&str; 5] = ["resource", "polling", "persist", "size_limit", "max_staleness"];
/// The sentence about a bundle that comes from nowhere, or from two places.
pub const ONE_ORIGIN: &str = "a bundle comes from one place: write either `path` or `service`";

impl TryFrom<SourceKeys> for BundleSource {
    type Error = &'static str;

    fn try_from(keys: SourceKeys) -> Result<Self, &'static str> {
        let fetched = keys.resource.is_some()
            || keys.polling.is_some()
            || keys.persist.is_some()
            || keys.size_limit.is_some()
            || keys.max_staleness.is_some();
        match (keys.path, keys.service) {
            (Some(path), None) if !fetched => Ok(Self { signing: keys.signing, ..Self::at(path) }),
            (None, Some(service)) => {
                let (polling, persist) = (keys.polling.unwrap_or_default(), keys.persist.unwrap_or(true));
                let size_limit = keys.size_limit.unwrap_or(Size::mib(64));
                let max_staleness = keys.max_staleness;
                let remote = Remote { service, resource: keys.resource, polling, persist, size_limit, max_staleness };
                Ok(Self { origin: Origin::Service(remote), signing: keys.signing })
            }
            (Some(_), None | Some(_)) | (None, None) => Err(ONE_ORIGIN),
        }
    }
}

impl JsonSchema for BundleSource {
    fn schema_name() -> Cow<'static, str> {
        "BundleSource".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        SourceKeys::json_schema(generator)
    }
}

impl BundleSource {
    /// A bundle on this machine.
    pub const fn at(path: PathBuf) -> Self {
        Self { origin: Origin::Path(path), signing: None }
    }

    /// Where it lies, if it is not fetched.
    pub fn path(&self) -> Option<&Path> {
        match &self.origin {
            Origin::Path(path) => Some(path),
            Origin::Service(_) => None,
        }
    }

    /// How it is fetched, if it is.
    pub const fn remote(&self) -> Option<&Remote> {
        match &self.origin {
            Origin::Path(_) => None,
            Origin::Service(remote) => Some(remote),
        }
    }

    /// Takes a relative path to be in `directory`.
    pub fn resolve(&mut self, directory: &Path) {
        if let Origin::Path(path) = &mut self.origin {
            *path = directory.join(&*path);
        }
    }

    /// Reads it from its path, or from the archive that was fetched for it.
    ///
    /// # Errors
    /// Every mistake in it, or that it was not fetched yet.
    pub fn read(&self, name: &str, archives: &Archives) -> Result<Bundle, Vec<Finding>> {
        let (bounds, signatures) = (Bounds::default(), Signatures::of(self.signing.as_ref()));
        match (&self.origin, archives.get(name)) {
            (Origin::Path(path), _) => bundle::read(name, path, &bounds, signatures),
            (Origin::Service(remote), Some(archive)) => {
                bundle::read_archive(name, &remote.shown(name), archive, &bounds, signatures)
            }
            (Origin::Service(remote), None) => Err(vec![Finding::whole(
                &format!("policy.bundles.{name}"),
                format!("the bundle was not fetched from service `{}` yet, and no copy of it is kept", remote.service),
                "the gate fetches it when it runs",
            )]),
        }
    }
}

impl Remote {
    /// What the service is asked for.
    pub fn resource(&self, name: &str) -> String {
        self.resource.clone().unwrap_or_else(|| format!("bundles/{name}"))
    }

    /// What findings call it.
    fn shown(&self, name: &str) -> String {
        format!("{}:{}", self.service, self.resource(name))
    }
}

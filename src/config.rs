//! The configuration: one file, composed of what each room owns, with every mistake reported at once.
//!
//! In: YAML, `${NAME}` for variables of the environment. Out: a `Config` in which every name that is used exists and every number is
//! within its bounds, or a `Report` with the line, the column and the next step of every mistake. Five stages: `yaml` reads events
//! into a document that knows its positions, `schema` and `violation` compare it with what the rooms' structs declare, `check` and
//! `bounds` see what a schema cannot say, and serde makes the structs of a document nothing was found wrong with. serde alone would
//! stop at its first error and know no line.

mod bounds;
mod check;
mod document;
mod grammar;
mod report;
mod scalar;
mod schema;
mod violation;
mod yaml;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::proxy::normalise;
use crate::proxy::settings::{ListenerPart, Parts};
use crate::{
    action, admin, anomaly, audit, control, delivery, judge, listener, policy, reassess, service, session, store, tls, upstream,
};

use document::Place;
pub use report::{Mistake, Report};

/// The whole configuration file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// In the policy's input and in every record: production, staging, test.
    pub environment: String,
    pub identity: tls::Config,
    pub listeners: Vec<listener::Config>,
    #[serde(default)]
    pub upstreams: BTreeMap<String, upstream::Config>,
    /// What the gate itself calls: where bundles come from, and where records and reports go.
    #[serde(default)]
    pub services: BTreeMap<String, service::Config>,
    pub policy: policy::Config,
    /// What verifies signatures of bundles, by the name of each key.
    #[serde(default)]
    pub keys: BTreeMap<String, policy::Key>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    pub address_lists: judge::AddressLists,
    #[serde(default)]
    pub time_windows: BTreeMap<String, judge::TimeWindow>,
    #[serde(default)]
    pub resources: Vec<action::ResourceRule>,
    #[serde(default)]
    pub workloads: Vec<judge::WorkloadRule>,
    #[serde(default)]
    pub anomaly: anomaly::Config,
    #[serde(default)]
    pub exchanges: reassess::Config,
    #[serde(default)]
    pub sessions: session::Config,
    #[serde(default)]
    pub limits: listener::Limits,
    #[serde(default)]
    pub state: store::Config,
    #[serde(default)]
    pub audit: audit::Config,
    /// Who gets the record's lines beside its file, as OPA delivers decision logs; nobody when absent.
    #[serde(default)]
    pub decision_logs: Option<delivery::Config>,
    /// Where the gate reports how its bundles stand, as OPA does; nowhere when absent.
    #[serde(default)]
    pub status: Option<control::StatusConfig>,
    #[serde(default)]
    pub admin: admin::Config,
    #[serde(default)]
    pub control: control::Config,
}

/// The largest file that is read; what names no more than a few hundred routes is far below it.
const LARGEST: u64 = 1024 * 1024;

impl Config {
    /// Reads a file; relative paths in it are relative to its directory.
    ///
    /// # Errors
    ///
    /// Every mistake in the file, or the one reason it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Report> {
        let origin = path.display().to_string();
        let text = load(path).map_err(|mistake| Report::new(&origin, vec![mistake]))?;
        let mut config = Self::parse(&text, &origin, &|name| std::env::var(name).ok())?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// How long what is learned of a session outlives it; no rules learn nothing.
    pub fn keeps_sessions_for(&self) -> Duration {
        if self.anomaly.rules.is_empty() { Duration::ZERO } else { self.anomaly.remembers.0 }
    }

    /// What requests need of the configuration.
    pub fn parts(&self) -> Parts<'_> {
        let listeners = self
            .listeners
            .iter()
            .map(|listener| ListenerPart {
                name: &listener.name,
                server_names: &listener.server_names,
                health: listener.health.as_ref().map(|health| health.path.as_str()),
                sse_last_event: listener.sse_last_event,
                enforcement: listener.enforcement,
                routes: &listener.routes,
                destinations: (listener.mode == listener::Mode::Forward).then_some(&*listener.destinations),
            })
            .collect();
        Parts {
            environment: &self.environment,
            listeners,
            upstreams: &self.upstreams,
            resources: &self.resources,
            workloads: &self.workloads,
            address_lists: &self.address_lists,
            windows: &self.time_windows,
            decision: &self.policy.decision,
            result: self.policy.result,
            shadow: self.policy.shadow.as_ref(),
            body_limit: self.policy.limits.body.bytes(),
            body_depth: self.policy.limits.depth,
            head: normalise::Limits { header_bytes: self.limits.header_bytes.bytes(), headers: self.limits.headers },
            input_detail: self.audit.input,
            may_drop: self.audit.allow_drop,
            exchanges_per_identity: self.limits.per_identity.exchanges,
            anomaly: &self.anomaly,
            reassess_every: self.exchanges.reassess_every.0,
            retained: self.exchanges.retained.0,
        }
    }

    /// Reads a text; `origin` is what a report calls it. Relative paths stay as they are.
    ///
    /// # Errors
    ///
    /// Every mistake in the text.
    pub fn parse(text: &str, origin: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, Report> {
        let (document, mut mistakes) = yaml::read(text, environment);
        let Some(document) = document else { return Err(Report::new(origin, mistakes)) };
        let root = Place::root(&document);
        let stages: [&dyn Fn() -> Vec<Mistake>; 2] = [&|| schema::violations(&root), &|| check::mistakes(&root, environment)];
        for stage in stages {
            let told: Vec<(String, usize)> = mistakes.iter().map(|mistake| (mistake.path.clone(), mistake.line)).collect();
            mistakes.extend(stage().into_iter().filter(|mistake| !told.contains(&(mistake.path.clone(), mistake.line))));
        }
        if !mistakes.is_empty() {
            return Err(Report::new(origin, mistakes));
        }
        let mut config: Self =
            serde_json::from_value(document.value()).map_err(|error| Report::new(origin, vec![unforeseen(&document, &error)]))?;
        config.hand_out_keys();
        if let tls::Source::WorkloadApi(agent) = &mut config.identity.source {
            agent.endpoint = agent.endpoint.take().or_else(|| environment(check::ENDPOINT_VARIABLE));
        }
        Ok(config)
    }

    /// The JSON Schema of the file, for editors.
    pub fn schema() -> serde_json::Value {
        schema::of_config()
    }

    /// Each signed bundle knows the keys.
    fn hand_out_keys(&mut self) {
        let keys = Arc::new(self.keys.clone());
        for signing in self.policy.all_bundles().filter_map(|bundle| bundle.signing.as_mut()) {
            signing.keys = Arc::clone(&keys);
        }
    }

    fn resolve(&mut self, directory: &Path) {
        let resolve = |path: &mut PathBuf| *path = directory.join(&*path);
        self.keys.values_mut().for_each(|key| key.key.resolve(directory));
        self.hand_out_keys();
        if let tls::Source::Files(files) = &mut self.identity.source {
            resolve(&mut files.certificate);
            resolve(&mut files.private_key);
            files.bundles.values_mut().for_each(resolve);
        }
        self.policy.all_bundles().for_each(|bundle| bundle.resolve(directory));
        self.upstreams.values_mut().filter_map(|upstream| upstream.tls.as_mut()?.ca.as_mut()).for_each(resolve);
        self.services.values_mut().for_each(|service| service.resolve(directory));
        resolve(&mut self.state.directory);
        resolve(&mut self.control.socket);
        if self.audit.file != Path::new("-") {
            resolve(&mut self.audit.file);
        }
        self.audit.checkpoint.key.iter_mut().for_each(resolve);
    }
}

fn load(path: &Path) -> Result<String, Mistake> {
    let unreadable = |error: std::io::Error| Mistake::whole(format!("the file cannot be read: {error}"));
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(unreadable)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Mistake::whole(format!("the file is larger than {LARGEST} bytes")));
    }
    decode(&bytes).map(str::to_owned)
}

fn decode(bytes: &[u8]) -> Result<&str, Mistake> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).map(String::from_utf8_lossy).unwrap_or_default();
        let (before, last) = good.rsplit_once('\n').map_or((None, &*good), |(before, last)| (Some(before), last));
        let line = before.map_or(1, |before| before.split('\n').count() + 1);
        Mistake { line, column: last.chars().count() + 1, ..Mistake::whole("the file is not UTF-8 from here") }
    })
}

/// What serde refuses although schema and checks found nothing: their gap, told without its position, and without serde's words when
/// those could quote a variable.
fn unforeseen(document: &document::Node, error: &serde_json::Error) -> Mistake {
    let mut message = "a value is not what it should be".to_owned();
    if !document.is_expanded() {
        message = format!("{message}: {error}");
    }
    Mistake::whole(message)
}

#[cfg(test)]
mod tests;

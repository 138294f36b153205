//! A configuration's policy, put to questions outside of a gate.
//!
//! In: a configuration, and the name of a route or of a rule. Out: what the gate's own judge says. What must stay true: nothing here
//! reads an answer or chooses an engine; that is the judge's, as in the gate.

use std::path::Path;
use std::sync::Arc;

use regorus::Value;
use serde::Serialize;
use serde_json::json;

use super::failure::Failure;
use super::table::{clean, or_dash, pairs};
use crate::config::Config;
use crate::judge::{Judge, Judgement};
use crate::metrics::Metrics;
use crate::policy::explain::{Explanation, explain};
use crate::policy::{Archives, Entry, Policy};
use crate::proxy::settings::Settings;
use crate::store::bundles;
use crate::verdict::Verdict;

/// Which entry point is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// The one most requests get.
    Usual,
    /// A rule as a path.
    Rule(&'a str),
    /// A route or destination by its name.
    Route(&'a str),
}

/// A policy and its judge.
pub(super) struct Court {
    pub(super) policy: Arc<Policy>,
    judge: Judge,
    pub(super) entry: usize,
}

/// Reads a configuration and makes it ready.
pub(super) fn read(path: &Path) -> Result<(Config, Settings), Failure> {
    let config = Court::config(path)?;
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION")).map_err(|error| Failure::new(error.to_string()))?;
    let settings = Settings::new(&config.parts(), &metrics)
        .map_err(|mistakes| Failure::misuse(format!("the configuration has mistakes\n{}", mistakes.join("\n"))))?;
    Ok((config, settings))
}

/// Loads the policy for these entry points; of bundles that a service gives, the copies the gate has kept.
pub(super) fn load(config: &Config, entries: &[Entry]) -> Result<Policy, Failure> {
    let archives = kept(config)?;
    Policy::load_with(&config.policy, entries, &archives)
        .map_err(|report| Failure::misuse(format!("the policy has mistakes\n{report}")))
}

/// Reads each bundle that is here, by itself.
pub(super) fn read_each(config: &Config) -> Result<(), Failure> {
    let archives = kept(config)?;
    let here =
        config.policy.bundles.iter().filter(|(name, source)| source.path().is_some() || archives.contains_key(name.as_str()));
    let mistakes: Vec<String> =
        here.filter_map(|(name, source)| source.read(name, &archives).err()).flatten().map(|finding| finding.to_string()).collect();
    if mistakes.is_empty() {
        return Ok(());
    }
    Err(Failure::misuse(format!("the policy has mistakes\n{}", mistakes.join("\n"))))
}

/// What the gate has kept of the bundles that a service gives. Nothing is fetched here.
pub(super) fn kept(config: &Config) -> Result<Archives, Failure> {
    let mut archives = Archives::new();
    for (name, source) in &config.policy.bundles {
        let Some(remote) = source.remote() else { continue };
        let state = &config.state.directory;
        let kept = bundles::read(state, name, remote.size_limit).map_err(|error| {
            let folder = bundles::folder(state, name);
            Failure::new(format!("the copy kept of bundle `{name}` in {} cannot be read: {error}", folder.display()))
                .hint("run this as the gate's user, or give a bundle by its path")
        })?;
        archives.extend(kept.map(|kept| (name.clone(), kept.archive.into())));
    }
    Ok(archives)
}

/// Loads the shadow policy, where there is one.
pub(super) fn load_shadow(config: &Config, settings: &Settings) -> Result<Option<Policy>, Failure> {
    let Some((loading, shadowing)) = config.policy.of_shadow().zip(settings.shadow.as_ref()) else { return Ok(None) };
    let loaded = Policy::load(&loading, &shadowing.asked());
    loaded.map(Some).map_err(|report| Failure::misuse(format!("the shadow policy (policy.shadow) has mistakes\n{report}")))
}

impl Court {
    /// A configuration alone.
    pub(super) fn config(path: &Path) -> Result<Config, Failure> {
        Config::read(path).map_err(|report| Failure::misuse(format!("the configuration has mistakes\n{report}")))
    }

    /// Loads the policy as the gate would, and the entry point that is wanted.
    pub(super) fn open(path: &Path, wanted: Wanted<'_>) -> Result<Self, Failure> {
        let (config, settings) = read(path)?;
        let mut entries = settings.entries.clone();
        let rule = |decision: &str, entries: &mut Vec<Entry>| {
            let place = entries.iter().position(|entry| entry.decision == decision);
            place.unwrap_or_else(|| {
                entries.push(Entry::new(decision, config.policy.result));
                entries.len() - 1
            })
        };
        let entry = match wanted {
            Wanted::Usual => rule(&config.policy.decision, &mut entries),
            Wanted::Rule(decision) => rule(decision.trim_matches('/'), &mut entries),
            Wanted::Route(name) => {
                let routes = (0..settings.listeners.len()).flat_map(|listener| {
                    let settings = &settings;
                    (0..).map_while(move |place| settings.route_at(listener, place))
                });
                let known: Vec<_> = routes.collect();
                let found = known.iter().find(|route| route.name == name);
                let names: Vec<&str> = known.iter().map(|route| route.name.as_str()).collect();
                found.map(|route| route.entry).ok_or_else(|| {
                    Failure::misuse(format!("no route is called `{name}`")).hint(format!("there are {}", names.join(", ")))
                })?
            }
        };
        let policy = Arc::new(load(&config, &entries)?);
        let judge = Judge::alone(&policy, &config.policy.may_kill).map_err(|report| Failure::misuse(report.to_string()))?;
        let judge = judge.ok_or_else(|| Failure::new("there is nobody to judge"))?;
        Ok(Self { policy, judge, entry })
    }

    pub(super) fn judge(&mut self, input: &Value) -> Judgement {
        self.judge.judge_document(self.entry, input.clone())
    }

    /// The rule that is asked.
    pub(super) fn decision(&self) -> &str {
        self.policy.entries().get(self.entry).map_or("", |entry| entry.decision.as_str())
    }

    /// Explains on a thread with a stack for the probes' deeper expressions.
    pub(super) fn explain(&self, input: &Value) -> Result<Explanation, Failure> {
        let (policy, entry, input) = (Arc::clone(&self.policy), self.entry, input.clone());
        deeply(move || explain(&policy, entry, &input))
    }
}

/// Does something on a thread with a large stack.
pub(super) fn deeply<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let thread = std::thread::Builder::new().stack_size(256 * 1024 * 1024).spawn(act);
    let thread = thread.map_err(|error| Failure::new(format!("no thread: {error}")))?;
    thread.join().map_err(|_| Failure::new("the policy engine panicked; see above"))
}

/// What a judge said, for programs.
pub(super) fn told(judgement: &Judgement, decision: &str) -> serde_json::Value {
    let verdict = &judgement.verdict;
    json!({
        "decision": decision,
        "allowed": verdict.allowed,
        "reason": verdict.reason.map(|reason| reason.code()),
        "reasons": verdict.reasons,
        "answer": judgement.answer.as_ref().map(as_json),
        "effects": effects(verdict),
        "fault": judgement.fault,
        "engine": judgement.engine.code(),
        "seconds": judgement.took.as_secs_f64(),
    })
}

/// What a judge said, for people.
pub(super) fn words(judgement: &Judgement, decision: &str) -> String {
    let verdict = &judgement.verdict;
    let reasons = (!verdict.reasons.is_empty()).then(|| verdict.reasons.join(", "));
    let effects = effects(verdict);
    let answer = judgement.answer.as_ref().map(|answer| as_json(answer).to_string());
    let micros = judgement.took.as_nanos() / 1000;
    pairs([
        ("verdict", if verdict.allowed { "allow" } else { "deny" }.to_owned()),
        ("reason", or_dash(verdict.reason.map(|reason| reason.code()))),
        ("reasons", or_dash(reasons)),
        ("effects", or_dash((!effects.is_empty()).then(|| effects.join("; ")))),
        ("fault", or_dash(judgement.fault.as_ref())),
        ("answer", or_dash(answer)),
        ("decision", decision.to_owned()),
        ("engine", judgement.engine.code().to_owned()),
        ("time", format!("{micros} µs")),
    ])
}

/// What comes of a verdict beside the yes or no, each as a sentence.
fn effects(verdict: &Verdict) -> Vec<String> {
    let mut said = Vec::new();
    let pairs = |said: &mut Vec<String>, what: &str, named: &[(String, Vec<String>)]| {
        said.extend(named.iter().map(|(name, values)| format!("{what} {}: {}", clean(name), clean(&values.join(", ")))));
    };
    let names = |said: &mut Vec<String>, what: &str, names: &[String]| {
        said.extend(names.iter().map(|name| format!("{what} {}", clean(name))));
    };
    let edits = &verdict.edits;
    pairs(&mut said, "sets request header", &edits.headers);
    names(&mut said, "removes request header", &edits.request_headers_to_remove);
    pairs(&mut said, "sets query parameter", &edits.query_parameters_to_set);
    names(&mut said, "removes query parameter", &edits.query_parameters_to_remove);
    if let Some(rewrite) = &edits.rewrite {
        said.extend(rewrite.path.iter().map(|path| format!("rewrites the path to {}", clean(path))));
        said.extend(rewrite.body.iter().map(|patch| format!("patches the body: {}", serde_json::Value::from(patch.clone()))));
    }
    if edits.change_the_question() || edits.patch_the_body() {
        said.push("the changed request is judged once more".to_owned());
    }
    pairs(&mut said, "adds response header", &edits.response_headers_to_add);
    let denial = &verdict.denial;
    said.extend(denial.status.map(|status| format!("answers {status}")));
    pairs(&mut said, "answers with header", &denial.headers);
    said.extend(denial.body.iter().map(|body| format!("answers with body {}", serde_json::Value::from(body.as_str()))));
    if let Some(kill) = verdict.kill {
        let ends = kill.ttl.map_or_else(|| "until it is lifted".to_owned(), |ttl| format!("for {ttl:?}"));
        said.push(format!("kills the {}, {ends}", kill.scope.code()));
    }
    let lease = &verdict.lease;
    let bounds = [
        lease.max_age.map(|age| format!("max_age {age:?}")),
        lease.reassess_every.map(|every| format!("reassess_every {every:?}")),
        lease.max_bytes_in.map(|bytes| format!("max_bytes_in {bytes}")),
        lease.max_bytes_out.map(|bytes| format!("max_bytes_out {bytes}")),
    ];
    let bounds: Vec<String> = bounds.into_iter().flatten().collect();
    if !bounds.is_empty() {
        said.push(format!("lease: {}", bounds.join(", ")));
    }
    if verdict.ignored_keys > 0 {
        said.push(format!("{} of the answer's keys are known to nobody", verdict.ignored_keys));
    }
    said
}

/// A value as JSON; sets become arrays.
pub(super) fn as_json(value: &(impl Serialize + ?Sized)) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

//! `portcullis check`: every mistake of configuration and bundles, and what the policy depends on.
//!
//! In: a configuration file. Out: who listens, where requests go, and for each rule that judges what it reads and where; or every
//! mistake, and exit code 64. The entry points are derived by the very code the gate derives them by.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::table::{clean, count, or_dash, pairs, table};
use super::{data, judging};
use crate::config::Config;
use crate::control::{EntryStatus, PolicyStatus};
use crate::policy::BundleSource;
use crate::proxy::EnforcementConfig;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Prints JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// What a configuration says, for programs.
#[derive(Debug, Serialize)]
struct Findings {
    environment: String,
    routes: Vec<Route>,
    upstreams: Vec<Target>,
    /// Bundles that a service gives.
    fetched: Vec<FetchedBundle>,
    policy: PolicyStatus,
    /// What is tried beside it; the gate starts without one that does not load, and this says so.
    shadow: Option<PolicyStatus>,
}

/// A bundle that a service gives, of which only a copy can be checked.
#[derive(Debug, Serialize)]
struct FetchedBundle {
    name: String,
    service: String,
    resource: String,
    /// There is a copy, and it was checked.
    kept: bool,
}

#[derive(Debug, Serialize)]
struct Route {
    listener: String,
    address: String,
    route: String,
    hosts: Vec<String>,
    path_prefix: String,
    upstream: String,
    enforcement: &'static str,
    decision: String,
}

#[derive(Debug, Serialize)]
struct Target {
    name: String,
    endpoint: String,
    environment: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let findings = check(arguments)?;
    if arguments.json {
        return data(&serde_json::to_string_pretty(&findings).unwrap_or_default());
    }
    data(&words(&findings))
}

fn check(arguments: &Arguments) -> Result<Findings, Failure> {
    let (config, settings) = judging::read(&arguments.config)?;
    let fetched = fetched(&config)?;
    // Bundles are checked as a set, as they judge; where one is not here, each that is by itself, and nothing about their rules.
    let policy = if fetched.iter().all(|bundle| bundle.kept) {
        let loaded = judging::load(&config, &settings.entries)?;
        let ignored = loaded.ignored_drop().filter(|_| !config.audit.allow_drop).map(|ignored| ignored.to_string());
        let mut policy = PolicyStatus::new(&loaded, 0, 0);
        policy.warnings.extend(ignored);
        policy
    } else {
        judging::read_each(&config)?;
        PolicyStatus::default()
    };
    Ok(Findings {
        environment: config.environment.clone(),
        routes: routes(&config),
        upstreams: upstreams(&config),
        fetched,
        policy,
        shadow: judging::load_shadow(&config, &settings)?.map(|shadow| PolicyStatus::new(&shadow, 0, 0)),
    })
}

fn fetched(config: &Config) -> Result<Vec<FetchedBundle>, Failure> {
    let kept = judging::kept(config)?;
    let row = |(name, source): (&String, &BundleSource)| {
        let remote = source.remote()?;
        let (service, resource) = (remote.service.clone(), remote.resource(name));
        Some(FetchedBundle { name: name.clone(), service, resource, kept: kept.contains_key(name) })
    };
    Ok(config.policy.bundles.iter().filter_map(row).collect())
}

fn routes(config: &Config) -> Vec<Route> {
    let mode = |enforcement| match enforcement {
        EnforcementConfig::Enforce => "enforce",
        EnforcementConfig::Observe => "observe",
    };
    let decision = |named: &Option<String>| named.clone().unwrap_or_else(|| config.policy.decision.clone());
    let each = config.listeners.iter().flat_map(|listener| listener.routes.iter().map(move |route| (listener, route)));
    let rows = each.map(|(listener, route)| Route {
        listener: listener.name.clone(),
        address: listener.address.to_string(),
        route: route.name.clone(),
        hosts: route.hosts.clone(),
        path_prefix: route.path_prefix.clone(),
        upstream: route.upstream.clone(),
        enforcement: mode(route.enforcement.unwrap_or(listener.enforcement)),
        decision: decision(&route.decision),
    });
    let each = config.listeners.iter().flat_map(|listener| listener.destinations.iter().map(move |entry| (listener, entry)));
    let outbound = each.map(|(listener, entry)| Route {
        listener: listener.name.clone(),
        address: listener.address.to_string(),
        route: entry.name.clone(),
        hosts: entry.hosts.iter().flat_map(|host| entry.ports.iter().map(move |port| format!("{host}:{port}"))).collect(),
        path_prefix: "/".to_owned(),
        upstream: entry.name.clone(),
        enforcement: mode(entry.enforcement.unwrap_or(listener.enforcement)),
        decision: decision(&entry.decision),
    });
    rows.chain(outbound).collect()
}

fn upstreams(config: &Config) -> Vec<Target> {
    let rows = config.upstreams.iter().map(|(name, upstream)| Target {
        name: name.clone(),
        endpoint: upstream.endpoint.clone(),
        environment: upstream.environment.clone(),
    });
    rows.collect()
}

fn words(findings: &Findings) -> String {
    let routes = findings.routes.iter().map(|row| {
        let hosts = row.hosts.join(",");
        [&row.listener, &row.address, &row.route, &hosts, &row.path_prefix, &row.upstream, row.enforcement, &row.decision]
            .map(str::to_owned)
    });
    let head = ["LISTENER", "ADDRESS", "ROUTE", "HOSTS", "PATH", "UPSTREAM", "ENFORCEMENT", "DECISION"];
    let upstreams = findings.upstreams.iter().map(|row| {
        let environment = row.environment.as_ref().unwrap_or(&findings.environment);
        [row.name.clone(), row.endpoint.clone(), environment.clone()]
    });
    let mut parts = vec![table(head, routes), table(["UPSTREAM", "ENDPOINT", "ENVIRONMENT"], upstreams)];
    parts.extend(findings.policy.entries.iter().map(entry_text));
    if let Some(shadow) = &findings.shadow {
        parts.push("in its shadow, without effect:".to_owned());
        parts.extend(shadow.entries.iter().map(entry_text));
        let lines = shadow.warnings.iter().flat_map(|warning| warning.lines());
        parts.extend(lines.map(|line| format!("warning of the shadow: {}", clean(line))));
    }
    let warnings =
        findings.policy.warnings.iter().flat_map(|warning| warning.lines()).map(|line| format!("warning: {}", clean(line)));
    parts.extend(warnings);
    parts.extend(findings.fetched.iter().map(|bundle| {
        let what = match bundle.kept {
            true => "checked was the copy the gate has kept",
            false => "not fetched by `check`, and the gate has kept no copy: no rule was checked",
        };
        format!("bundle {} from service {} ({}): {what}", bundle.name, bundle.service, clean(&bundle.resource))
    }));
    let bundles = count(findings.policy.revisions.len(), "bundle");
    parts.push(format!(
        "ok: {}, {bundles}, {}",
        count(findings.routes.len(), "route"),
        count(findings.policy.warnings.len(), "warning")
    ));
    parts.join("\n\n")
}

/// One rule that judges, and what it depends on.
pub(super) fn entry_text(entry: &EntryStatus) -> String {
    let body = if entry.body { "buffered: the policy reads it" } else { "streamed: the policy does not read it" };
    let clock = if entry.clock { "asked" } else { "not asked" };
    let verdicts = match entry.not_reused.as_str() {
        "" => "reused where all that is listed is equal".to_owned(),
        why => format!("judged each time: {why}"),
    };
    let builtins = (!entry.builtins.is_empty()).then(|| entry.builtins.join(", "));
    let reads = if entry.whole { "everything" } else { "what is listed" };
    let engine = if entry.not_vm.is_empty() { entry.engine.clone() } else { format!("{} ({})", entry.engine, entry.not_vm) };
    let head = pairs([
        ("decision", format!("{} (answers as {})", entry.decision, entry.result)),
        ("engine", engine),
        ("bodies", body.to_owned()),
        ("clock", clock.to_owned()),
        ("verdicts", verdicts),
        ("builtins", or_dash(builtins)),
        ("reads", reads.to_owned()),
    ]);
    let rows = entry.reads.iter().map(|read| [format!("  {}", read.path), read.place.clone()]);
    format!("{head}\n{}", table(["  INPUT", "READ AT"], rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(name: &str) -> Arguments {
        let config = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).join("gate.yaml");
        Arguments { config, json: false }
    }

    #[test]
    fn the_example_is_told_with_what_its_policy_reads_and_where() {
        let text = words(&check(&example("admin-api")).unwrap());
        for said in
            ["admin.example.org", "https://127.0.0.1:9100", "portcullis/decision (answers as portcullis)", "policy.rego:", "ok: "]
        {
            assert!(text.contains(said), "{said}: {text}");
        }
    }

    #[test]
    fn a_bundle_of_a_service_is_checked_in_the_copy_that_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gate.yaml");
        let text = std::fs::read_to_string(example("minimal").config).unwrap();
        let text = text.replace("authz: {path: policy}", "authz: {service: acme}");
        std::fs::write(&file, text + "services: {acme: {url: \"https://bundles.example.org\"}}\n").unwrap();
        let arguments = Arguments { config: file, json: false };
        let told = words(&check(&arguments).unwrap());
        assert!(told.contains("bundle authz from service acme (bundles/authz): not fetched by `check`"), "{told}");
        assert!(told.contains("ok: ") && told.contains(", 0 bundles,"), "{told}");
        let kept = crate::store::bundles::Kept { archive: b"no archive".to_vec(), ..Default::default() };
        crate::store::bundles::write(&folder.path().join("state"), "authz", &kept).unwrap();
        let failure = check(&arguments).unwrap_err();
        assert!(failure.code == 64 && failure.to_string().contains("acme:bundles/authz: not a gzip archive"), "{failure}");
    }

    #[test]
    fn each_route_is_told_with_its_own_mode_or_its_listeners_and_the_shadow_with_its_mistakes() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("gate.yaml");
        let text = std::fs::read_to_string(example("admin-api").config).unwrap();
        let policies = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("policies/admin-api").display().to_string();
        let text = text.replace("../../policies/admin-api", &policies);
        let listener = text.replace("    enforcement: enforce              # of every", "    enforcement: observe # of every");
        let silent = listener.replace("        enforcement: enforce\n", "");
        assert!(listener != text && silent != listener);
        let modes = |text: &str| {
            std::fs::write(&config, text).unwrap();
            let found = check(&Arguments { config: config.clone(), json: false }).unwrap();
            assert!(words(&found).contains("in its shadow, without effect"));
            found.routes.iter().map(|route| route.enforcement).collect::<Vec<_>>()
        };
        assert_eq!(modes(&text), ["observe", "enforce"]);
        assert_eq!(modes(&listener), ["observe", "enforce"], "the route has the last word");
        assert_eq!(modes(&silent), ["observe", "observe"]);
        let next = text.replace(&format!("authz: {{path: {policies}}}   # the next"), "authz: {path: nowhere} # the next");
        assert_ne!(next, text);
        std::fs::write(&config, next).unwrap();
        let failure = check(&Arguments { config, json: false }).unwrap_err();
        assert!(failure.code == 64 && failure.to_string().contains("the shadow policy (policy.shadow) has mistakes"), "{failure}");
    }

    #[test]
    fn mistakes_of_configuration_and_of_policy_are_misuse() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("gate.yaml");
        std::fs::write(&config, "environmnt: x").unwrap();
        let failure = check(&Arguments { config: config.clone(), json: false }).unwrap_err();
        assert!(failure.code == 64 && failure.to_string().contains("gate.yaml:1:"), "{failure}");

        let text = std::fs::read_to_string(example("admin-api").config).unwrap();
        std::fs::write(&config, text.replace("../../policies/admin-api", "policies")).unwrap();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        std::fs::write(folder.path().join("policies/policy.rego"), "package portcullis\n\ndecision := {").unwrap();
        let failure = check(&Arguments { config, json: false }).unwrap_err();
        assert!(failure.code == 64 && failure.to_string().contains("policy.rego:3:"), "{failure}");

        // No mistakes, but nothing anybody meant: both are told, with their lines.
        let rules = "package portcullis\n\ndecision := \"allow\" if not input.requst.method == \"DELETE\"\n";
        std::fs::write(folder.path().join("policies/policy.rego"), rules).unwrap();
        let told = words(&check(&Arguments { config: folder.path().join("gate.yaml"), json: false }).unwrap());
        for said in ["policy.rego:3:40: nothing ever stands at input.requst", "the nearest is `request`", "never a verdict"] {
            assert!(told.contains(said), "{said}: {told}");
        }
    }
}

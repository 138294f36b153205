//! What a schema cannot say: names that must be unique, names that must exist, texts that must have a form.
//!
//! In: the document, mistakes and all. Out: more mistakes. It walks the document and not `Config`, so it can speak of everything
//! that is readable while something else is still misspelt; a value that is absent or of a wrong type is not its business.

mod anomaly;
mod bundles;
mod listeners;
mod services;
mod signatures;
mod upstreams;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::document::Place;
use super::report::{Mistake, suggestion};
use super::{bounds, grammar};
use crate::spiffe::{Pattern, SpiffeId};
use crate::tls::ONE_SOURCE;

type Form = fn(&str) -> Result<(), &'static str>;

/// Everything wrong that needs more than one value, or more than a type, to see.
pub(super) fn mistakes(root: &Place<'_>, environment: &dyn Fn(&str) -> Option<String>) -> Vec<Mistake> {
    let mut check = Check { root, found: Vec::new() };
    check.form(&["environment"], not_empty);
    check.identity();
    check.workload_api(environment);
    check.listeners();
    check.upstreams();
    check.services();
    check.addresses();
    check.policy();
    check.bundles();
    check.signatures();
    check.status();
    check.decision_logs();
    check.tables();
    check.anomaly();
    check.control();
    check.files();
    bounds::check(root, &mut check.found);
    check.found
}

struct Check<'a> {
    root: &'a Place<'a>,
    found: Vec<Mistake>,
}

fn not_empty(text: &str) -> Result<(), &'static str> {
    if text.trim().is_empty() { Err("is empty") } else { Ok(()) }
}

impl<'a> Check<'a> {
    fn at(&self, keys: &[&str]) -> Option<Place<'a>> {
        self.root.descend(keys)
    }

    fn say(&mut self, place: &Place<'_>, message: impl Into<String>, hint: Option<String>) {
        self.found.push(place.mistake(message, hint));
    }

    /// The text at a place has a form.
    fn has_form(&mut self, place: &Place<'_>, form: Form) {
        if let Some(Err(why)) = place.text().map(form) {
            self.say(place, format!("{} {why}", place.quoted()), None);
        }
    }

    fn form(&mut self, keys: &[&str], form: Form) {
        if let Some(place) = self.at(keys) {
            self.has_form(&place, form);
        }
    }

    fn child_form(&mut self, place: &Place<'_>, key: &str, form: Form) {
        if let Some(child) = place.child(key) {
            self.has_form(&child, form);
        }
    }

    fn items_form(&mut self, place: &Place<'_>, key: &str, form: Form) {
        for item in place.child(key).iter().flat_map(Place::items) {
            self.has_form(&item, form);
        }
    }

    fn not_none(&mut self, place: Option<Place<'_>>, what: &str) {
        if let Some(place) = place.filter(|place| place.length() == Some(0)) {
            self.say(&place, format!("there must be at least one {what}"), None);
        }
    }

    /// No two of these places mean the same; `what` names them.
    fn unique<K: Ord>(&mut self, places: impl Iterator<Item = (K, Place<'a>)>, what: &str) {
        let mut first: BTreeMap<K, Mistake> = BTreeMap::new();
        for (key, place) in places {
            let here = place.mistake(format!("{} is the {what} of another one as well", place.quoted()), None);
            match first.get(&key) {
                Some(there) => {
                    self.found.push(Mistake { hint: Some(format!("the other one stands on line {}", there.line)), ..here })
                }
                None => {
                    first.insert(key, here);
                }
            }
        }
    }

    fn unique_names(&mut self, places: &[Place<'a>], what: &str) {
        let names = places.iter().filter_map(|place| place.child("name"));
        self.unique(names.filter_map(|name| Some((name.text()?, name))), what);
        for place in places {
            self.child_form(place, "name", not_empty);
        }
    }

    fn keys_form(&mut self, keys: &[&str], form: Form) {
        for (key, place) in self.at(keys).iter().flat_map(Place::entries) {
            if let Err(why) = form(key) {
                self.found.push(place.mistake_of_key(format!("`{key}` {why}"), None));
            }
        }
    }

    /// The text at a place is a key of the mapping at `keys`; silent when there is no such mapping.
    fn names_one_of(&mut self, place: &Place<'_>, keys: &[&str], what: &str) {
        let (Some(name), Some(mapping)) = (place.text(), self.at(keys)) else { return };
        if mapping.length().is_none() || mapping.child(name).is_some() {
            return;
        }
        let known: Vec<&str> = mapping.entries().into_iter().map(|(key, _)| key).collect();
        let hint = suggestion(name, known.iter().copied(), "known").or_else(|| Some(format!("add it to `{}`", keys.join("."))));
        self.say(place, format!("there is no {what} {}", place.quoted()), hint);
    }

    fn identity(&mut self) {
        self.form(&["identity", "trust_domain"], grammar::trust_domain);
        self.not_none(self.at(BUNDLES), "bundle of a trust domain");
        self.keys_form(BUNDLES, grammar::trust_domain);
    }

    /// One source of our identity, and an agent that can be found where it is the Workload API.
    fn workload_api(&mut self, environment: &dyn Fn(&str) -> Option<String>) {
        let Some(source) = self.at(SOURCE) else { return };
        let known = ["files", "workload_api"].into_iter().filter_map(|key| source.child(key)).count();
        // A key that is misspelt has been told already.
        if known == 2 || source.length() == Some(0) {
            self.say(&source, ONE_SOURCE, None);
        }
        let Some(agent) = source.child("workload_api").filter(|agent| agent.length().is_some()) else { return };
        self.child_form(&agent, "spiffe_id", grammar::spiffe_id);
        self.child_form(&agent, "hint", not_empty);
        if let (Some(id), Some(own)) = (agent.child("spiffe_id"), self.at(&["identity", "trust_domain"]))
            && let (Some(Ok(named)), Some(domain)) = (id.text().map(SpiffeId::new), own.text())
            && named.trust_domain_name() != domain
        {
            self.say(&id, format!("{} is not of our own trust domain {}", id.quoted(), own.quoted()), None);
        }
        match (agent.child("endpoint"), environment(ENDPOINT_VARIABLE)) {
            (Some(endpoint), _) => self.has_form(&endpoint, grammar::agent_endpoint),
            (None, Some(endpoint)) => {
                if let Err(why) = grammar::agent_endpoint(&endpoint) {
                    self.found.push(agent.mistake_of_key(format!("the variable {ENDPOINT_VARIABLE} {why}"), None));
                }
            }
            (None, None) => {
                let hint = format!("write unix:///run/spire/agent.sock, or set {ENDPOINT_VARIABLE}");
                self.found.push(agent.mistake_of_missing("endpoint", "nobody says where the SPIFFE agent is", Some(hint)));
            }
        }
    }

    /// Socket addresses can be read, and no two of them would meet. Port 0 meets nobody.
    fn addresses(&mut self) {
        let listeners = self.at(&["listeners"]).map(|place| place.items()).unwrap_or_default();
        let places = listeners.iter().filter_map(|listener| listener.child("address")).chain(self.at(&["admin", "address"]));
        let mut bound: Vec<(SocketAddr, Option<Place<'_>>)> = Vec::new();
        if self.at(&["admin", "address"]).is_none() {
            bound.push((crate::admin::Config::default().address, None));
        }
        for place in places {
            let Some(text) = place.text() else { continue };
            let Ok(address) = text.parse::<SocketAddr>() else {
                let message = format!("{} is not an IP address and a port", place.quoted());
                self.say(&place, message, Some("write 0.0.0.0:8443, 127.0.0.1:0 or [::]:8443".to_owned()));
                continue;
            };
            match bound.iter().find(|(other, _)| meet(address, *other)) {
                Some((_, Some(other))) => {
                    let line = other.mistake("", None).line;
                    self.say(&place, format!("{} is taken already, on line {line}", place.quoted()), None);
                }
                Some((_, None)) => {
                    let hint = "choose another one here, or set `admin.address`".to_owned();
                    self.say(&place, format!("{} is the admin port's default", place.quoted()), Some(hint));
                }
                None => bound.push((address, Some(place))),
            }
        }
    }

    fn policy(&mut self) {
        self.not_none(self.at(&["policy", "bundles"]), "bundle");
        self.keys_form(&["policy", "bundles"], not_empty);
        self.form(&["policy", "decision"], grammar::decision);
        self.not_none(self.at(&["policy", "shadow", "bundles"]), "bundle");
        self.keys_form(&["policy", "shadow", "bundles"], not_empty);
        self.form(&["policy", "shadow", "decision"], grammar::decision);
        let scopes = self.at(&["policy", "may_kill"]).map(|place| place.items()).unwrap_or_default();
        self.unique(scopes.into_iter().filter_map(|scope| Some((scope.text()?, scope))), "scope");
    }

    fn tables(&mut self) {
        for (_, list) in self.at(&["address_lists"]).iter().flat_map(Place::entries) {
            list.items().iter().for_each(|network| self.network(network));
        }
        for (_, window) in self.at(&["time_windows"]).iter().flat_map(Place::entries) {
            self.window(&window);
        }
        for rule in self.at(&["resources"]).iter().flat_map(Place::items) {
            self.child_form(&rule, "type", not_empty);
            if let Some(matched) = rule.child("match") {
                self.items_form(&matched, "hosts", grammar::host_pattern);
                self.items_form(&matched, "methods", grammar::method);
                self.child_form(&matched, "path", grammar::path_pattern);
            }
        }
        for rule in self.at(&["workloads"]).iter().flat_map(Place::items) {
            self.child_form(&rule, "owner", not_empty);
            self.child_form(&rule, "kind", not_empty);
            self.workload(&rule);
        }
    }

    fn network(&mut self, network: &Place<'_>) {
        let Some(text) = network.text().filter(|text| text.parse::<ipnet::IpNet>().is_err()) else { return };
        let single = text.parse::<std::net::IpAddr>().ok();
        let hint = match single {
            Some(address) => format!("write {address}/{}", if address.is_ipv4() { 32 } else { 128 }),
            None => "write 10.0.0.0/8 or 2001:db8::/32".to_owned(),
        };
        let hint = if network.scalar().is_some_and(|scalar| scalar.expanded) { None } else { Some(hint) };
        self.say(network, format!("{} is not a network", network.quoted()), hint);
    }

    fn window(&mut self, window: &Place<'_>) {
        self.not_none(window.child("days"), "day");
        let mut minute = |key: &str| {
            let place = window.child(key)?;
            let minute = grammar::minute(place.text()?);
            if minute.is_none() {
                self.say(&place, format!("{} is not a time of day; write 08:00", place.quoted()), None);
            }
            minute
        };
        let (from, to) = (minute("from"), minute("to"));
        if let (Some(from), Some(to), Some(place)) = (from, to, window.child("to"))
            && from >= to
        {
            let hint = "write two windows for hours that cross midnight; 24:00 is the end of a day".to_owned();
            self.say(&place, "the window closes before it opens", Some(hint));
        }
    }

    fn workload(&mut self, rule: &Place<'_>) {
        if let Some(place) = rule.child("spiffe_id") {
            self.spiffe_id_pattern(&place);
        }
    }

    fn spiffe_id_pattern(&mut self, place: &Place<'_>) {
        let Some(scalar) = place.scalar() else { return };
        if let Some(Err(error)) = place.text().map(str::parse::<Pattern>) {
            let told =
                if scalar.expanded { format!("{} does not hold a SPIFFE ID pattern", place.quoted()) } else { error.to_string() };
            self.say(place, told, None);
        }
    }

    fn control(&mut self) {
        self.keys_form(&["control", "operators"], not_empty);
        let operators = self.at(&["control", "operators"]).map(|place| place.entries()).unwrap_or_default();
        let uids = operators.iter().filter_map(|(_, operator)| operator.child("uid"));
        self.unique(uids.filter_map(|uid| Some((uid.number()?.as_u64()?, uid))), "uid");
        for name in self.at(&["control", "roles", "operate"]).iter().flat_map(Place::items) {
            if self.at(&["control", "operators"]).is_some() {
                self.names_one_of(&name, &["control", "operators"], "operator");
            } else if name.text().is_some() {
                let hint = "add it to `control.operators` with its uid".to_owned();
                self.say(&name, format!("there is no operator {}", name.quoted()), Some(hint));
            }
        }
    }

    fn files(&mut self) {
        for keys in [&["identity", "source", "files", "certificate"][..], &["identity", "source", "files", "private_key"]] {
            self.form(keys, not_empty);
        }
        for keys in [["state", "directory"], ["audit", "file"], ["control", "socket"]] {
            self.form(&keys, not_empty);
        }
        for (_, file) in self.at(BUNDLES).iter().flat_map(Place::entries) {
            self.has_form(&file, not_empty);
        }
    }
}

const SOURCE: &[&str] = &["identity", "source"];
/// Where SPIFFE_Workload_Endpoint.md 4 lets a workload look for its agent.
pub(super) const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
const BUNDLES: &[&str] = &["identity", "source", "files", "bundles"];

/// Two sockets cannot both have these addresses.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let every = |address: SocketAddr| address.ip().is_unspecified();
    one.port() != 0
        && one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || every(one) || every(other))
}

//! What a schema cannot say: names that must be unique, names that must exist, texts that must have a form.
//!
//! In: the document, mistakes and all. Out: more mistakes. It walks the document and not `Config`, so it can speak of everything
//! that is readable while something else is still misspelt; a value that is absent or of a wrong type is not its business.

mod anomaly;

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
    check.addresses();
    check.policy();
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

    fn listeners(&mut self) {
        self.not_none(self.at(&["listeners"]), "listener");
        let listeners = self.at(&["listeners"]).map(|place| place.items()).unwrap_or_default();
        self.unique_names(&listeners, "name");
        for listener in &listeners {
            self.trusted(listener);
            self.items_form(listener, "server_names", grammar::name);
            if let Some(health) = listener.child("health") {
                self.child_form(&health, "path", grammar::literal_path);
            }
            if listener.child("mode").is_some_and(|mode| mode.text() == Some("forward")) {
                self.forward(listener);
            } else {
                self.reverse(listener);
            }
            self.own_identity(listener);
        }
    }

    fn reverse(&mut self, listener: &Place<'a>) {
        if let Some(destinations) = listener.child("destinations") {
            let hint = "write `routes`, or `mode: forward` for a listener beside an agent".to_owned();
            self.say(&destinations, "a listener in front of a service has routes and no destinations", Some(hint));
        }
        if listener.child("routes").is_none() && listener.length().is_some() {
            let hint = Some("add `routes: [{name: all, upstream: NAME}]`".to_owned());
            self.say(listener, "it has no `routes`, so it could forward nothing", hint);
        }
        self.not_none(listener.child("routes"), "route");
        let routes = listener.child("routes").map(|place| place.items()).unwrap_or_default();
        self.unique_names(&routes, "name");
        routes.iter().for_each(|route| self.route(route));
    }

    fn forward(&mut self, listener: &Place<'a>) {
        for (key, why) in [
            ("routes", "a listener beside an agent has destinations and no routes"),
            ("server_names", "a listener beside an agent is asked for other people's names"),
        ] {
            if let Some(place) = listener.child(key) {
                let hint = "leave the key out, or write `mode: reverse` for a listener in front of a service".to_owned();
                self.say(&place, why, Some(hint));
            }
        }
        if listener.child("destinations").is_none() {
            let hint = Some("add `destinations: [{name: api, hosts: [api.example.com]}]`".to_owned());
            self.say(listener, "it has no `destinations`, so it could forward nothing", hint);
        }
        self.not_none(listener.child("destinations"), "destination");
        let destinations = listener.child("destinations").map(|place| place.items()).unwrap_or_default();
        self.unique_names(&destinations, "name");
        for destination in &destinations {
            self.destination(destination);
        }
    }

    fn destination(&mut self, destination: &Place<'a>) {
        self.not_none(destination.child("hosts"), "host; write \"*\" to take every one");
        self.not_none(destination.child("ports"), "port");
        self.items_form(destination, "hosts", grammar::route_host);
        self.items_form(destination, "server_names", grammar::route_host);
        self.child_form(destination, "decision", grammar::decision);
        for network in destination.child("cidrs").iter().flat_map(Place::items) {
            self.network(&network);
        }
        if let Some(name) = destination.child("name")
            && self.at(&["upstreams"]).is_some_and(|upstreams| name.text().is_some_and(|text| upstreams.child(text).is_some()))
        {
            let hint = Some("kills and metrics know both by their name; choose another one".to_owned());
            self.say(&name, format!("{} is the name of an upstream as well", name.quoted()), hint);
        }
    }

    /// Whoever reaches the listener is taken for us: nobody outside the pod may.
    fn own_identity(&mut self, listener: &Place<'a>) {
        let Some(identity) = listener.child("identity").filter(|identity| identity.text() == Some("self")) else { return };
        if listener.child("mode").is_none_or(|mode| mode.text() == Some("reverse")) {
            let hint = Some("write `mode: forward`, or `identity: peer`".to_owned());
            self.say(&identity, "our own identity stands for callers beside us, not in front of a service", hint);
        }
        let Some(address) = listener.child("address") else { return };
        if address.text().and_then(|text| text.parse::<SocketAddr>().ok()).is_some_and(|parsed| !parsed.ip().is_loopback()) {
            let message =
                format!("{} can be reached from outside, and `identity: self` would take every caller for us", address.quoted());
            self.say(&address, message, Some("write a loopback address, such as 127.0.0.1:3128, or `identity: peer`".to_owned()));
        }
    }

    /// Every trust domain a listener takes has its bundle, the one it takes by default too.
    fn trusted(&mut self, listener: &Place<'a>) {
        let domains = listener.child("trust_domains").map(|place| place.items()).unwrap_or_default();
        for domain in &domains {
            self.has_form(domain, grammar::trust_domain);
            if domain.text().is_some_and(|name| grammar::trust_domain(name).is_ok()) {
                self.names_one_of(domain, BUNDLES, "bundle of the trust domain");
            }
        }
        let by_default = listener.child("trust_domains").is_none_or(|place| place.length() == Some(0));
        let (Some(own), Some(bundles)) = (self.at(&["identity", "trust_domain"]), self.at(BUNDLES)) else { return };
        let without = |name| bundles.length().is_some_and(|count| count > 0) && bundles.child(name).is_none();
        if by_default && own.text().is_some_and(without) && listener.length().is_some() {
            let message = format!("it takes peers of our own trust domain {}, which has no bundle", own.quoted());
            self.say(
                listener,
                message,
                Some("add the bundle to `identity.source.files.bundles`, or name `trust_domains`".to_owned()),
            );
        }
    }

    fn route(&mut self, route: &Place<'a>) {
        if let Some(upstream) = route.child("upstream") {
            self.names_one_of(&upstream, &["upstreams"], "upstream");
        }
        self.not_none(route.child("hosts"), "host; leave `hosts` out to take every one");
        self.items_form(route, "hosts", grammar::route_host);
        self.child_form(route, "path_prefix", grammar::literal_path);
        self.child_form(route, "decision", grammar::decision);
        self.child_form(route, "upstream_host", grammar::authority);
    }

    fn upstreams(&mut self) {
        self.keys_form(&["upstreams"], not_empty);
        for (_, upstream) in self.at(&["upstreams"]).iter().flat_map(Place::entries) {
            self.child_form(&upstream, "endpoint", grammar::endpoint);
            self.upstream_tls(&upstream);
            self.child_form(&upstream, "environment", not_empty);
        }
    }

    /// Https says whom it expects, http expects nobody, and what is agreed on in a handshake needs one.
    fn upstream_tls(&mut self, upstream: &Place<'a>) {
        let (endpoint, tls) = (upstream.child("endpoint"), upstream.child("tls"));
        let speaks = |scheme: &str| endpoint.as_ref().and_then(Place::text).is_some_and(|text| text.starts_with(scheme));
        if let Some(tls) = &tls {
            self.child_form(tls, "server_name", grammar::host);
            self.child_form(tls, "ca", not_empty);
            for id in tls.child("spiffe_ids").iter().flat_map(Place::items) {
                self.spiffe_id_pattern(&id);
            }
        }
        let named = |tls: &Place<'_>| {
            let ids = tls.child("spiffe_ids").and_then(|ids| ids.length()).unwrap_or_default();
            (ids > 0, tls.child("ca").is_some())
        };
        match (&endpoint, &tls, tls.as_ref().map(named)) {
            (_, Some(tls), _) if speaks("http://") => {
                let hint = "write https://host:port, or leave `tls` out".to_owned();
                self.say(tls, "the endpoint is http, and speaks no TLS", Some(hint));
            }
            (Some(endpoint), _, None | Some((false, false))) if speaks("https://") => {
                let hint = "write `tls: {spiffe_ids: [...]}`, or `tls: {ca: file.pem}` for a server without a SPIFFE ID".to_owned();
                self.say(endpoint, "an https endpoint needs to know whom to expect there", Some(hint));
            }
            (_, Some(tls), Some((true, true))) => {
                self.say(tls, "`spiffe_ids` and `ca` are two ways to know a server", Some("write one of them".to_owned()));
            }
            _ => {}
        }
        if let Some(protocol) = upstream.child("protocol").filter(|place| place.text() == Some("auto") && speaks("http://")) {
            self.say(
                &protocol,
                "it is agreed on in the TLS handshake, and the endpoint is http",
                Some("write http1 or h2".to_owned()),
            );
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
        for (_, bundle) in self.at(&["policy", "bundles"]).iter().flat_map(Place::entries) {
            self.child_form(&bundle, "path", not_empty);
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

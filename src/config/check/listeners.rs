//! What a schema cannot say of listeners: routes in front of a service, destinations beside an agent, and who may stand where.

use std::net::SocketAddr;

use super::super::document::Place;
use super::super::grammar;
use super::{BUNDLES, Check};

impl<'a> Check<'a> {
    pub(super) fn listeners(&mut self) {
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
}

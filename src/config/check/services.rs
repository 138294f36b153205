//! What a schema cannot say of services: urls that have a form, tokens that stand somewhere else, and who is expected there.

use super::super::document::Place;
use super::super::grammar;
use super::{Check, not_empty};

impl<'a> Check<'a> {
    pub(super) fn services(&mut self) {
        self.keys_form(&["services"], not_empty);
        for (_, service) in self.at(&["services"]).iter().flat_map(Place::entries) {
            self.child_form(&service, "url", grammar::service_url);
            self.service_token(&service);
            self.service_tls(&service);
        }
    }

    /// A token in the configuration itself is in its every copy; over plain http it is everybody's on the way.
    fn service_token(&mut self, service: &Place<'a>) {
        let Some(token) = service.descend(&["credentials", "bearer", "token"]) else { return };
        let Some(scalar) = token.scalar() else { return };
        if !scalar.expanded && token.text().is_some_and(|text| !text.starts_with("file:")) {
            // Not quoted: it may be the token.
            let hint = "write file:PATH, or ${NAME} for a variable of the environment".to_owned();
            self.say(&token, "a token does not belong into the configuration", Some(hint));
        }
        let plain = |url: &str| url.strip_prefix("http://").is_some_and(|rest| !on_this_machine(rest));
        if service.child("url").as_ref().and_then(Place::text).is_some_and(plain) {
            let hint = "write https://…; only services on this machine may be sent a token over http".to_owned();
            self.say(&token, "the url is http, and everybody on the way would read the token", Some(hint));
        }
    }

    fn service_tls(&mut self, service: &Place<'a>) {
        let (url, tls, own) = (service.child("url"), service.child("tls"), service.descend(&["credentials", "client_tls"]));
        if url.as_ref().and_then(Place::text).is_some_and(|url| url.starts_with("http://")) {
            for place in tls.iter().chain(&own) {
                let hint = "write https://…, or leave it out".to_owned();
                self.say(place, "the url is http, and speaks no TLS", Some(hint));
            }
        }
        let Some(tls) = tls else { return };
        self.child_form(&tls, "server_name", grammar::host);
        self.child_form(&tls, "ca", not_empty);
        let ids = tls.child("spiffe_ids").map(|ids| ids.items()).unwrap_or_default();
        for id in &ids {
            self.spiffe_id_pattern(id);
        }
        if !ids.is_empty() && tls.child("ca").is_some() {
            self.say(&tls, "`spiffe_ids` and `ca` are two ways to know a server", Some("write one of them".to_owned()));
        }
    }
}

fn on_this_machine(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

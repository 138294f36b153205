//! What a schema cannot say of upstreams: endpoints that have a form, and whom each expects behind it.

use super::super::document::Place;
use super::super::grammar;
use super::{Check, not_empty};

impl<'a> Check<'a> {
    pub(super) fn upstreams(&mut self) {
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
}

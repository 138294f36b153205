//! What a schema cannot say of bundles and of what goes to services: one place each bundle comes from, services that exist, and
//! pauses that have an order.

use super::super::document::Place;
use super::super::report::suggestion;
use super::{Check, not_empty};
use crate::policy::source::{OF_A_SERVICE, ONE_ORIGIN};
use crate::units::Span;

impl<'a> Check<'a> {
    pub(super) fn bundles(&mut self) {
        for (_, bundle) in self.at(&["policy", "bundles"]).iter().flat_map(Place::entries) {
            self.child_form(&bundle, "path", not_empty);
            self.child_form(&bundle, "resource", not_empty);
            self.origin(&bundle);
            if let Some(service) = bundle.child("service") {
                self.names_a_service(&service);
            }
            self.pauses(&bundle, "polling", (60, 120));
        }
        for (_, bundle) in self.at(&["policy", "shadow", "bundles"]).iter().flat_map(Place::entries) {
            self.child_form(&bundle, "path", not_empty);
        }
    }

    /// `status` names a service there is.
    pub(super) fn status(&mut self) {
        self.form(&["status", "partition"], not_empty);
        if let Some(service) = self.at(&["status", "service"]) {
            self.names_a_service(&service);
        }
    }

    /// `decision_logs` names a service there is.
    pub(super) fn decision_logs(&mut self) {
        let Some(logs) = self.at(&["decision_logs"]) else { return };
        self.child_form(&logs, "resource", not_empty);
        if let Some(service) = logs.child("service") {
            self.names_a_service(&service);
        }
        self.pauses(&logs, "reporting", (1, 5));
    }

    fn origin(&mut self, bundle: &Place<'a>) {
        let (path, service) = (bundle.child("path"), bundle.child("service"));
        let fetched: Vec<Place<'a>> = OF_A_SERVICE.iter().filter_map(|key| bundle.child(key)).collect();
        match (path, service) {
            (Some(_), Some(_)) => self.say(bundle, ONE_ORIGIN, None),
            (Some(_), None) => {
                for place in fetched {
                    let hint = "write `service` instead of `path`, or leave it out".to_owned();
                    self.found.push(place.mistake_of_key("this is for a bundle that a service gives", Some(hint)));
                }
            }
            // A key that is misspelt has been told already.
            (None, None) if bundle.length() == Some(0) || !fetched.is_empty() => self.say(bundle, ONE_ORIGIN, None),
            (None, None | Some(_)) => {}
        }
    }

    fn names_a_service(&mut self, place: &Place<'a>) {
        let Some(name) = place.text() else { return };
        let services = self.at(&["services"]);
        let known: Vec<&str> = services.iter().flat_map(Place::entries).map(|(key, _)| key).collect();
        if !known.contains(&name) {
            let near = suggestion(name, known.iter().copied(), "known");
            let hint = near.or_else(|| Some("add it to `services` with its url".to_owned()));
            self.say(place, format!("there is no service {}", place.quoted()), hint);
        }
    }

    fn pauses(&mut self, of: &Place<'a>, group: &str, usual: (u64, u64)) {
        let written = |key: &str| of.descend(&[group, key]);
        let span = |key: &str, usual: u64| match written(key) {
            Some(place) => place.text().and_then(|text| text.parse().ok()),
            None => Some(Span::seconds(usual)),
        };
        let (Some(least), Some(most)) = (span("min_delay", usual.0), span("max_delay", usual.1)) else { return };
        if let Some(place) = written("min_delay").or_else(|| written("max_delay")).filter(|_| least > most) {
            self.say(
                &place,
                format!("min_delay is {least} and max_delay {most}"),
                Some("write the shorter one as min_delay".to_owned()),
            );
        }
    }
}

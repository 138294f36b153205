//! What a schema cannot say of anomaly rules: that each has exactly one kind, an action that fits it, and names of what is there.

use super::super::document::Place;
use super::super::grammar;
use super::Check;

const KINDS: [&str; 8] = ["rate", "burst", "first_seen", "volume", "denied_burst", "fan_out", "escalation", "sequence"];

impl Check<'_> {
    pub(super) fn anomaly(&mut self) {
        let rules = self.at(&["anomaly", "rules"]).map(|place| place.items()).unwrap_or_default();
        self.unique_names(&rules, "name");
        for rule in &rules {
            self.child_form(rule, "name", label);
            self.kind(rule);
            self.action(rule);
            self.scope(rule);
            for step in rule.descend(&["sequence", "steps"]).iter().flat_map(Place::items) {
                self.step(&step);
            }
            if let Some(steps) = rule.descend(&["sequence", "steps"])
                && steps.length().is_some_and(|count| !(2..=8).contains(&count))
            {
                self.say(&steps, "a sequence has 2 to 8 steps", None);
            }
        }
    }

    fn kind(&mut self, rule: &Place<'_>) {
        let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| rule.child(kind).is_some()).collect();
        // A key nobody knows may be the misspelt kind, and is reported as what it is.
        let known = |key: &str| KINDS.contains(&key) || BESIDE.contains(&key);
        match kinds.as_slice() {
            [] if rule.length().is_some() && rule.entries().iter().all(|(key, _)| known(key)) => {
                self.say(rule, "the rule has no kind", Some(format!("add one of {}", KINDS.join(", "))));
            }
            [] | [_] => {}
            [_, second, ..] => {
                if let Some(place) = rule.child(second) {
                    let message = format!("the rule has more than one kind: {}", kinds.join(", "));
                    self.found.push(place.mistake_of_key(message, Some("make one rule of each".to_owned())));
                }
            }
        }
    }

    /// `score` belongs to the action score, `ttl` to kills that stand.
    fn action(&mut self, rule: &Place<'_>) {
        let Some(action) = rule.child("action").and_then(|action| action.text()) else { return };
        match (action, rule.child("score")) {
            ("score", None) => {
                let hint = "add `score: 0.5`, or any number from 0 to 1".to_owned();
                self.found.push(rule.mistake_of_missing("score", "missing key: what the rule adds to the score", Some(hint)));
            }
            ("score", Some(_)) | (_, None) => {}
            (_, Some(score)) => self.found.push(score.mistake_of_key("only `action: score` has a score", None)),
        }
        if let Some(ttl) = rule.child("ttl").filter(|_| !["kill_session", "kill_identity"].contains(&action)) {
            self.found.push(ttl.mistake_of_key("only `action: kill_session` and `action: kill_identity` have a ttl", None));
        }
    }

    fn scope(&mut self, rule: &Place<'_>) {
        for pattern in rule.child("spiffe_ids").iter().flat_map(Place::items) {
            self.spiffe_id_pattern(&pattern);
        }
        let listeners = self.at(&["listeners"]).map(|place| place.items()).unwrap_or_default();
        let routes: Vec<Place<'_>> =
            listeners.iter().filter_map(|listener| listener.child("routes")).flat_map(|routes| routes.items()).collect();
        for (key, places, what) in [("listeners", &listeners, "listener"), ("routes", &routes, "route")] {
            let names: Vec<Place<'_>> = places.iter().filter_map(|place| place.child("name")).collect();
            let there = |wanted: &str| names.iter().any(|name| name.text() == Some(wanted));
            // What a variable held is never quoted.
            let written = names.iter().filter(|name| name.scalar().is_some_and(|scalar| !scalar.expanded));
            let written: Vec<&str> = written.filter_map(Place::text).collect();
            for name in rule.child(key).iter().flat_map(Place::items) {
                if let Some(text) = name.text().filter(|text| !there(text)) {
                    let hint = super::suggestion(text, written.iter().copied(), "known");
                    self.say(&name, format!("there is no {what} {}", name.quoted()), hint);
                }
            }
        }
    }

    fn step(&mut self, step: &Place<'_>) {
        for matched in ["match", "not", "without"].into_iter().filter_map(|key| step.child(key)) {
            self.items_form(&matched, "hosts", grammar::host_pattern);
            self.items_form(&matched, "methods", grammar::method);
            self.child_form(&matched, "path", grammar::path_pattern);
        }
        if let Some(not) = step.child("not").filter(|not| not.length() == Some(0)) {
            self.say(&not, "it names nothing, so no request is a step like this", Some("name what it is not".to_owned()));
        }
    }
}

/// What stands in a rule beside its kind.
const BESIDE: [&str; 8] = ["name", "spiffe_ids", "listeners", "routes", "action", "score", "ttl", "observe"];

/// A name that stands in labels, records and kills.
fn label(text: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(fits) {
        Ok(())
    } else {
        Err("is not a name for a rule: up to 64 lower-case letters, digits, `-` and `_`")
    }
}

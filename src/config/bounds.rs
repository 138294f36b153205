//! The bounds of every number, duration and size in the configuration: one table.
//!
//! In: the document. Out: a mistake for each value outside its bounds. A lower bound keeps a limit from switching off what it limits;
//! an upper one keeps what is built from it (channels, semaphores, deadlines) from overflowing. A test walks the schema and fails
//! when a number, a duration or a size has no row here.

use std::time::Duration;

use super::document::Place;
use super::report::Mistake;
use crate::units::{Size, Span};

/// The keys to a value, `*` for each entry of a list or mapping, and what it must be.
type Row = (&'static [&'static str], Bound);

enum Bound {
    Count(u64, u64),
    Span(Span, Span),
    Size(Size, Size),
    /// From 0 to 1.
    Share,
}

use Bound::{Count, Share, Size as Bytes, Span as Time};

/// More of anything than one gate holds; far below what a semaphore or a channel can count.
const MANY: u64 = 10_000_000;
/// The longest time that is written in units of days.
const YEARS: Span = Span::seconds(10 * 365 * 86_400);
const DAY: Span = Span::seconds(86_400);
const INSTANT: Span = Span::millis(1);
const NONE: Span = Span::millis(0);

const TABLE: &[Row] = &[
    (&["listeners", "*", "max_svid_lifetime"], Time(Span::seconds(1), YEARS)),
    (&["listeners", "*", "destinations", "*", "ports", "*"], Count(1, 65_535)),
    (&["listeners", "*", "destinations", "*", "connect_timeout"], Time(INSTANT, DAY)),
    (&["listeners", "*", "destinations", "*", "response_timeout"], Time(INSTANT, DAY)),
    (&["listeners", "*", "destinations", "*", "idle_timeout"], Time(INSTANT, YEARS)),
    (&["upstreams", "*", "connect_timeout"], Time(INSTANT, DAY)),
    (&["upstreams", "*", "response_timeout"], Time(INSTANT, DAY)),
    (&["upstreams", "*", "idle_timeout"], Time(INSTANT, YEARS)),
    (&["services", "*", "timeout"], Time(INSTANT, Span::seconds(600))),
    (&["policy", "bundles", "*", "polling", "min_delay"], Time(Span::millis(100), DAY)),
    (&["policy", "bundles", "*", "polling", "max_delay"], Time(Span::millis(100), DAY)),
    (&["policy", "bundles", "*", "polling", "long_polling"], Time(Span::seconds(1), Span::seconds(600))),
    (&["policy", "bundles", "*", "size_limit"], Bytes(Size(1), Size::mib(256))),
    (&["policy", "bundles", "*", "max_staleness"], Time(Span::seconds(1), YEARS)),
    // None of it is how reuse is turned off.
    (&["policy", "reuse"], Bytes(Size(0), Size::mib(1024))),
    (&["policy", "shadow", "sample"], Count(1, MANY)),
    (&["policy", "shadow", "time"], Time(INSTANT, Span::seconds(10))),
    (&["policy", "limits", "time"], Time(INSTANT, Span::seconds(10))),
    (&["policy", "limits", "body"], Bytes(Size(1), Size::mib(1024))),
    (&["policy", "limits", "depth"], Count(1, 128)),
    (&["anomaly", "learning"], Time(NONE, YEARS)),
    (&["anomaly", "holds"], Time(NONE, YEARS)),
    (&["anomaly", "half_life"], Time(INSTANT, YEARS)),
    (&["anomaly", "remembers"], Time(NONE, YEARS)),
    (&["anomaly", "rules", "*", "score"], Share),
    (&["anomaly", "rules", "*", "ttl"], Time(Span::seconds(1), YEARS)),
    (&["anomaly", "rules", "*", "rate", "requests"], Count(1, MANY)),
    (&["anomaly", "rules", "*", "rate", "within"], Time(Span::millis(8), DAY)),
    (&["anomaly", "rules", "*", "burst", "requests"], Count(1, MANY)),
    (&["anomaly", "rules", "*", "burst", "every"], Time(INSTANT, DAY)),
    (&["anomaly", "rules", "*", "first_seen", "learning"], Time(NONE, YEARS)),
    // What a session may make us remember, and what it costs to look through it.
    (&["anomaly", "rules", "*", "first_seen", "known"], Count(1, 1024)),
    (&["anomaly", "rules", "*", "volume", "window"], Time(Span::millis(100), DAY)),
    (&["anomaly", "rules", "*", "volume", "deviations"], Count(1, 1000)),
    (&["anomaly", "rules", "*", "volume", "least"], Bytes(Size(1), Size::mib(1024 * 1024))),
    (&["anomaly", "rules", "*", "volume", "warm_up"], Count(1, 10_000)),
    (&["anomaly", "rules", "*", "denied_burst", "denials"], Count(1, MANY)),
    (&["anomaly", "rules", "*", "denied_burst", "within"], Time(Span::millis(8), DAY)),
    (&["anomaly", "rules", "*", "fan_out", "distinct"], Count(1, 1024)),
    (&["anomaly", "rules", "*", "fan_out", "within"], Time(INSTANT, DAY)),
    (&["anomaly", "rules", "*", "sequence", "within"], Time(INSTANT, DAY)),
    (&["exchanges", "reassess_every"], Time(Span::seconds(1), DAY)),
    (&["exchanges", "retained"], Bytes(Size(0), Size::mib(1024 * 1024))),
    (&["sessions", "idle_timeout"], Time(Span::seconds(1), YEARS)),
    (&["sessions", "history"], Count(0, 10_000)),
    (&["sessions", "max"], Count(1, MANY)),
    (&["limits", "header_timeout"], Time(INSTANT, DAY)),
    // hyper's read buffer has at least 8 KiB.
    (&["limits", "header_bytes"], Bytes(Size::kib(8), Size::mib(16))),
    (&["limits", "headers"], Count(1, 10_000)),
    (&["limits", "handshakes"], Count(1, MANY)),
    (&["limits", "connections"], Count(1, MANY)),
    (&["limits", "streams"], Count(1, 10_000)),
    (&["limits", "idle_timeout"], Time(INSTANT, YEARS)),
    (&["limits", "per_identity", "connections"], Count(1, MANY)),
    (&["limits", "per_identity", "exchanges"], Count(1, MANY)),
    (&["limits", "drain"], Time(NONE, DAY)),
    (&["audit", "wait"], Time(NONE, Span::seconds(60))),
    (&["audit", "queue"], Count(1, MANY)),
    (&["audit", "checkpoint", "every"], Time(Span::seconds(1), DAY)),
    (&["audit", "checkpoint", "lines"], Count(1, MANY)),
    (&["audit", "rotate", "size"], Bytes(Size::kib(64), Size::mib(1024 * 1024))),
    (&["audit", "rotate", "keep"], Count(1, 1000)),
    (&["decision_logs", "reporting", "min_delay"], Time(Span::millis(100), DAY)),
    (&["decision_logs", "reporting", "max_delay"], Time(Span::millis(100), DAY)),
    (&["decision_logs", "reporting", "upload_size_limit"], Bytes(Size::kib(1), Size::mib(64))),
    (&["decision_logs", "reporting", "buffer_size_limit"], Bytes(Size::kib(64), Size::mib(16 * 1024))),
    // The last uid means "no one" to the system calls that take one.
    (&["control", "operators", "*", "uid"], Count(0, 4_294_967_294)),
];

/// A mistake for each value that is out of its bounds.
pub(super) fn check(root: &Place<'_>, found: &mut Vec<Mistake>) {
    for (keys, bound) in TABLE {
        for place in places(root, keys) {
            if let Some(message) = outside(&place, bound) {
                found.push(place.mistake(message, None));
            }
        }
    }
}

fn places<'a>(root: &Place<'a>, keys: &[&str]) -> Vec<Place<'a>> {
    keys.iter().fold(vec![root.clone()], |places, key| {
        let next = |place: &Place<'a>| match *key {
            "*" => place.items().into_iter().chain(place.entries().into_iter().map(|(_, child)| child)).collect(),
            key => place.child(key).into_iter().collect::<Vec<_>>(),
        };
        places.iter().flat_map(next).collect()
    })
}

/// What is wrong with a value of the right type; one of a wrong type is the schema's to report.
fn outside(place: &Place<'_>, bound: &Bound) -> Option<String> {
    let out_of = |least: &dyn std::fmt::Display, most: &dyn std::fmt::Display| {
        Some(format!("{} is out of bounds; write {least} to {most}", place.quoted()))
    };
    match bound {
        Count(least, most) => {
            let number = place.number()?;
            let fits = number.as_u64().is_some_and(|count| (*least..=*most).contains(&count));
            if fits { None } else { out_of(least, most) }
        }
        Share => {
            let share = place.number()?.as_f64()?;
            if (0.0..=1.0).contains(&share) { None } else { out_of(&0, &1) }
        }
        Time(least, most) => {
            let fits = place.text()?.parse::<Span>().is_ok_and(|span| (*least..=*most).contains(&span));
            if fits { None } else { out_of(&Shown(*least), most) }
        }
        Bytes(least, most) => {
            let size = match place.number() {
                Some(number) => number.as_u64().map(Size),
                None => place.text()?.parse().ok(),
            };
            if size.is_some_and(|size| (*least..=*most).contains(&size)) { None } else { out_of(least, most) }
        }
    }
}

/// Nothing is `0s`, as people write it.
struct Shown(Span);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.0 == Duration::ZERO { f.write_str("0s") } else { self.0.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// Every path of the schema at which a number, a duration or a size stands.
    fn measured(schema: &Value, at: &Value, path: &str, found: &mut BTreeSet<String>) {
        let at = match at.get("$ref").and_then(Value::as_str) {
            Some(reference) => {
                if ["#/$defs/Duration", "#/$defs/Size"].contains(&reference) {
                    found.insert(path.to_owned());
                    return;
                }
                schema.pointer(reference.trim_start_matches('#')).unwrap()
            }
            None => at,
        };
        if at.get("type").is_some_and(|kind| kind == "integer" || kind == "number") {
            found.insert(path.to_owned());
        }
        for (key, child) in at.get("properties").and_then(Value::as_object).into_iter().flatten() {
            measured(schema, child, &format!("{path}/{key}"), found);
        }
        for child in
            ["items", "additionalProperties"].into_iter().filter_map(|keyword| at.get(keyword)).filter(|child| child.is_object())
        {
            measured(schema, child, &format!("{path}/*"), found);
        }
    }

    #[test]
    fn every_number_duration_and_size_has_its_bounds() {
        let schema = super::super::Config::schema();
        let mut found = BTreeSet::new();
        measured(&schema, &schema, "", &mut found);
        let rows: BTreeSet<String> = TABLE.iter().map(|(keys, _)| format!("/{}", keys.join("/"))).collect();
        assert_eq!(found, rows);
    }
}

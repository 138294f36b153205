//! What a replay found, grouped and counted.
//!
//! What must stay true: counts are exact; groups and the decisions named in them are bounded, and what was left out is counted.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::compare::{Change, Outcome};
use crate::cli::log::{Core, Line, Losses, Met};
use crate::cli::table::{clean, count, or_dash, table};

/// Groups that are told apart.
const GROUPS: usize = 10_000;
/// Decisions named in a group.
const NAMED: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Tally {
    same: u64,
    changed: u64,
    unknown: u64,
    skipped: BTreeMap<String, u64>,
    changes: BTreeMap<(Change, String, String), Group>,
    unknowns: BTreeMap<(String, Vec<String>), Group>,
    /// Decisions beyond the groups there is room for.
    ungrouped: u64,
    lacks: Losses,
}

#[derive(Debug, Default)]
struct Group {
    count: u64,
    ids: Vec<String>,
}

impl Group {
    fn add(&mut self, line: &Line<'_>) {
        self.count += 1;
        if self.ids.len() < NAMED {
            self.ids.extend(line.envelope.decision_id.clone());
        }
    }

    fn one(&self) -> String {
        or_dash(self.ids.first())
    }
}

fn group<K: Ord>(groups: &mut BTreeMap<K, Group>, key: K, line: &Line<'_>, ungrouped: &mut u64) {
    if groups.len() < GROUPS || groups.contains_key(&key) {
        groups.entry(key).or_default().add(line);
    } else {
        *ungrouped += 1;
    }
}

impl Tally {
    pub(super) fn add(&mut self, line: &Line<'_>, core: &Core, outcome: Outcome) {
        let rule = line.envelope.path.clone().unwrap_or_default();
        match outcome {
            Outcome::Same => self.same += 1,
            Outcome::Changed(change) => {
                self.changed += 1;
                let identity = core.peer.clone().unwrap_or_else(|| "-".to_owned());
                group(&mut self.changes, (change, rule, identity), line, &mut self.ungrouped);
            }
            Outcome::Unknown(lacks) => {
                self.unknown += 1;
                group(&mut self.unknowns, (rule, lacks.into_iter().collect()), line, &mut self.ungrouped);
            }
            Outcome::Skipped(reason) => {
                let known = self.skipped.len() < GROUPS || self.skipped.contains_key(&reason);
                *self.skipped.entry(if known { reason } else { "other".to_owned() }).or_default() += 1;
            }
        }
    }

    /// Takes note of what the log says it lacks.
    pub(super) fn lacks(&mut self, losses: &Losses) {
        self.lacks.lost += losses.lost;
        self.lacks.torn += losses.torn;
        self.lacks.dropped += losses.dropped;
    }

    /// Decisions in which a policy had the word.
    pub(super) fn judged(&self) -> u64 {
        self.same + self.changed + self.unknown
    }

    pub(super) fn all_same(&self) -> bool {
        self.changed == 0 && self.unknown == 0
    }

    pub(super) fn text(&self, revisions: BTreeMap<String, String>) -> String {
        let decisions = count(usize::try_from(self.judged()).unwrap_or(usize::MAX), "decision");
        let mut head =
            format!("{decisions} of a policy: {} the same, {} would change, {} unknown", self.same, self.changed, self.unknown);
        for (name, revision) in revisions {
            head.push_str(&format!("\njudged by {} {}", clean(&name), clean(&revision)));
        }
        let skipped: Vec<String> = self.skipped.iter().map(|(reason, count)| format!("{count} {}", clean(reason))).collect();
        if !skipped.is_empty() {
            head.push_str(&format!("\nno word of a policy's, and skipped: {}", skipped.join(", ")));
        }
        let (lost, dropped) = (self.lacks.lost + self.lacks.torn, self.lacks.dropped);
        if lost + dropped > 0 {
            head.push_str(&format!(
                "\nnot in these files, and so not compared: {dropped} decisions the policy dropped, {lost} lines lost or torn"
            ));
        }
        let mut parts = vec![head];
        if !self.changes.is_empty() {
            let rows = self.changes.iter().map(|((change, rule, identity), group)| {
                let what = match change.parts.is_empty() {
                    true => change.kind.words().to_owned(),
                    false => format!("{} ({})", change.kind.words(), change.parts.join(", ")),
                };
                [
                    what,
                    change.then.clone(),
                    change.now.clone(),
                    rule.clone(),
                    identity.clone(),
                    group.count.to_string(),
                    group.one(),
                ]
            });
            parts.push(table(["CHANGE", "THEN", "NOW", "RULE", "IDENTITY", "COUNT", "ONE OF THEM"], rows));
        }
        if !self.unknowns.is_empty() {
            let rows = self
                .unknowns
                .iter()
                .map(|((rule, lacks), group)| [lacks.join(", "), rule.clone(), group.count.to_string(), group.one()]);
            parts.push(table(["UNKNOWN, BECAUSE THE LOG LACKS", "RULE", "COUNT", "ONE OF THEM"], rows));
        }
        if self.ungrouped > 0 {
            parts.push(format!("{} more in groups there was no room for", self.ungrouped));
        }
        parts.join("\n\n")
    }

    pub(super) fn json(&self, revisions: BTreeMap<String, String>, met: &Met) -> String {
        let ids = |group: &Group| json!({"count": group.count, "decision_ids": group.ids});
        let merged = |mut row: Value, more: Value| {
            if let (Some(row), Value::Object(more)) = (row.as_object_mut(), more) {
                row.extend(more);
            }
            row
        };
        let changes: Vec<Value> = self
            .changes
            .iter()
            .map(|((change, rule, identity), group)| {
                let row = json!({"change": change.kind.code(), "then": change.then, "now": change.now, "parts": change.parts,
                    "rule": rule, "identity": identity});
                merged(row, ids(group))
            })
            .collect();
        let unknowns: Vec<Value> =
            self.unknowns.iter().map(|((rule, lacks), group)| merged(json!({"lacks": lacks, "rule": rule}), ids(group))).collect();
        let all = json!({
            "revisions": revisions, "judged": self.judged(), "same": self.same, "changed": self.changed, "unknown": self.unknown,
            "skipped": self.skipped, "ungrouped": self.ungrouped, "lacks": {"dropped": self.lacks.dropped, "lost": self.lacks.lost, "torn": self.lacks.torn},
            "changes": changes, "unknowns": unknowns,
            "log": {"lines": met.lines, "torn": met.torn, "foreign": met.foreign, "cut_off": met.cut_off},
        });
        serde_json::to_string_pretty(&all).unwrap_or_default()
    }
}

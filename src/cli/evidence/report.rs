//! The evidence as a document: CSV for a spreadsheet, JSON for programs.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::csv::csv;
use super::gather::{Did, Gathered, Identity, Use};
use super::unused::{OfOne, Unused};
use crate::cli::log::Met;
use crate::cli::period::stamp;

const HEAD: [&str; 13] = [
    "identity",
    "owner",
    "row",
    "action",
    "path",
    "resource",
    "sensitivity",
    "effect",
    "allowed",
    "denied",
    "first_use",
    "last_use",
    "detail",
];
type Row = [String; 13];

/// See the module.
pub(super) struct Report<'a> {
    pub(super) from: OffsetDateTime,
    pub(super) to: OffsetDateTime,
    pub(super) gathered: &'a Gathered,
    /// `None`: no policy was asked.
    pub(super) unused: Option<&'a Unused>,
    pub(super) met: &'a Met,
}

impl Report<'_> {
    /// What keeps the document from being the whole truth.
    pub(super) fn warnings(&self) -> Vec<String> {
        let gathered = self.gathered;
        let mut said = Vec::new();
        if gathered.lost + gathered.torn > 0 {
            said.push(format!("the record says that it lacks {} lines of this period", gathered.lost + gathered.torn));
        }
        if gathered.dropped > 0 {
            said.push(format!(
                "{} decisions of this period are not in the record, because the policy dropped them (`data.system.log.drop`): what an \
                 identity did there is in no count here",
                gathered.dropped
            ));
        }
        if gathered.checkpoints == 0 {
            said.push("there is no checkpoint in this period: nothing here shows that the files are whole".to_owned());
        }
        if gathered.no_room > 0 {
            said.push(format!(
                "{} times there was no room for an identity, a kind of request or a word; they are not told",
                gathered.no_room
            ));
        }
        for (rule, why) in self.unused.iter().flat_map(|unused| &unused.no_court) {
            said.push(format!("what `{}` would allow is unknown: {why}", crate::cli::table::clean(rule)));
        }
        if let Some(unused) = self.unused.filter(|unused| unused.not_asked > 0) {
            said.push(format!("{} questions were asked; {} more were not", unused.asked, unused.not_asked));
        }
        said
    }

    pub(super) fn csv(&self) -> String {
        let mut rows = self.of_the_record();
        for (name, identity) in &self.gathered.identities {
            self.of_identity(name, identity, &mut rows);
        }
        csv(HEAD, rows)
    }

    fn of_the_record(&self) -> Vec<Row> {
        let gathered = self.gathered;
        let mut rows = vec![row("", "", "period", None, None, format!("{} to {}", stamp(self.from), stamp(self.to)))];
        for ((name, revision), used) in &gathered.revisions {
            rows.push(row("", "", "policy", None, used.as_ref(), format!("{name} {revision}")));
        }
        let lacks = format!(
            "lines lost {}, torn {}; decisions dropped by the policy {}; requests refused for want of room {}; not read {}",
            gathered.lost,
            gathered.torn,
            gathered.dropped,
            gathered.refused,
            self.met.torn + self.met.foreign
        );
        rows.push(row("", "", "lacks", None, None, lacks));
        let checkpoints = [&gathered.first_checkpoint, &gathered.last_checkpoint, &gathered.next_checkpoint];
        for (word, checkpoint) in ["first", "last", "next"].into_iter().zip(checkpoints) {
            rows.extend(
                checkpoint.as_ref().map(|it| row("", "", "checkpoint", None, None, format!("{word}: {}", checkpoint_words(it)))),
            );
        }
        if gathered.checkpoints == 0 {
            rows.push(row("", "", "checkpoint", None, None, "absent in this period".to_owned()));
        }
        rows
    }

    fn of_identity(&self, name: &str, identity: &Identity, rows: &mut Vec<Row>) {
        let owner = identity.owner.as_deref().unwrap_or_default();
        let mut add = |what: &str, did: Option<&Did>, used: Option<&Use>, detail: String| {
            rows.push(row(name, owner, what, did, used, detail));
        };
        let detail = format!(
            "observed denials let through {}; cut by kills {}; refused by kills {}",
            identity.observed, identity.cut, identity.refused
        );
        add("identity", None, identity.all.as_ref(), detail);
        for (did, used) in &identity.did {
            add("used", Some(did), used.as_ref(), String::new());
        }
        if let Some(of_one) = self.of_one(name) {
            of_one.allowed.iter().for_each(|did| add("allowed_unused", Some(did), None, String::new()));
            for (lacks, count) in &of_one.unknown {
                add("unknown", None, None, format!("{count} kinds of requests could not be judged: the record lacks {lacks}"));
            }
        }
        let words = [
            ("denial_reason", &identity.reasons),
            ("exception", &identity.exceptions),
            ("approval", &identity.approvals),
            ("break_glass", &identity.break_glass),
        ];
        for (what, words) in words {
            words.iter().for_each(|(word, count)| add(what, None, None, format!("{count} × {word}")));
        }
        let calls: Vec<_> = self.gathered.kills_of(name, identity).collect();
        let struck = |id: Option<&String>| id.and_then(|id| identity.kills.get(id)).copied().unwrap_or_default();
        for kill in &calls {
            let by = kill.by.as_deref().unwrap_or("nobody known");
            let named =
                kill.id.as_ref().map_or_else(String::new, |id| format!(" ({id}, struck {} times)", struck(kill.id.as_ref())));
            add("kill", None, None, format!("{} by {by}: {}{named}", stamp(kill.at), kill.reason.as_deref().unwrap_or("-")));
        }
        for (id, times) in identity.kills_without_call(&calls) {
            add(
                "kill",
                None,
                None,
                format!("{id}, struck {times} times; by a policy, an anomaly rule or a call before the period"),
            );
        }
    }

    fn of_one(&self, name: &str) -> Option<&OfOne> {
        self.unused.and_then(|unused| unused.of.get(name))
    }

    pub(super) fn json(&self) -> Value {
        let gathered = self.gathered;
        let identities: Vec<Value> = gathered.identities.iter().map(|(name, identity)| self.identity(name, identity)).collect();
        let policies: Vec<Value> = gathered
            .revisions
            .iter()
            .map(|((name, revision), used)| merged(json!({"bundle": name, "revision": revision}), used_json(used.as_ref())))
            .collect();
        json!({
            "period": {"from": stamp(self.from), "to": stamp(self.to)},
            "decisions": gathered.decisions, "of_nobody_known": gathered.nobody, "policies": policies,
            "lacks": {"lost": gathered.lost, "torn": gathered.torn, "dropped": gathered.dropped, "refused": gathered.refused, "no_room": gathered.no_room,
                "not_json": self.met.torn, "foreign": self.met.foreign, "cut_off": self.met.cut_off},
            "checkpoints": {"count": gathered.checkpoints, "first": gathered.first_checkpoint, "last": gathered.last_checkpoint,
                "next": gathered.next_checkpoint},
            "asked": self.unused.map(|unused| json!({"questions": unused.asked, "not_asked": unused.not_asked,
                "revisions": unused.revisions, "cannot_judge": unused.no_court})),
            "identities": identities,
        })
    }

    fn identity(&self, name: &str, identity: &Identity) -> Value {
        let used: Vec<Value> = identity.did.iter().map(|(did, used)| merged(json!(did), used_json(used.as_ref()))).collect();
        let calls: Vec<_> = self.gathered.kills_of(name, identity).collect();
        let struck = |id: &String| identity.kills.get(id).copied().unwrap_or_default();
        let mut kills: Vec<Value> = calls
            .iter()
            .map(|kill| {
                let struck = kill.id.as_ref().map(struck);
                json!({"id": kill.id, "at": stamp(kill.at), "by": kill.by, "reason": kill.reason, "struck": struck})
            })
            .collect();
        let others = identity.kills_without_call(&calls).into_iter();
        kills.extend(others.map(|(id, times)| json!({"id": id, "at": null, "by": null, "reason": null, "struck": times})));
        let of_one = self.of_one(name);
        let known = json!({
            "identity": name, "owner": identity.owner, "used": used,
            "allowed_unused": of_one.map(|of_one| json!(of_one.allowed)),
            "unknown": of_one.map(|of_one| json!(of_one.unknown)),
            "denial_reasons": identity.reasons, "exceptions": identity.exceptions, "approvals": identity.approvals,
            "break_glass": identity.break_glass, "observed": identity.observed, "cut_by_kills": identity.cut,
            "refused_by_kills": identity.refused, "kills": kills,
        });
        merged(known, used_json(identity.all.as_ref()))
    }
}

fn row(name: &str, owner: &str, what: &str, did: Option<&Did>, used: Option<&Use>, detail: String) -> Row {
    let part = |of: fn(&Did) -> Option<&String>| did.and_then(of).cloned().unwrap_or_default();
    let number = |of: fn(&Use) -> u64| used.map(|used| of(used).to_string()).unwrap_or_default();
    let time = |of: fn(&Use) -> OffsetDateTime| used.map(|used| stamp(of(used))).unwrap_or_default();
    [
        name.to_owned(),
        owner.to_owned(),
        what.to_owned(),
        part(|did| Some(&did.action)),
        part(|did| Some(&did.path)),
        part(|did| did.resource.as_ref()),
        part(|did| did.sensitivity.as_ref()),
        part(|did| did.effect.as_ref()),
        number(|used| used.allowed),
        number(|used| used.denied),
        time(|used| used.first),
        time(|used| used.last),
        detail,
    ]
}

/// `seq 7, hash …`, or all of it where it has other words.
fn checkpoint_words(checkpoint: &Value) -> String {
    match (checkpoint.get("seq"), checkpoint.get("hash").and_then(Value::as_str)) {
        (Some(seq), Some(hash)) => format!("seq {seq}, hash {hash}"),
        _ => checkpoint.to_string(),
    }
}

fn used_json(used: Option<&Use>) -> Value {
    match used {
        Some(used) => json!({"allowed": used.allowed, "denied": used.denied, "first": stamp(used.first), "last": stamp(used.last)}),
        None => json!({}),
    }
}

fn merged(mut one: Value, other: Value) -> Value {
    if let (Some(one), Value::Object(other)) = (one.as_object_mut(), other) {
        one.extend(other);
    }
    one
}

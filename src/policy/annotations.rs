//! What a policy says it is for: the controls its Rego annotations name.
//!
//! In: Rego text. Out: [`Claim`]s, each at the definition its `# METADATA` block stands before, or every mistake in them. Only
//! `custom.controls` is read here; the rest of a block is for people and for `opa inspect`. What must stay true: a claim is about
//! one rule, so that a test can be asked whether it shows it; one about a whole package is refused.
//!
//! Source: OPA annotations (policy-language, "Annotations"): a block of comments that begins with `# METADATA`, YAML beneath it,
//! before the statement it is about.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::bundle::Source;
use super::frameworks::{FRAMEWORKS, Framework};
use super::{About, Finding, Report};

/// A rule is said to serve controls.
#[derive(Clone, Debug)]
pub struct Claim {
    pub file: String,
    /// Where the definition begins.
    pub line: u32,
    pub title: String,
    pub scope: Scope,
    /// Keys of [`FRAMEWORKS`], and ids.
    pub controls: Vec<(&'static Framework, &'static str)>,
}

/// Which definitions an annotation is about.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The one behind it.
    #[default]
    Rule,
    /// Each of the rule's.
    Document,
    Package,
    Subpackages,
}

/// The part of a block that is read; other keys are OPA's and the author's.
#[derive(Deserialize)]
struct Block {
    #[serde(default)]
    title: String,
    #[serde(default)]
    scope: Option<Scope>,
    #[serde(default)]
    custom: Custom,
}

#[derive(Default, Deserialize)]
struct Custom {
    #[serde(default)]
    controls: BTreeMap<String, Vec<String>>,
}

/// The claims of some files, tests apart.
///
/// # Errors
/// Each block that cannot be read, names a control nobody published, or claims for more than a rule.
pub fn claims(sources: &[Source]) -> Result<Vec<Claim>, Report> {
    let (mut claims, mut findings) = (Vec::new(), Vec::new());
    for source in sources.iter().filter(|source| !source.test) {
        for (line, yaml, next) in blocks(&source.text) {
            match claim(source, &yaml, &next) {
                Ok(claim) => claims.extend(claim),
                Err(told) => findings.extend(told.into_iter().map(|(message, hint)| Finding {
                    file: source.file.clone(),
                    line,
                    column: 1,
                    message,
                    hint,
                    about: About::Content,
                })),
            }
        }
    }
    if findings.is_empty() { Ok(claims) } else { Err(Report::sorted(findings)) }
}

/// The statement behind a block.
struct Next<'t> {
    line: u32,
    text: &'t str,
}

/// Each block: its line, its YAML, and what stands behind it.
fn blocks(text: &str) -> Vec<(u32, String, Next<'_>)> {
    let mut found = Vec::new();
    let mut lines = (1u32..).zip(text.lines()).peekable();
    while let Some((line, first)) = lines.next() {
        // Indented comments are no annotations of a statement.
        if first.strip_prefix('#').is_none_or(|rest| rest.trim() != "METADATA") {
            continue;
        }
        let mut yaml = String::new();
        while let Some((_, comment)) = lines.next_if(|(_, line)| line.starts_with('#')) {
            yaml.push_str(comment.strip_prefix('#').unwrap_or_default());
            yaml.push('\n');
        }
        while lines.next_if(|(_, line)| line.trim().is_empty() || line.starts_with('#')).is_some() {}
        let (at, text) = lines.peek().copied().unwrap_or((line, ""));
        found.push((line, yaml, Next { line: at, text }));
    }
    found
}

fn claim(source: &Source, yaml: &str, next: &Next<'_>) -> Result<Option<Claim>, Vec<(String, String)>> {
    let block: Block = serde_yaml::from_str(yaml).map_err(|error| {
        vec![(format!("the annotation cannot be read: {error}"), "it is YAML, each line behind `# `".to_owned())]
    })?;
    if block.custom.controls.is_empty() {
        return Ok(None);
    }
    let is_package = next.text.split_whitespace().next() == Some("package");
    let scope = block.scope.unwrap_or(if is_package { Scope::Package } else { Scope::Rule });
    let mut wrong = Vec::new();
    if is_package || matches!(scope, Scope::Package | Scope::Subpackages) {
        let hint = "claim controls at the rules that serve them";
        wrong.push(("controls of a whole package: no test can show them".to_owned(), hint.to_owned()));
    }
    let mut controls = Vec::new();
    for (key, ids) in &block.custom.controls {
        let Some(framework) = Framework::named(key) else {
            let known: Vec<&str> = FRAMEWORKS.iter().map(|framework| framework.key).collect();
            wrong.push((format!("no catalogue is called `{key}`"), format!("one of {}", known.join(", "))));
            continue;
        };
        for id in ids {
            match framework.place(id).and_then(|place| framework.controls.get(place)) {
                Some((id, _)) => controls.push((framework, *id)),
                None => {
                    let near = nearest(id, framework);
                    wrong.push((format!("`{id}` is no control of {}", framework.title), format!("did you mean {near}?")));
                }
            }
        }
    }
    if wrong.is_empty() {
        Ok(Some(Claim { file: source.file.clone(), line: next.line, title: block.title, scope, controls }))
    } else {
        Err(wrong)
    }
}

fn nearest(id: &str, framework: &Framework) -> &'static str {
    framework
        .controls
        .iter()
        .map(|(known, _)| *known)
        .min_by_key(|known| strsim::damerau_levenshtein(id, known))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Claim>, Report> {
        claims(&[Source { file: "policy.rego".to_owned(), text: text.to_owned(), v0: false, test: false }])
    }

    #[test]
    fn a_claim_stands_at_the_definition_behind_its_block() {
        let text = "package p\n\n# METADATA\n# title: Only reads\n# custom:\n#   controls:\n#     owasp_nhi_2025: [NHI5]\n#     \
                    nist_csf_2_0: [PR.AA-05]\n\n# Why so.\na if input.b\n";
        let claims = of(text).unwrap();
        let [claim] = claims.as_slice() else { panic!("{claims:?}") };
        assert_eq!((claim.line, claim.title.as_str(), claim.scope), (11, "Only reads", Scope::Rule));
        let ids: Vec<&str> = claim.controls.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids, ["PR.AA-05", "NHI5"]);
    }

    #[test]
    fn blocks_that_claim_nothing_are_left_to_their_authors() {
        assert!(
            of("# METADATA\n# title: A\n# entrypoint: true\npackage p\n# METADATA\n# custom: {ours: 1}\na := 1\n")
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn what_cannot_be_claimed_is_said_with_its_place() {
        let block = |yaml: &str, behind: &str| {
            let report = of(&format!("package p\n# METADATA\n# custom:\n#   controls:\n#     {yaml}\n{behind}\n")).unwrap_err();
            report.to_string()
        };
        let cases = [
            (block("owasp_nhi_2025: [NHI55]", "a := 1"), "policy.rego:2", "did you mean NHI5?"),
            (block("owasp: [NHI5]", "a := 1"), "no catalogue is called `owasp`", "owasp_nhi_2025"),
            (block("owasp_nhi_2025: NHI5", "a := 1"), "cannot be read", "YAML"),
            (block("owasp_nhi_2025: [NHI5]", "package q"), "whole package", "at the rules"),
        ];
        for (text, told, hint) in cases {
            assert!(text.contains(told) && text.contains(hint), "{text}");
        }
    }
}

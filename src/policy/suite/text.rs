//! The text of a bundle, made ready for its tests to be run one by one.
//!
//! In: modules. Out: the same text, in which no two tests share a rule, and functions that `with` replaces are called by their full
//! path. What must stay true: a line of the original stays on its line.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Expr, Module, Ref, Rule, RuleHead};

use super::Test;
use crate::policy::bundle::Source;
use crate::policy::program::{Names, Program, canonical, full_path, package};
use crate::policy::walk::{self, Use};
use crate::policy::{Report, preflight};

/// Gives each test a rule of its own, and lists them in reading order.
pub(super) fn renamed(sources: &[Source]) -> Result<(Vec<Source>, Vec<Test>), Report> {
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let (mut texts, mut tests) = (Vec::new(), Vec::new());
    for source in sources {
        let module = preflight::parse(source).map_err(|finding| Report { findings: vec![finding] })?;
        let mut inserts = Vec::new();
        for rule in &module.policy {
            let Rule::Spec { head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. }, .. } = rule.as_ref() else {
                continue;
            };
            let own = full_path(refr);
            let Some(at) = own.iter().position(|part| part.starts_with("test_") || part.starts_with("todo_test_")) else {
                continue;
            };
            let mut path = package(&module);
            path.extend(own.iter().take(at + 1).cloned());
            let name = canonical(&path);
            let number = known.entry(name.clone()).and_modify(|count| *count += 1).or_insert(0);
            let skipped = own.get(at).is_some_and(|part| part.starts_with("todo_"));
            // Of a test in a longer name the last part cannot be told from the text alone; there are none in the wild.
            if *number > 0 && at == 0 && !skipped {
                let suffix = format!("__{number}");
                if let Some(last) = path.last_mut() {
                    last.push_str(&suffix);
                }
                inserts.push((root_end(refr), suffix));
            }
            let shown = if *number > 0 { format!("{name}#{number:02}") } else { name };
            let span = refr.span();
            tests.push(Test {
                name: shown,
                file: source.file.clone(),
                line: span.line,
                skipped,
                cases: matches!(refr.as_ref(), Expr::RefBrack { .. }) && has_keys(refr),
                rule: canonical(&path),
            });
        }
        let mut text = source.text.clone();
        for (at, insert) in inserts.iter().rev() {
            if text.is_char_boundary(*at) {
                text.insert_str(*at, insert);
            }
        }
        texts.push(Source { text, ..source.clone() });
    }
    Ok((texts, tests))
}

/// Where the first name of a head ends.
fn root_end(head: &Expr) -> usize {
    usize::try_from(root_of(head).span().end).unwrap_or(usize::MAX)
}

fn root_of(mut at: &Expr) -> &Expr {
    while let Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } = at {
        at = refr;
    }
    at
}

/// True when some `with` puts something in the place of a function.
pub(super) fn replaces_functions(program: &Program, modules: &[Ref<Module>]) -> bool {
    let mut found = false;
    for module in modules {
        let names = Names::of(module);
        for rule in &module.policy {
            walk::rule(rule, false, &mut |seen| {
                if let Use::Replaced { target, .. } = seen {
                    found |= function(program, &names, target);
                }
            });
        }
    }
    found
}

fn function(program: &Program, names: &Names, expression: &Expr) -> bool {
    walk::reference(expression).is_some_and(|(root, steps)| {
        program
            .functions(names, root, &walk::literal_prefix(&steps))
            .any(|index| program.nodes.get(index).is_some_and(|node| node.arity.is_some()))
    })
}

/// The same text with functions of a module's own package called by their full path. regorus (0.14.1) looks for what `with` put in the
/// place of `data.p.f` under the name a call has in the text, and finds nothing where `p` itself says `f(x)`.
pub(super) fn fully_named(program: &Program, modules: &[Ref<Module>], sources: Vec<Source>) -> Vec<Source> {
    let each = modules.iter().zip(sources).map(|(module, source)| {
        let names = Names::of(module);
        let mut places = BTreeSet::new();
        for rule in &module.policy {
            walk::rule(rule, false, &mut |seen| {
                let (Use::Call { function: named, .. } | Use::Replaced { target: named, .. }) = seen else { return };
                let root = root_of(named).span();
                let own = !matches!(root.text(), "data" | "input") && !names.imports.contains_key(root.text());
                if own && function(program, &names, named) {
                    places.extend(usize::try_from(root.start));
                }
            });
        }
        let prefix = format!("{}.", canonical(&names.package));
        let mut text = source.text.clone();
        for at in places.iter().rev().filter(|at| source.text.is_char_boundary(**at)) {
            text.insert_str(*at, &prefix);
        }
        Source { text, ..source }
    });
    each.collect()
}

fn has_keys(refr: &Expr) -> bool {
    match refr {
        Expr::RefDot { refr, .. } => has_keys(refr),
        Expr::RefBrack { refr, index, .. } => walk::text(index).is_none() || has_keys(refr),
        _ => false,
    }
}

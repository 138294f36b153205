//! Calls of our builtins that name where their result goes.
//!
//! OPA takes `io.jwt.decode(token, parts)` for `parts = io.jwt.decode(token)`. regorus does so for its own builtins, and has no such
//! form for those a host brings. In: a module's text. Out: the text with each such call written as an equation, every line where it
//! was. Written anew before anything is checked, so that no later step knows two forms; what cannot be written with certainty
//! stays, and is refused as a call with one argument too many.

use std::collections::BTreeSet;

use regorus::unstable::{Module, Rule, RuleHead, Span};

use super::bundle::Source;
use super::walk::{self, Use};
use super::{builtins, preflight};

/// The text to read instead; `None` where it has no such call, or does not parse.
pub(super) fn as_equations(source: &Source) -> Option<String> {
    // Parsing a module twice is for the few that need it.
    if !builtins::ALL.iter().any(|builtin| source.text.contains(builtin.name)) {
        return None;
    }
    let mut text = source.text.clone();
    let mut changed = false;
    // From the end: what stands before an edit stays where it is. One that holds another is edited after it, in a second round.
    while let Some(edits) =
        preflight::parse(&Source { text: text.clone(), ..source.clone() }).ok().map(|module| edits(&module, &text))
    {
        let Some((start, end, equation)) = edits.into_iter().next_back() else { break };
        text.replace_range(start..end, &equation);
        changed = true;
    }
    changed.then_some(text)
}

/// Where such calls begin and end, and what they become; in the order of the text.
fn edits(module: &Module, text: &str) -> BTreeSet<(usize, usize, String)> {
    let own = own_names(module);
    let mut edits = BTreeSet::new();
    for rule in &module.policy {
        walk::rule(rule, false, &mut |used| {
            let Use::Call { function, parameters, span } = used else { return };
            let Some((root, steps)) = walk::reference(function) else { return };
            let name = std::iter::once(root.to_owned()).chain(walk::literal_prefix(&steps)).collect::<Vec<_>>().join(".");
            let one_more = |builtin: &builtins::Builtin| usize::from(builtin.arity) + 1 == parameters.len();
            let is_ours = builtins::find(&name).is_some_and(one_more) && !own.contains(root);
            if let Some(result) = parameters.last().filter(|_| is_ours) {
                edits.extend(equation(text, span, result.span().start as usize));
            }
        });
    }
    edits
}

/// `f(a, x)` as `x = f(a)`, with the line breaks it had.
fn equation(text: &str, span: &Span, result: usize) -> Option<(usize, usize, String)> {
    let (start, end) = (span.start as usize, span.end as usize);
    let comma = text.get(start..result)?.rfind(',')?;
    // The span of a text begins behind its quote; anything else between a comma and an argument is not known.
    let quote = |between: &str| matches!(between.trim(), "" | "\"" | "`");
    let (call, result) = text.get(start..end).filter(|_| text.get(start + comma + 1..result).is_some_and(quote))?.split_at(comma);
    let result = result.strip_prefix(',')?.strip_suffix(')')?.trim();
    let result = result.strip_suffix(',').unwrap_or(result);
    let breaks = |text: &str| text.matches('\n').count();
    let lost = breaks(text.get(start..end)?).checked_sub(breaks(call) + breaks(result))?;
    Some((start, end, format!("{result} = {call}{})", "\n".repeat(lost))))
}

/// Names under which the module's own functions may stand, where a builtin's name begins with one.
fn own_names(module: &Module) -> BTreeSet<String> {
    let imported = module.imports.iter().filter_map(|import| match &import.r#as {
        Some(alias) => Some(alias.text().to_owned()),
        None => {
            let (root, steps) = walk::reference(&import.refr)?;
            Some(walk::literal_prefix(&steps).pop().unwrap_or_else(|| root.to_owned()))
        }
    });
    let defined = module.policy.iter().filter_map(|rule| {
        let refr = match rule.as_ref() {
            Rule::Spec {
                head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. }, ..
            }
            | Rule::Default { refr, .. } => refr,
        };
        walk::reference(refr).map(|(root, _)| root.to_owned())
    });
    imported.chain(defined).collect()
}

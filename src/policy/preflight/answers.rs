//! Decision rules that can never be a verdict, whatever they are asked.
//!
//! In: the definitions of one rule. Out: what it gives, where that is certain and no boolean and no object with `allowed`. What must
//! stay true: a rule that could be a verdict for some input is never named. It is a warning and no mistake, because all that such
//! a policy does is deny.

use regorus::unstable::{Expr, Rule, RuleHead};

use super::super::walk;

/// What every definition of a rule gives, in words; `None` where one of them may be a verdict.
pub(super) fn never_a_verdict<'r>(definitions: impl Iterator<Item = &'r Rule>) -> Option<String> {
    let mut words = Vec::new();
    for rule in definitions {
        match rule {
            Rule::Default { value, .. } => words.push(wrong(value)?),
            Rule::Spec { head: RuleHead::Set { .. }, .. } => words.push("a set"),
            Rule::Spec { head: RuleHead::Func { .. }, .. } => return None,
            Rule::Spec { head: RuleHead::Compr { refr, assign, .. }, bodies, .. } => {
                if !matches!(refr.as_ref(), Expr::Var { .. }) {
                    // `decision.allowed := …` and `decision[key] := …` make an object.
                    return None;
                }
                words.push(assign.as_ref().and_then(|assign| wrong(&assign.value))?);
                // An `else` without a value is true.
                for body in bodies.iter().skip(1) {
                    words.push(body.assign.as_ref().and_then(|assign| wrong(&assign.value))?);
                }
            }
        }
    }
    words.sort_unstable();
    words.dedup();
    (!words.is_empty()).then(|| words.join(" or "))
}

/// What a term is, where it can be no verdict.
fn wrong(term: &Expr) -> Option<&'static str> {
    match term {
        Expr::String { .. } | Expr::RawString { .. } => Some("a text"),
        Expr::Number { .. } | Expr::ArithExpr { .. } => Some("a number"),
        Expr::Null { .. } => Some("null"),
        Expr::Array { .. } | Expr::ArrayCompr { .. } => Some("an array"),
        Expr::Set { .. } | Expr::SetCompr { .. } => Some("a set"),
        Expr::Object { fields, .. } => {
            let other = |key: &Expr| walk::text(key).is_some_and(|key| key != "allowed");
            fields.iter().all(|(_, key, _)| other(key)).then_some("an object without `allowed`")
        }
        _ => None,
    }
}

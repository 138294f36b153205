//! The head of a definition: which of its parts are evaluated.

use regorus::unstable::{Expr, Ref, RuleBody, RuleHead};

use crate::policy::program::full_path;

/// True for the head of a test.
pub(super) fn is_test(refr: &Expr) -> bool {
    full_path(refr).iter().any(|part| part.starts_with("test_"))
}

/// The parts of a head that are evaluated to find the place in the document.
pub(super) fn indexes(mut at: &Ref<Expr>) -> Vec<&Ref<Expr>> {
    let mut found = Vec::new();
    loop {
        match at.as_ref() {
            Expr::RefDot { refr, .. } => at = refr,
            Expr::RefBrack { refr, index, .. } => {
                if !matches!(index.as_ref(), Expr::String { .. } | Expr::RawString { .. }) {
                    found.push(index);
                }
                at = refr;
            }
            _ => break,
        }
    }
    found.reverse();
    found
}

/// What a definition gives: the parts of its head that are evaluated.
pub(super) fn values<'a>(head: &'a RuleHead, body: Option<&'a RuleBody>, number: usize) -> Vec<&'a Ref<Expr>> {
    let (RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. }) = head;
    let mut values = indexes(refr);
    let own = body.and_then(|body| body.assign.as_ref()).map(|assign| &assign.value);
    match head {
        RuleHead::Set { key, .. } => values.extend(key),
        RuleHead::Compr { assign, .. } | RuleHead::Func { assign, .. } => {
            let first = if number == 0 || body.is_some_and(|body| !body.is_else) {
                assign.as_ref().map(|assign| &assign.value)
            } else {
                None
            };
            values.extend(own.or(first));
        }
    }
    values
}

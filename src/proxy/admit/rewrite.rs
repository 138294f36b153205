//! The question a verdict's edits ask for, which is judged before it may pass.
//!
//! In: a question and edits. Out: the question they make of it. What must stay true: only what a policy can read is changed here; a
//! rewrite whose own verdict would change it again is a denial.

use std::rc::Rc;

use bytes::Bytes;

use super::super::edit;
use super::super::open::Open;
use super::super::question::{Body, Question};
use super::super::respond::Stop;
use super::super::settings::Settings;
use super::edit_refused;
use super::whole::{parsed, unreadable};
use crate::decision::Reason;
use crate::judge::body;
use crate::verdict::Edits;

/// The request the edits ask for, or `None` when it is the one that was asked.
pub(super) fn rewritten(open: &Open, settings: &Settings, asked: &Question, edits: &[Edits]) -> Result<Option<Question>, Stop> {
    let mut question = Question { rewritten: true, ..asked.clone() };
    let request = Rc::make_mut(&mut question.request);
    for edits in edits {
        let questions_only = Edits {
            query_parameters_to_set: edits.query_parameters_to_set.clone(),
            query_parameters_to_remove: edits.query_parameters_to_remove.clone(),
            rewrite: edits.rewrite.clone(),
            ..Edits::default()
        };
        let mut document = match (&question.body, edits.patch_the_body()) {
            (Body::Whole { bytes, parsed: body::Parsed::Json(_) }, true) => {
                Some(body::document(bytes, settings.body_depth).map_err(|error| unreadable(open, &error))?)
            }
            _ => None,
        };
        edit::apply(&questions_only, request, document.as_mut()).map_err(|error| edit_refused(open, &error))?;
        if let Some(document) = document {
            let bytes = Bytes::from(document.to_string());
            request.replace_body(bytes.len() as u64);
            question.body = parsed(open, settings, request, bytes)?;
        }
    }
    Ok((!same(&question, asked)).then_some(question))
}

/// A rewrite must be at rest: what its own verdict asks for must change nothing any more.
pub(super) fn still(question: &Question, last: Option<&Edits>) -> Result<(), Stop> {
    let unstable = || Stop::denied(Reason::RewriteUnstable);
    let Some(edits) = last.filter(|edits| edits.change_the_question()) else { return Ok(()) };
    let mut again = (*question.request).clone();
    let mut document = match &question.body {
        Body::Whole { bytes, parsed: body::Parsed::Json(_) } => serde_json::from_slice(bytes).ok(),
        Body::Whole { .. } | Body::Unread | Body::Begun { .. } => None,
    };
    let before: Option<serde_json::Value> = document.clone();
    let questions_only = Edits { headers: Vec::new(), request_headers_to_remove: Vec::new(), ..edits.clone() };
    edit::apply(&questions_only, &mut again, document.as_mut()).map_err(|_| unstable())?;
    if again == *question.request && before == document { Ok(()) } else { Err(unstable()) }
}

fn same(a: &Question, b: &Question) -> bool {
    let bytes = |question: &Question| match &question.body {
        Body::Unread | Body::Begun { .. } => None,
        Body::Whole { bytes, parsed } => match parsed {
            // Two spellings of one document ask for the same.
            body::Parsed::Json(value) => Some(value.to_string().into_bytes()),
            body::Parsed::Absent | body::Parsed::Form(_) => Some(bytes.to_vec()),
        },
    };
    (&a.request.path, &a.request.raw_query) == (&b.request.path, &b.request.raw_query) && bytes(a) == bytes(b)
}

//! Applies what a verdict changes.
//!
//! In: the edits of an allow and the request it was given for. Out: the request that is forwarded, still in its one form.
//! What must stay true: an edit can do nothing a client could not have asked for honestly. It never touches framing, hop-by-hop,
//! identity or forwarding fields, and a path it writes goes through the same normalisation as one from outside.
//! An edit that cannot be applied is a denial: forwarding without it would forward what the policy did not allow.

pub mod identity;
pub mod patch;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::decision::Refusal;
use crate::verdict::Edits;

use self::patch::PatchError;
use super::normalise::headers::{self, Kind};
use super::normalise::{Request, path, query};

/// Why an edit cannot be applied; always the policy's mistake. Values are never named, for they may be secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error(
        "the policy edits header `{0}`, which is the gate's own; leave framing, hop-by-hop, identity and forwarding headers out"
    )]
    HeaderRefused(String),
    #[error("the policy edits header `{0}`, which is not a field name; write letters, digits and -")]
    HeaderName(String),
    #[error("the policy sets header `{0}` to a value that is not printable ASCII without outer white space")]
    HeaderValue(String),
    #[error("the policy sets header `{0}` to several values, and it may have one")]
    HeaderRepeated(String),
    #[error("the policy edits so many headers that the head would be too large")]
    HeadersTooMany,
    #[error("the policy sets query parameter `{0}` with a NUL, CR or LF in its name or value")]
    Query(String),
    #[error("the policy rewrites the path to one that is refused ({0}); write a path without query or fragment")]
    Path(Refusal),
    #[error("the policy patches a body that was not read as JSON")]
    NoBody,
    #[error("the policy's patch of the body cannot be applied: {0}")]
    Body(#[from] PatchError),
}

/// Applies the edits to a request and, where `rewrite.body` asks for it, to its parsed body.
///
/// Whoever writes the patched body out calls [`Request::replace_body`] with its new length.
///
/// # Errors
///
/// The first edit that cannot be applied; request and body are then half edited and must not be forwarded.
pub fn apply(edits: &Edits, request: &mut Request, body: Option<&mut Value>) -> Result<(), EditError> {
    for (name, values) in &edits.headers {
        set_header(&mut request.headers, name, values)?;
    }
    for name in &edits.request_headers_to_remove {
        request.headers.remove(editable(name)?);
    }
    edit_query(edits, request)?;
    let Some(rewrite) = &edits.rewrite else { return Ok(()) };
    if let Some(text) = &rewrite.path {
        let path = path::normalise(text).map_err(EditError::Path)?;
        (request.path, request.segments) = (path.text, path.segments);
    }
    if let Some(operations) = &rewrite.body {
        patch::apply(operations, body.ok_or(EditError::NoBody)?)?;
    }
    Ok(())
}

/// Checks the fields a policy adds to a response, or to a denial; they are appended to what is there.
///
/// # Errors
///
/// The first field that is the gate's own or malformed. Ask before anything is forwarded, while this can still be a denial.
pub fn response_headers(added: &[(String, Vec<String>)]) -> Result<Vec<(HeaderName, HeaderValue)>, EditError> {
    let mut fields = Vec::with_capacity(added.len());
    for (text, values) in added {
        let name = editable(text)?;
        for value in values {
            fields.push((name.clone(), checked(&name, value)?));
        }
    }
    Ok(fields)
}

/// No values at all leave the field out: what the client sent under that name must not survive a policy that set it to nothing.
fn set_header(headers: &mut HeaderMap, text: &str, values: &[String]) -> Result<(), EditError> {
    let name = editable(text)?;
    let single = matches!(headers::kind(name.as_str()), Kind::Singleton | Kind::Cookie);
    if single && values.len() > 1 {
        return Err(EditError::HeaderRepeated(name.to_string()));
    }
    headers.remove(&name);
    for value in values {
        headers.try_append(&name, checked(&name, value)?).map_err(|_| EditError::HeadersTooMany)?;
    }
    Ok(())
}

/// The field name, if a policy may edit it.
fn editable(text: &str) -> Result<HeaderName, EditError> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| EditError::HeaderName(text.to_owned()))?;
    if name.as_str().contains('_') {
        return Err(EditError::HeaderName(text.to_owned()));
    }
    match headers::kind(name.as_str()) {
        Kind::Ordinary | Kind::Singleton | Kind::Cookie => Ok(name),
        Kind::Via
        | Kind::Host
        | Kind::ContentLength
        | Kind::TransferEncoding
        | Kind::Connection
        | Kind::Te
        | Kind::Expect
        | Kind::ConnectionSpecific
        | Kind::HopByHop
        | Kind::Owned => Err(EditError::HeaderRefused(name.to_string())),
    }
}

fn checked(name: &HeaderName, value: &str) -> Result<HeaderValue, EditError> {
    let value = HeaderValue::from_str(value).ok().filter(headers::is_plain);
    value.ok_or_else(|| EditError::HeaderValue(name.to_string()))
}

/// A set parameter replaces all of its name and goes last; without query edits the text that was sent stays as it was.
fn edit_query(edits: &Edits, request: &mut Request) -> Result<(), EditError> {
    if edits.query_parameters_to_set.is_empty() && edits.query_parameters_to_remove.is_empty() {
        return Ok(());
    }
    for (name, values) in &edits.query_parameters_to_set {
        if !values.iter().chain([name]).all(|text| query::is_text(text)) {
            return Err(EditError::Query(name.escape_debug().to_string()));
        }
        request.query.retain(|(found, _)| found != name);
        request.query.extend(values.iter().map(|value| (name.clone(), value.clone())));
    }
    request.query.retain(|(found, _)| !edits.query_parameters_to_remove.contains(found));
    request.raw_query = query::write(&request.query);
    Ok(())
}

#[cfg(test)]
mod tests;

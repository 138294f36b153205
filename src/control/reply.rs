//! An answer of the API, together with what the record says of the call.
//!
//! In: a value or a problem. Out: a response that carries a [`Told`], which `calls` takes off again and records. The record names a
//! problem by its code only: titles may quote what a caller sent.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use super::answers::Problem;

/// What the record says of a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) outcome: String,
    pub(super) detail: Map<String, Value>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    kind: &'static str,
    body: Vec<u8>,
    told: Told,
}

impl Reply {
    pub(super) fn new(value: &impl Serialize, outcome: impl Into<String>) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self {
                status: StatusCode::OK,
                kind: "application/json",
                body,
                told: Told { outcome: outcome.into(), detail: Map::new() },
            },
            Err(error) => Problem::new(500, "internal", format!("the answer cannot be written: {error}")).into(),
        }
    }

    /// Adds what was asked for to the record of the call.
    pub(super) fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.told.detail.insert(name.to_owned(), value.into());
        self
    }
}

impl Problem {
    pub(super) fn new(status: u16, code: &str, title: impl Into<String>) -> Self {
        Self { status, code: code.into(), title: title.into(), ..Self::default() }
    }

    pub(super) fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Problem> for Reply {
    fn from(problem: Problem) -> Self {
        Self {
            status: StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            kind: "application/problem+json",
            body: serde_json::to_vec(&problem).unwrap_or_default(),
            told: Told { outcome: problem.code.into(), detail: Map::new() },
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(self.kind)),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        let mut response = (self.status, headers, self.body).into_response();
        response.extensions_mut().insert(self.told);
        response
    }
}

//! Why a command failed: what to say, the next step, and the exit code.
//!
//! In: an error of any room, made into words where it happened. Out: the text on stderr. The hint is a line of its own, so that it
//! is found.

use std::fmt;

use super::table::clean;
use crate::control::answers::Problem;

/// Something went wrong at run time.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong (sysexits.h EX_USAGE).
pub(super) const MISUSE: u8 = 64;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    message: String,
    hint: Option<String>,
    pub(super) code: u8,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: FAILED }
    }

    /// A mistake of whoever wrote the command line or the configuration.
    pub(super) fn misuse(message: impl Into<String>) -> Self {
        Self { code: MISUSE, ..Self::new(message) }
    }

    /// What there is to say stands on stdout already; only the exit code is left.
    pub(super) fn told() -> Self {
        Self::new("")
    }

    pub(super) fn is_told(&self) -> bool {
        self.message.is_empty()
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let Problem { title, field, hint, report, .. } = problem;
        let mut message = match field {
            Some(field) => format!("{}: {}", clean(&field), clean(&title)),
            None => clean(&title),
        };
        for line in report.iter().flat_map(|report| report.lines()) {
            message = format!("{message}\n  {}", clean(line));
        }
        Self { hint: hint.map(|hint| clean(&hint)), ..Self::new(message) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

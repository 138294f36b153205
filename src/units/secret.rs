//! A secret: a text the configuration took from a variable of the environment, or a file that holds it.
//!
//! In: `file:PATH`, or the text itself. Out: the text, and only through [`Secret::read`]. What must stay true: no `Debug`, error or
//! report shows it. A file is read at each use, because tokens that end are exchanged under their name.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

/// More than any token or key; what is larger was not meant.
const LARGEST: u64 = 64 * 1024;

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Text(String),
    File(PathBuf),
}

/// Why a secret cannot be used; never says what it is.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{}: the secret cannot be read: {source}", file.display())]
    Unreadable { file: PathBuf, source: std::io::Error },
    #[error("{}: the file is larger than a secret may be", .0.display())]
    Large(PathBuf),
    #[error("{}: the file is not UTF-8", .0.display())]
    NotText(PathBuf),
    #[error("the secret is empty")]
    Empty,
}

impl Secret {
    /// Takes a relative file to be in `directory`.
    pub fn resolve(&mut self, directory: &Path) {
        if let Self::File(file) = self {
            *file = directory.join(&*file);
        }
    }

    /// The secret, without the line's end a file closes with.
    ///
    /// # Errors
    /// The file cannot be read, or there is nothing in it.
    pub fn read(&self) -> Result<Cow<'_, str>, SecretError> {
        let text = match self {
            Self::Text(text) => Cow::Borrowed(text.as_str()),
            Self::File(file) => Cow::Owned(read(file)?),
        };
        if text.is_empty() { Err(SecretError::Empty) } else { Ok(text) }
    }
}

fn read(file: &Path) -> Result<String, SecretError> {
    let unreadable = |source| SecretError::Unreadable { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(file).map_err(unreadable)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(SecretError::Large(file.to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_| SecretError::NotText(file.to_owned()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Secret"),
            Self::File(file) => write!(f, "Secret in {}", file.display()),
        }
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.strip_prefix("file:") {
            Some(file) => Self::File(PathBuf::from(file)),
            None => Self::Text(text),
        })
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string",
            "description": "a secret: file:PATH, read at each use, or ${NAME}, a variable of the environment"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        serde_json::from_value(text.into()).unwrap()
    }

    #[test]
    fn a_file_is_read_at_each_use_and_nothing_shows_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let mut token = secret("file:token");
        token.resolve(folder.path());
        assert!(token.read().unwrap_err().to_string().contains("token: the secret cannot be read"));
        for canary in ["canary-1", "canary-2"] {
            std::fs::write(folder.path().join("token"), format!("{canary}\n")).unwrap();
            assert_eq!(token.read().unwrap(), canary);
        }
        assert!(!format!("{token:?} {:?}", secret("canary-3")).contains("canary"));
        assert_eq!(secret("canary-3").read().unwrap(), "canary-3");
        std::fs::write(folder.path().join("token"), "\n").unwrap();
        assert!(matches!(token.read(), Err(SecretError::Empty)));
    }
}

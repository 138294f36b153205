//! The media type of a body, read whole (RFC 9110 section 8.3.1).
//!
//! In: a Content-Type. Out: which of our readers it calls for. What must stay true: nothing is taken for JSON because it contains the
//! letters; a field that does not follow the grammar is an error, since the upstream may see another type in it than we do.

use super::BodyError;

/// Which reader a media type calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `application/json`, or a type with the suffix `+json` (RFC 6839 section 3.1).
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    Multipart,
    Other,
}

/// Reads a Content-Type. Only types we read are held to a charset of utf-8.
pub(super) fn kind(content_type: &str) -> Result<Kind, BodyError> {
    let text = trimmed(content_type);
    let (media_type, parameters) = text.split_at(text.find(';').unwrap_or(text.len()));
    let (main, sub) = trimmed(media_type).split_once('/').ok_or(BodyError::MediaType)?;
    if !is_token(main) || !is_token(sub) {
        return Err(BodyError::MediaType);
    }
    let charset = charset(parameters)?;
    let kind = match (main.to_ascii_lowercase().as_str(), sub.to_ascii_lowercase().as_str()) {
        ("multipart", _) => return Ok(Kind::Multipart),
        ("application", "x-www-form-urlencoded") => Kind::Form,
        ("application", "json") => Kind::Json,
        (_, sub) if sub.len() > "+json".len() && sub.ends_with("+json") => Kind::Json,
        _ => return Ok(Kind::Other),
    };
    match charset {
        Some(charset) if !charset.eq_ignore_ascii_case("utf-8") => Err(BodyError::Charset),
        _ => Ok(kind),
    }
}

/// Walks `;`-separated parameters and returns the charset. Empty ones (`json;`) are allowed by the grammar.
fn charset(mut rest: &str) -> Result<Option<String>, BodyError> {
    let mut names = std::collections::BTreeSet::new();
    let mut charset = None;
    while let Some(after) = trimmed(rest).strip_prefix(';') {
        rest = trimmed(after);
        if rest.is_empty() || rest.starts_with(';') {
            continue;
        }
        let (name, after) = rest.split_once('=').ok_or(BodyError::MediaType)?;
        let (value, after) = value(after)?;
        let name = name.to_ascii_lowercase();
        if !is_token(&name) || !names.insert(name.clone()) {
            return Err(BodyError::MediaType);
        }
        if name == "charset" {
            charset = Some(value);
        }
        rest = after;
    }
    if trimmed(rest).is_empty() { Ok(charset) } else { Err(BodyError::MediaType) }
}

/// One parameter's value, a token or a quoted string, and what follows it.
fn value(text: &str) -> Result<(String, &str), BodyError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (token, rest) = text.split_at(text.find([';', ' ', '\t']).unwrap_or(text.len()));
        return if is_token(token) { Ok((token.to_owned(), rest)) } else { Err(BodyError::MediaType) };
    };
    let mut value = String::new();
    let mut letters = quoted.chars();
    loop {
        match letters.next().ok_or(BodyError::MediaType)? {
            '"' => return Ok((value, letters.as_str())),
            '\\' => value.push(letters.next().ok_or(BodyError::MediaType)?),
            letter => value.push(letter),
        }
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

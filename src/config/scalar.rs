//! Scalars: references to the environment, then the type by the core schema of YAML 1.2 (section 10.3).
//!
//! In: the text of a scalar and whether it is plain. Out: what it means, or what is wrong with it. `${NAME}` is replaced before the
//! type is decided, so a variable can hold a number; it is replaced after the structure was read, so a variable can never add a key.
//! Only `${NAME}` exists: `file:` is for keys that hold secrets, and no key does yet.

use serde_json::Number;

use super::document::{Meaning, Scalar};

/// What is wrong with a scalar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScalarError {
    #[error("it has no value; write one, or leave the key out")]
    Null,
    #[error("{0} is not a number a configuration can hold")]
    Number(String),
    #[error("the environment has no variable `{0}`; set it, or write `$${{{0}}}` for the text itself")]
    Missing(String),
    #[error("`${{` begins a reference to the environment that is not one; write `${{NAME}}`, or `$${{` for the text itself")]
    Reference,
}

/// Reads one scalar.
///
/// # Errors
///
/// When it is null, when a variable it names is not set, or when a number cannot be held.
pub(super) fn read(written: &str, plain: bool, environment: &dyn Fn(&str) -> Option<String>) -> Result<Scalar, ScalarError> {
    let expansion = expand(written, environment)?;
    let expanded = expansion.is_some();
    let text = expansion.unwrap_or_else(|| written.replace("$${", "${"));
    let meaning = if plain { meaning(text, expanded)? } else { Meaning::Text(text) };
    Ok(Scalar { written: written.to_owned(), meaning, expanded })
}

/// The text with every reference replaced; none when there is no reference.
fn expand(written: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, ScalarError> {
    let mut text = String::new();
    let mut rest = written;
    let mut found = false;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(escaped) = before.strip_suffix('$') {
            text.push_str(escaped);
            text.push_str("${");
            rest = after;
            continue;
        }
        let (name, after) = after.split_once('}').filter(|(name, _)| is_variable(name)).ok_or(ScalarError::Reference)?;
        text.push_str(before);
        text.push_str(&environment(name).ok_or_else(|| ScalarError::Missing(name.to_owned()))?);
        rest = after;
        found = true;
    }
    text.push_str(rest);
    Ok(found.then_some(text))
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The type of a plain scalar. A variable that is empty, or says null, is text: else it would switch off what it was to set.
fn meaning(text: String, expanded: bool) -> Result<Meaning, ScalarError> {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" if expanded => Ok(Meaning::Text(text)),
        "" | "~" | "null" | "Null" | "NULL" => Err(ScalarError::Null),
        "true" | "True" | "TRUE" => Ok(Meaning::Boolean(true)),
        "false" | "False" | "FALSE" => Ok(Meaning::Boolean(false)),
        ".nan" | ".NaN" | ".NAN" => Err(ScalarError::Number(text)),
        _ if matches!(unsigned(&text), ".inf" | ".Inf" | ".INF") => Err(ScalarError::Number(text)),
        _ => match number(&text) {
            Some(Some(number)) => Ok(Meaning::Number(number)),
            Some(None) if expanded => Err(ScalarError::Number("a variable".to_owned())),
            Some(None) => Err(ScalarError::Number(super::report::quote(&text))),
            None => Ok(Meaning::Text(text)),
        },
    }
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

/// None when it is not written as a number; inner none when it is one nobody can hold.
fn number(text: &str) -> Option<Option<Number>> {
    for (prefix, radix) in [("0o", 8), ("0x", 16)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_digit(radix))
        {
            return Some(u64::from_str_radix(digits, radix).ok().map(Number::from));
        }
    }
    if !is_decimal(text) {
        return None;
    }
    let digits = text.strip_prefix('+').unwrap_or(text);
    if let Ok(whole) = digits.parse::<u64>() {
        return Some(Some(whole.into()));
    }
    if let Ok(whole) = digits.parse::<i64>() {
        return Some(Some(whole.into()));
    }
    Some(digits.parse::<f64>().ok().and_then(Number::from_f64).map(whole_when_exact))
}

/// JSON Schema takes 100.0 for an integer and serde does not; both take 100.
fn whole_when_exact(number: Number) -> Number {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(float) if float.fract() == 0.0 && float.abs() <= EXACT => {
            format!("{float:.0}").parse::<i64>().map_or(number, Number::from)
        }
        Some(_) | None => number,
    }
}

/// `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_decimal(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let body = unsigned(text);
    let (mantissa, exponent) = body.split_once(['e', 'E']).map_or((body, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    let something = !whole.is_empty() || fraction.is_some_and(|fraction| !fraction.is_empty());
    something
        && digits(whole)
        && fraction.is_none_or(digits)
        && exponent.map(unsigned).is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("8443".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("a: [b]".to_owned()),
            _ => None,
        }
    }

    fn plain(text: &str) -> Result<Meaning, ScalarError> {
        read(text, true, &environment).map(|scalar| scalar.meaning)
    }

    fn text(text: &str) -> Result<Meaning, ScalarError> {
        Ok(Meaning::Text(text.to_owned()))
    }

    #[test]
    fn plain_scalars_have_the_type_of_the_core_schema() {
        for (written, number) in
            [("0", 0_i64), ("+12", 12), ("-12", -12), ("0o17", 15), ("0xff", 255), ("012", 12), ("1e3", 1000), ("7.", 7)]
        {
            assert_eq!(plain(written), Ok(Meaning::Number(number.into())), "{written}");
        }
        assert_eq!(plain("1.5"), Ok(Meaning::Number(Number::from_f64(1.5).unwrap())));
        assert_eq!(plain("TRUE"), Ok(Meaning::Boolean(true)));
        for written in ["yes", "off", "0o8", "0x", "1_000", "08:00", ".", "-", "1e", "e3", "1.2.3", "127.0.0.1", "+", "0b1"] {
            assert_eq!(plain(written), text(written), "{written}");
        }
        assert_eq!(read("12", false, &environment).unwrap().meaning, text("12").unwrap());
    }

    #[test]
    fn what_has_no_value_or_no_number_is_refused() {
        for written in ["", "~", "null", "NULL"] {
            assert_eq!(plain(written), Err(ScalarError::Null), "{written}");
        }
        for written in [".inf", "-.INF", ".nan", "1e999", "0xfffffffffffffffff"] {
            assert!(matches!(plain(written), Err(ScalarError::Number(_))), "{written}");
        }
    }

    #[test]
    fn references_are_replaced_before_the_type_and_escapes_stay_text() {
        assert_eq!(plain("${PORT}"), Ok(Meaning::Number(8443.into())));
        assert_eq!(plain("0.0.0.0:${PORT}"), text("0.0.0.0:8443"));
        assert_eq!(plain("$${PORT}"), text("${PORT}"));
        assert_eq!(plain("$${PORT} is ${PORT}"), text("${PORT} is 8443"));
        assert_eq!(plain("${TRICK}"), text("a: [b]"));
        assert_eq!(plain("${EMPTY}"), text(""));
        assert_eq!(plain("a $ b $NAME"), text("a $ b $NAME"));
        assert_eq!(plain("${NO}"), Err(ScalarError::Missing("NO".to_owned())));
        for written in ["${", "${}", "${A B}", "${1A}", "${PORT", "x${A-B}"] {
            assert_eq!(plain(written), Err(ScalarError::Reference), "{written}");
        }
    }
}

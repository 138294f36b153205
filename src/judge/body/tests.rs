//! Tests of the readers: a table each for what is read, and for what is refused.

use proptest::prelude::*;

use super::*;

const JSON: Option<&str> = Some("application/json");
const FORM: Option<&str> = Some("application/x-www-form-urlencoded");

fn json(text: &str) -> Result<Parsed, BodyError> {
    parse(JSON, None, text.as_bytes(), 64)
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

#[test]
fn the_media_type_is_compared_whole() {
    let table = [
        ("application/json", true),
        ("APPLICATION/JSON", true),
        (" application/json ;charset=UTF-8 ", true),
        ("application/json; charset=\"utf-8\"", true),
        ("application/json; charset=\"ut\\f-8\";", true),
        ("application/json;profile=x;charset=utf-8", true),
        ("application/problem+json", true),
        ("image/x+json", true),
        ("application/jsonx", false),
        ("application/xjson", false),
        ("application/+json", false),
        ("text/json", false),
        ("text/plain", false),
        ("text/plain; charset=latin1", false),
        ("text/plain; x=\"application/json\"", false),
    ];
    for (content_type, read) in table {
        let parsed = parse(Some(content_type), None, b"{}", 64);
        assert_eq!(parsed, Ok(if read { Parsed::Json(Value::new_object()) } else { Parsed::Absent }), "{content_type}");
    }
    assert_eq!(parse(None, None, b"{}", 64), Ok(Parsed::Absent));
}

#[test]
fn a_media_type_in_doubt_is_refused() {
    let table = [
        ("", BodyError::MediaType),
        ("json", BodyError::MediaType),
        ("application/", BodyError::MediaType),
        ("application/json, text/plain", BodyError::MediaType),
        ("application/json text/plain", BodyError::MediaType),
        ("application/json; charset", BodyError::MediaType),
        ("application/json; charset=", BodyError::MediaType),
        ("application/json; charset =utf-8", BodyError::MediaType),
        ("application/json; charset=utf-8; Charset=utf-16", BodyError::MediaType),
        ("application/json; charset=\"utf-8", BodyError::MediaType),
        ("application/json; charset=\"utf-8\"x", BodyError::MediaType),
        ("application/json; charset=utf-16", BodyError::Charset),
        ("application/x-www-form-urlencoded; charset=iso-8859-1", BodyError::Charset),
        ("multipart/form-data; boundary=x", BodyError::Multipart),
        ("multipart/mixed", BodyError::Multipart),
    ];
    for (content_type, error) in table {
        assert_eq!(parse(Some(content_type), None, b"{}", 64), Err(error), "{content_type}");
    }
}

#[test]
fn what_a_document_holds_in_memory_is_counted_and_not_its_text() {
    let zeros = json(&format!("[{}0]", "0,".repeat(999))).unwrap();
    let text = json(&format!("\"{}\"", "x".repeat(1999))).unwrap();
    assert!(zeros.size() > 10 * text.size(), "{} {}", zeros.size(), text.size());
    assert!(text.size() >= 1999);
    assert_eq!(Parsed::Absent.size(), 0);
}

#[test]
fn an_encoded_body_is_refused_and_an_empty_one_is_absent() {
    for encoding in ["gzip", "identity, gzip", "br", "", "identity,"] {
        assert_eq!(parse(JSON, Some(encoding), b"{}", 64), Err(BodyError::Encoded), "{encoding}");
        assert_eq!(parse(None, Some(encoding), b"{}", 64), Err(BodyError::Encoded), "{encoding}");
    }
    for encoding in ["identity", "Identity", "identity, identity"] {
        assert_eq!(parse(JSON, Some(encoding), b"{}", 64), Ok(Parsed::Json(Value::new_object())), "{encoding}");
    }
    for content_type in [JSON, FORM, None, Some("multipart/form-data"), Some("nonsense")] {
        assert_eq!(parse(content_type, Some("gzip"), b"", 64), Ok(Parsed::Absent), "{content_type:?}");
    }
}

#[test]
fn json_in_doubt_is_refused() {
    let table = [
        ("\u{feff}{}", "byte order mark"),
        (" ", "end too early"),
        ("{", "no key"),
        ("[1", "neither"),
        ("[1,]", "no value"),
        ("{\"a\":1,}", "no key"),
        ("{\"a\" 1}", "no colon"),
        ("{a:1}", "no key"),
        ("[1 2]", "neither"),
        ("{} {}", "after the end"),
        ("{}\0", "after the end"),
        ("{\"a\":1,\"b\":2,\"a\":1}", "there before"),
        ("{\"a\":1,\"\\u0061\":1}", "there before"),
        ("[{\"x\":{\"a\":1,\"a\":1}}]", "there before"),
        ("\"\\ud800\"", "lone surrogate"),
        ("\"\\udc00\"", "lone surrogate"),
        ("\"\\udc00\\ud800\"", "lone surrogate"),
        ("\"\\ud800\\ud800\"", "lone surrogate"),
        ("\"\\ud800x\"", "lone surrogate"),
        ("\"\\ud800\\n\"", "lone surrogate"),
        ("\"\\u00g0\"", "hexadecimal"),
        ("\"\\u+123\"", "hexadecimal"),
        ("\"\\u12\"", "hexadecimal"),
        ("\"\\x41\"", "unknown escape"),
        ("\"a\nb\"", "control byte"),
        ("\"a", "end too early"),
        ("\"a\\", "unknown escape"),
        ("'a'", "no value"),
        ("nul", "no value"),
        ("truex", "after the end"),
        ("True", "no value"),
        ("NaN", "no value"),
        ("01", "after the end"),
        ("-", "no digit"),
        ("+1", "no value"),
        (".5", "no value"),
        ("1.", "after the point"),
        ("1.e5", "after the point"),
        ("1e", "exponent"),
        ("1e+", "exponent"),
        ("0x10", "after the end"),
        ("1_000", "after the end"),
        ("/**/1", "no value"),
    ];
    for (text, message) in table {
        match json(text) {
            Err(error @ BodyError::Json { .. }) => assert!(error.to_string().contains(message), "{text:?}: {error}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
    assert_eq!(parse(JSON, None, b"\"\xff\"", 64), Err(BodyError::Utf8));
    assert_eq!(parse(JSON, None, b"\xff\xfe{\0}\0", 64), Err(BodyError::Utf8));
    assert_eq!(parse(JSON, None, b"\"\xed\xa0\x80\"", 64), Err(BodyError::Utf8));
}

#[test]
fn strings_are_read_as_written() {
    let table = [
        (r#""""#, ""),
        (r#""é\u00e9\uD83D\uDE00""#, "éé😀"),
        (r#""a\"\\\/\b\f\n\r\tz""#, "a\"\\/\u{8}\u{c}\n\r\tz"),
        (r#""\u0000\uffff""#, "\0\u{ffff}"),
    ];
    for (text, value) in table {
        assert_eq!(json(text), Ok(Parsed::Json(Value::from(value))), "{text}");
    }
}

#[test]
fn a_number_is_kept_or_refused() {
    for kept in [
        "0",
        "-0",
        "7",
        "-7",
        "18446744073709551615",
        "-9223372036854775808",
        "0.1",
        "-0.0",
        "1.0",
        "1.50",
        "1e3",
        "1E+3",
        "12e-1",
        "0e5",
        "0.30000000000000004",
        "761616829900235.2",
        "761616829900235.3",
        "0.10000000000000001",
        "2.2250738585072014e-308",
        "123456789.125",
        "5e-324",
        "1e-310",
        "0.123456789012345",
        "1e22",
        "9007199254740993",
        "9007199254740992.0",
        "1e-7",
        "100e-2",
    ] {
        let Ok(Parsed::Json(value)) = json(kept) else { panic!("{kept}: {:?}", json(kept)) };
        assert_eq!(value, Value::from_numeric_string(kept).unwrap(), "{kept}");
    }
    for refused in [
        "18446744073709551616",
        "-9223372036854775809",
        "1e400",
        "-1e400",
        "1e-400",
        "0.1000000000000000055511151231257827",
        "3.14159265358979323846",
        "0.10000000000000004",
        "2.4703282292062327e-324",
        "761616829900235.22",
        "761616829900235.251",
        "9007199254740993.0",
        "9007199254740992.5",
        "1e23",
        "1.7976931348623157e308",
        "1e99999999999999999999",
        "1e-99999999999999999999",
    ] {
        assert!(json(refused).is_err(), "{refused}: {:?}", json(refused));
    }
}

#[test]
fn nesting_ends_at_the_limit_and_never_in_the_stack() {
    assert!(parse(JSON, None, nested(3).as_bytes(), 3).is_ok());
    assert!(parse(JSON, None, b"[[[1, {}]]]", 4).is_ok());
    for (text, depth) in [(nested(4), 3), ("[[[1, {}]]]".to_owned(), 3), ("{}".to_owned(), 0), (nested(121), usize::MAX)] {
        let error = parse(JSON, None, text.as_bytes(), depth).unwrap_err();
        assert!(error.to_string().contains("nested too deep"), "{error}");
    }
    assert!(parse(JSON, None, nested(120).as_bytes(), usize::MAX).is_ok());
    assert!(document(nested(120).as_bytes(), usize::MAX).is_ok());
    for bomb in ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 18)] {
        assert!(json(&bomb).is_err());
    }
}

#[test]
fn time_grows_with_the_length_only() {
    let long = 1 << 20;
    for (text, read) in [
        ("9".repeat(long), false),
        (format!("0.{}", "1".repeat(long)), false),
        (format!("1{}.0", "0".repeat(long)), false),
        (format!("\"{}\"", "\\n".repeat(long)), true),
        (format!("\"{}\"", "a".repeat(long)), true),
        (format!("{}1", " ".repeat(long)), true),
        (format!("[{}1]", "1,".repeat(long)), true),
    ] {
        let started = std::time::Instant::now();
        assert_eq!(json(&text).is_ok(), read, "{}", text.get(..20).unwrap());
        assert!(started.elapsed().as_secs() < 10, "{}", text.get(..20).unwrap());
    }
}

#[test]
fn a_form_is_read_as_go_reads_it() {
    let table = [
        ("a=1&b=2&a=3", r#"{"a":["1","3"],"b":["2"]}"#),
        ("a", r#"{"a":[""]}"#),
        ("a=&=b&&", r#"{"a":[""],"":["b"]}"#),
        ("a+b=c+d%20e%2B", r#"{"a b":["c d e+"]}"#),
        ("a=b=c", r#"{"a":["b=c"]}"#),
        ("%61=%c3%a9&a=é", r#"{"a":["é","é"]}"#),
        ("a=%3B", r#"{"a":[";"]}"#),
        ("&", "{}"),
    ];
    for (text, value) in table {
        let expected = Value::from_json_str(value).unwrap();
        assert_eq!(parse(FORM, None, text.as_bytes(), 64), Ok(Parsed::Form(expected)), "{text}");
    }
    for text in ["a=1;b=2", "a=%", "a=%4", "a=%zz", "%=1", "a=%+1", "a=%ff", "%c3=1", ";"] {
        assert!(matches!(parse(FORM, None, text.as_bytes(), 64), Err(BodyError::Form { .. })), "{text}");
    }
    assert_eq!(parse(FORM, None, b"a=\xff", 64), Err(BodyError::Utf8));
}

#[test]
fn a_patch_gets_the_document_the_policy_saw() {
    let text = r#"{"b": [1.0, 1, -2, 18446744073709551615, 0.1], "a": "x"}"#;
    assert_eq!(document(text.as_bytes(), 64).unwrap().to_string(), r#"{"a":"x","b":[1.0,1,-2,18446744073709551615,0.1]}"#);
    for refused in [r#"{"a":1,"a":2}"#, "18446744073709551616", "{"] {
        assert!(document(refused.as_bytes(), 64).is_err(), "{refused}");
    }
}

#[test]
fn a_value_becomes_json_without_loss_or_not_at_all() {
    use std::collections::{BTreeMap, BTreeSet};
    let set = Value::from(BTreeSet::from([Value::from("b"), Value::from("a")]));
    let object = |keys: Vec<Value>| Value::from(keys.into_iter().map(|key| (key, Value::Null)).collect::<BTreeMap<_, _>>());
    for (value, expected) in [
        (set, r#"["a","b"]"#),
        (object(vec![Value::from(1u64), Value::from("a")]), r#"{"1":null,"a":null}"#),
        (Value::from(-3i64), "-3"),
        (Value::from(u64::MAX), "18446744073709551615"),
        (Value::from(0.25), "0.25"),
        (Value::from_json_str(r#"{"a":[true,null,"x"]}"#).unwrap(), r#"{"a":[true,null,"x"]}"#),
    ] {
        assert_eq!(to_json(&value).unwrap().to_string(), expected);
    }
    let deep = (0..200).fold(Value::Null, |inner, _| Value::from(vec![inner]));
    let big = Value::from_numeric_string("18446744073709551616").unwrap();
    for value in [big, deep, Value::Undefined, object(vec![Value::from(1u64), Value::from("1")])] {
        assert_eq!(to_json(&value), Err(NoJson));
    }
}

fn documents() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        (-1e15f64..1e15).prop_map(Into::into),
        (-1e-3f64..1e3).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_serde_json_writes_is_read_as_serde_json_reads_it(document in documents(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) }.unwrap();
        prop_assert_eq!(json(&text), Ok(Parsed::Json(Value::from_json_str(&text).unwrap())));
    }

    #[test]
    fn what_serde_json_refuses_is_refused(document in documents(), at: prop::sample::Index, with in "[\\[\\]{},:\"\\\\0-9eE.u+-]|") {
        let mut text = serde_json::to_string(&document).unwrap();
        let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
        let place = *at.get(&places);
        let end = place + text[place..].chars().next().unwrap().len_utf8();
        text.replace_range(place..end, &with);
        if let Ok(Parsed::Json(value)) = json(&text) {
            prop_assert_eq!(value, Value::from_json_str(&text).expect("serde_json refuses it"));
        }
    }

    #[test]
    fn no_bytes_are_too_strange(bytes: Vec<u8>, content_type in ".{0,30}") {
        for content_type in [JSON.unwrap(), FORM.unwrap(), &content_type] {
            let _ = parse(Some(content_type), None, &bytes, 64);
        }
    }
}

use serde_json::json;

use super::*;

fn patched(mut document: Value, operations: Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = operations else { panic!("a patch is an array") };
    apply(&operations, &mut document)?;
    Ok(document)
}

/// The title of each section of RFC 6902 appendix A, its document, its patch, and its result where it has one. A.13 (a duplicate
/// member in the patch's text) cannot occur here: operations arrive as values.
fn appendix_a() -> Vec<(&'static str, Value, Value, Option<Value>)> {
    vec![
        (
            "A.1 adding an object member",
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux"}]),
            Some(json!({"baz": "qux", "foo": "bar"})),
        ),
        (
            "A.2 adding an array element",
            json!({"foo": ["bar", "baz"]}),
            json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
            Some(json!({"foo": ["bar", "qux", "baz"]})),
        ),
        (
            "A.3 removing an object member",
            json!({"baz": "qux", "foo": "bar"}),
            json!([{"op": "remove", "path": "/baz"}]),
            Some(json!({"foo": "bar"})),
        ),
        (
            "A.4 removing an array element",
            json!({"foo": ["bar", "qux", "baz"]}),
            json!([{"op": "remove", "path": "/foo/1"}]),
            Some(json!({"foo": ["bar", "baz"]})),
        ),
        (
            "A.5 replacing a value",
            json!({"baz": "qux", "foo": "bar"}),
            json!([{"op": "replace", "path": "/baz", "value": "boo"}]),
            Some(json!({"baz": "boo", "foo": "bar"})),
        ),
        (
            "A.6 moving a value",
            json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
            json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
            Some(json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}})),
        ),
        (
            "A.7 moving an array element",
            json!({"foo": ["all", "grass", "cows", "eat"]}),
            json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
            Some(json!({"foo": ["all", "cows", "eat", "grass"]})),
        ),
        (
            "A.8 testing a value: success",
            json!({"baz": "qux", "foo": ["a", 2, "c"]}),
            json!([{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}]),
            Some(json!({"baz": "qux", "foo": ["a", 2, "c"]})),
        ),
        ("A.9 testing a value: error", json!({"baz": "qux"}), json!([{"op": "test", "path": "/baz", "value": "bar"}]), None),
        (
            "A.10 adding a nested member object",
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/child", "value": {"grandchild": {}}}]),
            Some(json!({"foo": "bar", "child": {"grandchild": {}}})),
        ),
        (
            "A.11 ignoring unrecognized elements",
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}]),
            Some(json!({"foo": "bar", "baz": "qux"})),
        ),
        (
            "A.12 adding to a nonexistent target",
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz/bat", "value": "qux"}]),
            None,
        ),
        (
            "A.14 ~ escape ordering",
            json!({"/": 9, "~1": 10}),
            json!([{"op": "test", "path": "/~01", "value": 10}]),
            Some(json!({"/": 9, "~1": 10})),
        ),
        (
            "A.15 comparing strings and numbers",
            json!({"/": 9, "~1": 10}),
            json!([{"op": "test", "path": "/~01", "value": "10"}]),
            None,
        ),
        (
            "A.16 adding an array value",
            json!({"foo": ["bar"]}),
            json!([{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}]),
            Some(json!({"foo": ["bar", ["abc", "def"]]})),
        ),
    ]
}

#[test]
fn appendix_a_of_rfc_6902_holds() {
    for (title, document, operations, expected) in appendix_a() {
        assert_eq!(patched(document, operations).ok(), expected, "{title}");
    }
}

#[test]
fn copy_replace_and_whole_documents() {
    let cases = [
        (json!({"a": [1]}), json!([{"op": "copy", "from": "/a/0", "path": "/b"}]), json!({"a": [1], "b": 1})),
        (json!({"a": 1}), json!([{"op": "add", "path": "", "value": [2]}]), json!([2])),
        (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": null}]), json!(null)),
        (json!({"a": 1}), json!([{"op": "add", "path": "/a", "value": 2}]), json!({"a": 2})),
        (json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/a"}]), json!({"a": 1})),
        (json!({"": 1}), json!([{"op": "replace", "path": "/", "value": 2}]), json!({"": 2})),
        (json!({"a/b": 1, "m~n": 2}), json!([{"op": "remove", "path": "/a~1b"}, {"op": "remove", "path": "/m~0n"}]), json!({})),
        (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1.0}]), json!({"a": 1})),
    ];
    for (document, operations, expected) in cases {
        assert_eq!(patched(document, operations.clone()).unwrap(), expected, "{operations}");
    }
}

#[test]
fn anything_unclear_fails_the_whole_patch() {
    let cases = [
        json!("op"),
        json!({}),
        json!({"op": "ADD", "path": "/x", "value": 1}),
        json!({"op": "add", "path": "/x"}),
        json!({"op": "add", "value": 1}),
        json!({"op": "add", "path": "x", "value": 1}),
        json!({"op": "add", "path": "/x~2", "value": 1}),
        json!({"op": "add", "path": "/x~", "value": 1}),
        json!({"op": "add", "path": "/list/3", "value": 1}),
        json!({"op": "add", "path": "/list/01", "value": 1}),
        json!({"op": "add", "path": "/list/+1", "value": 1}),
        json!({"op": "add", "path": "/list/", "value": 1}),
        json!({"op": "add", "path": "/text/x", "value": 1}),
        json!({"op": "replace", "path": "/nothing", "value": 1}),
        json!({"op": "replace", "path": "/list/-", "value": 1}),
        json!({"op": "remove", "path": "/nothing"}),
        json!({"op": "remove", "path": "/list/2"}),
        json!({"op": "remove", "path": ""}),
        json!({"op": "move", "path": "/x", "from": "/nothing"}),
        json!({"op": "move", "path": "/x"}),
        json!({"op": "move", "path": "/list/0", "from": "/list"}),
        json!({"op": "copy", "path": "/x", "from": "/nothing"}),
        json!({"op": "test", "path": "/nothing", "value": null}),
        json!({"op": "test", "path": "/list", "value": [2, 1]}),
    ];
    for operation in cases {
        let document = json!({"list": [1, 2], "text": "t"});
        assert!(patched(document, json!([operation])).is_err(), "{operation}");
    }
}

#[test]
fn copies_can_grow_neither_size_nor_depth_without_end() {
    let doubling: Vec<Value> = (0..40).map(|n| json!({"op": "copy", "from": "/a", "path": format!("/a/{n}")})).collect();
    let wide = apply(&doubling, &mut json!({"a": {"text": "t".repeat(1000)}}));
    assert!(matches!(wide, Err(PatchError::TooLarge(_))), "{wide:?}");
    let deepening: Vec<Value> = (0..40).map(|_| json!({"op": "copy", "from": "", "path": "/a"})).collect();
    let mut document = json!({});
    assert!(apply(&deepening, &mut document).is_ok(), "a document copied into its one member grows by one level a time");
    let deepening: Vec<Value> = (0..200).map(|_| json!({"op": "copy", "from": "", "path": "/a"})).collect();
    assert_eq!(apply(&deepening, &mut json!({})), Err(PatchError::TooLarge(126)));
}

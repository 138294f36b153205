//! What the comparison with OPA (`tests/builtins`) cannot show: where an evaluation ends, and what a name means.

use regorus::Value;
use serde_json::json;

use super::encoding;
use crate::policy::engine::tests::{load, load_both, value};
use crate::policy::{Chosen, EvaluationError, Kind};

#[test]
fn a_call_that_would_take_too_long_ends_the_evaluation_and_is_not_undefined() {
    let many = |count: usize| (0..count).map(|place| format!("10.0.{}.{}", place / 256, place % 256)).collect::<Vec<_>>();
    let networks = |count: usize, length| many(count).iter().map(|one| format!("{one}/{length}")).collect::<Vec<_>>();
    let (pairs, matches) = (json!({"a": networks(1100, 32), "b": many(1100)}), json!({"a": networks(200, 8), "b": many(200)}));
    let few = json!({"a": networks(100, 8), "b": many(100)});
    let rego = "package a\n\nr if not net.cidr_contains_matches(input.a, input.b)\n";
    let (vm, interpreter) = load_both(&[("p.rego", rego)], &["a/r"]);
    for (policy, kind) in [(vm.unwrap(), Kind::Vm), (interpreter.unwrap(), Kind::Interpreter)] {
        for input in [&pairs, &matches] {
            let said = policy.engine().unwrap().ask(0, value(input));
            assert_eq!((said.answer, said.by), (Err(EvaluationError::Timeout), kind));
        }
        assert_eq!(policy.engine().unwrap().evaluate(0, value(&few)), Err(EvaluationError::Undefined));
    }
}

#[test]
fn an_argument_nobody_gave_ends_a_call_and_nothing_around_it() {
    let input = json!({"l": [{"a": "x"}, {}, {"a": 1}, {"a": "y", "b": "z"}], "a": "x"});
    let (x, y) = ("9dd4e461268c8034f5c8564e155c67a6", "415290769594460e2e485922904f345d");
    for (rules, wanted) in [
        ("r := [h | some c in input.l; h := crypto.md5(c.a)]", json!([x, y])),
        ("r := [h | some c in input.l; h := crypto.hmac.equal(c.a, c.b)]", json!([false])),
        ("r if not crypto.md5(input.missing)", json!(true)),
        ("r if { not crypto.md5(input.missing); crypto.md5(input.a) == \"9dd4e461268c8034f5c8564e155c67a6\" }", json!(true)),
        ("r := count([1 | some c in input.l; not f(c.a)])\nf(a) := crypto.md5(a)", json!(2)),
        ("r := [h | some c in input.l; h := array.flatten([crypto.md5(c.a), [upper(c.a)]])]", json!([[x, "X"], [y, "Y"]])),
        ("r if every c in input.l { not crypto.hmac.equal(c.a, c.a) == false }", json!(true)),
        ("r := {\"h\": crypto.md5(input.a)}", json!({"h": x})),
        ("r contains h if { some c in input.l; h := crypto.md5(c.a) }", json!([y, x])),
    ] {
        let rego = format!("package a\n\n{rules}\n");
        let (vm, interpreter) = load_both(&[("p.rego", &rego)], &["a/r"]);
        for (policy, kind) in [(vm.unwrap(), Kind::Vm), (interpreter.unwrap(), Kind::Interpreter)] {
            let said = policy.engine().unwrap().ask(0, value(&input));
            let answer: serde_json::Value = serde_json::from_str(&said.answer.unwrap().to_json_str().unwrap()).unwrap();
            assert_eq!((answer, said.by), (wanted.clone(), kind), "{rego}{:?}", policy.chosen(0));
        }
    }
}

#[test]
fn a_rule_with_the_name_of_a_builtin_is_the_rule_and_the_interpreters() {
    let files = [
        ("p.rego", "package a\n\nimport data.b.crypto\n\nr := crypto.md5(input.x)\n"),
        ("q.rego", "package b.crypto\n\nmd5(x) := [x]\n"),
    ];
    let (chosen, interpreted) = load_both(&files, &["a/r"]);
    let chosen = chosen.unwrap();
    assert!(matches!(chosen.chosen(0), Chosen::Interpreter { why } if why.contains("a function and a builtin")));
    for policy in [chosen, interpreted.unwrap()] {
        assert_eq!(policy.engine().unwrap().evaluate(0, value(&json!({"x": 1}))), Ok(value(&json!([1]))));
    }
}

#[test]
fn calls_that_cannot_be_right_are_refused_with_their_line() {
    for (call, said) in [
        ("crypto.md5()", "`crypto.md5` takes 1 arguments and is given 0"),
        ("crypto.md4(input.x)", "did you mean `crypto.md5`?"),
        ("io.jwt.encode_sign({}, {}, {})", "`io.jwt.encode_sign` may not be called"),
        ("json.match_schema(input.x, input.y)", "`json.match_schema` may not be called"),
        ("json.patch(input.x, input.y)", "`json.patch`"),
        ("json.patch(input.x, [{\"op\": input.o, \"path\": \"a\", \"value\": 1}])", "`json.patch`"),
        ("json.patch(input.x, [{\"op\": \"copy\", \"path\": \"a\", \"from\": \"b\"}])", "`json.patch`"),
    ] {
        let report = load(&[("p.rego", &format!("package a\n\nr if {{\n\t{call}\n}}\n"))], &["a/r"]).unwrap_err().to_string();
        assert!(report.contains("p.rego:4:") && report.contains(said), "{call}\n{report}");
    }
    let patch = "package a\n\nr := json.patch({\"a\": 1}, [{\"op\": \"add\", \"path\": \"/b\", \"value\": input.x}])\n";
    let policy = load(&[("p.rego", patch)], &["a/r"]).unwrap();
    assert_eq!(policy.engine().unwrap().evaluate(0, value(&json!({"x": 2}))), Ok(value(&json!({"a": 1, "b": 2}))));
}

#[test]
fn the_clock_stands_still_within_an_evaluation_and_goes_on_between_them() {
    super::begin();
    let first = super::now();
    assert_eq!(super::now(), first);
    super::begin();
    assert!(super::now() >= first);
    super::NOW.set(1);
    assert_eq!(super::now(), 1);
    // Evaluating begins anew.
    let policy = load(&[("p.rego", "package a\n\nr := io.jwt.decode_verify(input.t, {\"secret\": \"s\"})\n")], &["a/r"]).unwrap();
    assert!(policy.footprint(0).clock);
    drop(policy.engine().unwrap().evaluate(0, Value::new_object()));
    assert_ne!(super::now(), 1);
}

#[test]
fn blocks_of_pem_are_found_where_go_finds_them() {
    let block = |text: &str| encoding::pem(text).map(|block| (block.label.to_owned(), block.bytes, block.rest.to_owned()));
    let whole = "-----BEGIN A-----\nAAEC\n-----END A-----\n";
    assert_eq!(block(whole), Some(("A".to_owned(), vec![0, 1, 2], String::new())));
    assert_eq!(block(&format!("x\n{whole}rest")), Some(("A".to_owned(), vec![0, 1, 2], "rest".to_owned())));
    assert_eq!(
        block("-----BEGIN A-----\nProc-Type: 4\n\nAAEC\n-----END A-----"),
        Some(("A".to_owned(), vec![0, 1, 2], String::new()))
    );
    assert_eq!(block(&format!("x{whole}")), None);
    assert_eq!(block("-----BEGIN A-----\nAAEC\n-----END B-----\n"), None);
    assert_eq!(block("-----BEGIN A-----\nAA!C\n-----END A-----\n"), None);
    assert_eq!(block("-----BEGIN A-----"), None);
}

/// OPA says true of each.
#[test]
fn signatures_that_are_weaker_than_the_rfcs_allow_are_no_signatures() {
    for (function, token, key) in [
        (
            "io.jwt.verify_rs256",
            "eyJhbGciOiJSUzI1NiJ9.e30.Iof1y2ydERGzRc5s_99T6arsOM90NIQeoTn-HjvahGB6IS69PIGJgkkWYpEFb4Zm53qtM0fnv_LBEmHLlgOWFea3NBbjACFZmo45RlgWvSeB12GPA-UH91oICPgy-MM2Jtzrn45yIJG28eTIJ6EpZQIDz41JLmyEolNqkw5DJlw",
            "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDbLbtRNNEhznGZZfUc9+9BAnPTh9oqtZBlp/rQ104Yfm6B3B394ScbkdmOQJsRtZYUbX4r8CWzJvQEfzP0z1TayjTjZLOc3FO12j/aIZePxCyxaFBHigqDbJgtGqGH/kVJcsylgre4NFXLd891ZZo43qrZVxqOw4fUOF6GroPbcwIDAQAB",
        ),
        (
            "io.jwt.verify_ps256",
            "eyJhbGciOiJQUzI1NiJ9.e30.OYZXcxtI84DTVB0QXY6emDIWIxpWTfU9XlIVXqlNOAom39HwRqAeUYH8uyj6GCGxLXCHuU57Lug685UmBYF1jj506OF2PbTpyooo3FnY6HuxlBGJ2GZ_GyButvLGVbubNZLKCq3ZJ5o2fM48fJBnEelf4GU6K3d_S7aX1zZQovPu5Nata3DU5wTf-ka0f538rBa6LX11docAwojR7z8nhg-sswexDFNRQDK2q8KMtbNI2IhrWQ3lgEa4njQ8KTDY084RTKQhmRCcADktOkJVK8FH97HPao6YLAEf2CMxhLa7oB8F-lDwA5-Jai3G2JNlqjJgu2redXxC55dYkTBS9Q",
            "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAuxOtKzKFwiLzG8yax2LI3jAaaeR5zfwWI7CLrnbE0UbN4drnJD4Mt/OWRNsfOaFUa9TX0j+OvhJyVLYF1YewIecLwu1JdmKtVdpmhn2ATiWotBdAAI+K6LFvgfJHeM5tG51hiKfgeD70s9677K9JbY2DE7e+KDuH8Lwr8s/kvCTeicP3Qx1YI4Q5kSVzpRXc/+/ryE+oqKAnJVkMZrB08Q+8ZIm91u6eRhZtBuatrdZs/MGXz6BwCEfUyamwkrGhhHezFPDgWtZL9uUewN/Fd339PnkeYYiB8v7a/fl3SlBDK7o44k1auNjoJiglYZ8KFpfWCy1RTt4VOic8DmxQxQIDAQAB",
        ),
        (
            "io.jwt.verify_es256",
            "eyJhbGciOiJFUzI1NiJ9.e30.VmhU_5gc_CvujeuWl443W6VdGukFkJ7WGi4i3goxdZvpRpwf4yIPRKleGMAxr5FggfsueeVaa3JNWQ24_cHXtuhI-DRL0-8lGJxPZVwCmYAyI-uuDuBbhxPJFRln4ngW",
            "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEb48qPzCQy7WEmitiEngMIfdUxKupQRruSXE8wJRQNlw4CeecuMv6sOmE+Db2XklmPdizah1Z++g3pTkiTwZc8dxwUll1Bfq9r6NXUkHp//K6mdI9JjhlHVtOisOg3Qsf",
        ),
    ] {
        let rego = format!("package a\n\nr := {function}(input.t, input.k)\n");
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n");
        let said =
            load(&[("p.rego", &rego)], &["a/r"]).unwrap().engine().unwrap().evaluate(0, value(&json!({"t": token, "k": pem})));
        assert_eq!(said, Ok(Value::Bool(false)), "{function}");
    }
}

#[test]
fn a_call_may_name_where_its_result_goes() {
    for (body, said) in [
        ("crypto.md5(input.x, y)\n\ty == \"0cc175b9c0f1b6a831c399e269772661\"", true),
        ("some y\n\tcrypto.md5(\n\t\tinput.x,\n\t\ty,\n\t)\n\tcrypto.md5(input.x) == y", true),
        ("crypto.md5(input.x, \"0cc175b9c0f1b6a831c399e269772661\")", true),
        ("crypto.md5(input.x, \"other\")", false),
        ("array.flatten([[1], [input.x]], [1, y])\n\ty == \"a\"", true),
        ("crypto.md5(crypto.md5(input.x), y)\n\tcrypto.sha1(y, z)\n\tcount(z) == 40", true),
        ("crypto.md5(input.x, y) with input.x as \"b\"\n\ty == crypto.md5(\"b\")", true),
        ("count([y | crypto.md5(input.list[_], y)]) == 2", true),
    ] {
        let policy = format!("package a\n\ndefault r := false\n\nr if {{\n\t{body}\n}}\n\n\nlast := missing_here\n");
        let report = load(&[("p.rego", &policy)], &["a/r"]).unwrap_err().to_string();
        let line = policy.lines().position(|line| line.starts_with("last")).unwrap() + 1;
        assert!(report.contains(&format!("p.rego:{line}:")), "lines stay where they are: {report}\n{policy}");
        let policy =
            load(&[("p.rego", &policy.replace("missing_here", "1"))], &["a/r"]).unwrap_or_else(|report| panic!("{body}\n{report}"));
        let input = value(&json!({"x": "a", "list": ["a", "b"]}));
        assert_eq!(policy.engine().unwrap().evaluate(0, input), Ok(Value::from(said)), "{body}");
    }
    let own = [
        ("p.rego", "package a\n\nimport data.b.crypto\n\nr := crypto.md5(input.x, 2)\n"),
        ("q.rego", "package b.crypto\n\nmd5(x, y) := [x, y]\n"),
    ];
    let policy = load(&own, &["a/r"]).unwrap();
    assert_eq!(policy.engine().unwrap().evaluate(0, value(&json!({"x": 1}))), Ok(value(&json!([1, 2]))));
}

//! GraphQL: schemas and queries written by hand, each rule kept and broken, and both damaged at random from a fixed seed.
//!
//! No fragments that hold each other: on those OPA's process overflows its stack and ends.

use serde_json::{Value, json};

use crate::cases::{Case, Dice, case};

/// A schema with one of everything.
const SCHEMA: &str = r#"
# before
"described" interface N { id: ID n(a: Int, b: [Int], o: I): N s: String l: [N!]! } # after
type A implements N & M { id: ID n(a: Int, b: [Int], o: I): N s: String l: [N!]! u: U x: Int y: String aa: A bb: B e: E m: A }
type B implements N { id: ID n(a: Int, b: [Int], o: I): N s: String l: [N!]! u: U x: String y: String aa: A bb: B e: E }
interface M { m: M }
type C { x: Int! y: [String] c: C d: D }
type D { x: Int y: String c: D d: C }
union U = | A | B | C
enum E { "one" P @deprecated(reason: "old") Q }
input I { a: Int = 3 b: [Int!]! c: I d: E s: String! = "x" }
input O @oneOf { a: Int b: String }
scalar J @specifiedBy(url: "https://example.org")
directive @d(v: J, i: I, r: Int!) repeatable on FIELD | QUERY | VARIABLE_DEFINITION | FRAGMENT_SPREAD | INLINE_FRAGMENT | FRAGMENT_DEFINITION
type Query {
  n(a: Int, b: [Int], o: I): N
  a: A b: B u: U c: C d: D q: Query
  f(o: O, j: J, i: I, k: [[Int!]], e: E = P, fl: Float, id: ID, s: String, bo: Boolean! = true): String
  need(x: Int!): Int
}
extend type Query { more: Int }
type Mutation { a: A }
type Subscription { a: A b: B }
# end"#;

/// What is asked inside braces.
const SELECTIONS: [&str; 96] = [
    "a { x }",
    "a { x y: x }",
    "a { z }",
    "a",
    "more { x }",
    "__typename",
    "__typename @include(if: true)",
    "__schema { types { name } }",
    "__type(name: \"A\") { fields { type { fields { name } } } }",
    "__type(name: \"A\") { fields { type { fields { type { inputFields { name } } } } } }",
    "__type { name }",
    "need",
    "need(x: 1)",
    "need(x: null)",
    "need(x: 1, x: 2)",
    "need(x: 1, y: 2)",
    "need(x: \"1\")",
    "f",
    "f(bo: 1)",
    "f(s: {})",
    "f(s: [])",
    "f(s: P)",
    "f(s: \"\"\"\n  block\n    string \"\"\"\n)",
    "f(e: Q)",
    "f(e: R)",
    "f(e: \"Q\")",
    "f(fl: 1)",
    "f(fl: 1.5e3)",
    "f(fl: 1e400)",
    "f(fl: 99999999999999999999)",
    "f(id: 1)",
    "f(id: 1.0)",
    "f(id: 4294967296)",
    "f(k: 1)",
    "f(k: [1 2])",
    "f(k: [[1] [2]])",
    "f(k: [[null]])",
    "f(k: [null])",
    "f(k: [[[1]]])",
    "f(j: {a: [1 \"x\" {b: null}]})",
    "f(j: {a: 99999999999999999999})",
    "f(j: {a: 1 a: 2})",
    "f(o: {a: 1})",
    "f(o: {a: 1 b: \"x\"})",
    "f(o: {a: null})",
    "f(o: {})",
    "f(o: {c: 1})",
    "f(i: {b: [1]})",
    "f(i: {b: 1})",
    "f(i: {b: [null]})",
    "f(i: {})",
    "f(i: {b: [], c: {b: [1], d: Q}})",
    "f(i: {b: [], s: null})",
    "f(i: {b: [], z: 1})",
    "f @skip(if: false) @include(if: true)",
    "f @skip(if: false) @skip(if: true)",
    "f @skip",
    "f @skip(if: 1)",
    "f @unknown",
    "f @deprecated",
    "f @d(r: 1) @d(r: 2, v: {x: 1})",
    "f @d(v: 1)",
    "f @d(r: 1, i: {})",
    "a { x } a { y }",
    "x: more x: f",
    "x: more x: more",
    "f(s: \"a\") f(s: \"a\")",
    "f(s: \"a\") f(s: \"b\")",
    "f(s: \"a\") f",
    "f(i: {b: [1], a: 2}) f(i: {a: 2, b: [1]})",
    "f(i: {b: [1 2]}) f(i: {b: [2 1]})",
    "n { ... on A { x } ... on B { y } }",
    "n { ... on A { x } ... on B { x } }",
    "n { ... on A { x } ... on B { x: y } }",
    "n { ... on A { x: s } ... on B { x } }",
    "n { ... on A { aa { x: id } } ... on B { aa { x: s } } }",
    "n { id ... on C { x } }",
    "u { ... on C { x } ... on A { x } }",
    "u { id }",
    "u { __typename ... { ... on N { id } } ... on M { m { ... on A { x } } } }",
    "u { ... on D { x } }",
    "u { ... on E { x } }",
    "u { ... on Missing { x } }",
    "a { ... on N { id } ... on M { m { __typename } } ... on U { __typename } }",
    "q { q { q { a { n { n { l { id } } } } } } }",
    "... { more } ... @include(if: true) { more }",
    "... on Query { more } ... on Mutation { a { x } }",
    "...F",
    "...F ...F",
    "...F more: f",
    "...Missing",
    "q { ...F } ...G",
    "q { ...F f } f(s: \"z\")",
    "a { ...H x: y }",
    "n { ...H ...K }",
    "... on Query { ...F @d(r: 1) }",
];

/// What follows or surrounds them; `%` is where the selection goes.
const DOCUMENTS: [&str; 16] = [
    "{ % }",
    "query Q { % }",
    "mutation { % }",
    "subscription S { % }",
    "query Q { % } query R { more }",
    "query Q { % } query Q { more }",
    "query Q { % } { more }",
    "query Q($v: Int) { % need(x: $v) }",
    "query Q($v: Int!, $w: String = \"x\") @d(r: $v) { % f(s: $w, o: {a: $v}) }",
    "query Q($v: Int = 1, $v: Int) { % need(x: $v) }",
    "query Q($v: [Int!]! = [1] @d(r: 2), $i: I = {b: 2}) { % f(k: [$v], i: $i) }",
    "query Q($v: A, $w: Missing) { % }",
    "query Q($j: J = 99999999999999999999) { % f(k: [$j]) f(j: $j) }",
    "{ % } fragment F on Query { more } fragment G on Query { f ...F } fragment H on A { x ... on A { y } } fragment K on B { x }",
    "{ % ...F n { ...H ...K } } fragment F on Query { more } fragment H on A { x y } fragment K on B { y }",
    "{ % ...G } fragment F on Query { x: f } fragment G on Query { x: more ...F } fragment F on Query { f }",
];

/// Texts that are taken apart at the places where lexers differ.
const TEXTS: [&str; 46] = [
    "",
    "{",
    "{}",
    "{ a",
    "{ a }}",
    "{ a(b: ) }",
    "{ a() }",
    "query () { a }",
    "query ($a) { a }",
    "{ a(x: [] y: {}) }",
    "{ a(x: 01) }",
    "{ a(x: 0xF) }",
    "{ a(x: -) }",
    "{ a(x: 1.) }",
    "{ a(x: -0.0e+1) }",
    "{ a(x: .5) }",
    "{ a(x: 1e) }",
    "{ a(x: \"\\u00e9\\ud83d\\ude00\\n\\/\\\"\") }",
    "{ a(x: \"\\u00g0\") }",
    "{ a(x: \"\\x\") }",
    "{ a(x: \"tab\tin\") }",
    "{ a(x: \"open) }",
    "{ a(x: \"new\nline\") }",
    "{ a(x: \"\"\"\"quoted\"\"\"\"\") }",
    "{ a(x: \"\"\" \\\"\"\" \r\n\r x\"\"\") }",
    "{ a(x: \"\"\"\n\n    first\n      second\n\n  \t\n\"\"\") }",
    "{ a(x: \"\"\"first\n    second\n  third\"\"\") }",
    "{ a(x: \"\"\"\"\"\") }",
    "{ a(x: \"\"\"open) }",
    "# c\n{ a }",
    "# c\nquery # d\n{ # e\n a # f\n b(x: # g\n [1 # h\n], y: # i\n $z, # j\n w: # k\n {# l\n m: 1}) # n\n}\n# o",
    "fragment on on on { on }",
    "fragment F($x: Int = 1) on A { a }",
    "{ ... \"on\" A { a } }",
    "{ ...on }",
    "{ ... on on { a } }",
    "{ ...F @a(b: $c) ... @d { a } }",
    "{ true: false(null: true) }",
    "{ a(x: true y: null z: enum) }",
    "\u{feff}{\u{feff}a,,,b}",
    "{ a\u{a0}b }",
    "{ é }",
    "{ a ' }",
    "{ a .. b }",
    "query Q mutation M { a }",
    "type A { a: Int }",
];

/// Schemas that keep a rule, and that break one.
const SCHEMAS: [&str; 88] = [
    "",
    "type A { a: Int }",
    "type A { a: Missing }",
    "type A",
    "type A { }",
    "type A { a: Int a: Int }",
    "type A { a: Int } type A { b: Int }",
    "type String { a: Int }",
    "type __A { a: Int }",
    "type A { __a: Int }",
    "type A { a(__b: Int): Int }",
    "type A { a(b: A): Int }",
    "type A { a(b: Missing): Int }",
    "type A { a(b: [Int!]! = [1] @deprecated): [[A]!]! @deprecated(reason: \"r\") }",
    "type A { a: I } input I { a: Int }",
    "type A { a: Int = 1 }",
    "type A { a: Int @deprecated @deprecated }",
    "type A { a: Int @deprecated(why: 1) }",
    "type A @deprecated { a: Int }",
    "type A @missing { a: Int }",
    "directive @d on OBJECT type A @d { a: Int }",
    "directive @d on OBJECT type A @d @d { a: Int }",
    "directive @d on OBJECT type A @d { a: Int } extend type A @d",
    "directive @d repeatable on | FIELD_DEFINITION | SCALAR type A { a: Int @d @d }",
    "directive @d(a: Int!) on OBJECT type A @d { a: Int }",
    "directive @d(a: Int! = 1) on OBJECT type A @d { a: Int }",
    "directive @d(a: Int!) on OBJECT type A @d(a: null) { a: Int }",
    "directive @d(a: Int @d) on ARGUMENT_DEFINITION",
    "directive @d(a: Int @e) on ARGUMENT_DEFINITION directive @e(a: Int @d) on ARGUMENT_DEFINITION",
    "directive @d(a: A) on FIELD type A { a: Int }",
    "directive @d on FIELD directive @d on FIELD",
    "directive @skip(unless: Boolean!) on FIELD",
    "directive @__d on FIELD",
    "directive @d on NOWHERE",
    "directive @d on",
    "interface N { a: Int }",
    "interface N { a: Int } type A implements N { a: Int }",
    "interface N { a: Int } type A implements N { b: Int }",
    "interface N { a: Int } type A implements N { a: Int! }",
    "interface N { a: Int! } type A implements N { a: Int }",
    "interface N { a: [N] } type A implements N { a: [A!]! }",
    "interface N { a: [N] } type A implements N { a: A }",
    "interface N { a: U } union U = A | B type A implements N { a: A } type B { b: Int }",
    "interface N { a(x: Int): Int } type A implements N { a: Int }",
    "interface N { a(x: Int): Int } type A implements N { a(x: Int!): Int }",
    "interface N { a(x: Int!): Int } type A implements N { a(x: Int): Int }",
    "interface N { a: Int } type A implements N { a(x: Int!): Int }",
    "interface N { a: Int } type A implements N { a(x: Int! = 1): Int }",
    "interface N { a: Int } interface M implements N { a: Int } type A implements M { a: Int }",
    "interface N { a: Int } interface M implements N { a: Int } type A implements M & N { a: Int }",
    "interface N implements M { a: Int } interface M implements N { a: Int }",
    "interface N implements N { a: Int }",
    "type A implements B { a: Int } type B { a: Int }",
    "type A implements Missing { a: Int }",
    "type A implements & N { a: Int } interface N { a: Int }",
    "type A implements N, M { a: Int } interface N { a: Int } interface M { a: Int }",
    "union U = A type A { a: Int }",
    "union U = A | A type A { a: Int }",
    "union U = Missing",
    "union U = Int",
    "union U",
    "enum E { P Q }",
    "enum E { P P }",
    "enum E { true }",
    "enum E",
    "enum E { P @deprecated Q @skip(if: true) }",
    "input I { a: Int = 1 b: [I!] c: E } enum E { P }",
    "input I { a: I! }",
    "input I { a: J! } input J { b: [I!]! }",
    "input I { a: J! } input J { b: K! } input K { c: I! }",
    "input I { a: A } type A { a: Int }",
    "input I { a: Int a: Int }",
    "input I",
    "scalar S @specifiedBy(url: \"u\")",
    "scalar S @specifiedBy",
    "schema { query: A } type A { a: Int }",
    "schema { query: Missing }",
    "schema { query: A } schema { mutation: A } type A { a: Int }",
    "schema @d { query: A } type A { a: Int }",
    "\"d\" schema { query: Q } extend schema { mutation: Q } type Q { a: Int }",
    "extend schema @d",
    "extend type A { a: Int }",
    "extend type A { a: Int } extend type A { b: Int }",
    "type A { a: Int } extend interface A { b: Int }",
    "extend type A",
    "\"d\" extend type A { a: Int }",
    "extend union U = A extend enum E { P } extend input I @oneOf { a: Int } extend scalar S @specifiedBy(url: \"u\") type A { a: Int }",
    "# 1\n\"\"\"d\"\"\" # 2\ntype # 3\nA # 4\n{ # 5\n\"e\" # 6\na # 7\n( # 8\n\"f\" b: Int # 9\n): Int # 10\n# 11\n}\n# 12\nenum E { # 13\nP # 14\n}\n# 15",
];

const WORDS: [&str; 40] = [
    "query",
    "mutation",
    "fragment",
    "on",
    "type",
    "interface",
    "union",
    "enum",
    "input",
    "extend",
    "directive",
    "implements",
    "true",
    "null",
    "__typename",
    "id",
    "a",
    "x",
    "F",
    "A",
    "Int",
    "!",
    "$v",
    "(",
    ")",
    "...",
    ":",
    "=",
    "@d",
    "@skip(if: true)",
    "[",
    "]",
    "{",
    "}",
    "|",
    "\"x\"",
    "\"\"\" y\n z\"\"\"",
    " # c\n",
    "1",
    "1.5",
];

/// A text whose words changed at random; its fragments stay as they are, so that none comes to hold itself.
fn damaged(dice: &mut Dice, text: &str) -> String {
    let (body, fragments) = text.split_once("fragment F").map_or((text, None), |(body, rest)| (body, Some(rest)));
    let mut words: Vec<&str> = body.split_inclusive([' ', '(', ')', ':', '{', '}']).collect();
    for _ in 0..=dice.below(2) {
        let place = dice.below(words.len().max(1));
        let other = WORDS[dice.below(WORDS.len())];
        match dice.below(4) {
            0 if !words.is_empty() => words[place] = other,
            1 if !words.is_empty() => drop(words.remove(place)),
            2 if !words.is_empty() => words.insert(place, words[dice.below(words.len())]),
            _ => words.insert(place, other),
        }
    }
    let body = words.concat();
    // A fragment that slipped in before the others could name one of them.
    if body.contains("fragment") {
        return body;
    }
    fragments.map_or(body.clone(), |rest| format!("{body} fragment F{rest}"))
}

/// Trees written by hand where OPA would have made them, and where it would not.
fn trees() -> Vec<(Value, Value)> {
    let of = |name: &str| json!({"NamedType": name, "NonNull": false});
    let schema = json!({"Definitions": [
        {"Kind": "OBJECT", "Name": "Query", "Fields": [
            {"Name": "a", "Type": of("Int"), "Arguments": [{"Name": "x", "Type": of("Int")}]},
            {"Name": "q", "Type": of("Query")},
        ]},
    ]});
    let query = |selection: Value| json!({"Operations": [{"Operation": "query", "SelectionSet": selection}]});
    let argument = |kind: i64, raw: &str| json!([{"Name": "a", "Arguments": [{"Name": "x", "Value": {"Kind": kind, "Raw": raw}}]}]);
    let queries = vec![
        query(json!([{"Name": "a"}])),
        query(json!([{"Name": "a", "Alias": "b"}, {"Name": "a", "Alias": "c", "Unknown": 1}])),
        query(json!([{"Name": "b"}])),
        query(json!([{"Name": "q", "SelectionSet": [{"Name": "a"}], "Arguments": null}])),
        query(json!([{"Name": "q"}])),
        query(argument(1, "1")),
        query(argument(1, "x")),
        query(argument(3, "1")),
        query(argument(0, "v")),
        json!({"Operations": [{"SelectionSet": [{"Name": "a"}]}]}),
        json!({"Operations": [{"Operation": "mutation", "SelectionSet": [{"Name": "a"}]}]}),
        json!({"Operations": [{"Name": 1}]}),
        json!({"Operations": {}}),
        json!({"Operations": [["query"]]}),
        query(json!([{"Name": "a", "Arguments": [{"Name": "x", "Value": ["1", [], 1]}]}])),
        json!({"Fragments": [{"Name": "F", "TypeCondition": "Query", "SelectionSet": [{"Name": "a"}]}]}),
        json!({}),
        json!({"Operations": [{"Operation": "query", "SelectionSet": [{"Name": "a"}], "VariableDefinitions": [
            {"Variable": "v", "Type": of("Int"), "Used": true},
        ]}]}),
    ];
    let schemas =
        [schema, json!("type Query { a(x: Int): Int q: Query }"), json!({}), json!({"Definitions": [{"Kind": "OBJECT"}]})];
    queries.into_iter().flat_map(|query| schemas.clone().map(|schema| (query.clone(), schema))).collect()
}

pub(crate) fn graphql() -> Vec<Case> {
    let mut dice = Dice(11);
    let mut cases = Vec::new();
    let mut queries: Vec<String> = TEXTS.map(str::to_owned).to_vec();
    for document in DOCUMENTS {
        queries.extend(SELECTIONS.iter().map(|selection| document.replace('%', selection)));
    }
    let whole: Vec<String> = (0..400).map(|_| queries[dice.below(queries.len())].clone()).collect();
    queries.extend(whole.iter().map(|query| damaged(&mut dice, query)));
    let (all, short) = (json!(SCHEMA), json!("type Query { a: Int }"));
    for (place, query) in queries.iter().enumerate() {
        cases.push(case("graphql.is_valid", &[json!(query), all.clone()]));
        if place % 5 == 0 {
            cases.push(case("graphql.parse_query", &[json!(query)]));
            cases.push(case("graphql.parse", &[json!(query), short.clone()]));
            cases.push(case("graphql.parse_and_verify", &[json!(query), short.clone()]));
        }
    }
    cases.extend(TEXTS.iter().map(|query| case("graphql.parse_query", &[json!(query)])));
    let mut schemas: Vec<String> = SCHEMAS.map(str::to_owned).to_vec();
    schemas.push(SCHEMA.to_owned());
    let whole: Vec<String> = (0..200).map(|_| schemas[dice.below(schemas.len())].clone()).collect();
    schemas.extend(whole.iter().map(|schema| damaged(&mut dice, schema)));
    for schema in schemas.iter().map(|schema| json!(schema)) {
        cases.push(case("graphql.schema_is_valid", std::slice::from_ref(&schema)));
        cases.push(case("graphql.parse_schema", std::slice::from_ref(&schema)));
        cases.push(case("graphql.is_valid", &[json!("{ __typename }"), schema]));
    }
    for (query, schema) in trees() {
        cases.push(case("graphql.is_valid", &[query.clone(), schema.clone()]));
        cases.push(case("graphql.parse", &[query.clone(), schema.clone()]));
        cases.push(case("graphql.parse_and_verify", &[query, schema.clone()]));
        cases.push(case("graphql.schema_is_valid", &[schema]));
    }
    for odd in [json!(null), json!(7), json!(true), json!([]), json!(["a"])] {
        cases.push(case("graphql.is_valid", &[odd.clone(), all.clone()]));
        cases.push(case("graphql.is_valid", &[json!("{ more }"), odd.clone()]));
        cases.push(case("graphql.parse", &[odd.clone(), all.clone()]));
        cases.push(case("graphql.parse_and_verify", &[odd.clone(), all.clone()]));
        cases.push(case("graphql.parse_query", std::slice::from_ref(&odd)));
        cases.push(case("graphql.parse_schema", std::slice::from_ref(&odd)));
        cases.push(case("graphql.schema_is_valid", &[odd]));
    }
    cases
}

//! Policies and inputs made from a row of choices.
//!
//! In: a source of choices (chance in the tests, bytes in the fuzzer). Out: the Rego of two packages with entry `data.a.r`, and
//! inputs for it. What must stay true: the same choices give the same text; each rule uses only rules after it, because recursion
//! would be refused; and every way to reach the input that the language has is in here. Std only, because the fuzzer is a crate
//! of its own that includes this file.

use std::fmt::Write as _;

/// Gives a number below a bound.
pub(crate) trait Choices {
    fn below(&mut self, bound: usize) -> usize;
}

/// Chance that is the same each time.
pub(crate) struct Chance(pub(crate) u64);

impl Choices for Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % u64::try_from(bound.max(1)).unwrap_or(1)).unwrap_or(0)
    }
}

/// What a rule of one stage may use: those of the stages after it.
const STAGES: &[&[&str]] = &[
    &["q", "data.a.q", "data.b.m", "mm"],
    &["p", "data.a.p", "t[input.k]", "t.b", "t[\"b\"]", "u.a", "data.a.t[input.k]", "[z | z := t[_]][0]", "u[input.k].d"],
    &["s", "s[input.k]", "o.b", "o[input.k]"],
    &["data.b.m", "data.b.n", "data.b[input.k]", "bb.m", "data.b[\"n\"]", "data.b.deep[input.k]", "data.b.deep.b.c"],
];

/// The first of these read a part of the input only.
const NARROW: usize = 30;
const INPUTS: &[&str] = &[
    "input.a",
    "input.a.b",
    "input.a.b.c",
    "input[\"a\"]",
    "input.a[\"b\"]",
    "input[\"a\"].b[\"c\"]",
    "input.a[input.k]",
    "input.k",
    "input.n",
    "input.l",
    "input.l[0]",
    "input.l[_]",
    "input.a[_]",
    "ia",
    "ia.b",
    "ia[input.k]",
    "ib",
    "whole.a.b",
    "object.get(input, \"a\", 0)",
    "object.get(input, \"k\", \"b\")",
    "object.get(input, [\"a\", \"b\"], 0)",
    "object.get(input, [\"a\", input.k], 0)",
    "object.get(ia, \"b\", 0)",
    "object.get(ia, [\"b\", \"c\"], 0)",
    "object.get(whole, \"n\", 0)",
    "object.get(input.a, \"b\", 0)",
    "object.get(object.get(input, \"a\", {}), \"b\", 1)",
    "object.keys(input.a)",
    "data.plain[input.k]",
    "data.plain[input.a.b]",
    "input[input.k]",
    "input",
    "whole",
    "whole[input.k]",
    "object.get(input, input.k, 0)",
    "json.filter(input, [\"a/b\"])",
    "object.remove(input, [\"a\"])",
];

const LITERALS: &[&str] = &["1", "2", "\"b\"", "\"c\"", "true", "false", "null", "[]", "{}", "{\"b\": 1}", "[1, \"b\"]"];

pub(crate) struct Maker<'c, C> {
    choices: &'c mut C,
    stage: usize,
    /// It may read all of the input at once.
    wide: bool,
    /// Names that have a value here.
    names: Vec<String>,
    made: usize,
}

impl<'c, C: Choices> Maker<'c, C> {
    pub(crate) fn new(choices: &'c mut C) -> Self {
        Self { choices, stage: 0, wide: true, names: Vec::new(), made: 0 }
    }

    fn pick(&mut self, from: &[&str]) -> String {
        let place = self.choices.below(from.len());
        from.get(place).copied().unwrap_or("1").to_owned()
    }

    fn fresh(&mut self) -> String {
        self.made += 1;
        format!("x{}", self.made)
    }

    fn leaf(&mut self) -> String {
        match self.choices.below(10) {
            // Most of what could be picked from all of the input would make every footprint the whole.
            0..=3 => self.pick(INPUTS.get(..if self.wide { INPUTS.len() } else { NARROW }).unwrap_or(INPUTS)),
            4 => self.pick(INPUTS.get(..NARROW).unwrap_or(INPUTS)),
            5 => self.pick(LITERALS),
            6 | 7 => {
                let names: Vec<String> = self.names.clone();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let name = if names.is_empty() { self.pick(INPUTS) } else { self.pick(&names) };
                match self.choices.below(4) {
                    0 if name.starts_with(['x', 'v']) => format!("{name}.b"),
                    1 if name.starts_with(['x', 'v']) => format!("{name}[input.k]"),
                    2 if self.wide => format!("input[{name}]"),
                    _ => name,
                }
            }
            _ => match STAGES.get(self.stage) {
                Some(known) => {
                    let before = self.stage;
                    let later = STAGES.get(before + self.choices.below(STAGES.len() - before)).unwrap_or(known);
                    self.pick(later)
                }
                None => self.pick(INPUTS),
            },
        }
    }

    fn term(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.leaf();
        }
        let below = depth - 1;
        match self.choices.below(24) {
            0 => format!("[{}, {}]", self.term(below), self.term(below)),
            1 => format!("{{{}, {}}}", self.term(below), self.term(below)),
            2 => format!("{{\"u\": {}, \"b\": {}}}", self.term(below), self.term(below)),
            3 => format!("count({})", self.term(below)),
            4 => format!("object.get({}, {}, {})", self.term(below), self.term(below), self.term(below)),
            5 => format!("sprintf(\"%v\", [{}])", self.term(below)),
            6 => format!("json.marshal({})", self.term(below)),
            7..=9 => self.comprehension(below),
            10 if self.stage < 4 => format!("f({})", self.term(below)),
            11 if self.stage < 4 => format!("data.a.f({})", self.term(below)),
            12 if self.stage < 5 => format!("g({}, {})", self.term(below), self.term(below)),
            13 if self.stage < 5 => format!("data.b.h({})", self.term(below)),
            14 => format!("({} + {})", self.term(below), self.term(below)),
            15 => format!("({} == {})", self.term(below), self.term(below)),
            16 => format!("({} in {})", self.term(below), self.term(below)),
            17 => format!("{}[{}]", self.base(), self.term(below)),
            _ => self.leaf(),
        }
    }

    /// Something that has a name, and so may have a bracket.
    fn base(&mut self) -> String {
        let known = ["input.a", "input.l", "ia", "data.plain", "input", "whole"];
        self.pick(known.get(..if self.wide { 6 } else { 4 }).unwrap_or(&known))
    }

    fn comprehension(&mut self, depth: usize) -> String {
        let before = self.names.clone();
        let (key, value) = (self.fresh(), self.fresh());
        let from = self.term(depth);
        let loops = match self.choices.below(6) {
            0 => format!("{value} := {from}; {key} := 1"),
            1 => format!("{value} = {from}; {key} := \"b\""),
            2 => format!("walk({from}, [{key}, {value}])"),
            3 => format!("some {key}; {value} := {from}[{key}]"),
            _ => format!("some {key}, {value} in {from}"),
        };
        // `term[key]` needs something with a name before its bracket.
        let loops = if loops.starts_with("some") && loops.contains(';') {
            format!("some {key}; {value} := {}[{key}]", self.base())
        } else {
            loops
        };
        self.names.extend([key.clone(), value.clone()]);
        let condition = match self.choices.below(3) {
            0 => String::new(),
            1 => format!("; {}", self.term(depth.saturating_sub(1))),
            _ => format!("; {value} != {}", self.leaf()),
        };
        let made = match self.choices.below(4) {
            0 => format!("{{{value} | {loops}{condition}}}"),
            1 => format!("{{{key}: {value} | {loops}{condition}}}"),
            2 => format!("[{} | {loops}{condition}]", self.leaf()),
            _ => format!("[{value} | {loops}{condition}]"),
        };
        self.names = before;
        made
    }

    fn with(&mut self) -> String {
        let known = ["input.a", "input.a.b", "input.k", "input.l", "data.b.m", "data.plain", "data.plain.b", "input"];
        let target = self.pick(known.get(..if self.wide { 8 } else { 7 }).unwrap_or(&known));
        let by = match (target.as_str(), self.choices.below(3)) {
            ("input", 0) => format!("{{\"a\": {}, \"k\": {}}}", self.term(1), self.leaf()),
            ("input", 1) => "input.a".to_owned(),
            _ => self.term(1),
        };
        format!(" with {target} as {by}")
    }

    fn statement(&mut self) -> String {
        let left = self.term(1);
        match self.choices.below(16) {
            0 => format!("{left} == {}", self.term(1)),
            1 => format!("{left} != {}", self.term(1)),
            2 => format!("not {left} == {}", self.leaf()),
            3 => format!("not {left}"),
            4 => left,
            5 => {
                let (key, value) = (self.fresh(), self.fresh());
                self.names.extend([key.clone(), value.clone()]);
                format!("some {key}, {value} in {left}")
            }
            6 => {
                let name = self.fresh();
                format!("every {name} in {left} {{ {name} != {} }}", self.leaf())
            }
            7 => {
                let (one, other, second) = (self.fresh(), self.fresh(), self.leaf());
                self.names.extend([one.clone(), other.clone()]);
                match self.choices.below(3) {
                    0 => format!("[{one}, {other}] := [{left}, {second}]"),
                    1 => format!("{{\"b\": {one}, \"c\": {other}}} = {left}"),
                    _ => format!("[{one}, {other}] = {left}"),
                }
            }
            8 | 9 if self.stage < 4 => {
                let (name, asked) = (self.fresh(), self.leaf());
                let with = self.with();
                let more = if self.choices.below(4) == 0 { self.with() } else { String::new() };
                self.names.push(name.clone());
                format!("{name} := {asked}{with}{more}")
            }
            10 if self.stage < 4 => {
                let (name, asked) = (self.fresh(), self.leaf());
                self.names.push(name.clone());
                format!("{name} := [f({asked}), g({asked}, 1)] with g as mock")
            }
            11 => {
                let (key, value) = (self.fresh(), self.fresh());
                self.names.extend([key.clone(), value.clone()]);
                format!("walk({left}, [{key}, {value}])")
            }
            _ => {
                let (name, value) = (self.fresh(), self.term(2));
                self.names.push(name.clone());
                format!("{name} := {value}")
            }
        }
    }

    fn body(&mut self, names: &[&str]) -> (String, String) {
        self.names = names.iter().map(|name| (*name).to_owned()).collect();
        let count = 1 + self.choices.below(3);
        let statements: Vec<String> = (0..count).map(|_| self.statement()).collect();
        let value = self.term(1);
        (statements.join("\n\t"), value)
    }

    fn rule(&mut self, text: &mut String, head: &str, names: &[&str], chained: bool) {
        let (body, value) = self.body(names);
        let value = if self.choices.below(5) == 0 { String::new() } else { format!(" := {value}") };
        let _ = write!(text, "{head}{value} if {{\n\t{body}\n}}");
        if chained && self.choices.below(3) == 0 {
            let (body, value) = self.body(names);
            let _ = write!(text, " else := {value} if {{\n\t{body}\n}}");
        }
        text.push_str("\n\n");
    }

    /// Two packages: `a` and `b`.
    pub(crate) fn policy(&mut self) -> [String; 2] {
        self.wide = self.choices.below(3) == 0;
        let mut a = "package a\n\nimport input as whole\nimport input.a as ia\nimport input.a.b as ib\nimport data.b as bb\nimport data.b.m as mm\n\n"
            .to_owned();
        for (stage, head, names) in [
            (0, "r", &[][..]),
            (1, "q", &[]),
            (2, "p", &[]),
            (2, "t.b", &[]),
            (2, "u.a", &[]),
            (4, "f(v)", &["v"]),
            (5, "g(v, w)", &["v", "w"]),
            (6, "mock(v, _)", &["v"]),
        ] {
            self.stage = stage;
            if self.choices.below(3) == 0 && !head.contains(['(', '.']) {
                let _ = writeln!(a, "default {head} := {}\n", self.pick(LITERALS));
            }
            if head == "f(v)" && self.choices.below(3) == 0 {
                a.push_str("default f(_) := 7\n\n");
            }
            for _ in 0..1 + self.choices.below(2) {
                self.rule(&mut a, head, names, true);
            }
        }
        self.stage = 3;
        let (body, value) = self.body(&[]);
        let _ = writeln!(a, "s contains {value} if {{\n\t{body}\n}}\n");
        let (body, value) = self.body(&[]);
        let _ = writeln!(a, "o[k] := {value} if {{\n\tk := {}\n\t{body}\n}}\n", self.pick(INPUTS));
        if self.choices.below(3) == 0 {
            a.push_str("f(\"b\") := input.n\n\nf([v, w]) := [v, input.a] if w == input.k\n\n");
        }
        let mut b =
            "package b\n\nimport input.a as ia\nimport input.a.b as ib\nimport input as whole\nimport data.a as aa\n\n".to_owned();
        self.stage = 6;
        for (head, names) in [("m", &[][..]), ("n", &[]), ("deep.b", &[]), ("h(v)", &["v"])] {
            self.rule(&mut b, head, names, true);
        }
        if self.choices.below(2) == 0 {
            b.push_str("deep.c.c := input.z\n");
        }
        [a, b]
    }

    /// One JSON text.
    pub(crate) fn input(&mut self) -> String {
        let mut fields = Vec::new();
        for key in ["a", "k", "n", "l", "z"] {
            if self.choices.below(6) > 0 {
                let value = if key == "k" && self.choices.below(3) > 0 {
                    self.pick(&["\"a\"", "\"b\"", "\"k\"", "\"l\"", "\"m\"", "\"n\"", "\"z\"", "0"])
                } else {
                    self.json(3)
                };
                fields.push(format!("\"{key}\": {value}"));
            }
        }
        format!("{{{}}}", fields.join(", "))
    }

    fn json(&mut self, depth: usize) -> String {
        match self.choices.below(if depth == 0 { 7 } else { 14 }) {
            0 => "null".to_owned(),
            1 => self.pick(&["true", "false"]),
            2 => self.pick(&["0", "1", "2", "-1", "1.5"]),
            3..=6 => self.pick(&["\"a\"", "\"b\"", "\"c\"", "\"k\"", "\"\""]),
            7..=9 => {
                let count = self.choices.below(4);
                format!("[{}]", (0..count).map(|_| self.json(depth - 1)).collect::<Vec<_>>().join(", "))
            }
            _ => {
                let keys: Vec<&str> = ["b", "c", "a", "k"].into_iter().filter(|_| self.choices.below(2) == 0).collect();
                let fields: Vec<String> = keys.into_iter().map(|key| format!("\"{key}\": {}", self.json(depth - 1))).collect();
                format!("{{{}}}", fields.join(", "))
            }
        }
    }
}

//! Policies and inputs that mean something: both engines give one answer, and the cut down input gets it too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::policy::{EngineChoice, Entry, EvaluationError, Kind};

mod loading;
#[path = "../../../src/policy/footprint/tests/maker.rs"]
mod maker;

use maker::{Choices, Maker};

/// Bytes as choices; after the last one every choice is the first.
struct Bytes<'a>(&'a [u8]);

impl Choices for Bytes<'_> {
    fn below(&mut self, bound: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % bound.max(1)
    }
}

/// An input cut down to the paths a policy reads.
fn cut(input: &serde_json::Value, policy: &portcullis::policy::Policy) -> serde_json::Value {
    let mut kept = serde_json::json!({});
    for path in policy.footprint(0).paths.keys() {
        let Some(found) = path.iter().try_fold(input, |at, part| at.as_object()?.get(part)) else { continue };
        let mut at = &mut kept;
        for part in path {
            at = at.as_object_mut().unwrap().entry(part.clone()).or_insert_with(|| serde_json::json!({}));
        }
        *at = found.clone();
    }
    kept
}

fuzz_target!(init: loading::let_panics_unwind(), |bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let [a, b] = Maker::new(&mut bytes).policy();
    let data = r#"{"plain": {"a": "b", "b": [1, 2], "k": {"b": 1}, "c": "c"}}"#;
    let files = [("a.rego", a.as_str()), ("b.rego", b.as_str()), ("data.json", data)];
    let entries = [Entry::new("a/r", None)];
    let Ok(policy) = loading::load(&files, &entries, EngineChoice::Auto) else { return };
    let alone = loading::load(&files, &entries, EngineChoice::Interpreter).unwrap();
    let (mut both, mut alone) = (policy.engine().unwrap(), alone.engine().unwrap());
    for _ in 0..4 {
        let text = Maker::new(&mut bytes).input();
        let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
        let less = cut(&whole, &policy);
        let value = |json: &serde_json::Value| regorus::Value::from_json_str(&json.to_string()).unwrap();
        let answers = [both.ask(0, value(&whole)), alone.ask(0, value(&whole)), alone.ask(0, value(&less))];
        if answers.iter().any(|said| said.answer == Err(EvaluationError::Timeout)) {
            continue;
        }
        let [said, interpreted, projected] = answers;
        assert!(said.answer == interpreted.answer, "{:?} said otherwise: {a}\n{b}\n{text}", matches!(said.by, Kind::Vm));
        assert!(interpreted.answer == projected.answer, "the footprint lacks a path: {a}\n{b}\n{text}");
    }
});

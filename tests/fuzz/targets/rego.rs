//! Any text as Rego: it is refused, or it judges, and the process stays up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::policy::{EngineChoice, Entry};

mod loading;

/// The rules a text seems to have: a name at the beginning of a line, under its package.
fn entries(text: &str) -> Vec<Entry> {
    let package = text.lines().find_map(|line| line.strip_prefix("package ")).unwrap_or("a").trim().replace('.', "/");
    let mut names: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix("default ").unwrap_or(line))
        .filter_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').next())
        .filter(|name| !matches!(*name, "" | "package" | "import" | "else"))
        .collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().take(4).map(|name| Entry::new(&format!("{package}/{name}"), None)).collect()
}

fuzz_target!(init: loading::let_panics_unwind(), |bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // One rule at a time: an entry that is not there would hide the others.
    for entry in entries(text) {
        let Ok(policy) = loading::load(&[("p.rego", text)], &[entry], EngineChoice::Auto) else { continue };
        let mut engine = policy.engine().unwrap();
        for input in ["{}", r#"{"a": {"b": [1, "x"]}, "x": "y", "l": [1, 2, {"k": null}]}"#, "[1]"] {
            drop(engine.ask(0, regorus::Value::from_json_str(input).unwrap()));
        }
    }
});

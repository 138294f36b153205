//! Loading a policy from texts, as the gate does it.
//!
//! In: files. Out: what the gate's own loader says. What must stay true: nothing is called here that the gate does not call.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use portcullis::policy::{BundleSource, Config, EngineChoice, Entry, Limits, Policy, Report, TestChoice};
use portcullis::units::{Size, Span};

thread_local! {
    static HOME: OnceCell<PathBuf> = const { OnceCell::new() };
}

/// A directory in memory, one a process.
pub fn home() -> PathBuf {
    HOME.with(|home| {
        home.get_or_init(|| {
            let shared = std::path::Path::new("/dev/shm");
            let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
            let home = base.join(format!("portcullis-fuzz-{}", std::process::id()));
            std::fs::create_dir_all(&home).unwrap();
            home
        })
        .clone()
    })
}

#[allow(dead_code)]
pub fn load(files: &[(&str, &str)], entries: &[Entry], engine: EngineChoice) -> Result<Policy, Report> {
    let home = home();
    for (name, text) in files {
        std::fs::write(home.join(name), text).unwrap();
    }
    let config = Config {
        bundles: BTreeMap::from([("b".to_owned(), BundleSource::at(home))]),
        decision: "a/r".to_owned(),
        result: None,
        may_kill: Vec::new(),
        reuse: Size::mib(0),
        shadow: None,
        engine,
        tests: TestChoice::default(),
        limits: Limits { time: Span::millis(100), ..Limits::default() },
    };
    Policy::load(&config, entries)
}

/// A panic inside the engine is the engine's to catch; libFuzzer's hook would end the process at it. One that comes through still does.
pub fn let_panics_unwind() {
    std::panic::set_hook(Box::new(|_| {}));
}

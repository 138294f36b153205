//! The floors of the house: an import may run down, never up or sideways. The map is the table in `src/lib.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and says where")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn map() -> BTreeMap<String, u8> {
    let lib = include_str!("../src/lib.rs");
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | ")?.split_once(" | "));
    let mut map = BTreeMap::new();
    for (floor, rest) in rows {
        let Ok(floor) = floor.trim().parse::<u8>() else { continue };
        let rooms = rest.split(" | ").next().unwrap();
        map.extend(rooms.split_whitespace().map(|room| (room.to_owned(), floor)));
    }
    map
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The room a file belongs to: its first path part below `src`.
fn room(file: &Path) -> String {
    file.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// Every `crate::x` and `portcullis::x` named in code, test modules apart: tests may stand on any floor.
fn named(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("#[cfg(test)]") || line.contains("#[cfg(all(test") {
            break;
        }
        let code = line.split("//").next().unwrap();
        for root in ["crate::", "portcullis::"] {
            for (at, _) in code.match_indices(root) {
                let rest = &code[at + root.len()..];
                let names: Vec<&str> = match rest.strip_prefix('{') {
                    Some(group) => group.split(['}', ',']).map(|part| part.trim().split("::").next().unwrap()).collect(),
                    None => vec![rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()],
                };
                found.extend(names.into_iter().filter(|name| !name.is_empty()).map(|name| (number + 1, name.to_owned())));
            }
        }
    }
    found
}

fn violations(map: &BTreeMap<String, u8>, from: &str, file: &str, text: &str) -> Vec<String> {
    let own = map[from];
    let wrong = |to: &String| to != from && map.get(to).is_some_and(|floor| *floor >= own);
    named(text)
        .into_iter()
        .filter(|(_, to)| wrong(to))
        .map(|(line, to)| format!("src/{file}:{line}: {from} (floor {own}) imports {to} (floor {})", map[&to]))
        .collect()
}

#[test]
fn imports_run_down() {
    let map = map();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let file = path.strip_prefix(&src).unwrap();
        let room = room(file);
        if room == "lib" || file.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        assert!(map.contains_key(&room), "src/{}: `{room}` stands on no floor of the table in src/lib.rs", file.display());
        wrong.extend(violations(&map, &room, &file.display().to_string(), &std::fs::read_to_string(&path).unwrap()));
    }
    assert!(wrong.is_empty(), "imports that run up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn every_room_of_the_table_is_there_and_every_module_is_on_it() {
    let map = map();
    assert!(map.len() > 20, "the table in src/lib.rs was not read: {map:?}");
    let lib = include_str!("../src/lib.rs");
    let modules: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")).map(|rest| rest.trim_end_matches(';')).collect();
    for module in &modules {
        assert!(map.contains_key(*module), "`{module}` stands on no floor");
    }
    for room in map.keys().filter(|room| *room != "main") {
        assert!(modules.contains(&room.as_str()), "the table names `{room}`, which is no module");
    }
}

#[test]
fn an_import_that_runs_up_or_sideways_is_found() {
    let map = map();
    assert_eq!(violations(&map, "exchange", "x.rs", "use crate::proxy::Worker;").len(), 1, "up");
    assert_eq!(violations(&map, "session", "x.rs", "use crate::{units, kill::Door};").len(), 1, "sideways");
    assert_eq!(violations(&map, "proxy", "x.rs", "use crate::judge::Judge;\n    crate::listener::carry();").len(), 1, "in code");
    assert_eq!(violations(&map, "proxy", "x.rs", "use crate::judge::Judge;\nuse crate::proxy::flow;").len(), 0);
}

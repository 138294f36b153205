//! Bundles as people and attackers write them.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::*;

const POLICY: &str = "package a\n\nr := 1\n";

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    home
}

fn put(tar: &mut Builder<Vec<u8>>, kind: EntryType, name: &[u8], content: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_mode(0o644);
    if matches!(kind, EntryType::Symlink | EntryType::Link) {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

fn archive(entries: &[(EntryType, &str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
    let mut tar = Builder::new(Vec::new());
    for (kind, name, content) in entries {
        put(&mut tar, *kind, name.as_bytes(), content);
    }
    written(&compressed(&tar.into_inner().unwrap()))
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("bundle.tar.gz");
    fs::write(&path, bytes).unwrap();
    (home, path)
}

fn refusal(path: &Path) -> String {
    let findings = read("b", path, &Bounds::default(), Signatures::Refuse).unwrap_err();
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_directory_and_an_archive_of_the_same_files_are_the_same_bundle() {
    let manifest = r#"{"revision": "r7", "roots": ["a", "c/d"], "metadata": {"x": 1}}"#;
    let files = [
        (".manifest", manifest),
        ("a/data.json", r#"{"b": {"x": 1}}"#),
        ("a/b/data.yaml", "y: [1, 2]\n"),
        ("c/data.json", r#"{"d": {"z": null}}"#),
        ("deep/er/p.rego", POLICY),
        ("p_test.rego", "package a_test\n"),
        (".hidden/p.rego", "no rego at all"),
        ("README.md", "text"),
    ];
    let home = directory(&files);
    let from_directory = read("b", home.path(), &Bounds::default(), Signatures::Refuse).unwrap();
    for prefix in ["", "/", "./"] {
        let entries: Vec<(EntryType, String, &[u8])> =
            files.iter().map(|(name, content)| (EntryType::Regular, format!("{prefix}{name}"), content.as_bytes())).collect();
        let entries: Vec<(EntryType, &str, &[u8])> =
            entries.iter().map(|(kind, name, content)| (*kind, name.as_str(), *content)).collect();
        let (_home, path) = archive(&entries);
        let from_archive = read("b", &path, &Bounds::default(), Signatures::Refuse).unwrap();
        assert_eq!(from_archive.data, from_directory.data);
        assert_eq!(from_archive.modules.len(), from_directory.modules.len());
    }
    assert_eq!(Value::from(from_directory.data), serde_json::json!({"a": {"b": {"x": 1, "y": [1, 2]}}, "c": {"d": {"z": null}}}));
    assert_eq!(from_directory.revision, "r7");
    assert_eq!(from_directory.modules.iter().map(|source| source.test).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_bundle_without_a_manifest_is_named_by_its_content() {
    let one = directory(&[("p.rego", POLICY)]);
    let same = directory(&[("p.rego", POLICY)]);
    let other = directory(&[("p.rego", "package a\n\nr := 2\n")]);
    let revision = |home: &tempfile::TempDir| read("b", home.path(), &Bounds::default(), Signatures::Refuse).unwrap().revision;
    assert!(revision(&one).starts_with("sha256:"));
    assert_eq!(revision(&one), revision(&same));
    assert_ne!(revision(&one), revision(&other));
}

#[test]
fn archives_that_two_readers_could_see_differently_are_refused() {
    let regular = EntryType::Regular;
    let rego = POLICY.as_bytes();
    type Row<'a> = (&'a str, Vec<(EntryType, &'a str, &'a [u8])>);
    let rows: Vec<Row<'_>> = vec![
        ("is a Symlink", vec![(EntryType::Symlink, "p.rego", b"")]),
        ("is a Link", vec![(EntryType::Link, "p.rego", b"")]),
        ("is a Char", vec![(EntryType::Char, "p.rego", b"")]),
        ("is a Fifo", vec![(EntryType::Fifo, "p.rego", b"")]),
        ("is a Block", vec![(EntryType::Block, "p.rego", b"")]),
        ("not a plain relative name", vec![(EntryType::Directory, "a/..", b""), (regular, "p.rego", rego)]),
        ("not a plain relative name", vec![(regular, "/../p.rego", rego)]),
        ("is there twice", vec![(regular, "p.rego", rego), (regular, "./p.rego", rego)]),
        ("not a plain relative name", vec![(regular, "../p.rego", rego)]),
        ("not a plain relative name", vec![(regular, "a/../../p.rego", rego)]),
        ("not a plain relative name", vec![(regular, "//etc/p.rego", rego)]),
        ("not a plain relative name", vec![(regular, "a\\p.rego", rego)]),
        ("second size", vec![(EntryType::XHeader, "pax", b"11 size=99\n"), (regular, "p.rego", rego)]),
    ];
    for (expected, entries) in rows {
        let (_home, path) = archive(&entries);
        let said = refusal(&path);
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn archives_end_where_they_end() {
    let mut tar = Builder::new(Vec::new());
    put(&mut tar, EntryType::Regular, b"p.rego", POLICY.as_bytes());
    let tar = tar.into_inner().unwrap();
    let refused = |bytes: &[u8]| {
        let (_home, path) = written(bytes);
        refusal(&path)
    };
    let whole = compressed(&tar);
    let (_home, path) = written(&whole);
    assert!(read("b", &path, &Bounds::default(), Signatures::Refuse).is_ok());
    // Every byte that is missing is missed, in the compressed stream and in the archive.
    for cut in 0..whole.len() {
        assert!(!refused(&whole[..cut]).is_empty(), "{cut}");
    }
    for cut in [1, 100, 511, 513, 530] {
        let answer = refused(&compressed(&tar[..cut]));
        assert!(answer.contains("not a tar archive") || answer.contains("cut short"), "{cut}: {answer}");
    }
    // An archive behind the archive, in the same stream, in a stream of its own, and as bytes of no stream.
    let behind = [tar.as_slice(), &tar].concat();
    assert!(refused(&compressed(&behind)).contains("bytes follow the end of the tar archive"));
    assert!(refused(&[whole.as_slice(), &whole].concat()).contains("bytes follow the end of the gzip stream"));
    assert!(refused(&[whole.as_slice(), b"x"].concat()).contains("bytes follow the end of the gzip stream"));
}

#[test]
fn archives_are_bounded_before_they_are_held() {
    let (_home, bomb) = archive(&[(EntryType::Regular, "x.txt", &vec![0; 8 << 20])]);
    assert!(refusal(&bomb).contains("inflates to more than"));
    let many: Vec<(EntryType, String, &[u8])> =
        (0..20).map(|n| (EntryType::Regular, format!("{n}.rego"), POLICY.as_bytes())).collect();
    let many: Vec<(EntryType, &str, &[u8])> = many.iter().map(|(kind, name, content)| (*kind, name.as_str(), *content)).collect();
    let (_home, path) = archive(&many);
    let few = Bounds { files: 10, ..Bounds::default() };
    assert!(read("b", &path, &few, Signatures::Refuse).unwrap_err()[0].message.contains("more than 10 files"));
    let small = Bounds { bytes: Size(100), ..Bounds::default() };
    assert!(!read("b", &path, &small, Signatures::Refuse).unwrap_err().is_empty());
    let home = directory(&[("p.rego", POLICY), ("x", &"y".repeat(200))]);
    assert!(read("b", home.path(), &small, Signatures::Refuse).unwrap_err()[0].message.contains("more bytes"));
    assert!(read("b", home.path(), &Bounds { files: 1, ..Bounds::default() }, Signatures::Refuse).is_err());
    let mut trailing = fs::read(&path).unwrap();
    trailing.extend_from_slice(&compressed(b"another stream"));
    let (_home, path) = written(&trailing);
    assert!(refusal(&path).contains("follow the end"));
}

#[test]
fn mistakes_name_their_file_and_place() {
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)]);
    let rows: &[Row<'_>] = &[
        ("/data.json:2:8: not valid JSON: ", &[("data.json", "{\n  \"a\": }")]),
        ("/data.yaml:", &[("data.yaml", "a: [1\nb: 2")]),
        ("/data.json: data must be an object", &[("data.json", "[1]")]),
        ("/.manifest:1:", &[(".manifest", "{\"roots\": 1}")]),
        ("rego_version 2", &[(".manifest", "{\"rego_version\": 2}")]),
        ("roots `a` and `a/b` overlap", &[(".manifest", "{\"roots\": [\"a\", \"a/b\"]}")]),
        ("data.b.c lies outside", &[(".manifest", "{\"roots\": [\"b/d\"]}"), ("data.json", "{\"b\": {\"c\": 1, \"d\": 2}}")]),
        ("data.a.x is already given", &[("a/data.json", "{\"x\": 1}"), ("data.json", "{\"a\": {\"x\": 1}}")]),
        ("the bundle is signed, and nothing says", &[(".signatures.json", "{}")]),
        ("delta bundle", &[("patch.json", "{}")]),
    ];
    for (expected, files) in rows {
        let home = directory(files);
        let said = refusal(home.path());
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_link_is_followed_inside_the_bundle_only() {
    let home = directory(&[("..data/p.rego", POLICY)]);
    std::os::unix::fs::symlink("..data/p.rego", home.path().join("p.rego")).unwrap();
    assert_eq!(read("b", home.path(), &Bounds::default(), Signatures::Refuse).unwrap().modules.len(), 1);
    std::os::unix::fs::symlink("/etc/hostname", home.path().join("q.rego")).unwrap();
    assert!(refusal(home.path()).contains("leaves the bundle"));
}

#[test]
fn the_fingerprint_follows_the_files() {
    let home = directory(&[("a/p.rego", POLICY), ("data.json", "{}")]);
    let first = fingerprint(home.path()).unwrap();
    assert_eq!(first, fingerprint(home.path()).unwrap());
    fs::write(home.path().join("a/p.rego"), "package a\n").unwrap();
    let second = fingerprint(home.path()).unwrap();
    assert_ne!(first, second);
    fs::rename(home.path().join("data.json"), home.path().join("data.yaml")).unwrap();
    assert_ne!(second, fingerprint(home.path()).unwrap());
    assert!(fingerprint(&home.path().join("none")).is_err());
}

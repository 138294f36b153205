//! The README's transcript is what the tour says. Everything else the README shows is checked by `tests/readme.rs`.

use std::path::Path;
use std::process::Command;

#[test]
fn the_tour_exits_0_and_the_readme_shows_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["dev", "--tour"]).current_dir(folder.path()).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let transcript = readme.split("```text\n").find(|block| block.starts_with("A tour of Portcullis")).unwrap();
    let transcript = transcript.split("\n```").next().unwrap();
    let (told, shown): (Vec<String>, Vec<String>) =
        (told.trim_end().lines().map(bare).collect(), transcript.lines().map(bare).collect());
    assert_eq!(told, shown, "paste what `dev --tour` says into the README");
}

/// A line without what differs from run to run: numbers, ids, and where the binary lies.
fn bare(line: &str) -> String {
    let line = match line.split_once("portcullis k") {
        Some((before, rest)) => format!(
            "{}portcullis k{rest}",
            before.split("  ").map(|part| if part.contains('/') { "" } else { part }).collect::<Vec<_>>().join("  ")
        ),
        None => line.to_owned(),
    };
    let word = |word: &str| match word {
        id if id.len() > 30 && id.contains('-') && !id.contains('{') => "ID".to_owned(),
        // An id inside of something longer is letters and digits by chance.
        long if long.len() > 30 && long.contains('-') => long.replace(|c: char| c.is_ascii_hexdigit(), "0"),
        other => other.replace(|c: char| c.is_ascii_digit(), "0"),
    };
    let words: Vec<String> = line.split(' ').map(word).collect();
    let mut bare = words.join(" ");
    while bare.contains("00") {
        bare = bare.replace("00", "0");
    }
    bare.trim_end().to_owned()
}

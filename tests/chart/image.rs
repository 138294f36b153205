//! The image, as far as it can be known without a builder: what goes in is there, and it is what the chart runs.
//!
//! No engine is asked for: base images come from registries a test cannot count on.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::helm::{PROGRAM, object, objects, root, said};

fn lines(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// What the builder is sent.
fn context() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let kept = lines(".dockerignore");
    assert_eq!(kept[0], "*", "everything is left out but what is named");
    for name in kept.iter().skip(1) {
        let name = name.strip_prefix('!').unwrap();
        let from = root().join(name);
        // A folder that is named before there is one.
        if from.exists() {
            assert!(Command::new("cp").arg("-r").arg(from).arg(folder.path()).status().unwrap().success());
        }
    }
    folder
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_builder_is_sent_all_that_the_build_reads() {
    let context = context();
    let manifest = context.path().join("Cargo.toml");
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path"])
        .arg(&manifest)
        .output();
    let metadata = metadata.unwrap();
    // Cargo refuses a manifest that names a target whose file is not there.
    assert!(metadata.status.success(), "{}", said(&metadata));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    for target in metadata["packages"][0]["targets"].as_array().unwrap() {
        assert!(Path::new(target["src_path"].as_str().unwrap()).exists(), "{target}");
    }
    let mut files = Vec::new();
    sources(&context.path().join("src"), &mut files);
    for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
        let text = std::fs::read_to_string(file).unwrap();
        for part in text.split("include_str!(\"").skip(1) {
            let path = part.split('"').next().unwrap();
            assert!(file.parent().unwrap().join(path).exists(), "{} includes {path}", file.display());
        }
    }
}

#[test]
fn the_chart_runs_the_image_as_it_is_built() {
    let dockerfile = lines("Dockerfile");
    let built = |line: &str| assert!(dockerfile.iter().any(|known| known == line), "no `{line}`: {dockerfile:#?}");
    built("RUN cargo build --locked --profile dist --bin portcullis");
    built("COPY --from=builder /src/target/dist/portcullis /usr/local/bin/portcullis");
    built("ENTRYPOINT [\"/usr/local/bin/portcullis\"]");
    let rendered = objects("minimal");
    let gate = &object(&rendered, "Deployment", "")["spec"]["template"]["spec"]["containers"][0];
    let (user, group) = (&gate["securityContext"]["runAsUser"], &gate["securityContext"]["runAsGroup"]);
    built(&format!("USER {user}:{group}"));
    // The entry point stays, so that arguments are all there is to say.
    assert!(gate["command"].is_null());
    let arguments: Vec<&str> = gate["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(arguments[..2], ["run", "-c"]);
}

/// distroless/cc has glibc, its libm and libgcc, and nothing else that could be linked.
#[test]
fn the_gate_needs_no_library_that_the_image_lacks() {
    let output = Command::new("ldd").arg(PROGRAM).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for line in text.lines() {
        let library = line.split_whitespace().next().unwrap();
        let there =
            ["linux-vdso", "libgcc_s", "libm.", "libc.", "/lib64/ld-linux", "/lib/ld-linux", "libpthread", "libdl", "librt"];
        assert!(there.iter().any(|known| library.starts_with(known)), "{library}");
    }
}

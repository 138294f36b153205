//! Runs the program itself as an operator would, in a process of its own.
//!
//! Not a call into the control room: the tour is to show that the commands people type do what it says.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::sync::oneshot;

use super::client::PATIENCE;

/// The program and the control socket its commands go to.
#[derive(Clone, Debug)]
pub struct Operator {
    pub program: PathBuf,
    pub socket: PathBuf,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("`{line}` cannot be started: {error}")]
    Start { line: String, error: std::io::Error },
    #[error("`{line}` ended with {status}: {said}")]
    Failed { line: String, status: std::process::ExitStatus, said: String },
    #[error("`{line}` printed what is not JSON: {said}")]
    NotJson { line: String, said: String },
    #[error("`{line}` did not end within {} s", PATIENCE.as_secs())]
    Late { line: String },
}

impl Operator {
    /// Runs a command with `--socket` and `--json`, and returns what it printed.
    ///
    /// # Errors
    /// When it does not start, fails, takes too long, or prints something else.
    pub async fn run(&self, words: &[&str]) -> Result<Value, CommandError> {
        let line = self.line(words);
        let mut command = Command::new(&self.program);
        command.args(words).arg("--socket").arg(&self.socket).arg("--json").stdin(Stdio::null());
        let (tell, told) = oneshot::channel();
        let start = |error| CommandError::Start { line: line.clone(), error };
        // A thread and not the runtime: the tour reads a stream on that while the command runs.
        std::thread::Builder::new()
            .name("demo-command".to_owned())
            .spawn(move || drop(tell.send(command.output())))
            .map_err(start)?;
        let ended = tokio::time::timeout(PATIENCE, told).await.ok().and_then(Result::ok);
        let output = ended.ok_or_else(|| CommandError::Late { line: line.clone() })?.map_err(start)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(CommandError::Failed { line, status: output.status, said });
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|_| CommandError::NotJson { line, said: String::from_utf8_lossy(&output.stdout).trim().to_owned() })
    }

    /// The command as it could be pasted.
    pub fn line(&self, words: &[&str]) -> String {
        format!("{} {} --socket {} --json", quoted(&self.program), words.join(" "), quoted(&self.socket))
    }
}

/// A path as a shell takes it, relative to the current directory where it is beneath that.
pub fn quoted(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let text = path.strip_prefix(&here).unwrap_or(path).display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(directory: &Path, script: &str) -> Operator {
        use std::os::unix::fs::PermissionsExt as _;
        let program = directory.join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Operator { program, socket: directory.join("control.sock") }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_command_gets_its_words_and_the_socket_and_its_json_comes_back() {
        let scratch = tempfile::tempdir().unwrap();
        let operator = operator(scratch.path(), r#"printf '{"words": "%s"}' "$*""#);
        let told = operator.run(&["kills", "lift", "x"]).await.unwrap();
        assert_eq!(told["words"], format!("kills lift x --socket {} --json", operator.socket.display()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_command_that_fails_says_why() {
        let scratch = tempfile::tempdir().unwrap();
        let failed = operator(scratch.path(), "echo no such kill >&2; exit 1").run(&["kills"]).await.unwrap_err();
        assert!(failed.to_string().ends_with("ended with exit status: 1: no such kill"), "{failed}");
        let odd = operator(scratch.path(), "echo fine").run(&["kills"]).await.unwrap_err();
        assert!(odd.to_string().ends_with("not JSON: fine"), "{odd}");
    }

    #[test]
    fn paths_are_quoted_only_where_a_shell_needs_it() {
        let here = std::env::current_dir().unwrap();
        for (path, expected) in [
            (here.join("target/release/portcullis"), "target/release/portcullis"),
            (PathBuf::from("/opt/a b"), "'/opt/a b'"),
            (PathBuf::from("/opt/it's"), r"'/opt/it'\''s'"),
            (PathBuf::from(".portcullis-dev/control.sock"), ".portcullis-dev/control.sock"),
        ] {
            assert_eq!(quoted(&path), expected);
        }
    }
}

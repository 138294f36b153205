//! The command line, one file a command.
//!
//! In: arguments. Out: data on stdout, talk on stderr, an exit code: 0 ok, 1 failed, 64 usage or configuration (sysexits.h EX_USAGE).
//! Everything written to stdout goes through [`data`], so that a reader who has seen enough (`| head`) is no failure.

mod anomaly;
mod audit;
mod bundle;
mod check;
mod client;
mod courts;
mod coverage;
mod dev;
mod eval;
mod evidence;
mod exchanges;
mod explain;
mod failure;
mod judging;
mod kill;
mod kills;
mod lacking;
mod log;
mod panic;
mod period;
mod policy;
mod replay;
mod run;
mod schema;
mod sessions;
mod status;
mod story;
mod table;
mod test;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::{Failure, MISUSE};
pub use panic::tell_panic;

/// The gate machine identities pass through, and the only one that can drop while somebody is walking through it.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gate.
    Run(run::Arguments),
    /// Reads configuration and bundles: every mistake, and what the policy depends on.
    Check(check::Arguments),
    /// Says the verdict the gate would give on an input document, and why.
    Eval(eval::Arguments),
    /// Judges a recorded decision once more by the policy as it stands now, and says why.
    Explain(explain::Arguments),
    /// Judges recorded decisions by another bundle: which would change.
    Replay(replay::Arguments),
    /// Reads the record.
    Audit(audit::Arguments),
    /// Gathers for an access review what each identity did, and what it may do and did not.
    Evidence(evidence::Arguments),
    /// Runs the tests of a policy (`test_` rules), and says which rules they reach.
    Test(test::Arguments),
    /// Runs everything on this machine: a throw-away CA, a demo upstream, a policy, the gate.
    Dev(dev::Arguments),
    /// Builds, signs, verifies bundles, or looks into one.
    Bundle(bundle::Arguments),
    /// Prints the JSON Schema of the configuration, for editors.
    Schema,
    /// Shows how a running gate stands.
    Status(status::Arguments),
    /// Lists sessions, or shows one with what it did lately.
    Sessions(sessions::Arguments),
    /// Shows what anomaly rules make of a session, and on what evidence.
    Anomaly(anomaly::Arguments),
    /// Lists open exchanges.
    Exchanges(exchanges::Arguments),
    /// Cuts what is open and matches, and admits nothing that matches from then on.
    Kill(kill::Arguments),
    /// Lists the kills that stand, or lifts one.
    Kills(kills::Arguments),
    /// Shows the policy in force, activates the one on disk, or goes back to the one before.
    Policy(policy::Arguments),
}

/// Carries out one command line, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(told) => {
            // Help and version are what was asked for; clap writes them to stdout, and mistakes to stderr.
            let code = if told.use_stderr() { MISUSE } else { 0 };
            let _ = told.print();
            return ExitCode::from(code);
        }
    };
    let done = match arguments.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Audit(arguments) => audit::run(&arguments),
        Command::Evidence(arguments) => evidence::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Dev(arguments) => dev::run(arguments),
        Command::Bundle(arguments) => bundle::run(&arguments),
        Command::Schema => schema::run(),
        Command::Status(arguments) => status::run(&arguments),
        Command::Sessions(arguments) => sessions::run(&arguments),
        Command::Anomaly(arguments) => anomaly::run(&arguments),
        Command::Exchanges(arguments) => exchanges::run(&arguments),
        Command::Kill(arguments) => kill::run(arguments),
        Command::Kills(arguments) => kills::run(&arguments),
        Command::Policy(arguments) => policy::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_told() {
                talk(&failure.to_string());
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Writes data to stdout, with a line end.
fn data(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let ended = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(ended.as_bytes())).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(format!("stdout cannot be written: {error}"))),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Says something to people. If stderr is gone there is nobody to tell.
fn talk(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_line_of_the_contract_is_understood() {
        Arguments::command().debug_assert();
        for line in [
            "run -c gate.yaml",
            "check -c gate.yaml --json",
            "eval -c gate.yaml -i - --entry portcullis/decision --explain --json",
            "eval -c gate.yaml -i input.json --route all",
            "explain 3f2a3f2a-0000-4000-8000-000000000000 -c gate.yaml --log decisions.jsonl --json",
            "replay a.jsonl b.jsonl.gz --bundle authz=new -c gate.yaml --json",
            "audit show a.jsonl --identity spiffe://a.org/x --task t --session 0 --from 2026-11-01 --to 2026-11-02T00:00:00Z --json",
            "audit show --decision 3f2a3f2a-0000-4000-8000-000000000000 a.jsonl",
            "evidence --from 2026-11-01 --to 2026-12-01 -c gate.yaml --format csv a.jsonl",
            "audit verify decisions.jsonl decisions.jsonl.1 --key k.pem --expect - --complete --json",
            "test policy more.rego --run reads --watch --json --coverage-min 80 -v",
            "dev --tour --directory /tmp/x",
            "bundle build policy -o b.tar.gz --revision r1 --root a --root b/c",
            "bundle sign --key k.pem --algorithm ES256 --scope write --keyid k --iat now b.tar.gz",
            "bundle verify --key k.pem --scope write b.tar.gz",
            "bundle inspect b.tar.gz --json",
            "schema",
            "status --socket a.sock --json",
            "sessions --spiffe-id spiffe://a.org/x",
            "sessions 0123",
            "anomaly explain 0123",
            "anomaly explain 0123 --json",
            "exchanges",
            "kill --spiffe-id spiffe://a.org/x --trust-domain a.org --session 0 --upstream u --certificate 0 --address ::1 --reason r",
            "kill --exchange 3f2a3f2a-0000-4000-8000-000000000000 --reason r --ttl 15m --dry-run",
            "kills",
            "kills lift 3f2a3f2a-0000-4000-8000-000000000000",
            "policy",
            "policy show",
            "policy activate --dry-run",
            "policy activate --allow-rollback authz --allow-rollback prices",
            "policy rollback --dry-run --json",
            "policy shadow --by-risk",
            "policy --socket a.sock shadow --json",
        ] {
            let words = std::iter::once("portcullis").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[tokio::test]
    async fn every_command_reads_what_the_gate_answers() {
        let api = crate::control::tests::Api::start();
        let selector = "--spiffe-id spiffe://a.org/x --reason r --ttl 15m";
        for (line, wanted) in [
            ("status", ExitCode::SUCCESS),
            ("status --json", ExitCode::SUCCESS),
            ("sessions --spiffe-id spiffe://a.org/x", ExitCode::SUCCESS),
            ("sessions none", ExitCode::from(1)),
            ("anomaly explain none", ExitCode::from(1)),
            ("exchanges", ExitCode::SUCCESS),
            (&format!("kill {selector}"), ExitCode::SUCCESS),
            ("kills", ExitCode::SUCCESS),
            ("kills lift 3f2a3f2a-0000-4000-8000-000000000000", ExitCode::from(1)),
            ("policy", ExitCode::SUCCESS),
            ("policy shadow", ExitCode::SUCCESS),
            ("policy shadow --by-risk", ExitCode::SUCCESS),
            ("policy activate --dry-run", ExitCode::SUCCESS),
            ("policy activate", ExitCode::SUCCESS),
            // The test's builder refuses to go back.
            ("policy rollback", ExitCode::from(1)),
        ] {
            let socket = api.socket.display().to_string();
            let words: Vec<String> = format!("portcullis {line} --socket {socket}").split(' ').map(str::to_owned).collect();
            let code = tokio::task::spawn_blocking(|| main(words)).await.unwrap();
            assert_eq!(format!("{code:?}"), format!("{wanted:?}"), "{line}");
        }
        assert_eq!(api.registry.standing().len(), 1);
    }

    #[test]
    fn a_kill_of_everybody_or_without_a_reason_is_no_command_line() {
        for line in ["kill --reason r", "kill --upstream u", "kill --upstream u --reason r --ttl 15", "run", "check"] {
            let words = std::iter::once("portcullis").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_err(), "{line}");
        }
    }
}

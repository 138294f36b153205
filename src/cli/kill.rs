//! `portcullis kill`: cuts what matches, and admits nothing that matches from then on.
//!
//! In: a selector, all of whose fields must hold, and a reason. Out: a sentence that says what happened.

use std::net::IpAddr;

use clap::Args;

use super::client::Remote;
use super::failure::Failure;
use super::table::{clean, count};
use super::talk;
use crate::control::answers::{KillRequest, Killed};
use crate::exchange::Selector;
use crate::units::Span;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    whom: Whom,
    /// Why, for whoever reads the record.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long it stands, such as 15m; until it is lifted when absent.
    #[arg(long, value_name = "DURATION")]
    ttl: Option<Span>,
    /// Says what it would cut, and cuts nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Whom {
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// One open exchange; nothing stays standing.
    #[arg(long, value_name = "UUID")]
    exchange: Option<uuid::Uuid>,
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// SHA-256 of the peer's certificate, in lower-case hex.
    #[arg(long, value_name = "HEX")]
    certificate: Option<String>,
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { whom, reason, ttl, dry_run, remote } = arguments;
    let Whom { spiffe_id, trust_domain, session, exchange, upstream, certificate, address } = whom;
    let selector = Selector { spiffe_id, trust_domain, session, exchange, upstream, certificate, address };
    let answer = remote.post("/v1/kills", &KillRequest { selector, reason, ttl, dry_run })?;
    let killed: Killed = answer.read()?;
    if !killed.durable {
        talk("warning: this kill could not be stored; it stands in memory and ends with the gate (see its log)");
    }
    if killed.pending > 0 {
        talk(&format!("warning: {} not acknowledged within a second; see `portcullis exchanges`", count(killed.pending, "cut")));
    }
    if let Some(note) = &killed.note {
        talk(&format!("note: {}", clean(note)));
    }
    remote.show(&answer, |killed| words(&killed, ttl))
}

fn words(killed: &Killed, ttl: Option<Span>) -> String {
    let (cut, closed) = (count(killed.cut, "exchange"), count(killed.connections_closed, "connection"));
    if killed.dry_run {
        return format!("dry run: {cut} would be cut, {closed} closed; nothing has changed");
    }
    let head = format!("killed: {cut} cut, {} pending, {closed} closed", killed.pending);
    match (killed.id, ttl) {
        (Some(id), Some(ttl)) => format!("{head}; kill {id} stands for {ttl}"),
        (Some(id), None) => format!("{head}; kill {id} stands until lifted"),
        (None, _) => format!("{head}; nothing stays standing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::Api;

    fn arguments(api: &Api, dry_run: bool) -> Arguments {
        let spiffe_id = Some("spiffe://a.org/x".to_owned());
        Arguments {
            whom: Whom {
                spiffe_id,
                trust_domain: None,
                session: None,
                exchange: None,
                upstream: None,
                certificate: None,
                address: None,
            },
            reason: "leaked key".to_owned(),
            ttl: None,
            dry_run,
            remote: Remote { socket: Some(api.socket.clone()), json: false },
        }
    }

    #[tokio::test]
    async fn a_kill_from_the_command_line_happens_and_its_rehearsal_does_not() {
        let api = Api::start();
        let worker = Api::end_when_cut(api.open("spiffe://a.org/x"));
        let rehearsal = arguments(&api, true);
        tokio::task::spawn_blocking(|| run(rehearsal)).await.unwrap().unwrap();
        assert!(api.registry.standing().is_empty() && !worker.is_finished());
        let kill = arguments(&api, false);
        tokio::task::spawn_blocking(|| run(kill)).await.unwrap().unwrap();
        worker.await.unwrap();
        assert_eq!(api.registry.standing().all().first().map(|kill| kill.reason.clone()), Some("leaked key".to_owned()));
    }

    #[test]
    fn the_sentence_says_what_happened_and_what_stays() {
        let id = Some(crate::exchange::KillId(uuid::Uuid::nil()));
        let killed = Killed { id, cut: 2, connections_closed: 1, durable: true, ..Killed::default() };
        let stands = "killed: 2 exchanges cut, 0 pending, 1 connection closed; kill 00000000-0000-0000-0000-000000000000 stands";
        assert_eq!(words(&killed, None), format!("{stands} until lifted"));
        assert_eq!(words(&killed, Some(Span::seconds(900))), format!("{stands} for 15m"));
        assert!(words(&Killed { id: None, ..killed.clone() }, None).ends_with("nothing stays standing"));
        assert!(words(&Killed { dry_run: true, ..killed }, None).starts_with("dry run: 2 exchanges would be cut"));
    }
}

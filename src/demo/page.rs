//! The page `dev` prints: what runs where, and lines that work when pasted.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use super::command::quoted;
use super::stage::{Role, Stage};
use super::teller::Teller;

/// Where everything listens.
pub(super) struct Places<'a> {
    pub(super) gate: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) upstream: SocketAddr,
    pub(super) control: &'a Path,
    pub(super) program: &'a Path,
}

/// Prints it.
///
/// # Errors
/// When stdout cannot be written.
pub(super) fn show<W: Write>(stage: &Stage, places: &Places<'_>, teller: &mut Teller<W>) -> io::Result<()> {
    let Places { gate, admin, upstream, control, program } = places;
    teller.line("Portcullis stands in front of a demo admin API. Ctrl-C ends it.")?;
    teller.line("")?;
    teller.fact("the gate", &format!("https://localhost:{}", gate.port()))?;
    teller.fact("the demo API behind it", &format!("http://{upstream}"))?;
    teller.fact("probes and metrics", &format!("http://{admin}"))?;
    teller.fact("the control socket", &quoted(control))?;
    teller.fact("the configuration", &quoted(&stage.gate_yaml()))?;
    teller.fact("the policy, watched", &quoted(&stage.directory().join("policy")))?;
    teller.fact("the record", &quoted(&stage.decisions()))?;

    let curl = |role, rest: &str| {
        let (bundle, certificate, key) = (quoted(&stage.bundle()), quoted(&stage.certificate(role)), quoted(&stage.key(role)));
        format!("curl --cacert {bundle} --cert {certificate} --key {key} {rest}")
    };
    let to = |path: &str| format!("https://localhost:{}{path}", gate.port());
    let research = |rest: &str| curl(Role::Research, rest);
    let (program, socket) = (quoted(program), quoted(control));
    let id = Role::Research.spiffe_id();
    let body = r#"-H 'content-type: application/json' -d '{"name": "eve", "role": "admin"}'"#;
    let data = quoted(&stage.policy_data());
    for (title, line) in [
        ("The agent may read:", research(&to("/v1/users"))),
        ("It may not delete:", research(&format!("-X DELETE {}", to("/v1/users/7")))),
        ("An operator may:", curl(Role::Alice, &format!("-i -X DELETE {}", to("/v1/users/7")))),
        ("Whoever is created starts as a viewer, whatever was sent:", research(&format!("{body} {}", to("/v1/users")))),
        ("An event stream, for the kill below:", research(&format!("-N {}", to("/v1/events")))),
        ("A long download:", research(&format!("-o /dev/null {}", to("/v1/export")))),
        (
            "It ends when the policy says so (and may start again when this says true):",
            format!("sed -i.old 's/\"export_open\": true/\"export_open\": false/' {data} && rm {data}.old"),
        ),
        ("In another terminal, what is going on:", format!("{program} sessions --socket {socket}")),
        (
            "And the end of all of it, for five minutes:",
            format!("{program} kill --socket {socket} --spiffe-id {id} --reason demo --ttl 5m"),
        ),
        ("Which kills stand, to lift one:", format!("{program} kills --socket {socket}")),
        ("Metrics:", format!("curl -s http://{admin}/metrics")),
        ("Every decision:", format!("tail -f {}", quoted(&stage.decisions()))),
    ] {
        teller.line("")?;
        teller.line(title)?;
        teller.line(&format!("  {line}"))?;
    }
    Ok(())
}

//! `kill`, `activate` and `anomaly`: many open streams, and how soon those that must end have ended.
//!
//! 10,000 streams of two identities: 1,000 event streams over HTTP/1.1, 1,000 WebSockets, 8,000 event streams over HTTP/2 on 100
//! connections; a tenth of each belongs to the one that is killed. Measured is from just before the call until the client saw the end
//! of each stream, which is later than its last byte; the gate's own time, from its metric, stands beside it. Who does not match
//! must go on: each of the others has to tick again.
//!
//! A client that holds all 10,000 sees an end late when it is busy with somebody else's ticks. So `kill` and `anomaly` are measured
//! twice: with one client for all, and with a client of their own for those that match, which reads nothing else. Load and upstream
//! share a core either way; what each process did until the answer came stands in the table.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{OTHER, Run, VICTIM, words};
use crate::load::now_us;
use crate::policy::{self, In};
use crate::proxies::{GateDoors, Kind, Proxy, STEPS};
use crate::report::{Table, milliseconds, quantile};
use crate::rig::{self, Load};
use crate::tls::agent;

/// Streams of one HTTP/2 connection.
const H2_STREAMS: usize = 80;
/// Within this every stream ticks at least once.
const TICKS: Duration = Duration::from_millis(2500);

/// Who holds the streams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clients {
    /// One process all of them.
    One,
    /// One those that match, another one the others.
    Apart,
}

/// What became of the streams.
struct Outcome {
    matching: usize,
    others: usize,
    /// From the call to the end of each stream that matched, in µs, and of which kind it was.
    ended: Vec<(String, f64)>,
    /// From the call to its answer, in µs.
    answered: f64,
    /// The gate's own time, from cause to last byte, in µs: mean, and the bucket bound that holds 99 of 100.
    gate: (f64, f64),
    /// CPU between call and answer, in µs: of the gate, of the clients, of the upstream.
    spent: [f64; 3],
    answer: Value,
}

struct Row {
    kind: String,
    agent: u64,
    ticks: u64,
    ended_us: u64,
    how: String,
}

pub fn kill(run: &Run) -> Result<()> {
    for clients in [Clients::One, Clients::Apart] {
        let title = "kill: one identity of two, among all open streams";
        rounds(run, "kill", title, clients, |proxy| {
            let (doors, began) = (doors(proxy)?, now_us());
            let id = agent(VICTIM);
            let body = format!(r#"{{"selector": {{"spiffe_id": "{id}"}}, "reason": "bench"}}"#);
            Ok((began, rig::control(&doors.socket, "POST", "/v1/kills", &body)?))
        })?;
    }
    Ok(())
}

pub fn activate(run: &Run) -> Result<()> {
    rounds(run, "policy", "activate: a policy that allows none of the open streams", Clients::One, |proxy| {
        let doors = doors(proxy)?;
        let put = policy::prepare(&doors.policy, In::Revoked)?;
        let began = now_us();
        put();
        Ok((began, rig::control(&doors.socket, "POST", "/v1/policy/activate", "{}")?))
    })
}

/// A rule's kill, from the request that fired it.
pub fn anomaly(run: &Run) -> Result<()> {
    for clients in [Clients::One, Clients::Apart] {
        let title = "anomaly: a sequence of two requests kills their identity";
        rounds(run, "anomaly", title, clients, |proxy| {
            let mut asks = run.load(proxy, &words(&format!("asks {VICTIM} {} {}", STEPS[0], STEPS[1])))?;
            let told = asks.expect("end")?;
            ensure!(!told["refused"].is_null(), "the request that should have fired the rule was answered");
            Ok((told["sent_us"].as_u64().context("no time")?, told))
        })?;
    }
    Ok(())
}

fn rounds(run: &Run, cause: &str, title: &str, clients: Clients, act: impl Fn(&Proxy) -> Result<(u64, Value)>) -> Result<()> {
    let outcomes = (0..run.scale.rounds.min(3)).map(|_| one(run, cause, clients, &act)).collect::<Result<Vec<_>>>()?;
    match clients {
        Clients::One => report(title, &outcomes),
        Clients::Apart => report(&format!("{title}, which a client of their own reads"), &outcomes),
    }
    Ok(())
}

fn report(title: &str, outcomes: &[Outcome]) {
    let mut table = Table::new(title, &["what", "measured"]);
    let Some(first) = outcomes.first() else { return };
    let mut row = |what: &str, measured: String| table.row(vec![what.to_owned(), measured]);
    let ends = |of: &dyn Fn(&str) -> bool| -> Vec<f64> {
        outcomes.iter().flat_map(|outcome| &outcome.ended).filter(|(kind, _)| of(kind)).map(|(_, after)| *after).collect()
    };
    let mut ended = ends(&|_| true);
    row("streams that matched, and others", format!("{} and {}, {} rounds", first.matching, first.others, outcomes.len()));
    row("call → end seen by the client, p50", milliseconds(quantile(&mut ended, 0.5)));
    row("call → end seen by the client, p99", milliseconds(quantile(&mut ended, 0.99)));
    row("call → end seen by the client, last", milliseconds(quantile(&mut ended, 1.0)));
    let each: Vec<String> = outcomes
        .iter()
        .map(|outcome| milliseconds(quantile(&mut outcome.ended.iter().map(|(_, after)| *after).collect::<Vec<_>>(), 0.99)))
        .collect();
    row("the same p99 of each round", each.join(", "));
    for kind in ["sse", "ws", "h2"] {
        row(&format!("the same p99, {kind} only"), milliseconds(quantile(&mut ends(&|of| of == kind), 0.99)));
    }
    let mut answered: Vec<f64> = outcomes.iter().map(|outcome| outcome.answered).collect();
    row("call → answer, slowest round", milliseconds(quantile(&mut answered, 1.0)));
    let means: Vec<f64> = outcomes.iter().map(|outcome| outcome.gate.0).collect();
    let mut bounds: Vec<f64> = outcomes.iter().map(|outcome| outcome.gate.1).collect();
    row("inside the gate, cause → last byte, mean", milliseconds(crate::report::median(&means)));
    row("inside the gate, cause → last byte, p99 at most", milliseconds(quantile(&mut bounds, 1.0)));
    for (place, who) in ["the gate", "the clients", "the upstream"].into_iter().enumerate() {
        let spent: Vec<f64> = outcomes.iter().map(|outcome| outcome.spent[place]).collect();
        row(&format!("CPU of {who} until the answer"), milliseconds(crate::report::median(&spent)));
    }
    row("the others", "all went on ticking".to_owned());
    row("the answer", outcomes.last().map(|outcome| outcome.answer.to_string()).unwrap_or_default());
    table.print();
}

fn doors(proxy: &Proxy) -> Result<&GateDoors> {
    proxy.gate.as_ref().context("a gate has doors")
}

/// What each client holds.
fn wanted(run: &Run, clients: Clients) -> Vec<Vec<String>> {
    let websocket = if run.websocket { "ws" } else { "sse" };
    let of = |(share, agent): (usize, usize)| {
        let count = run.scaled(100) * share;
        let h2 = run.scaled(10) * share;
        [format!("sse*{count}@{agent}"), format!("{websocket}*{count}@{agent}"), format!("h2x{H2_STREAMS}*{h2}@{agent}")]
    };
    let hold = |what: Vec<String>| std::iter::once("hold".to_owned()).chain(what).collect();
    let shares = [(1, VICTIM), (9, OTHER)];
    match clients {
        Clients::One => vec![hold(shares.into_iter().flat_map(of).collect())],
        Clients::Apart => shares.into_iter().map(|share| hold(of(share).into())).collect(),
    }
}

fn rows(loads: &mut [Load]) -> Result<Vec<Row>> {
    let mut all = Vec::new();
    for load in loads {
        all.append(&mut rows_of(load)?);
    }
    Ok(all)
}

fn rows_of(load: &mut Load) -> Result<Vec<Row>> {
    load.order("report")?;
    let report = load.expect("report")?;
    let read = |row: &Value| {
        Some(Row {
            kind: row[0].as_str()?.to_owned(),
            agent: row[1].as_u64()?,
            ticks: row[2].as_u64()?,
            ended_us: row[4].as_u64()?,
            how: row[5].as_str()?.to_owned(),
        })
    };
    report["held"].as_array().context("no rows")?.iter().map(|row| read(row).context("a row that cannot be read")).collect()
}

fn one(run: &Run, cause: &str, clients: Clients, act: impl Fn(&Proxy) -> Result<(u64, Value)>) -> Result<Outcome> {
    let all = cause == "policy";
    let proxy = Proxy::start(if cause == "anomaly" { Kind::GateRules } else { Kind::Gate }, &run.place())?;
    let mut loads = Vec::new();
    for wanted in wanted(run, clients) {
        let mut load = run.load(&proxy, &wanted)?;
        load.expect("ready")?;
        loads.push(load);
    }
    std::thread::sleep(TICKS);
    for row in rows(&mut loads)? {
        ensure!(row.ended_us == 0, "a stream ended before anything was done: {} ({})", row.kind, row.how);
        ensure!(row.ticks > 0, "a stream of {} did not tick", row.kind);
    }
    for load in &mut loads {
        load.order("mark")?;
        load.expect("marked")?;
    }
    let on_cpu = || [proxy.served.on_cpu(), loads.iter().map(Load::on_cpu).sum(), run.service.on_cpu()];
    let before = on_cpu();
    let (began, answer) = act(&proxy)?;
    let answered = (now_us() - began) as f64;
    let after = on_cpu();
    let spent = std::array::from_fn(|place| (after[place] - before[place]) as f64 / 1000.0);
    std::thread::sleep(TICKS);
    let (mut ended, mut others) = (Vec::new(), 0);
    for row in rows(&mut loads)? {
        if all || row.agent == VICTIM as u64 {
            ensure!(row.ended_us > 0, "a stream of {} that matched goes on", row.kind);
            ensure!(row.ended_us >= began, "a stream of {} ended before the call: {}", row.kind, row.how);
            ended.push((row.kind, (row.ended_us - began) as f64));
        } else {
            ensure!(row.ended_us == 0, "a stream of {} that did not match ended: {}", row.kind, row.how);
            ensure!(row.ticks > 0, "a stream of {} that did not match stands still", row.kind);
            others += 1;
        }
    }
    // What a rule kills is cut by a kill.
    let label = if all { "policy" } else { "kill" };
    let gate = own_time(&rig::metrics(doors(&proxy)?.admin)?, label);
    Ok(Outcome { matching: ended.len(), others, ended, answered, gate, spent, answer })
}

/// Mean and upper bound of the 99th percentile of `portcullis_cut_seconds`, in µs.
fn own_time(metrics: &str, cause: &str) -> (f64, f64) {
    let label = format!("cause=\"{cause}\"");
    let sum = rig::sample(metrics, "portcullis_cut_seconds_sum", &label);
    let count = rig::sample(metrics, "portcullis_cut_seconds_count", &label);
    let mut buckets: Vec<(f64, f64)> = metrics
        .lines()
        .filter(|line| line.starts_with("portcullis_cut_seconds_bucket") && line.contains(&label))
        .filter_map(|line| {
            let bound = line.split("le=\"").nth(1)?.split('"').next()?.parse().ok()?;
            Some((bound, line.rsplit(' ').next()?.parse().ok()?))
        })
        .collect();
    buckets.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let bound = buckets.iter().find(|(_, held)| *held >= count * 0.99).map_or(f64::NAN, |(bound, _)| *bound);
    (sum / count * 1e6, bound * 1e6)
}

//! What one line of the record costs the request it is about: its room reserved, its fields written, handed to the writer.
//!
//! `cargo bench --bench record` prints the median of rounds, on one thread, with the writer (which chains, signs and writes to a
//! file) on another. What is measured is the CPU time of the request's thread, waking the writer included: wall time would count
//! what else the machine does. What the writer does is not the request's, and is told beside it, per line.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, SystemTime};

use mimalloc::MiMalloc;
use portcullis::audit::{Audit, AuditMetrics, Config, Core, Labels, Line, Outcome, Record, Resource};
use portcullis::decision::{Basis, Ending, Enforcement, Phase, Protocol};
use rustix::time::{ClockId, clock_gettime};
use serde_json::value::RawValue;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const ROUNDS: u32 = 25;
const PER_ROUND: u32 = 4_000;

fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let config = Config { file: home.path().join("decisions.jsonl"), ..Config::default() };
    let metrics = AuditMetrics {
        written: prometheus::IntCounter::new("written", "Lines.")?,
        lost: prometheus::IntCounter::new("lost", "Lines.")?,
        refused: prometheus::IntCounter::new("refused", "Exchanges.")?,
        dropped: prometheus::IntCounter::new("dropped", "Decisions.")?,
        lag: prometheus::Gauge::new("lag", "Seconds.")?,
    };
    let labels = Labels {
        id: "cbfbce00-895f-4d3a-b3d3-9da89c37c94a".to_owned(),
        version: "0.1.0".to_owned(),
        environment: "production".to_owned(),
        extra: BTreeMap::new(),
    };
    let (audit, writer) = Audit::open(&config, &labels, metrics, None)?;
    let writer = std::thread::spawn(move || {
        writer.run();
        thread_cpu()
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rounds = runtime.block_on(measure(&audit))?;
    rounds.sort_unstable();
    let middle = rounds.get(rounds.len() / 2).copied().unwrap_or_default();
    println!("a decision line, queued: {:.2} µs of CPU of the request's thread, median of {ROUNDS} rounds", micros(middle));
    runtime.block_on(audit.close())?;
    let spent = writer.join().map_err(|_| "the writer panicked")?;
    let lines = ROUNDS * PER_ROUND;
    let size = std::fs::metadata(home.path().join("decisions.jsonl"))?.len();
    println!(
        "a line in the file, chained: {} bytes, {:.2} µs of CPU of the writer's thread",
        size / u64::from(lines),
        micros(spent / lines)
    );
    Ok(())
}

/// What this thread has spent on a core, in the kernel as well.
fn thread_cpu() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or_default())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

async fn measure(audit: &Audit) -> Result<Vec<Duration>, Box<dyn Error>> {
    let input = RawValue::from_string(
        serde_json::json!({
            "peer": {"spiffe_id": "spiffe://example.org/agents/a7777", "trust_domain": "example.org", "segments": ["agents", "a7777"]},
            "request": {"method": "POST", "segments": ["v1", "reports", "2026", "q3"], "path": "/v1/reports/2026/q3"},
            "resource": {"type": "report", "sensitivity": "high", "effect": "write", "environment": "production"},
            "environment": "production", "time": {"seconds": 1_764_000_000},
        })
        .to_string(),
    )?;
    let result = RawValue::from_string("{\"allowed\":true}".to_owned())?;
    let bundles = BTreeMap::from([("authz".to_owned(), "r42".to_owned())]);
    let record = Record {
        requested_by: Some("10.0.0.7:40000".parse()?),
        path: Some("portcullis/decision"),
        input: Some(&input),
        result: Some(&result),
        bundles: Some(&bundles),
        evaluation: Some(Duration::from_micros(12)),
        ..Record::new(SystemTime::now(), "0190a0a0-0000-7000-8000-000000000001", core())
    };
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let began = thread_cpu();
        for _ in 0..PER_ROUND {
            let mut permit = audit.reserve(1).await.map_err(|_| "the writer is too slow")?;
            drop(permit.write(Line::Decision(&record)));
        }
        rounds.push((thread_cpu() - began) / PER_ROUND);
        // The writer catches up; what is measured is not how long its queue is.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    Ok(rounds)
}

fn core() -> Core<'static> {
    Core {
        exchange: Some("0190a0a0-0000-7000-8000-000000000001"),
        session: Some("c10a54899044cf54048d5b2a51a8a947"),
        peer: Some("spiffe://example.org/agents/a7777"),
        owner: Some("data-team"),
        action: Some("POST"),
        resource: Some(Resource { r#type: "report", sensitivity: "high", effect: "write" }),
        route: Some("all"),
        listener: Some("admin-api"),
        upstream: Some("payroll"),
        basis: Some(Basis::Standing),
        enforcement: Some(Enforcement::Enforce),
        verdict: Outcome::Allow,
        generation: Some(7),
        protocol: Some(Protocol::Http1),
        method: Some("POST"),
        host: Some("payroll.internal"),
        path: Some("/v1/reports/2026/q3"),
        status: Some(200),
        bytes_in: 1024,
        bytes_out: 1024,
        duration: Some(Duration::from_micros(900)),
        ending: Some(Ending::Complete),
        phase: Some(Phase::Request),
        engine: Some("vm"),
        ..Core::default()
    }
}

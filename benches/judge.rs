//! What one verdict costs on the reference policy (`policy/policy.rego`, 70 lines, with 10,000 agents and grants).
//!
//! `cargo bench --bench judge` prints medians and 99th percentiles of the interpreter, of the VM as regorus has it, and of the VM with
//! patterns compiled once, first with the input built, then with everything a judge does: input, verdict, answer; and of a verdict
//! that was given before. All of them
//! take turns in each round, so that a busy machine slows all alike; compare ratios of one run, and never two runs.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use mimalloc::MiMalloc;
use portcullis::action::Action;
use portcullis::decision::Phase;
use portcullis::exchange::Registry;
use portcullis::judge::case::{
    BodyFacts, Case, CertificateFacts, ConnectionFacts, Progress, RequestFacts, ResourceFacts, RouteFacts, Suspicion,
};
use portcullis::judge::{AddressLists, Bench, Judge, Networks};
use portcullis::policy::{BundleSource, Chosen, Config, EngineChoice, Entry, Limits, Policy, TestChoice};
use portcullis::session::View;
use portcullis::units::Size;
use regorus::Value;
use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const AGENTS: usize = 10_000;
const ROUNDS: usize = 9;
const PER_ROUND: usize = 4_000;
const RULE: &str = "data.portcullis.decision";

fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/policy/policy.rego"), home.path().join("policy.rego"))?;
    std::fs::write(home.path().join("data.json"), data(AGENTS).to_string())?;
    let (fast, slow) =
        (load(home.path(), EngineChoice::Auto, Size::mib(4))?, load(home.path(), EngineChoice::Interpreter, Size(0))?);
    if let Chosen::Interpreter { why } = fast.chosen(0) {
        return Err(format!("the reference policy is not judged by the VM: {why}").into());
    }
    one_thread(&fast, &slow, home.path())?;
    two_threads(&fast)?;
    sizes()?;
    decided()
}

fn load(home: &Path, engine: EngineChoice, reuse: Size) -> Result<Arc<Policy>, Box<dyn Error>> {
    let config = Config {
        bundles: BTreeMap::from([("bench".to_owned(), BundleSource::at(home.to_owned()))]),
        decision: "portcullis/decision".to_owned(),
        result: None,
        may_kill: Vec::new(),
        limits: Limits::default(),
        engine,
        tests: TestChoice::Ignore,
        reuse,
        shadow: None,
    };
    Ok(Arc::new(Policy::load(&config, &[Entry::new("portcullis/decision", None)]).map_err(|report| report.to_string())?))
}

fn data(count: usize) -> serde_json::Value {
    let id = |number: usize| format!("spiffe://example.org/agents/a{number}");
    let agents: serde_json::Map<String, serde_json::Value> =
        (0..count).map(|number| (id(number), serde_json::json!({"roles": ["reader", "writer"], "team": number % 100}))).collect();
    let grants: serde_json::Map<String, serde_json::Value> = (0..count)
        .map(|number| {
            (id(number), serde_json::json!({"expires": 2_000_000_000, "revoked": false, "environments": ["staging", "production"]}))
        })
        .collect();
    serde_json::json!({
        "agents": agents, "grants": grants,
        "roles": {"reader": {"methods": ["HEAD"]}, "writer": {"methods": ["GET", "POST", "PUT"]}},
        "networks": ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
                     "127.0.0.0/8", "fc00::/7", "fe80::/10", "10.0.0.0/8"]
    })
}

/// Everything a question borrows.
struct Asked {
    connection: ConnectionFacts,
    headers: HeaderMap,
    segments: Vec<String>,
    session: View,
    windows: BTreeMap<String, bool>,
}

impl Asked {
    fn new(agent: usize) -> Result<Self, Box<dyn Error>> {
        let certificate = CertificateFacts { serial: "01", sha256: "00", not_after: 1_900_000_000, lifetime_seconds: 3600 };
        let address = |text: &str| text.parse::<SocketAddr>();
        let mut headers = HeaderMap::new();
        for name in ["accept", "user-agent", "content-type", "x-request-id", "traceparent", "accept-encoding", "authorization"] {
            headers.insert(name, http::HeaderValue::from_static("application/json"));
        }
        Ok(Self {
            connection: ConnectionFacts::new(
                &format!("spiffe://example.org/agents/a{agent}").parse()?,
                certificate,
                (address("10.0.0.7:40000")?, address("10.0.0.1:8443")?),
                Some("payroll.internal"),
                "spiffe://example.org/gate",
                "mtls",
                &Networks::new(&AddressLists::from([("corp".to_owned(), vec!["10.0.0.0/8".parse()?])])),
            ),
            headers,
            segments: ["v1", "reports", "2026", "q3"].map(str::to_owned).to_vec(),
            session: View { age_seconds: 60, requests: 1000, denied: 3, recent: Vec::new() },
            windows: BTreeMap::new(),
        })
    }

    fn case(&self) -> Case<'_> {
        Case {
            phase: Phase::Request,
            environment: "production",
            exchange_id: "0190a0a0-0000-7000-8000-000000000001",
            request: RequestFacts {
                method: "POST",
                scheme: "https",
                host: "payroll.internal",
                port: 443,
                path: "/v1/reports/2026/q3",
                segments: &self.segments,
                raw_query: None,
                query: &[],
                headers: &self.headers,
                size: Some(0),
                protocol: "HTTP/1.1",
                rewritten: false,
                action: Action::http("POST"),
            },
            body: BodyFacts::default(),
            resource: ResourceFacts { r#type: "user", sensitivity: "high", effect: "write", environment: "production" },
            route: RouteFacts { listener: "admin-api", name: "all", upstream: "payroll" },
            connection: &self.connection,
            destination: None,
            anomaly: Suspicion(&|| None),
            workload: None,
            session_id: "session",
            session: &self.session,
            progress: Progress::default(),
            now: Duration::from_secs(1_764_000_000),
            began: Duration::from_secs(1_764_000_000),
            windows: &self.windows,
        }
    }
}

fn judge(policy: &Arc<Policy>) -> Result<Judge, Box<dyn Error>> {
    let bench = Bench::new(1, Arc::new(Registry::new(1)));
    let judges = bench.candidates(policy, &[], 1).map_err(|report| report.to_string())?;
    judges.into_iter().next().ok_or_else(|| "no judge".into())
}

/// The VM as regorus has it, with its own builtins.
fn plain_vm(home: &Path) -> Result<RegoVM, Box<dyn Error>> {
    let mut engine = regorus::Engine::new();
    engine.add_policy("policy.rego".to_owned(), std::fs::read_to_string(home.join("policy.rego"))?)?;
    engine.add_data(Value::from_json_str(&data(AGENTS).to_string())?)?;
    let policy = engine.compile_with_entrypoint(&RULE.into())?;
    let mut vm = RegoVM::new();
    vm.load_program(Compiler::compile_from_policy(&policy, &[RULE])?);
    vm.set_data(engine.get_data())?;
    Ok(vm)
}

fn timed(into: &mut Vec<u64>, mut run: impl FnMut()) {
    for _ in 0..PER_ROUND {
        let began = Instant::now();
        run();
        into.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
}

fn one_thread(fast: &Arc<Policy>, slow: &Arc<Policy>, home: &Path) -> Result<(), Box<dyn Error>> {
    let asked = Asked::new(7777)?;
    // More agents than a worker remembers verdicts of, each asking once a round.
    let strangers = (0..AGENTS).map(Asked::new).collect::<Result<Vec<_>, _>>()?;
    let (mut vm, mut interpreter) = (judge(fast)?, judge(slow)?);
    let (mut vm_engine, mut interpreter_engine) =
        (fast.engine().map_err(|report| report.to_string())?, slow.engine().map_err(|report| report.to_string())?);
    let mut plain = plain_vm(home)?;
    let judgement = vm.judge(0, &asked.case());
    let input = judgement.input.clone();
    let answer = interpreter.judge(0, &asked.case()).answer;
    if !judgement.verdict.allowed || judgement.answer != answer {
        return Err(format!("the reference request must be allowed by both engines: {:?} {answer:?}", judgement.answer).into());
    }
    plain.set_input(input.clone());
    if Some(plain.execute_entry_point_by_index(0)?) != answer {
        return Err("regorus' own VM says something else".into());
    }
    let names = [
        "input built: interpreter",
        "input built: VM",
        "input built: VM, patterns compiled once",
        "judge: interpreter",
        "judge: VM, never the same question",
        "judge: the same question, reused",
        "of which: building the input",
    ];
    let mut times = vec![Vec::with_capacity(ROUNDS * PER_ROUND); names.len()];
    let plan = Arc::clone(&vm.generation);
    for _ in 0..ROUNDS {
        let [a, b, c, d, e, f, g] = times.as_mut_slice() else { return Err("seven figures".into()) };
        timed(a, || drop(interpreter_engine.ask(0, input.clone())));
        timed(b, || {
            plain.set_input(input.clone());
            drop(plain.execute_entry_point_by_index(0));
        });
        timed(c, || drop(vm_engine.ask(0, input.clone())));
        timed(d, || drop(interpreter.judge(0, &asked.case())));
        let mut others = strangers.iter().cycle();
        timed(e, || drop(others.next().map(|asked| vm.judge(0, &asked.case()))));
        timed(f, || drop(vm.judge(0, &asked.case())));
        timed(g, || drop(plan.plans.first().map(|plan| plan.input(&asked.case()))));
    }
    println!("{:45} {:>10} {:>10}", "one thread, µs", "median", "p99");
    for (name, times) in names.iter().zip(&mut times) {
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or(0) as f64 / 1000.0;
        println!("{name:45} {:>10.2} {:>10.2}", at(50), at(99));
    }
    Ok(())
}

/// What a verdict costs with tables of 10 and of 1,000,000 entries, half of them agents and half of them grants.
fn sizes() -> Result<(), Box<dyn Error>> {
    let mut judges = Vec::new();
    for agents in [5, 500_000] {
        let home = tempfile::tempdir()?;
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/policy/policy.rego"), home.path().join("policy.rego"))?;
        std::fs::write(home.path().join("data.json"), data(agents).to_string())?;
        judges.push((agents, judge(&load(home.path(), EngineChoice::Auto, Size(0))?)?, Vec::new()));
    }
    let asked = Asked::new(3)?;
    for _ in 0..ROUNDS {
        for (_, judge, times) in &mut judges {
            timed(times, || drop(judge.judge(0, &asked.case())));
        }
    }
    for (agents, _, times) in &mut judges {
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or(0) as f64 / 1000.0;
        println!("{:45} {median:>10.2}", format!("judge: tables of {} entries", 2 * *agents));
    }
    Ok(())
}

/// The same rules with what the gate decides itself: address lists for networks, the type of a resource for path globs.
fn decided() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let mut text = String::new();
    for line in std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/policy/policy.rego"))?.lines() {
        let line = match line {
            line if line.contains("glob.match") => "path_granted if input.resource.type in {\"user\", \"report\"}",
            line if line.trim_start().starts_with("some network in") => "",
            line if line.contains("net.cidr_contains") => "\t\"corp\" in input.connection.lists",
            line => line,
        };
        text = format!("{text}{line}\n");
    }
    std::fs::write(home.path().join("policy.rego"), text)?;
    std::fs::write(home.path().join("data.json"), data(AGENTS).to_string())?;
    let mut engine = load(home.path(), EngineChoice::Auto, Size(0))?.engine().map_err(|report| report.to_string())?;
    let mut judging = judge(&load(home.path(), EngineChoice::Auto, Size(0))?)?;
    let asked = Asked::new(7777)?;
    let judgement = judging.judge(0, &asked.case());
    if !judgement.verdict.allowed {
        return Err(format!("the request must be allowed: {:?}", judgement.answer).into());
    }
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        timed(&mut times, || drop(engine.ask(0, judgement.input.clone())));
    }
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or(0) as f64 / 1000.0;
    println!("{:45} {:>10.2} {:>10.2}", "input built: VM, lists and resources decided", at(50), at(99));
    Ok(())
}

/// Judges a second on one thread, then on two, each with a judge of its own; a loop of plain arithmetic says what two threads of
/// this machine are worth at the same moment.
fn two_threads(policy: &Arc<Policy>) -> Result<(), Box<dyn Error>> {
    let mut gains = [Vec::new(), Vec::new()];
    for _ in 0..5 {
        for (control, gains) in [false, true].into_iter().zip(&mut gains) {
            let one = rate(policy, 1, control)?;
            gains.push(rate(policy, 2, control)? / one);
        }
    }
    for (name, mut gains) in ["two workers, judges a second", "two threads of arithmetic (the control)"].into_iter().zip(gains) {
        gains.sort_by(f64::total_cmp);
        println!("{name:45} {:>9.2}x", gains.get(gains.len() / 2).copied().unwrap_or(0.0));
    }
    Ok(())
}

fn rate(policy: &Arc<Policy>, threads: usize, control: bool) -> Result<f64, Box<dyn Error>> {
    let mut running = Vec::new();
    for _ in 0..threads {
        let mut judge = judge(policy)?;
        running.push(std::thread::spawn(move || -> Result<u64, String> {
            let asked = (0..AGENTS).map(Asked::new).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
            let mut asked = asked.iter().cycle();
            let until = Instant::now() + Duration::from_millis(300);
            let mut done = 0u64;
            while Instant::now() < until {
                if control {
                    std::hint::black_box((0..20_000u64).fold(done, |sum, number| sum.rotate_left(5) ^ number));
                } else {
                    (0..10).for_each(|_| drop(asked.next().map(|asked| judge.judge(0, &asked.case()))));
                }
                done += 1;
            }
            Ok(done)
        }));
    }
    let mut done = 0;
    for thread in running {
        done += thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(done as f64)
}

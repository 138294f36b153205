//! `exchange` and `handshake`: CPU of the proxy for a request, and for a connection.
//!
//! All proxies stand beside each other; a round asks each of them once, so that what changes on the machine changes for all. What is
//! compared is the median of the rounds' ratios to Envoy with RBAC. CPU is what all threads of the proxy spent on a core in the window,
//! divided by the requests that ended in it.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::{Absent, LOADER, Run, words};
use crate::proxies::{Kind, Proxy};
use crate::report::{Table, median, one, two};

const CONNECTIONS: usize = 32;
const H2_CONNECTIONS: usize = 8;
const H2_STREAMS: usize = 8;
const HANDSHAKE_LANES: usize = 16;

/// What one proxy did in one round.
struct Sample {
    cpu_us: f64,
    authorizer_us: f64,
    per_second: f64,
    p50: f64,
    p99: f64,
}

pub fn exchange(run: &Run) -> Result<()> {
    let (proxies, absent) = run.start_all(&Kind::ALL)?;
    let seconds = format!("{} {}", run.scale.warm.as_millis(), run.scale.length.as_millis());
    let h1 = words(&format!("exchange {LOADER} {CONNECTIONS} 0 {seconds}"));
    let h2 = words(&format!("exchange {LOADER} {H2_CONNECTIONS} {H2_STREAMS} {seconds}"));
    for (title, arguments) in [
        (format!("exchange, HTTP/1.1: {CONNECTIONS} connections kept alive, mTLS, 1 KiB"), h1),
        (format!("exchange, HTTP/2: {H2_CONNECTIONS} connections of {H2_STREAMS} streams, mTLS, 1 KiB"), h2),
    ] {
        compare(run, &title, "request", &proxies, &absent, &arguments)?;
    }
    Ok(())
}

pub fn handshake(run: &Run) -> Result<()> {
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| *kind != Kind::EnvoyAuthorizer).collect();
    let (proxies, absent) = run.start_all(&kinds)?;
    let arguments =
        words(&format!("handshakes {LOADER} {HANDSHAKE_LANES} {} {}", run.scale.warm.as_millis(), run.scale.length.as_millis()));
    let title = "handshake: a full mTLS handshake, one request over HTTP/1.1, close";
    compare(run, title, "connection", &proxies, &absent, &arguments)
}

fn compare(run: &Run, title: &str, unit: &str, proxies: &[Proxy], absent: &Absent, arguments: &[String]) -> Result<()> {
    let mut rounds: Vec<HashMap<&str, Sample>> = Vec::new();
    for _ in 0..run.scale.rounds {
        let mut round = HashMap::new();
        for proxy in proxies {
            round.insert(proxy.kind.word(), once(run, proxy, arguments)?);
        }
        rounds.push(round);
    }
    let over = |kind: Kind, of: &dyn Fn(&Sample) -> f64| -> Vec<f64> {
        rounds.iter().filter_map(|round| round.get(kind.word())).map(of).collect()
    };
    let against = |kind: Kind, other: Kind, what: &dyn Fn(f64, f64) -> f64| {
        let pairs = rounds.iter().filter_map(|round| Some((round.get(kind.word())?, round.get(other.word())?)));
        median(&pairs.map(|(a, b)| what(a.cpu_us, b.cpu_us)).collect::<Vec<_>>())
    };
    let cpu = format!("CPU µs a {unit}");
    let rate = format!("{unit}s a second");
    let mut table = Table::new(
        title,
        &["proxy", &cpu, "range of rounds", "times Envoy RBAC", "µs over the floor", "authorizer µs", &rate, "p50 µs", "p99 µs"],
    );
    for proxy in proxies {
        let kind = proxy.kind;
        let mut spent = over(kind, &|sample| sample.cpu_us);
        spent.sort_unstable_by(f64::total_cmp);
        let authorizer = median(&over(kind, &|sample| sample.authorizer_us));
        table.row(vec![
            kind.name().to_owned(),
            one(median(&spent)),
            format!("{} to {}", one(spent.first().copied().unwrap_or(f64::NAN)), one(spent.last().copied().unwrap_or(f64::NAN))),
            two(against(kind, Kind::EnvoyRbac, &|a, b| a / b)),
            one(against(kind, Kind::Floor, &|a, b| a - b)),
            if authorizer > 0.0 { one(authorizer) } else { "-".to_owned() },
            format!("{:.0}", median(&over(kind, &|sample| sample.per_second))),
            format!("{:.0}", median(&over(kind, &|sample| sample.p50))),
            format!("{:.0}", median(&over(kind, &|sample| sample.p99))),
        ]);
    }
    absent.rows().for_each(|row| table.row(row));
    table.print();
    Ok(())
}

fn once(run: &Run, proxy: &Proxy, arguments: &[String]) -> Result<Sample> {
    let mut load = run.load(proxy, arguments)?;
    load.expect("begin")?;
    let authorizer = || proxy.authorizer.as_ref().map_or(0, crate::rig::Served::on_cpu);
    let (before, asked_before) = (proxy.served.on_cpu(), authorizer());
    let told = load.expect("end")?;
    let (spent, asked) = (proxy.served.on_cpu() - before, authorizer() - asked_before);
    ensure!(told["errors"] == 0, "{}: {} errors, the first: {}", proxy.kind.name(), told["errors"], told["first_error"]);
    let done = told["done"].as_f64().unwrap_or(0.0);
    ensure!(done > 0.0, "{}: nothing was done", proxy.kind.name());
    let number = |name: &str| told[name].as_f64().unwrap_or(f64::NAN);
    Ok(Sample {
        cpu_us: spent as f64 / 1000.0 / done,
        authorizer_us: asked as f64 / 1000.0 / done,
        per_second: done / number("seconds"),
        p50: number("p50_us"),
        p99: number("p99_us"),
    })
}

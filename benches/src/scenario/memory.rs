//! `memory`: resident memory of an idle proxy, and what each idle connection adds.
//!
//! Difference method: a first share of connections is opened before, so that what a proxy allocates once for all of them does not
//! count. Each connection has had one request. Kernel buffers of sockets are not in it.

use std::time::Duration;

use anyhow::Result;

use super::{LOADER, Run, not_run, words};
use crate::proxies::{Kind, Proxy};
use crate::report::{Table, one};

const FIRST: usize = 400;
const CONNECTIONS: usize = 1000;
/// Until what a handshake needed is given back, at most.
const SETTLES_IN: Duration = Duration::from_millis(700);

pub fn memory(run: &Run) -> Result<()> {
    let kinds = [Kind::Floor, Kind::Nginx, Kind::Haproxy, Kind::Envoy, Kind::EnvoyRbac, Kind::GateAllow, Kind::Gate];
    let title = format!("memory: {} idle mTLS connections after one request each", run.scaled(CONNECTIONS));
    let mut table = Table::new(&title, &["proxy", "MiB at start", "KiB a connection, HTTP/1.1", "KiB a connection, HTTP/2"]);
    for kind in kinds.into_iter().filter(|kind| run.wants(*kind)) {
        if let Some(how) = crate::proxies::missing(kind, &run.place()) {
            table.row(not_run(kind, &how));
            continue;
        }
        let (at_start, h1) = held(run, kind, "idle")?;
        let (_, h2) = held(run, kind, "idle-h2")?;
        table.row(vec![kind.name().to_owned(), one(at_start), one(h1), one(h2)]);
    }
    table.print();
    Ok(())
}

/// Resident MiB at start, and KiB a connection.
fn held(run: &Run, kind: Kind, what: &str) -> Result<(f64, f64)> {
    let proxy = Proxy::start(kind, &run.place())?;
    std::thread::sleep(SETTLES_IN.min(run.scale.length));
    let at_start = proxy.served.resident();
    let open = |count: usize| {
        let mut load = run.load(&proxy, &words(&format!("hold {what}*{count}@{LOADER}")))?;
        load.expect("ready")?;
        std::thread::sleep(SETTLES_IN.min(run.scale.length));
        anyhow::Ok((load, proxy.served.resident()))
    };
    let count = run.scaled(CONNECTIONS);
    let (_first, before) = open(run.scaled(FIRST))?;
    let (_second, after) = open(count)?;
    Ok((at_start as f64 / 1024.0, (after as f64 - before as f64) / count as f64))
}

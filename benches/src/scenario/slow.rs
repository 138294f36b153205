//! `slow`: honest requests beside 10,000 slow clients and 10,000 idle connections.
//!
//! A third of the slow ones drips a head, a third a body, a third reads a long download by the kilobyte. The honest ones come 500 a
//! second in an open loop, whatever the gate does; their p99 is compared with its value before the others came. Head drips last
//! as long as the measurement: with `limits.header_timeout` at its default the gate would have closed them after 10 s. Where the limit
//! of open files is too low for so many, there are fewer, and the title says how many. The bare proxy carries the same clients: what it
//! cannot keep is the machine's doing, where clients, upstream and the honest ones share one core.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{LOADER, OTHER, Run, VICTIM, words};
use crate::proxies::{Kind, Proxy};
use crate::report::{Table, median, two};

const SLOW: usize = 10_000;
const IDLE: usize = 10_000;
const RATE: usize = 500;
const CONNECTIONS: usize = 50;
/// Files of the gate that are not sockets of slow clients.
const SPARE_FILES: u64 = 500;

pub fn slow(run: &Run) -> Result<()> {
    // The gate has a socket for each client, and one more for each whose request went up: two of three slow ones.
    let room = usize::try_from(run.files.saturating_sub(SPARE_FILES) * 3 / 8).unwrap_or(SLOW);
    let (slow, idle) = (run.scaled(SLOW).min(room), run.scaled(IDLE).min(room));
    let title = format!("slow: {RATE} honest requests a second beside {slow} slow clients and {idle} idle connections");
    let mut table = Table::new(
        &title,
        &["proxy", "p50 µs alone", "p99 µs alone", "p50 µs beside", "p99 µs beside", "p99, times alone", "resident MiB"],
    );
    for kind in [Kind::Floor, Kind::Gate].into_iter().filter(|kind| run.wants(*kind)) {
        let proxy = Proxy::start(kind, &run.place())?;
        let alone = honest(run, &proxy)?;
        let third = slow / 3;
        let mut clients = run.load(
            &proxy,
            &words(&format!(
                "hold idle*{idle}@{OTHER} slow-head*{third}@{VICTIM} slow-body*{third}@{VICTIM} slow-reader*{}@{VICTIM}",
                slow - 2 * third
            )),
        )?;
        clients.expect("ready")?;
        let beside = honest(run, &proxy)?;
        let resident = proxy.served.resident() as f64 / 1024.0;
        clients.order("report")?;
        let report = clients.expect("report")?;
        let ended = report["held"].as_array().into_iter().flatten().filter(|row| row[4] != 0);
        let ended: Vec<String> = ended.map(|row| format!("{} {}", row[0], row[5])).collect();
        ensure!(ended.is_empty(), "{} of the clients were not held to the end, the first: {:?}", ended.len(), ended.first());
        table.row(vec![
            kind.name().to_owned(),
            format!("{:.0}", alone.0),
            format!("{:.0}", alone.1),
            format!("{:.0}", beside.0),
            format!("{:.0}", beside.1),
            two(beside.1 / alone.1),
            format!("{resident:.0}"),
        ]);
    }
    table.print();
    Ok(())
}

/// Medians of p50 and p99 of the rounds, in µs.
pub(super) fn honest(run: &Run, proxy: &Proxy) -> Result<(f64, f64)> {
    let length = run.scale.length.max(Duration::from_millis(1000)) * 2;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..run.scale.rounds.min(3) {
        let arguments = format!("exchange {LOADER} {CONNECTIONS} 0 {} {} {RATE}", run.scale.warm.as_millis(), length.as_millis());
        let mut load = run.load(proxy, &words(&arguments))?;
        load.expect("begin")?;
        let told = load.expect("end")?;
        ensure!(told["errors"] == 0, "{} honest requests failed, the first: {}", told["errors"], told["first_error"]);
        p50.push(told["p50_us"].as_f64().unwrap_or(f64::NAN));
        p99.push(told["p99_us"].as_f64().unwrap_or(f64::NAN));
    }
    Ok((median(&p50), median(&p99)))
}

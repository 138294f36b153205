//! `reload`: honest requests while a bundle with 50 MB of data is put in force again and again.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

use super::Run;
use super::slow::honest;
use crate::proxies::{Kind, Proxy};
use crate::report::{Table, two};
use crate::{policy, rig};

const BYTES: usize = 50_000_000;

pub fn reload(run: &Run) -> Result<()> {
    let mut table = Table::new(
        "reload: 500 requests a second while a bundle with 50 MB of data is activated without a pause",
        &[
            "proxy",
            "p50 µs before",
            "p99 µs before",
            "p50 µs during",
            "p99 µs during",
            "p99, times before",
            "activations",
            "resident MiB",
        ],
    );
    for kind in [Kind::Gate].into_iter().filter(|kind| run.wants(*kind)) {
        let proxy = Proxy::start(kind, &run.place())?;
        let doors = proxy.gate.as_ref().context("a gate has doors")?;
        let weights = policy::weights(&doors.policy, BYTES, 8)?;
        let fresh = doors.policy.with_file_name("fresh-weight");
        let before = honest(run, &proxy)?;
        let over = AtomicBool::new(false);
        let (during, activations) = std::thread::scope(|scope| {
            let activating = scope.spawn(|| -> Result<usize> {
                let mut done = 0;
                while !over.load(Ordering::Relaxed) {
                    // Files made beforehand: making them would take the load's core.
                    let weight = weights.get(done % weights.len()).context("no weight")?;
                    std::fs::hard_link(weight, &fresh)?;
                    std::fs::rename(&fresh, doors.policy.join("bulk/data.json"))?;
                    let answer = rig::control(&doors.socket, "POST", "/v1/policy/activate", "{}")?;
                    ensure!(answer["generation"].is_u64(), "an activation failed: {answer}");
                    done += 1;
                }
                Ok(done)
            });
            let during = honest(run, &proxy);
            over.store(true, Ordering::Relaxed);
            let activations = activating.join().map_err(|_| anyhow::anyhow!("the activating thread panicked"))?;
            Ok::<_, anyhow::Error>((during?, activations?))
        })?;
        table.row(vec![
            kind.name().to_owned(),
            format!("{:.0}", before.0),
            format!("{:.0}", before.1),
            format!("{:.0}", during.0),
            format!("{:.0}", during.1),
            two(during.1 / before.1),
            activations.to_string(),
            format!("{:.0}", proxy.served.resident() as f64 / 1024.0),
        ]);
    }
    table.print();
    Ok(())
}

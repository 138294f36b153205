//! `abuse`: five floods of HTTP/2 frames, until the gate closes the connection.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{LOADER, Run, words};
use crate::load::abuse::KINDS;
use crate::proxies::{Kind, Proxy};
use crate::report::{Table, milliseconds, one};

pub fn abuse(run: &Run) -> Result<()> {
    let mut table = Table::new(
        "abuse: HTTP/2 floods by a caller with a valid certificate",
        &["flood", "closed after", "frames it took", "MiB before", "MiB after"],
    );
    let proxy = Proxy::start(Kind::Gate, &run.place())?;
    let mut never = Vec::new();
    for kind in KINDS {
        std::thread::sleep(Duration::from_millis(300));
        let before = proxy.served.resident();
        let mut load = run.load(&proxy, &words(&format!("abuse {LOADER} {kind}")))?;
        let told = load.expect("end")?;
        let after = proxy.served.resident();
        let closed = match told["closed"].as_bool() {
            Some(true) => milliseconds(told["after_us"].as_f64().unwrap_or(f64::NAN)),
            _ => {
                never.push(kind);
                "never".to_owned()
            }
        };
        let mebibytes = |kibibytes: u64| one(kibibytes as f64 / 1024.0);
        table.row(vec![kind.to_owned(), closed, told["frames"].to_string(), mebibytes(before), mebibytes(after)]);
    }
    table.print();
    ensure!(never.is_empty(), "never closed: {}", never.join(", "));
    Ok(())
}

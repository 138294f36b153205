//! What is measured: a file each, and what they share.

pub mod abuse;
pub mod exchange;
pub mod memory;
pub mod reload;
pub mod slow;
pub mod streams;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::proxies::{Kind, Place, Proxy, missing};
use crate::rig::{LOAD_CORE, Load, Served, free_address, pinned};

/// The agents of the policy's table that have certificates here: who loads, who is killed, who goes on.
pub const LOADER: usize = 7;
pub const VICTIM: usize = 11;
pub const OTHER: usize = 13;

/// How much is done.
pub struct Scale {
    pub rounds: usize,
    pub warm: Duration,
    pub length: Duration,
    /// Of 10,000 clients and streams, one in so many.
    pub divisor: usize,
}

/// One run and everything its scenarios need.
pub struct Run {
    pub folder: PathBuf,
    pub repository: PathBuf,
    pub gate: PathBuf,
    pub scale: Scale,
    pub websocket: bool,
    pub only: Option<Vec<String>>,
    /// Open files one process may have.
    pub files: u64,
    pub upstream: SocketAddr,
    /// Who serves there; it ends with the run.
    pub service: Served,
}

impl Run {
    pub fn start_upstream(folder: &Path, tick: Duration) -> Result<(SocketAddr, Served)> {
        let address = free_address()?;
        let mut command = pinned(LOAD_CORE, &std::env::current_exe()?);
        command.arg("upstream").arg(address.to_string()).arg(tick.as_millis().to_string());
        Ok((address, Served::start(command, folder.join("upstream.log"), address)?))
    }

    pub fn place(&self) -> Place<'_> {
        Place { folder: &self.folder, repository: &self.repository, gate: &self.gate, upstream: self.upstream }
    }

    pub fn wants(&self, kind: Kind) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|word| word == kind.word()))
    }

    /// Starts those of `kinds` that are wanted and here; tells of the others.
    pub fn start_all(&self, kinds: &[Kind]) -> Result<(Vec<Proxy>, Absent)> {
        let (mut started, mut absent) = (Vec::new(), Absent(Vec::new()));
        for kind in kinds.iter().copied().filter(|kind| self.wants(*kind)) {
            match missing(kind, &self.place()) {
                None => started.push(Proxy::start(kind, &self.place())?),
                Some(how) => absent.0.push((kind, how)),
            }
        }
        Ok((started, absent))
    }

    pub fn load(&self, proxy: &Proxy, arguments: &[String]) -> Result<Load> {
        let mut all = vec![proxy.address.to_string(), self.folder.display().to_string()];
        all.extend_from_slice(arguments);
        Load::start(&all)
    }

    pub fn scaled(&self, count: usize) -> usize {
        (count / self.scale.divisor).max(1)
    }
}

/// Who is not on this machine, and how it would get there.
pub struct Absent(Vec<(Kind, String)>);

/// Words of a command line.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Absent {
    /// Its rows.
    pub fn rows(&self) -> impl Iterator<Item = Vec<String>> + '_ {
        self.0.iter().map(|(kind, how)| not_run(*kind, how))
    }
}

/// The row of a proxy that is not on this machine.
pub fn not_run(kind: Kind, how: &str) -> Vec<String> {
    vec![kind.name().to_owned(), format!("not run: {how}")]
}

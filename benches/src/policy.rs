//! The reference policy as a bundle: `policy/policy.rego` as it stands, and data of 10,000 agents that is made here.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::tls::agent;

const POLICY: &str = include_str!("../policy/policy.rego");
const AGENTS: usize = 10_000;

/// What the data says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum In {
    Force,
    /// The same, and every grant is revoked.
    Revoked,
}

/// Writes the bundle; files are replaced whole, so that nobody reads half of one.
pub fn write(folder: &Path, state: In) -> Result<()> {
    prepare(folder, state)?();
    Ok(())
}

/// Writes the bundle beside its folder; what is returned puts it in its place.
pub fn prepare(folder: &Path, state: In) -> Result<impl FnOnce()> {
    let all = |value: &dyn Fn(usize) -> Value| -> Map<String, Value> {
        (0..AGENTS).map(|number| (agent(number), value(number))).collect()
    };
    let data = json!({
        "agents": all(&|number| json!({"roles": ["reader", "writer"], "team": number % 100})),
        "grants": all(&|_| json!({"expires": 4_000_000_000_u64, "revoked": state == In::Revoked, "environments": ["staging", "production"]})),
        "roles": {"reader": {"methods": ["HEAD"]}, "writer": {"methods": ["GET", "POST", "PUT"]}},
        "networks": ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
                     "127.0.0.0/8", "fc00::/7", "fe80::/10", "10.0.0.0/8"],
    });
    put(folder, &[("policy.rego", POLICY.to_owned()), ("data.json", data.to_string())])
}

/// Writes tables the policy does not read, of about so many bytes of JSON each, and returns where they lie.
pub fn weights(folder: &Path, bytes: usize, count: usize) -> Result<Vec<PathBuf>> {
    let table = |salt: usize| {
        let row = |number: usize| {
            format!("\"{number:08}\": {{\"owner\": \"team-{}\", \"seen\": {salt}, \"tags\": [\"a\", \"b\"]}}", number % 97)
        };
        let rows: Vec<String> = (0..bytes / row(0).len()).map(row).collect();
        let file = folder.with_file_name(format!("weight-{salt}"));
        std::fs::write(&file, format!("{{\"rows\": {{{}}}}}", rows.join(",")))?;
        Ok(file)
    };
    std::fs::create_dir_all(folder.join("bulk"))?;
    (0..count).map(table).collect()
}

fn put(folder: &Path, files: &[(&str, String)]) -> Result<impl FnOnce() + use<>> {
    let mut moves = Vec::new();
    for (name, text) in files {
        // Beside the folder, where nobody takes it for a part of the bundle.
        let fresh = folder.with_file_name(format!("fresh-{name}"));
        std::fs::write(&fresh, text)?;
        moves.push((fresh, folder.join(name)));
    }
    Ok(move || {
        for (fresh, name) in moves {
            // Both lie in folders this program made; should it fail all the same, the old bundle stays and the scenario says so.
            let _ = std::fs::rename(fresh, name);
        }
    })
}

//! The reference policy as a bundle: `policy/policy.rego` as it stands, and data of 10,000 agents that is made here.

use std::path::Path;

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
    for (name, text) in [("policy.rego", POLICY.to_owned()), ("data.json", data.to_string())] {
        let fresh = folder.with_extension("fresh");
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, folder.join(name))?;
    }
    Ok(())
}

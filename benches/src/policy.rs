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
    /// The same, and nothing is allowed any more.
    Closed,
}

/// Writes the bundle; files are replaced whole, so that nobody reads half of one.
pub fn write(folder: &Path, state: In) -> Result<()> {
    let agents: Map<String, Value> = (0..AGENTS).map(|number| {
        let role = if number % 10 == 0 { "operator" } else { "reader" };
        (agent(number), json!({"role": role, "expires": 4_000_000_000_u64, "risk": number % 50, "revoked": false, "owner": format!("team-{}", number % 97)}))
    }).collect();
    let data = json!({"bench": {
        "agents": agents,
        "roles": {
            "reader": {"methods": {"GET": true, "HEAD": true, "POST": true}, "may_destroy": false},
            "operator": {"methods": {"GET": true, "HEAD": true, "POST": true, "PUT": true, "DELETE": true}, "may_destroy": true},
        },
        "risk_threshold": 70,
        "open": state == In::Force,
    }});
    for (name, text) in [("policy.rego", POLICY.to_owned()), ("data.json", data.to_string())] {
        let fresh = folder.with_extension("fresh");
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, folder.join(name))?;
    }
    Ok(())
}

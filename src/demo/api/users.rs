//! The users of the demo API, in memory.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Users kept; one more is refused.
const MOST: usize = 1000;

/// See the module.
#[derive(Debug)]
pub(super) struct Users {
    next: u64,
    by_id: BTreeMap<u64, Value>,
}

impl Users {
    /// The users there are at the start.
    pub(super) fn seeded() -> Self {
        let seeds = [(1, "ada", "admin"), (2, "grace", "editor"), (7, "linus", "viewer")];
        let by_id = seeds.into_iter().map(|(id, name, role)| (id, user(id, name, role))).collect();
        Self { next: 8, by_id }
    }

    pub(super) fn all(&self) -> Value {
        self.by_id.values().cloned().collect()
    }

    pub(super) fn find(&self, id: u64) -> Option<Value> {
        self.by_id.get(&id).cloned()
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Value> {
        self.by_id.remove(&id)
    }

    /// Stores who is described by a JSON object with a name and a role, and returns what was stored.
    pub(super) fn add(&mut self, body: &[u8]) -> Result<Value, &'static str> {
        let asked: Value = serde_json::from_slice(body).map_err(|_| "the body is not JSON")?;
        let text = |key| asked.get(key).and_then(Value::as_str);
        let (Some(name), Some(role)) = (text("name"), text("role")) else { return Err("a user has a name and a role") };
        if self.by_id.len() >= MOST {
            return Err("there are too many users");
        }
        let (id, stored) = (self.next, user(self.next, name, role));
        self.next += 1;
        self.by_id.insert(id, stored.clone());
        Ok(stored)
    }
}

fn user(id: u64, name: &str, role: &str) -> Value {
    json!({"id": id, "name": name, "role": role})
}

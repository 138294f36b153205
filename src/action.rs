//! What a request is doing: its action, and the resource it does it to.

use schemars::JsonSchema;
use serde::Deserialize;

/// One row of `resources`: which requests touch which kind of resource. The first matching row counts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceRule {
    pub r#match: ResourceMatch,
    /// A name of your choice: user, invoice, secret.
    pub r#type: String,
    pub sensitivity: Sensitivity,
    pub effect: Effect,
}

/// Which requests a row of `resources` is about; what is absent matches everything.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceMatch {
    /// Exact, or `*.example.org` for any one label.
    pub hosts: Vec<String>,
    /// `*` stands for one whole segment, a last `**` for any rest.
    pub path: Option<String>,
    pub methods: Vec<String>,
}

/// How much harm reading or changing a resource can do.
#[derive(Clone, Copy, Debug, Deserialize, serde::Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Sensitivity {
    Low,
    Medium,
    High,
}

/// What a request does to a resource.
#[derive(Clone, Copy, Debug, Deserialize, serde::Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    Read,
    Write,
    Destroy,
}

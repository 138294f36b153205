//! The judge: facts, input, verdict. The only room that reads policy and state together.

pub mod answer;
pub mod body;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spiffe::Pattern;

/// One row of `workloads`: who owns an identity, and what it is. The first matching row counts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRule {
    pub spiffe_id: Pattern,
    pub owner: String,
    /// Such as agent, service, job.
    pub kind: String,
    /// Such as high, low.
    #[serde(default)]
    pub class: Option<String>,
    /// Whom to call, as a URL.
    #[serde(default)]
    pub contact: Option<String>,
}

/// One row of `time_windows`: the hours of the week in which it is open, in UTC.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeWindow {
    /// Such as [mon, tue, wed, thu, fri].
    pub days: Vec<Day>,
    /// The first minute it is open, as 08:00.
    pub from: String,
    /// The first minute it is closed again, as 18:00.
    pub to: String,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// `address_lists`: name → networks.
pub type AddressLists = BTreeMap<String, Vec<ipnet::IpNet>>;

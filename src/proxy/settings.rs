//! The configuration in force, made ready for requests: routes, upstreams, resources, and what else a reload may change.
//!
//! In: each room's part of the configuration. Out: one immutable [`Settings`], of which every worker holds a copy of its own, so that
//! no reference count of it moves between cores. What must stay true: a reload is an activation. New settings are published before
//! the generation that judges by them, and a worker takes both together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;

use super::normalise;
use super::route::Routes;
use super::{EnforcementConfig, RouteConfig};
use crate::action::{ResourceRule, Resources};
use crate::anomaly::{self, Rules};
use crate::audit::InputDetail;
use crate::decision::Enforcement;
use crate::judge::{AddressLists, Networks, TimeWindow, WorkloadRule};
use crate::metrics::{ListenerMetrics, Metrics, UpstreamMetrics};
use crate::policy::{Entry, ResultShape};
use crate::upstream::{self, Upstream};

/// See the module.
#[derive(Clone, Debug)]
pub struct Settings {
    pub environment: Arc<str>,
    /// In the order of the configuration; a listener knows its place.
    pub listeners: Vec<Listener>,
    pub upstreams: Vec<Target>,
    pub resources: Resources,
    pub workloads: Vec<WorkloadRule>,
    pub networks: Networks,
    pub windows: BTreeMap<String, TimeWindow>,
    /// The entry points of the policy, as routes count them.
    pub entries: Vec<Entry>,
    pub body_limit: usize,
    pub body_depth: usize,
    pub input_detail: InputDetail,
    pub exchanges_per_identity: usize,
    pub anomaly: Arc<Rules>,
    pub reassess_every: Duration,
    /// Memory for the bodies of open exchanges, all workers together.
    pub retained: u64,
}

/// An upstream and what it counts.
#[derive(Clone, Debug)]
pub struct Target {
    pub upstream: Upstream,
    pub metrics: UpstreamMetrics,
}

/// One listener's part.
#[derive(Clone, Debug)]
pub struct Listener {
    pub name: String,
    pub server_names: Vec<String>,
    pub health: Option<String>,
    pub sse_last_event: bool,
    pub reading: normalise::Downstream,
    pub metrics: ListenerMetrics,
    routes: Routes,
    places: Vec<Route>,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    /// Its place among the upstreams.
    pub upstream: usize,
    pub enforcement: Enforcement,
    /// Its place among the policy's entry points.
    pub entry: usize,
}

/// What a listener's configuration gives to its requests.
#[derive(Clone, Debug)]
pub struct ListenerPart<'a> {
    pub name: &'a str,
    pub server_names: &'a [String],
    pub health: Option<&'a str>,
    pub sse_last_event: bool,
    pub routes: &'a [RouteConfig],
}

/// What the configuration gives to requests, room by room.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    pub environment: &'a str,
    pub listeners: Vec<ListenerPart<'a>>,
    pub upstreams: &'a BTreeMap<String, upstream::Config>,
    pub resources: &'a [ResourceRule],
    pub workloads: &'a [WorkloadRule],
    pub address_lists: &'a AddressLists,
    pub windows: &'a BTreeMap<String, TimeWindow>,
    pub decision: &'a str,
    pub result: Option<ResultShape>,
    pub body_limit: usize,
    pub body_depth: usize,
    pub head: normalise::Limits,
    pub input_detail: InputDetail,
    pub exchanges_per_identity: usize,
    pub anomaly: &'a anomaly::Config,
    pub reassess_every: Duration,
    pub retained: u64,
}

impl Settings {
    /// Makes the configuration ready.
    ///
    /// # Errors
    /// Every mistake, each as a sentence that names its place.
    pub fn new(parts: &Parts<'_>, metrics: &Metrics) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut upstreams = Vec::new();
        for (name, config) in parts.upstreams {
            match Upstream::new(name, config) {
                Ok(upstream) => upstreams.push(Target { upstream, metrics: metrics.upstream(name) }),
                Err(error) => mistakes.push(format!("upstreams.{name}.endpoint: {error}")),
            }
        }
        let resources = Resources::new(parts.resources).unwrap_or_else(|wrong| {
            mistakes.extend(wrong.into_iter().map(|wrong| format!("resources: {wrong}")));
            Resources::default()
        });
        let rules = Rules::new(parts.anomaly).unwrap_or_else(|wrong| {
            mistakes.extend(wrong);
            Rules::default()
        });
        metrics.expect_anomalies(rules.iter().map(|rule| (rule.name.as_str(), rule.action.code(), rule.observe)));
        let mut entries = Vec::new();
        let listeners = parts
            .listeners
            .iter()
            .filter_map(|part| {
                Listener::new(part, parts, &upstreams, metrics, &mut entries).map_err(|wrong| mistakes.extend(wrong)).ok()
            })
            .collect();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self {
            environment: Arc::from(parts.environment),
            listeners,
            upstreams,
            resources,
            workloads: parts.workloads.to_vec(),
            networks: Networks::new(parts.address_lists),
            windows: parts.windows.clone(),
            entries,
            body_limit: parts.body_limit,
            body_depth: parts.body_depth,
            input_detail: parts.input_detail,
            exchanges_per_identity: parts.exchanges_per_identity,
            anomaly: Arc::new(rules),
            reassess_every: parts.reassess_every,
            retained: parts.retained,
        })
    }

    /// A copy that shares no reference count with the original.
    #[must_use]
    pub fn apart(&self) -> Self {
        let mut copy = self.clone();
        copy.environment = Arc::from(&*self.environment);
        for target in &mut copy.upstreams {
            target.upstream.name = Arc::from(&*target.upstream.name);
        }
        copy
    }

    pub fn listener(&self, place: usize) -> Option<&Listener> {
        self.listeners.get(place)
    }

    /// The route that takes a request, and its upstream.
    pub fn route(&self, listener: usize, host: &str, path: &str) -> Option<(usize, &Route, &Target)> {
        let listener = self.listener(listener)?;
        let place = listener.routes.find(host, path)?;
        let route = listener.places.get(place)?;
        Some((place, route, self.upstreams.get(route.upstream)?))
    }

    pub fn route_at(&self, listener: usize, place: usize) -> Option<&Route> {
        self.listener(listener)?.places.get(place)
    }
}

impl Listener {
    fn new(
        part: &ListenerPart<'_>,
        parts: &Parts<'_>,
        upstreams: &[Target],
        metrics: &Metrics,
        entries: &mut Vec<Entry>,
    ) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let routes = Routes::new(part.routes).map_err(|wrong| mistakes.extend(wrong));
        let mut places = Vec::new();
        for route in part.routes {
            let Some(upstream) = upstreams.iter().position(|target| *target.upstream.name == *route.upstream) else {
                mistakes.push(format!("route `{}`: there is no upstream `{}`", route.name, route.upstream));
                continue;
            };
            let enforcement = match route.enforcement {
                EnforcementConfig::Enforce => Enforcement::Enforce,
                EnforcementConfig::Observe => Enforcement::Observe,
            };
            places.push(Route { name: route.name.clone(), upstream, enforcement, entry: entry_of(route, parts, entries) });
        }
        let place = |wrong: Vec<String>| wrong.into_iter().map(|wrong| format!("listener `{}`: {wrong}", part.name)).collect();
        let Ok(routes) = routes else { return Err(place(mistakes)) };
        if !mistakes.is_empty() {
            return Err(place(mistakes));
        }
        Ok(Self {
            name: part.name.to_owned(),
            server_names: part.server_names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            health: part.health.map(str::to_owned),
            sse_last_event: part.sse_last_event,
            reading: normalise::Downstream { scheme: Scheme::HTTPS, limits: parts.head },
            metrics: metrics.listener(part.name),
            routes,
            places,
        })
    }
}

/// The place of a route's entry point; routes that ask the same rule in the same shape share one.
fn entry_of(route: &RouteConfig, parts: &Parts<'_>, entries: &mut Vec<Entry>) -> usize {
    let decision = route.decision.as_deref().unwrap_or(parts.decision);
    let by_path = if decision.starts_with("envoy/") { ResultShape::Envoy } else { ResultShape::Portcullis };
    // A shape given for the whole policy is about its own rule; a route that names another rule goes by that one's path.
    let given = route.result.or_else(|| if route.decision.is_none() { parts.result } else { None });
    let entry = Entry { decision: decision.to_owned(), shape: given.unwrap_or(by_path) };
    entries.iter().position(|known| known.decision == entry.decision && known.shape == entry.shape).unwrap_or_else(|| {
        entries.push(entry);
        entries.len() - 1
    })
}

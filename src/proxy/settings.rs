//! The configuration in force, made ready for requests: routes, upstreams, resources, and what else a reload may change.
//!
//! In: each room's part of the configuration. Out: one immutable [`Settings`], of which every worker holds a copy of its own, so that
//! no reference count of it moves between cores. What must stay true: a reload is an activation. New settings are published before
//! the generation that judges by them, and a worker takes both together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::uri::Scheme;

use super::normalise::{self, Request};
use super::outbound::{DestinationConfig, Destinations, Rule};
use super::route::Routes;
use super::{EnforcementConfig, PRESERVE, RouteConfig};
use crate::action::{ResourceRule, Resources};
use crate::anomaly::{self, Rules};
use crate::audit::InputDetail;
use crate::decision::Enforcement;
use crate::judge::{AddressLists, Networks, TimeWindow, WorkloadRule};
use crate::metrics::{ListenerMetrics, Metrics, UpstreamMetrics};
use crate::policy::{Entry, ResultShape, ShadowConfig};
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
    /// What a shadow policy is asked; `None` without one.
    pub shadow: Option<Shadowing>,
    pub body_limit: usize,
    pub body_depth: usize,
    pub input_detail: InputDetail,
    /// A policy may keep decisions out of the record.
    pub may_drop: bool,
    pub exchanges_per_identity: usize,
    pub anomaly: Arc<Rules>,
    pub reassess_every: Duration,
    /// Memory for the bodies of open exchanges, all workers together.
    pub retained: u64,
}

/// What a shadow policy is asked, and how often.
#[derive(Clone, Debug)]
pub struct Shadowing {
    /// One in so many requests.
    pub sample: u32,
    /// In the order of the entry points of the policy in force.
    pub entries: Vec<Entry>,
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
    taking: Taking,
    places: Vec<Route>,
}

/// How a listener finds the route of a request.
#[derive(Clone, Debug)]
enum Taking {
    Routes(Routes),
    Destinations(Destinations),
}

/// One route, or one destination.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    /// Its place among the upstreams.
    pub upstream: usize,
    pub enforcement: Enforcement,
    /// Its place among the policy's entry points.
    pub entry: usize,
    /// The host the upstream is asked for, where that is not the one the client asked for.
    pub host: Option<HeaderValue>,
    /// What a destination says about addresses; `None` in front of a service.
    pub outbound: Option<Rule>,
}

/// What a listener's configuration gives to its requests.
#[derive(Clone, Debug)]
pub struct ListenerPart<'a> {
    pub name: &'a str,
    pub server_names: &'a [String],
    pub health: Option<&'a str>,
    pub sse_last_event: bool,
    /// Of every route and destination that says nothing of its own.
    pub enforcement: EnforcementConfig,
    pub routes: &'a [RouteConfig],
    /// `None` in front of a service.
    pub destinations: Option<&'a [DestinationConfig]>,
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
    pub shadow: Option<&'a ShadowConfig>,
    pub body_limit: usize,
    pub body_depth: usize,
    pub head: normalise::Limits,
    pub input_detail: InputDetail,
    pub may_drop: bool,
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
                Err(error) => mistakes.push(format!("upstreams.{name}.{error}")),
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
                Listener::new(part, parts, &mut upstreams, metrics, &mut entries).map_err(|wrong| mistakes.extend(wrong)).ok()
            })
            .collect();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let shadow = parts.shadow.map(|config| Shadowing {
            sample: config.sample,
            entries: entries.iter().map(|entry| config.entry(parts.decision, entry)).collect(),
        });
        Ok(Self {
            shadow,
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
            may_drop: parts.may_drop,
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
            target.upstream = target.upstream.apart();
        }
        copy
    }

    /// Looks into the files upstreams are proven by.
    ///
    /// # Errors
    /// Every mistake, each as a sentence that names its place.
    pub fn check_files(&self) -> Result<(), Vec<String>> {
        let wrong = |target: &Target| {
            let upstream = &target.upstream;
            upstream.check_files().err().map(|error| format!("upstreams.{}.{error}", upstream.name))
        };
        let mistakes: Vec<String> = self.upstreams.iter().filter_map(wrong).collect();
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    }

    pub fn listener(&self, place: usize) -> Option<&Listener> {
        self.listeners.get(place)
    }

    /// The route that takes a request, and its upstream.
    pub fn route(&self, listener: usize, request: &Request) -> Option<(usize, &Route, &Target)> {
        let listener = self.listener(listener)?;
        let place = match &listener.taking {
            Taking::Routes(routes) => routes.find(&request.host, &request.path),
            Taking::Destinations(destinations) => destinations.find(&request.host, request.port),
        }?;
        let route = listener.places.get(place)?;
        Some((place, route, self.upstreams.get(route.upstream)?))
    }

    /// Listener and route of what only observes.
    pub fn observing(&self) -> impl Iterator<Item = (String, String)> {
        let of = |listener: &Listener| {
            let observes = listener.places.iter().filter(|route| route.enforcement == Enforcement::Observe);
            observes.map(|route| (listener.name.clone(), route.name.clone())).collect::<Vec<_>>()
        };
        self.listeners.iter().flat_map(of)
    }

    pub fn route_at(&self, listener: usize, place: usize) -> Option<&Route> {
        self.listener(listener)?.places.get(place)
    }
}

impl Shadowing {
    /// The entry points to load a shadow policy for, each once.
    pub fn asked(&self) -> Vec<Entry> {
        let mut asked = self.entries.clone();
        asked.sort();
        asked.dedup();
        asked
    }
}

impl Listener {
    fn new(
        part: &ListenerPart<'_>,
        parts: &Parts<'_>,
        upstreams: &mut Vec<Target>,
        metrics: &Metrics,
        entries: &mut Vec<Entry>,
    ) -> Result<Self, Vec<String>> {
        let made = match part.destinations {
            None => routes(part, parts, upstreams, entries),
            Some(destinations) => outbound((destinations, part.enforcement), parts, upstreams, metrics, entries),
        };
        let place =
            |wrong: Vec<String>| wrong.into_iter().map(|wrong| format!("listener `{}`: {wrong}", part.name)).collect::<Vec<_>>();
        let (taking, places) = made.map_err(place)?;
        let outbound = part.destinations.is_some();
        let scheme = if outbound { Scheme::HTTP } else { Scheme::HTTPS };
        Ok(Self {
            name: part.name.to_owned(),
            server_names: part.server_names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            health: part.health.map(str::to_owned),
            sse_last_event: part.sse_last_event,
            reading: normalise::Downstream { scheme, limits: parts.head, outbound },
            metrics: metrics.listener(part.name),
            taking,
            places,
        })
    }

    /// Whether it stands beside an agent.
    pub const fn is_outbound(&self) -> bool {
        self.reading.outbound
    }
}

fn routes(
    part: &ListenerPart<'_>,
    parts: &Parts<'_>,
    upstreams: &[Target],
    entries: &mut Vec<Entry>,
) -> Result<(Taking, Vec<Route>), Vec<String>> {
    let mut mistakes = Vec::new();
    let routes = Routes::new(part.routes).map_err(|wrong| mistakes.extend(wrong));
    let mut places = Vec::new();
    for route in part.routes {
        let Some(upstream) = upstreams.iter().position(|target| *target.upstream.name == *route.upstream) else {
            mistakes.push(format!("route `{}`: there is no upstream `{}`", route.name, route.upstream));
            continue;
        };
        let host = match route.upstream_host.as_str() {
            PRESERVE => None,
            host => match HeaderValue::from_str(host) {
                Ok(host) => Some(host),
                Err(_) => {
                    mistakes.push(format!("route `{}`: upstream_host: `{host}` is not a host", route.name));
                    continue;
                }
            },
        };
        places.push(Route {
            name: route.name.clone(),
            upstream,
            enforcement: enforcement(route.enforcement.unwrap_or(part.enforcement)),
            entry: entry_of(route.decision.as_deref(), route.result, parts, entries),
            host,
            outbound: None,
        });
    }
    match routes {
        Ok(routes) if mistakes.is_empty() => Ok((Taking::Routes(routes), places)),
        Ok(_) | Err(()) => Err(mistakes),
    }
}

/// The destinations of a listener. To everything that counts and kills, each is an upstream of its own.
fn outbound(
    (configs, usual): (&[DestinationConfig], EnforcementConfig),
    parts: &Parts<'_>,
    upstreams: &mut Vec<Target>,
    metrics: &Metrics,
    entries: &mut Vec<Entry>,
) -> Result<(Taking, Vec<Route>), Vec<String>> {
    let (destinations, rules) = Destinations::new(configs)?;
    let mut places = Vec::new();
    for (config, rule) in configs.iter().zip(rules) {
        let (name, connect) = (&config.name, config.connect_timeout);
        let upstream = Upstream::anywhere(name, connect, config.response_timeout, config.idle_timeout);
        upstreams.push(Target { upstream, metrics: metrics.upstream(name) });
        places.push(Route {
            name: name.clone(),
            upstream: upstreams.len() - 1,
            enforcement: enforcement(config.enforcement.unwrap_or(usual)),
            entry: entry_of(config.decision.as_deref(), config.result, parts, entries),
            host: None,
            outbound: Some(rule),
        });
    }
    Ok((Taking::Destinations(destinations), places))
}

const fn enforcement(config: EnforcementConfig) -> Enforcement {
    match config {
        EnforcementConfig::Enforce => Enforcement::Enforce,
        EnforcementConfig::Observe => Enforcement::Observe,
    }
}

/// The place of a route's entry point; routes that ask the same rule in the same shape share one.
fn entry_of(named: Option<&str>, shape: Option<ResultShape>, parts: &Parts<'_>, entries: &mut Vec<Entry>) -> usize {
    let decision = named.unwrap_or(parts.decision);
    let by_path = if decision.starts_with("envoy/") { ResultShape::Envoy } else { ResultShape::Portcullis };
    // A shape given for the whole policy is about its own rule; a route that names another rule goes by that one's path.
    let given = shape.or_else(|| if named.is_none() { parts.result } else { None });
    let entry = Entry { decision: decision.to_owned(), shape: given.unwrap_or(by_path) };
    entries.iter().position(|known| known.decision == entry.decision && known.shape == entry.shape).unwrap_or_else(|| {
        entries.push(entry);
        entries.len() - 1
    })
}

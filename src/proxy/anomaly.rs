//! Anomaly rules on the way of an exchange: when they are asked, and what is done where they fire.
//!
//! In: a request in its one form, denials, bytes while they flow. Out: a denial, a cut, a kill through the one door, a session whose
//! open exchanges are judged again. What must stay true: a request is counted before it is judged, so that the policy reads a score in
//! which it stands; nothing is counted of what a standing kill refuses, or lifting the kill would not readmit; and on a route that only
//! observes rules fire and nothing follows.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::normalise::Request;
use super::open::Open;
use super::respond::Stop;
use super::settings::Settings;
use super::worker::Worker;
use crate::anomaly::{Action, Asked, Direction, Fired, Found, Reading, Watch, Where};
use crate::decision::{Cause, Enforcement, Reason};
use crate::exchange::{Exchange, Selector};
use crate::kill::Order;

/// The watch over the session of one exchange, and where that exchange passes.
#[derive(Debug)]
pub(super) struct Watching {
    worker: Rc<Worker>,
    settings: Rc<Settings>,
    exchange: Arc<Exchange>,
    watch: Watch,
    listener: usize,
    route: usize,
    /// Names of the rules that fired on it, for the record.
    fired: RefCell<Vec<String>>,
}

/// Counts a request in.
///
/// # Errors
/// When a rule refuses it.
pub(super) fn asked(open: &Rc<Open>, settings: &Rc<Settings>, watch: Watch, request: &Request) -> Result<(), Stop> {
    if settings.anomaly.is_empty() || open.worker.services.registry.standing().matching(open.exchange(), open.began).is_some() {
        return Ok(());
    }
    let Some(peer) = open.downstream.peer.as_ref() else { return Ok(()) };
    let listener = open.downstream.listener;
    let Some((place, route, _)) = settings.route(listener, request) else { return Ok(()) };
    let watching = Rc::new(Watching {
        worker: Rc::clone(&open.worker),
        settings: Rc::clone(settings),
        exchange: Arc::clone(open.exchange()),
        watch,
        listener,
        route: place,
        fired: RefCell::default(),
    });
    let refused = watching.asked(peer, request);
    if settings.anomaly.meter() {
        open.flow.set_meter(Rc::clone(&watching));
    }
    // A request is counted once.
    let _ = open.watching.set(watching);
    if refused {
        open.story(|story| (story.route, story.enforcement) = (Some(place), Some(route.enforcement)));
        return Err(Stop::denied(Reason::Anomaly));
    }
    Ok(())
}

impl Watching {
    fn asked(&self, peer: &super::downstream::Peer, request: &Request) -> bool {
        let Some(at) = self.place() else { return false };
        let resource = self.settings.resources.find(&request.host, &request.segments, request.method.as_str());
        let asked = Asked {
            peer: &peer.spiffe_id,
            exchange: self.exchange.id,
            at,
            method: request.method.as_str(),
            host: &request.host,
            path: &request.path,
            segments: &request.segments,
            resource: resource.r#type,
            sensitivity: resource.sensitivity,
            effect: resource.effect,
        };
        let found = self.watch.asked(&self.settings.anomaly, &asked, Instant::now());
        // Not cut where it can be denied: a denial says why. Whatever kills also refuses the request that made it.
        self.act(found, |action| !matches!(action, Action::Score))
    }

    fn denied(&self) {
        if let Some(place) = self.place() {
            let found = self.watch.denied(place, self.exchange.id, Instant::now());
            self.act(found, |_| false);
        }
    }

    /// Counts bytes that are about to pass; a rule that fires on them may cut the exchange before they do.
    pub(super) fn moved(&self, way: Direction, bytes: u64, now: Instant) {
        let Some(place) = self.place() else { return };
        let found = self.watch.moved(place, self.exchange.id, way, bytes, now);
        if self.act(found, |action| matches!(action, Action::KillExchange)) {
            self.worker.services.door.cut(&self.exchange, Cause::Anomaly);
        }
    }

    fn place(&self) -> Option<Where<'_>> {
        let listener = self.settings.listener(self.listener)?;
        let route = self.settings.route_at(self.listener, self.route)?;
        Some(Where { listener: &listener.name, route: &route.name, enforced: route.enforcement == Enforcement::Enforce })
    }

    /// Counts what fired and gives the kills; true when one of the actions is among those that end this very exchange.
    fn act(&self, found: Found, ends: impl Fn(Action) -> bool) -> bool {
        if found.changed {
            self.stir();
        }
        let mut ended = false;
        for fired in found.fired {
            let action = fired.action.map_or("observe", Action::code);
            self.worker.services.metrics.anomaly_fired(&fired.rule, action).inc();
            ended |= fired.action.is_some_and(&ends);
            self.kill(&fired);
            let mut names = self.fired.borrow_mut();
            if !names.contains(&fired.rule) {
                names.push(fired.rule);
            }
        }
        ended
    }

    fn kill(&self, fired: &Fired) {
        let caller = &self.exchange.caller;
        let selector = match fired.action {
            Some(Action::KillSession) => Selector { session: Some(caller.session.clone()), ..Selector::default() },
            Some(Action::KillIdentity) => Selector { spiffe_id: Some(caller.spiffe_id.clone()), ..Selector::default() },
            Some(Action::Score | Action::Deny | Action::KillExchange) | None => return,
        };
        let reason = format!("{} ({})", fired.why, self.exchange.id);
        let by = format!("anomaly:{}", fired.rule);
        if let Err(error) = self.worker.services.door.kill_now(Order { selector, reason, by, ttl: fired.ttl }) {
            tracing::error!(exchange = %self.exchange.id, rule = %fired.rule, %error, "a kill an anomaly rule asked for was refused");
        }
    }

    /// Policies read something else of this session than before: those that do are asked again about what is open of it.
    fn stir(&self) {
        let reads = |plan: &crate::judge::facts::Plan| plan.reads_anomaly;
        if self.worker.generation().is_ok_and(|(generation, _)| generation.plans.iter().any(reads)) {
            self.worker.services.stir(&self.exchange.caller.session);
        }
    }
}

impl Open {
    /// What anomaly rules say of its session now; `None` where none are asked.
    pub(super) fn reading(&self) -> Option<Reading> {
        self.watching.get().map(|watching| watching.watch.reading(Instant::now()))
    }

    /// Names of the anomaly rules that fired on it so far.
    pub(super) fn anomalies(&self) -> Vec<String> {
        self.watching.get().map_or_else(Vec::new, |watching| watching.fired.borrow().clone())
    }

    /// Counts a denial, unless it is a kill's, a rule's own, or the gate's fault: none of these is something the session did.
    pub(super) fn suspect_denial(&self, reason: Reason) {
        let counts = match reason {
            Reason::Policy
            | Reason::Undefined
            | Reason::PolicyError
            | Reason::PolicyTimeout
            | Reason::PolicyPanic
            | Reason::VerdictType
            | Reason::RewriteUnstable
            | Reason::EditRefused
            | Reason::BodyTooLarge
            | Reason::BodyIncomplete
            | Reason::BodyTimeout
            | Reason::BodyUnreadable => true,
            Reason::Killed
            | Reason::Anomaly
            | Reason::NoPolicy
            | Reason::PolicyStale
            | Reason::Unsettled
            | Reason::Expired
            | Reason::OwnCertificate
            | Reason::Internal => false,
        };
        if let Some(watching) = self.watching.get().filter(|_| counts) {
            watching.denied();
        }
    }
}

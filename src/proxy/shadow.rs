//! A second opinion on a request, from a policy that counts for nothing.
//!
//! In: a request the policy in force has judged, on the facts it was judged by. Out: a pair of verdicts, counted; where they differ a row
//! for operators and a part of the exchange's next line in the record. What must stay true: nobody waits for it. The question is
//! put into a bounded queue of its worker and judged after others had their turn, at the latest before the exchange's last line is
//! written, and shadows get no more than a quarter of a worker's time; what finds no time is counted as not judged. Of its answer
//! only allow, deny or fault is looked at: its edits, leases and kills are carried out by nobody.
//! Not a thread beside the workers: what an answer is about may be over by then, and its line in the record written.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use regorus::Value;
use tokio::sync::Notify;

use super::admit::Admitted;
use super::grpc;
use super::open::{Open, Story};
use super::question::{Body, Question, Under};
use super::respond::Stop;
use super::worker::Worker;
use crate::audit::{ShadowLine, Why};
use crate::decision::{Opinion, Phase, Reason, Unjudged};
use crate::judge::Judgement;
use crate::judge::shadow::{Group, Observed, bounded, template};
use crate::policy::Policy;
use crate::units::since_epoch;
use crate::verdict::Verdict;

/// Questions that wait on one worker.
const WAITING: usize = 256;
/// Of this many parts of a worker's time, shadows get one.
const PARTS: u32 = 4;
/// How far ahead of its share a shadow may be.
const AHEAD: Duration = Duration::from_millis(20);

/// Where one worker's questions wait.
#[derive(Debug)]
pub(super) struct Desk {
    waiting: RefCell<VecDeque<Weak<Open>>>,
    told: Notify,
    asked: Cell<u64>,
    /// When what was used of the worker's time is paid for.
    paid: Cell<Instant>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { waiting: RefCell::default(), told: Notify::new(), asked: Cell::new(0), paid: Cell::new(Instant::now()) }
    }
}

/// Where the second opinion on one exchange stands.
#[derive(Debug, Default)]
pub(super) enum Second {
    /// Nobody decided yet whether it is one of those that are judged twice.
    #[default]
    Open,
    Asked(Box<Asked>),
    /// Nothing more comes.
    Done,
}

/// A question that waits.
#[derive(Debug)]
pub(super) struct Asked {
    generation: u64,
    entry: usize,
    input: Value,
    /// What the policy in force said; `None` until it is known.
    from: Option<Opinion>,
}

/// What the record says of a shadow that disagreed.
#[derive(Debug)]
pub(super) struct Differs {
    to: Opinion,
    verdict: Verdict,
    generation: u64,
    policy: Arc<Policy>,
}

impl Differs {
    pub(super) fn line(&self) -> ShadowLine<'_> {
        ShadowLine {
            verdict: self.to,
            reason: self.verdict.reason,
            reasons: &self.verdict.reasons,
            generation: self.generation,
            revisions: self.policy.revisions(),
        }
    }
}

/// Notes what the shadow is to be asked: the request as it came, on the facts of this very moment.
pub(super) fn prepare(open: &Open, under: Under<'_>, question: &Question, session: &crate::session::View) {
    let Some(shadowing) = under.settings.shadow.as_ref() else { return };
    let mut second = open.second.borrow_mut();
    match &*second {
        Second::Done => return,
        Second::Open if !open.worker.desk.chooses(shadowing.sample.into()) => {
            *second = Second::Done;
            return;
        }
        Second::Open | Second::Asked(_) => {}
    }
    *second = Second::Done;
    let wanted = shadowing.entries.get(under.route.entry);
    let Some(generation) = open.worker.shadow_generation() else { return open.not_judged(Unjudged::NotLoaded) };
    let place = generation.policy.entries().iter().position(|entry| Some(entry) == wanted);
    let Some((entry, plan)) = place.and_then(|place| Some((place, generation.plans.get(place)?))) else {
        return open.not_judged(Unjudged::NotLoaded);
    };
    let unread = match question.body {
        Body::Unread => open.flow.uploading(),
        Body::Begun { .. } => true,
        Body::Whole { .. } => false,
    };
    if plan.needs_body && unread {
        // Reading a body for the shadow alone would hold the request up.
        return open.not_judged(Unjudged::Body);
    }
    if let Some(input) = under.with_case(open, question, session, Phase::Request, |case| plan.input(case)) {
        *second = Second::Asked(Box::new(Asked { generation: generation.number, entry, input, from: None }));
    }
}

/// Puts the question into the queue, now that the policy in force has spoken. A request that something else stopped is not compared.
pub(super) fn ask(open: &Rc<Open>, admitted: &Result<Admitted, Stop>) {
    let mut second = open.second.borrow_mut();
    let Second::Asked(asked) = &mut *second else { return };
    asked.from = match admitted {
        Ok(_) => match open.story(|story| story.why) {
            None => Some(Opinion::Allow),
            Some(Why::Denied(reason)) => opinion(reason),
            Some(Why::Refused(_)) => None,
        },
        Err(Stop::Denied(reason, _)) => opinion(*reason),
        Err(Stop::Refused(_) | Stop::Cut(_) | Stop::Upstream(_) | Stop::Panic) => None,
    };
    if asked.from.is_none() {
        *second = Second::Done;
    } else if !open.worker.desk.take(open) {
        *second = Second::Done;
        open.not_judged(Unjudged::Busy);
    }
}

/// Hears what waits, by turns with everything else on the worker; for ever.
pub async fn hear(worker: Rc<Worker>) {
    loop {
        worker.desk.told.notified().await;
        loop {
            // The requests themselves first.
            tokio::task::yield_now().await;
            if let Some(rest) = worker.desk.rest() {
                tokio::time::sleep(rest).await;
            }
            let Some(next) = worker.desk.waiting.borrow_mut().pop_front() else { break };
            if let Some(open) = next.upgrade() {
                open.hear_second();
            }
        }
    }
}

impl Desk {
    /// True for one in `sample` requests.
    fn chooses(&self, sample: u64) -> bool {
        let asked = self.asked.get();
        self.asked.set(asked.wrapping_add(1));
        asked.checked_rem(sample) == Some(0)
    }

    fn take(&self, open: &Rc<Open>) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let room = waiting.len() < WAITING;
        if room {
            waiting.push_back(Rc::downgrade(open));
            self.told.notify_one();
        }
        room
    }

    /// How long shadows have no time; `None` when they have.
    fn rest(&self) -> Option<Duration> {
        self.paid.get().checked_duration_since(Instant::now() + AHEAD).filter(|rest| !rest.is_zero())
    }

    fn used(&self, took: Duration) {
        self.paid.set(self.paid.get().max(Instant::now()) + took * PARTS);
    }
}

impl Open {
    /// Judges what waits of this exchange.
    pub(super) fn hear_second(&self) {
        let Second::Asked(asked) = std::mem::replace(&mut *self.second.borrow_mut(), Second::Done) else { return };
        let Asked { generation, entry, input, from: Some(from) } = *asked else { return };
        if self.worker.desk.rest().is_some() {
            return self.not_judged(Unjudged::Busy);
        }
        let began = Instant::now();
        let Some(judgement) = self.worker.ask_shadow(generation, entry, input) else {
            return self.not_judged(Unjudged::NotLoaded);
        };
        self.worker.desk.used(began.elapsed());
        let Some(to) = opinion_of(&judgement.verdict) else { return };
        let services = &self.worker.services;
        services.metrics.shadow_compared.inc();
        services.metrics.shadow_seconds.observe(judgement.took.as_secs_f64());
        services.shadow.compared(from != to);
        if from != to {
            services.metrics.shadow_disagreements.of(from).of(to).inc();
            self.differs(from, to, judgement);
        }
    }

    fn differs(&self, from: Opinion, to: Opinion, judgement: Judgement) {
        let Some(generation) = self.worker.shadow_generation() else { return };
        let mut story = self.story.borrow_mut();
        if let Some(group) = group(self, &story, from, to, &judgement) {
            let now = since_epoch(SystemTime::now()).as_secs();
            self.worker.services.shadow.disagreements.note(group, now, &self.id);
        }
        let Judgement { verdict, generation: number, .. } = judgement;
        let policy = Arc::clone(&generation.policy);
        story.shadow = Some(Differs { to, verdict, generation: number, policy });
    }

    fn not_judged(&self, why: Unjudged) {
        self.worker.services.metrics.shadow_unjudged.of(why).inc();
        self.worker.services.shadow.unjudged(why);
    }

    /// Notes what a route let through although it was denied.
    pub(super) fn note_observed(&self) {
        let story = self.story.borrow();
        let Some(settings) = story.settings.as_deref() else { return };
        let listener = self.downstream.listener;
        let places = settings.listener(listener).zip(story.route.and_then(|place| settings.route_at(listener, place)));
        let Some(((listener, route), request)) = places.zip(story.request.as_deref()) else { return };
        let resource = settings.resources.find(&request.host, &request.segments, request.method.as_str());
        let observed = Observed {
            listener: listener.name.clone(),
            route: route.name.clone(),
            resource: resource.r#type.to_owned(),
            sensitivity: resource.sensitivity,
            effect: resource.effect,
        };
        let now = since_epoch(SystemTime::now()).as_secs();
        self.worker.services.shadow.observed.note(observed, now, &self.id);
    }
}

fn group(open: &Open, story: &Story, from: Opinion, to: Opinion, judgement: &Judgement) -> Option<Group> {
    let settings = story.settings.as_deref()?;
    let listener = settings.listener(open.downstream.listener)?;
    let route = settings.route_at(open.downstream.listener, story.route?)?;
    let request = story.request.as_deref()?;
    let resource = settings.resources.find(&request.host, &request.segments, request.method.as_str());
    let called = grpc::action(open.protocol, request.version, &request.method, &request.path);
    let action = match called.protocol {
        "grpc" => bounded(called.name),
        _ if request.is_tunnel() => bounded(&request.authority()),
        _ => template(&request.segments),
    };
    // Whoever denied says why; of two denials, the one that is tried.
    let (word, reasons) = match (to, story.judgement.as_ref()) {
        (Opinion::Allow, Some(enforced)) => (enforced.verdict.reason, &enforced.verdict.reasons),
        _ => (judgement.verdict.reason, &judgement.verdict.reasons),
    };
    let reason = if reasons.is_empty() { word.map_or("", Reason::code).to_owned() } else { bounded(&reasons.join(",")) };
    Some(Group {
        listener: listener.name.clone(),
        route: route.name.clone(),
        method: bounded(request.method.as_str()),
        action,
        resource: resource.r#type.to_owned(),
        sensitivity: resource.sensitivity,
        spiffe_id: open.downstream.peer.as_ref()?.name.to_string(),
        from,
        to,
        reason,
    })
}

fn opinion_of(verdict: &Verdict) -> Option<Opinion> {
    if verdict.allowed { Some(Opinion::Allow) } else { opinion(verdict.reason.unwrap_or(Reason::Policy)) }
}

/// What a denial comes to where policies are compared; `None` for one that is no policy's.
const fn opinion(reason: Reason) -> Option<Opinion> {
    match reason {
        Reason::Policy => Some(Opinion::Deny),
        Reason::Undefined => Some(Opinion::Undefined),
        Reason::PolicyError | Reason::PolicyTimeout | Reason::PolicyPanic | Reason::VerdictType => Some(Opinion::Error),
        Reason::NoPolicy
        | Reason::PolicyStale
        | Reason::Killed
        | Reason::Anomaly
        | Reason::Unsettled
        | Reason::RewriteUnstable
        | Reason::EditRefused
        | Reason::BodyTooLarge
        | Reason::BodyIncomplete
        | Reason::BodyTimeout
        | Reason::BodyUnreadable
        | Reason::Expired
        | Reason::OwnCertificate
        | Reason::Internal => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_is_chosen_and_what_is_used_is_paid_for_in_time_that_is_left_to_others() {
        let desk = Desk::default();
        assert_eq!([(); 7].map(|()| desk.chooses(3)), [true, false, false, true, false, false, true]);
        assert!(!desk.chooses(0), "a sample of none is none");
        assert_eq!(desk.rest(), None);
        desk.used(Duration::from_micros(50));
        assert_eq!(desk.rest(), None, "little runs ahead of its share");
        desk.used(Duration::from_secs(60));
        let rest = desk.rest().unwrap();
        assert!(rest > Duration::from_secs(180) && rest <= Duration::from_secs(240), "three times as long as it took: {rest:?}");
    }

    #[test]
    fn only_what_a_policy_says_is_compared() {
        let words = |of: Option<Opinion>| Reason::ALL.iter().filter(move |reason| opinion(**reason) == of).count();
        assert_eq!((words(Some(Opinion::Allow)), words(Some(Opinion::Deny)), words(Some(Opinion::Undefined))), (0, 1, 1));
        assert_eq!(words(Some(Opinion::Error)), 4);
    }
}

//! An open exchange judged again: would this same request be admitted now?
//!
//! In: an exchange, and which generation to ask. Out: whether it goes on. Facts that were frozen at admission are taken as they were
//! kept; what the configuration derives from them is derived anew. In this phase only `allowed`, `kill` and `lease` act, and a lease
//! may only tighten. On a route that only observes nothing is cut by policy.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::open::Open;
use super::question::{Question, Under};
use crate::decision::{Cause, Enforcement, Phase};
use crate::judge::facts::Plan;
use crate::judge::{Judge, Judgement};
use crate::session::View;
use crate::verdict::KillOrder;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    Goes,
    /// It would not be admitted now.
    Ends(Cause, Option<KillOrder>),
    /// It is not admitted yet: whoever admits it looks again by itself.
    NotYet,
}

impl Open {
    /// Judges by the generation in force.
    pub fn judge_again(&self) -> Again {
        let Ok((generation, _)) = self.worker.generation() else { return Again::Ends(Cause::Policy, None) };
        let again = self.ask_again(&generation.plans, |under, question, session| {
            let judgement = under.ask(self, question, session, Phase::Reassess)?;
            if judgement.verdict.allowed && under.route.enforcement == Enforcement::Enforce {
                self.flow.tighten(judgement.verdict.lease);
            }
            Some(judgement)
        });
        if again == Again::Goes {
            self.exchange().set_generation(generation.number);
            self.set_judged(Instant::now());
        }
        again
    }

    /// True when its policy reads what anomaly rules say of its session.
    pub fn reads_anomaly(&self, plans: &[Plan]) -> bool {
        let story = self.story.borrow();
        let route = story.settings.as_deref().zip(story.route);
        let route = route.and_then(|(settings, place)| settings.route_at(self.downstream.listener, place));
        route.and_then(|route| plans.get(route.entry)).is_some_and(|plan| plan.reads_anomaly)
    }

    /// Judges by a generation that is not in force, without effect.
    pub fn rehearse(&self, candidate: &mut Judge) -> Again {
        let generation = Arc::clone(&candidate.generation);
        self.ask_again(&generation.plans, |under, question, session| {
            under.with_case(self, question, session, Phase::Reassess, |case| candidate.judge(under.route.entry, case))
        })
    }

    fn ask_again(&self, plans: &[Plan], ask: impl FnOnce(Under<'_>, &Question, &View) -> Option<Judgement>) -> Again {
        if !self.exchange().cut.is_admitted() {
            return Again::NotYet;
        }
        let Some((request, session)) = self.kept(|kept| (Rc::clone(&kept.request), kept.session.clone())) else {
            return Again::NotYet;
        };
        let settings = self.worker.settings();
        let Some((_, route, target)) = settings.route(self.downstream.listener, &request) else {
            return Again::Ends(Cause::NoRoute, None);
        };
        // What the configuration permits may have changed; where the exchange goes has not.
        let addresses = self.kept(|kept| kept.addresses.clone()).flatten();
        if let (Some(rule), Some(addresses)) = (&route.outbound, addresses)
            && rule.check(&addresses, self.worker.services.own()).is_err()
        {
            return Again::Ends(Cause::NoRoute, None);
        }
        if self.worker.services.stale.load(Ordering::Relaxed) {
            return observed(route.enforcement, Again::Ends(Cause::PolicyStale, None));
        }
        let reads_body = plans.get(route.entry).is_some_and(|plan| plan.needs_body);
        let Some(question) = self.kept(|kept| kept.question(reads_body)).flatten() else {
            return observed(route.enforcement, Again::Ends(Cause::BodyGone, None));
        };
        let Some(judgement) = ask(Under { settings: &settings, route, target }, &question, &session) else {
            return observed(route.enforcement, Again::Ends(Cause::Policy, None));
        };
        if judgement.verdict.allowed {
            Again::Goes
        } else {
            observed(route.enforcement, Again::Ends(Cause::Policy, judgement.verdict.kill))
        }
    }
}

const fn observed(enforcement: Enforcement, again: Again) -> Again {
    match enforcement {
        Enforcement::Enforce => again,
        Enforcement::Observe => Again::Goes,
    }
}

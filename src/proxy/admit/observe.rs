//! What passes although it would be denied, where a route only observes.
//!
//! In: a denial about what a policy could not be shown or could not have done. Out: the request as it came, every byte and no edit. What
//! must stay true: both the route it came by and the one it was to be rewritten to observe, the denial is told as one that was observed,
//! and the second look for kills and generations follows as for every other request.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use super::super::open::Open;
use super::super::question::Question;
use super::super::respond::Stop;
use super::super::settings::Settings;
use super::{Passing, forward, note_question, note_route, route};
use crate::audit::{Outcome, Why};
use crate::decision::{Enforcement, Reason};
use crate::judge::Generation;
use crate::verdict::Lease;

/// Denials about what a policy could not be shown or could not have done, or that it is stale: where a route only observes, the request
/// can go up as it came. A body that broke off cannot, and what kills, generations or the gate itself deny is nobody's to observe.
pub(super) const fn may_be_observed(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BodyTooLarge
            | Reason::BodyTimeout
            | Reason::BodyUnreadable
            | Reason::EditRefused
            | Reason::RewriteUnstable
            | Reason::PolicyStale
    )
}

/// Lets a request pass that would be denied, without any edit, where its route only observes.
pub(super) fn as_it_came(
    open: &Rc<Open>,
    generation: &Arc<Generation>,
    settings: &Rc<Settings>,
    asked: &Question,
    reason: Reason,
) -> Result<Passing, Stop> {
    // The route it was rewritten to has its own word as well.
    let observed = open.story(|story| story.enforcement) == Some(Enforcement::Observe);
    note_question(open, asked);
    let (place, under) = route(open, settings, &asked.request)?;
    note_route(open, place, under);
    if !observed || under.route.enforcement == Enforcement::Enforce {
        return Err(Stop::denied(reason));
    }
    open.story(|story| {
        (story.outcome, story.why) = (Some(Outcome::ObserveDeny), Some(Why::Denied(reason)));
        story.generation = Some(Arc::clone(generation));
        story.decided_at = Some(SystemTime::now());
    });
    let reads_body = generation.plans.get(under.route.entry).is_some_and(|plan| plan.needs_body);
    let forwarded = forward(open, settings, asked, &[])?;
    Ok(Passing { forwarded, question: asked.clone(), lease: Lease::default(), reads_body })
}

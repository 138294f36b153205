//! From a normalised request to an admitted one: judge, rewrite and judge again, look again.
//!
//! In: an open exchange and its request. Out: what is forwarded, or why nothing is. What must stay true: register, judge, look
//! again. Each try takes the generation in force with its settings, and only the second look admits; if the generation moved the
//! request is judged again from what the client sent, twice, and then denied. What a rewrite asks for is itself judged, by the same
//! rule, before it may pass: whoever rewrites a path writes a new request.

mod observe;
mod rewrite;
mod whole;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use http::header::{HeaderName, HeaderValue};

use super::edit::{self, identity::append_via};
use super::flow::Upload;
use super::normalise::Request;
use super::open::{Kept, KeptBody, Open};
use super::outbound;
use super::question::{Body, Question, Under};
use super::respond::Stop;
use super::settings::Settings;
use super::shadow;
use crate::audit::{InputDetail, Outcome, Why};
use crate::decision::{Enforcement, Phase, Reason, Refusal};
use crate::exchange::SecondLook;
use crate::judge::Generation;
use crate::judge::facts::Plan;
use crate::policy::Footprint;
use crate::session::View;
use crate::units::Span;
use crate::upstream::Upstream;
use crate::verdict::{Edits, Lease, Verdict};
use observe::{as_it_came, may_be_observed};
use rewrite::{rewritten, still};
use whole::read_body;

/// How often a request is judged again because the generation moved under it.
const TRIES: usize = 3;

/// What may go up.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) request: Request,
    pub(super) upload: Upload,
    /// Appended to the response's.
    pub(super) response_headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) settings: Rc<Settings>,
    /// Its upstream's place in the settings.
    pub(super) upstream: usize,
    /// The host it is asked for, where that is not the client's.
    pub(super) host: Option<HeaderValue>,
    /// Beside an agent: the addresses that were judged.
    pub(super) addresses: Option<Arc<[SocketAddr]>>,
}

impl Admitted {
    /// Beside an agent: its upstream at the addresses that were judged. Whoever forwards goes there; the entry's own stands nowhere.
    pub(super) fn pinned(&self) -> Option<Upstream> {
        let (addresses, target) = (self.addresses.as_ref()?, self.settings.upstreams.get(self.upstream)?);
        Some(target.upstream.at(&self.request.host, self.request.port, addresses))
    }
}

/// One try's answer.
enum Try {
    Admitted(Box<Admitted>),
    /// The generation moved under it.
    Again,
    /// It cannot be judged without its body, or not be rewritten.
    NeedsBody(Rc<Settings>),
    /// It cannot be judged before it is known where it goes; how long that may take.
    NeedsAddresses(Span),
}

/// Judges until the request is admitted or denied.
///
/// # Errors
/// Why it is not admitted.
pub(super) async fn admit(open: &Rc<Open>, request: Rc<Request>, session: &View) -> Result<Admitted, Stop> {
    let admitted = settle(open, request, session).await;
    shadow::ask(open, &admitted);
    admitted
}

async fn settle(open: &Rc<Open>, request: Rc<Request>, session: &View) -> Result<Admitted, Stop> {
    let mut asked = Question { request, body: Body::Unread, rewritten: false, addresses: None };
    let mut tries = TRIES;
    while tries > 0 {
        match attempt(open, &asked, session)? {
            Try::Admitted(admitted) => return Ok(*admitted),
            Try::Again => tries -= 1,
            // It takes as long as the client likes. Whatever was in force before is asked for anew, and that is no lost try.
            Try::NeedsAddresses(within) => asked.addresses = Some(outbound::addresses(open, &asked.request, within).await?),
            Try::NeedsBody(settings) => asked.body = read_body(open, &settings, &asked.request).await?,
        }
    }
    Err(Stop::denied(Reason::Unsettled))
}

/// Waits for nothing, so that one generation judges from beginning to end.
fn attempt(open: &Rc<Open>, asked: &Question, session: &View) -> Result<Try, Stop> {
    let (generation, settings) = open.worker.generation().map_err(|_| Stop::denied(Reason::NoPolicy))?;
    note_try(open, &settings, asked);
    let (place, under) = route(open, &settings, &asked.request)?;
    note_route(open, place, under);
    // A request that is killed already need not be judged, and its body need not be read.
    if let Some(kill) = open.worker.services.registry.standing().matching(open.exchange(), Instant::now()) {
        open.story(|story| story.killed = Some(kill));
        return Err(Stop::denied(Reason::Killed));
    }
    if let Some(rule) = &under.route.outbound {
        if outbound::passes_too_many(&asked.request) {
            return Err(Stop::Refused(Refusal::Loop));
        }
        let Some(addresses) = &asked.addresses else {
            return Ok(Try::NeedsAddresses(Span(under.target.upstream.connect_timeout)));
        };
        rule.check(addresses, open.worker.services.own())?;
    }
    let stale = open.worker.services.stale.load(Ordering::Relaxed);
    let decided = if stale { Err(Stop::denied(Reason::PolicyStale)) } else { decide(open, &generation, &settings, asked, session) };
    let passing = match decided {
        Ok(None) => return Ok(Try::NeedsBody(settings)),
        Ok(Some(passing)) => passing,
        Err(Stop::Denied(reason, _)) if may_be_observed(reason) => as_it_came(open, &generation, &settings, asked, reason)?,
        Err(stop) => return Err(stop),
    };
    match open.worker.services.registry.look_again(open.exchange(), generation.number, Instant::now()) {
        SecondLook::Pass => {}
        SecondLook::Killed(_) => return Err(Stop::denied(Reason::Killed)),
        SecondLook::Cut(cause) => return Err(Stop::Cut(cause)),
        SecondLook::Moved => return Ok(Try::Again),
    }
    open.set_judged(Instant::now());
    if open.story(|story| story.enforcement) == Some(Enforcement::Enforce) {
        open.flow.tighten(passing.lease);
    }
    keep(open, &settings, passing.question, session, passing.reads_body);
    Ok(Try::Admitted(Box::new(passing.forwarded)))
}

/// What one generation lets pass.
struct Passing {
    forwarded: Admitted,
    question: Question,
    lease: Lease,
    reads_body: bool,
}

/// Judges, rewrites and judges again; `None` when that takes a body which was not read yet.
fn decide(
    open: &Rc<Open>,
    generation: &Arc<Generation>,
    settings: &Rc<Settings>,
    asked: &Question,
    session: &View,
) -> Result<Option<Passing>, Stop> {
    let needs_body = |under: Under<'_>| generation.plans.get(under.route.entry).is_some_and(|plan| plan.needs_body);
    // True when somebody has to wait for it; a body that could not be read denies wherever it is asked for.
    let must_read = || match asked.body {
        Body::Unread => Ok(true),
        Body::Begun { reason, .. } => Err(Stop::denied(reason)),
        Body::Whole { .. } => Ok(false),
    };
    let (_, under) = route(open, settings, &asked.request)?;
    let mut reads_body = needs_body(under);
    if reads_body && must_read()? {
        return Ok(None);
    }
    let mut question = asked.clone();
    let judged = judge(open, under, &question, session, generation);
    shadow::prepare(open, under, &question, session);
    let mut verdict = judged?;
    let mut edits = vec![std::mem::take(&mut verdict.edits)];
    if edits.iter().any(Edits::patch_the_body) && must_read()? {
        return Ok(None);
    }
    if edits.iter().any(Edits::change_the_question)
        && let Some(rewritten) = rewritten(open, settings, asked, &edits)?
    {
        question = rewritten;
        note_question(open, &question);
        let (place, under) = route(open, settings, &question.request)?;
        note_route(open, place, under);
        reads_body = needs_body(under);
        if reads_body && must_read()? {
            return Ok(None);
        }
        verdict = judge(open, under, &question, session, generation)?;
        edits.push(std::mem::take(&mut verdict.edits));
        still(&question, edits.last())?;
    }
    let forwarded = forward(open, settings, &question, &edits)?;
    Ok(Some(Passing { forwarded, question, lease: verdict.lease, reads_body }))
}

/// Finds the route, and lets kills by upstream know where this goes before the second look.
fn route<'s>(open: &Open, settings: &'s Settings, request: &Request) -> Result<(usize, Under<'s>), Stop> {
    let (place, route, target) = settings.route(open.downstream.listener, request).ok_or(Stop::Refused(Refusal::NoRoute))?;
    if route.outbound.is_some() {
        open.exchange().set_destination(target.upstream.name.clone(), Arc::from(&*request.host));
    } else {
        open.exchange().set_upstream(target.upstream.name.clone());
    }
    Ok((place, Under { settings, route, target }))
}

/// Noted before anything can stop the request: a denial tells as much of it as an allow.
fn note_try(open: &Open, settings: &Rc<Settings>, asked: &Question) {
    open.story(|story| (story.settings, story.route, story.enforcement) = (Some(Rc::clone(settings)), None, None));
    note_question(open, asked);
}

fn note_question(open: &Open, question: &Question) {
    open.story(|story| {
        story.request = Some(Rc::clone(&question.request));
        story.rewritten = question.rewritten;
    });
}

fn note_route(open: &Open, place: usize, under: Under<'_>) {
    open.story(|story| (story.route, story.enforcement) = (Some(place), Some(under.route.enforcement)));
}

/// Asks, and turns a denial into a stop unless the route only observes.
fn judge(
    open: &Rc<Open>,
    under: Under<'_>,
    question: &Question,
    session: &View,
    generation: &Arc<Generation>,
) -> Result<Verdict, Stop> {
    let judgement = under.ask(open, question, session, Phase::Request).ok_or(Stop::denied(Reason::NoPolicy))?;
    if judgement.generation != generation.number {
        return Err(Stop::denied(Reason::Unsettled));
    }
    if under.settings.input_detail != InputDetail::Footprint {
        let whole = Plan::new(&Footprint::everything());
        let input = under.with_case(open, question, session, Phase::Request, |case| whole.input(case));
        open.story(|story| story.record_input = input);
    }
    let verdict = judgement.verdict.clone();
    open.story(|story| {
        story.judgement = Some(judgement);
        story.generation = Some(Arc::clone(generation));
        story.decided_at = Some(SystemTime::now());
    });
    if verdict.allowed {
        open.story(|story| (story.outcome, story.why) = (Some(Outcome::Allow), None));
        return Ok(verdict);
    }
    let reason = verdict.reason.unwrap_or(Reason::Policy);
    match under.route.enforcement {
        Enforcement::Observe => {
            open.story(|story| (story.outcome, story.why) = (Some(Outcome::ObserveDeny), Some(Why::Denied(reason))));
            Ok(Verdict::default())
        }
        Enforcement::Enforce => {
            if let Some(kill) = verdict.kill {
                open.carry_out(kill);
            }
            Err(Stop::Denied(reason, verdict.denial))
        }
    }
}

/// The request as it goes up: judged, with its header edits and the gate's own fields.
fn forward(open: &Rc<Open>, settings: &Rc<Settings>, question: &Question, edits: &[Edits]) -> Result<Admitted, Stop> {
    let refused = |error: &edit::EditError| edit_refused(open, error);
    let mut request = (*question.request).clone();
    let mut response_headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for edits in edits {
        let headers_only = Edits {
            headers: edits.headers.clone(),
            request_headers_to_remove: edits.request_headers_to_remove.clone(),
            ..Edits::default()
        };
        edit::apply(&headers_only, &mut request, None).map_err(|error| refused(&error))?;
        let added = edit::response_headers(&edits.response_headers_to_add).map_err(|error| refused(&error))?;
        // A policy that was asked twice says most of it twice: its later word on a name replaces the earlier one.
        response_headers.retain(|(name, _)| !added.iter().any(|(later, _)| later == name));
        response_headers.extend(added);
    }
    let (_, under) = route(open, settings, &question.request)?;
    let peer = open.downstream.peer.as_ref().ok_or(Stop::Refused(Refusal::NoIdentity))?;
    // Who is calling is for our own upstreams; a stranger learns that there is a gate, as `Via` is owed to it, and no more.
    let written = if under.route.outbound.is_some() { append_via(&mut request) } else { peer.headers.write(&mut request) };
    written.map_err(|error| refused(&error))?;
    let upload = match &question.body {
        Body::Unread => Upload::Streamed(Rc::clone(&open.flow)),
        Body::Begun { bytes, .. } => Upload::Begun(Some(bytes.clone()), Rc::clone(&open.flow)),
        Body::Whole { bytes, .. } => Upload::Whole(Some(bytes.clone())),
    };
    let (upstream, host) = (under.route.upstream, under.route.host.clone());
    open.story(|story| story.edits = names(edits, question.rewritten));
    let addresses = question.addresses.clone();
    Ok(Admitted { request, upload, response_headers, settings: Rc::clone(settings), upstream, host, addresses })
}

/// The names of the edits made, for the record; their values may be secrets.
fn names(edits: &[Edits], rewritten: bool) -> Vec<String> {
    let mut names = Vec::new();
    for edits in edits {
        names.extend(edits.headers.iter().map(|(name, _)| format!("set header {name}")));
        names.extend(edits.request_headers_to_remove.iter().map(|name| format!("remove header {name}")));
        names.extend(edits.response_headers_to_add.iter().map(|(name, _)| format!("add response header {name}")));
        if rewritten {
            names.extend(edits.query_parameters_to_set.iter().map(|(name, _)| format!("set query {name}")));
            names.extend(edits.query_parameters_to_remove.iter().map(|name| format!("remove query {name}")));
            names.extend(edits.rewrite.iter().flat_map(|rewrite| {
                let path = rewrite.path.as_ref().map(|_| "rewrite path".to_owned());
                path.into_iter().chain(rewrite.body.as_ref().map(|_| "rewrite body".to_owned()))
            }));
        }
    }
    names.dedup();
    names
}

/// Keeps what the exchange is judged by again.
fn keep(open: &Open, settings: &Settings, question: Question, session: &View, reads_body: bool) {
    let body = match question.body {
        Body::Whole { bytes, parsed } if reads_body => {
            let retained = bytes.len() as u64 + parsed.size();
            if open.worker.retain(retained, settings.retained) {
                KeptBody::Whole { bytes, parsed, retained }
            } else {
                KeptBody::Gone
            }
        }
        Body::Whole { .. } | Body::Unread | Body::Begun { .. } => KeptBody::Unread,
    };
    let had_body = open.flow.uploading() || open.flow.bytes_in() > 0;
    open.keep(Kept {
        request: question.request,
        rewritten: question.rewritten,
        addresses: question.addresses,
        had_body,
        body,
        session: session.clone(),
    });
}

fn edit_refused(open: &Open, error: &edit::EditError) -> Stop {
    open.story(|story| story.fault = Some(error.to_string()));
    Stop::denied(Reason::EditRefused)
}

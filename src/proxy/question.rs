//! The question put to the judge about one request, at its admission and whenever it is judged again.
//!
//! In: the request in its one form, its body where a policy reads it, the session as it stood. Out: a judgement. Admission and
//! reassessment ask through the same function, so that "would this be admitted now?" cannot drift from "is this admitted?".

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::grpc;
use super::normalise::Request;
use super::open::{Kept, KeptBody, Open};
use super::settings::{Route, Settings, Target};
use crate::decision::{Phase, Reason};
use crate::destination::is_public;
use crate::judge::body::Parsed;
use crate::judge::case::{BodyFacts, Case, DestinationFacts, Progress, RequestFacts, ResourceFacts, RouteFacts, Suspicion};
use crate::judge::{Judgement, workload};
use crate::session::View;
use crate::units::since_epoch;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) request: Rc<Request>,
    pub(super) body: Body,
    pub(super) rewritten: bool,
    /// Beside an agent: the addresses of its destination.
    pub(super) addresses: Option<Arc<[SocketAddr]>>,
}

/// A request's body, as far as it was read.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Unread,
    Whole {
        bytes: Bytes,
        parsed: Parsed,
    },
    /// It could not be read whole, or not be understood: what was read, and the denial that is wherever a policy asks for it.
    Begun {
        bytes: Bytes,
        reason: Reason,
    },
}

/// The part of the configuration a question falls under.
#[derive(Clone, Copy, Debug)]
pub(super) struct Under<'a> {
    pub(super) settings: &'a Settings,
    pub(super) route: &'a Route,
    pub(super) target: &'a Target,
}

impl Under<'_> {
    /// Makes the case of a question, for whoever looks at it.
    pub(super) fn with_case<T>(
        self,
        open: &Open,
        question: &Question,
        session: &View,
        phase: Phase,
        look: impl FnOnce(&Case<'_>) -> T,
    ) -> Option<T> {
        let peer = open.downstream.peer.as_ref()?;
        let request = &*question.request;
        let found = self.settings.resources.find(&request.host, &request.segments, request.method.as_str());
        let listener = self.settings.listener(open.downstream.listener)?;
        let now = since_epoch(SystemTime::now());
        let windows: BTreeMap<String, bool> =
            self.settings.windows.iter().map(|(name, window)| (name.clone(), window.open(now))).collect();
        let (size, body) = match &question.body {
            Body::Unread | Body::Begun { .. } => (request.declared_length, BodyFacts::default()),
            // No body has no size, whether or not somebody looked for one.
            Body::Whole { bytes, .. } if bytes.is_empty() => (request.declared_length, BodyFacts::default()),
            Body::Whole { bytes, parsed } => (Some(bytes.len() as u64), body_facts(bytes, parsed)),
        };
        let server_name = open.server_name();
        let destination = question.addresses.as_deref().map(|addresses| DestinationFacts {
            host: &request.host,
            port: request.port,
            addresses,
            private: !addresses.iter().all(|address| is_public(address.ip())),
            sni: server_name.as_deref(),
        });
        let case = Case {
            phase,
            environment: &self.settings.environment,
            exchange_id: &open.id,
            request: RequestFacts {
                method: request.method.as_str(),
                scheme: request.scheme.as_str(),
                host: &request.host,
                port: request.port,
                path: &request.path,
                segments: &request.segments,
                raw_query: request.raw_query.as_deref(),
                query: &request.query,
                headers: &request.headers,
                size,
                protocol: protocol(request),
                rewritten: question.rewritten,
                action: grpc::action(open.protocol, request.version, &request.method, &request.path),
            },
            body,
            resource: ResourceFacts {
                r#type: found.r#type,
                sensitivity: found.sensitivity.code(),
                effect: found.effect.code(),
                environment: self.target.upstream.environment.as_deref().unwrap_or(&self.settings.environment),
            },
            route: RouteFacts { listener: &listener.name, name: &self.route.name, upstream: &self.target.upstream.name },
            connection: &peer.facts,
            destination,
            workload: workload(&self.settings.workloads, &peer.spiffe_id),
            session_id: &open.downstream.caller.session,
            session,
            anomaly: Suspicion(&|| open.reading()),
            progress: progress(open, phase),
            now,
            began: open.began_at,
            windows: &windows,
        };
        Some(look(&case))
    }

    /// Asks this worker's judge. `None` when nobody judges or nobody was proven, which is a denial.
    pub(super) fn ask(self, open: &Open, question: &Question, session: &View, phase: Phase) -> Option<Judgement> {
        let judgement = self.with_case(open, question, session, phase, |case| open.worker.judge(self.route.entry, case))??;
        open.count_judgement(phase, &judgement);
        Some(judgement)
    }
}

impl Kept {
    /// The question it was admitted by, to be asked again; `None` when the policy reads a body that was not kept.
    pub(super) fn question(&self, reads_body: bool) -> Option<Question> {
        let body = match &self.body {
            KeptBody::Unread if reads_body && self.had_body => return None,
            KeptBody::Unread => Body::Unread,
            KeptBody::Whole { bytes, parsed, .. } => Body::Whole { bytes: bytes.clone(), parsed: parsed.clone() },
            KeptBody::Gone => return None,
        };
        Some(Question { request: Rc::clone(&self.request), body, rewritten: self.rewritten, addresses: self.addresses.clone() })
    }
}

fn body_facts<'a>(bytes: &'a [u8], parsed: &'a Parsed) -> BodyFacts<'a> {
    let text = std::str::from_utf8(bytes).ok();
    match parsed {
        Parsed::Absent => BodyFacts { text, json: None, form: None },
        Parsed::Json(json) => BodyFacts { text, json: Some(json), form: None },
        Parsed::Form(form) => BodyFacts { text, json: None, form: Some(form) },
    }
}

fn protocol(request: &Request) -> &'static str {
    match request.version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// A request that is not admitted yet has come no way, even when its body was read to judge it.
fn progress(open: &Open, phase: Phase) -> Progress {
    match phase {
        Phase::Request => Progress::default(),
        Phase::Reassess => Progress { age: open.began.elapsed(), bytes_in: open.flow.bytes_in(), bytes_out: open.flow.bytes_out() },
    }
}

//! A bundle of a service, asked for again and again as OPA does.
//!
//! In: the service, what to ask it for, and how often. Out: [`Fetched`] after each answer, and each failure. What must stay true: the
//! ETag that is sent stands for the bundle that was taken over and for no other: after a failure there is none, and after a bundle
//! that was refused it is the one before it. A server that fails is asked again after a pause that doubles, with chance in it so that
//! a fleet does not come back at once; one that answers at once while it should hold a long poll does not get a gate that spins.
//!
//! Sources: OPA `v1/download/download.go`, management-bundles "Bundle Service API".

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, StatusCode};
use tokio::sync::{mpsc, oneshot};

use crate::policy::source::Polling;
use crate::service::pause::{after_failures, between, chance};
use crate::service::{Answer, Call, Service};
use crate::units::Size;

/// What a server calls bundles that it holds long polls for.
const BUNDLES: &str = "application/vnd.openpolicyagent.bundles";
const KINDS: [&str; 3] = ["application/gzip", "application/octet-stream", BUNDLES];
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Between two long polls, where the first was answered at once.
const BREATH: Duration = Duration::from_secs(1);

/// One bundle to follow.
#[derive(Clone, Debug)]
pub struct Feed {
    pub name: String,
    pub service: Arc<Service>,
    pub resource: String,
    pub polling: Polling,
    pub most: Size,
    /// Of what is kept from before.
    pub etag: Option<String>,
}

/// What came of asking once.
#[derive(Debug)]
pub struct Fetched {
    pub bundle: String,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub enum Outcome {
    /// Another one than was taken over; `taken` is told whether it is now.
    Archive {
        bytes: Bytes,
        etag: Option<String>,
        taken: oneshot::Sender<bool>,
    },
    /// The one that was taken over still stands.
    Unchanged,
    Failed(Failure),
}

/// Why nothing was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    pub http_code: Option<u16>,
}

/// A good answer.
enum Good {
    Archive(Bytes, Option<String>),
    Unchanged,
}

/// Asks until nobody wants to hear any more.
pub async fn follow(feed: Feed, news: mpsc::Sender<Fetched>) {
    let mut course = Course { etag: feed.etag.clone(), long: feed.polling.long_polling.is_some(), failures: 0 };
    loop {
        let asked = Instant::now();
        let answer = feed.ask(&course).await;
        let (outcome, told) = match answer {
            Err(failure) => {
                course.failed();
                (Outcome::Failed(failure), None)
            }
            Ok((Good::Unchanged, long)) => {
                course.answered(long && feed.polling.long_polling.is_some());
                (Outcome::Unchanged, None)
            }
            Ok((Good::Archive(bytes, etag), long)) => {
                course.answered(long && feed.polling.long_polling.is_some());
                let (taken, told) = oneshot::channel();
                (Outcome::Archive { bytes, etag: etag.clone(), taken }, Some((told, etag)))
            }
        };
        if news.send(Fetched { bundle: feed.name.clone(), outcome }).await.is_err() {
            return;
        }
        let mut refused = false;
        if let Some((told, etag)) = told {
            refused = !told.await.unwrap_or(false);
            if !refused {
                course.etag = etag;
            }
        }
        tokio::time::sleep(course.pause(&feed.polling, refused, asked.elapsed(), chance())).await;
    }
}

/// How the tries went so far.
#[derive(Debug)]
struct Course {
    etag: Option<String>,
    /// The server holds long polls, or is yet to say whether it does.
    long: bool,
    failures: u32,
}

impl Course {
    fn failed(&mut self) {
        self.etag = None;
        self.failures = self.failures.saturating_add(1);
    }

    fn answered(&mut self, long: bool) {
        self.long = long;
        self.failures = 0;
    }

    /// How long to wait before the next try; `chance` is from 0 to 1.
    fn pause(&self, polling: &Polling, refused: bool, took: Duration, chance: f64) -> Duration {
        let (least, most) = (polling.min_delay.0, polling.max_delay.0);
        after_failures(self.failures, most, chance).unwrap_or_else(|| match (self.long, refused) {
            (true, false) => BREATH.saturating_sub(took),
            _ => between(least, most, chance),
        })
    }
}

impl Feed {
    async fn ask(&self, course: &Course) -> Result<(Good, bool), Failure> {
        let patience = self.polling.long_polling.filter(|_| course.long).map(|span| span.0);
        let call = Call {
            headers: headers(course.etag.as_deref(), patience),
            patience: patience.unwrap_or_default(),
            ..Call::get(&self.resource, self.most)
        };
        let answer = self.service.send(call).await;
        let failed =
            |message: String, http_code| Failure { message: format!("service `{}`: {message}", self.service.name), http_code };
        read(answer.map_err(|error| failed(error.to_string(), None))?).map_err(|(message, code)| failed(message, Some(code)))
    }
}

fn headers(etag: Option<&str>, patience: Option<Duration>) -> HeaderMap {
    let prefer = match patience {
        Some(patience) => format!("modes=snapshot;wait={}", patience.as_secs()),
        None => "modes=snapshot".to_owned(),
    };
    let mut headers = HeaderMap::new();
    headers.extend(HeaderValue::try_from(prefer).ok().map(|value| (PREFER, value)));
    headers.extend(etag.and_then(|etag| HeaderValue::try_from(etag).ok()).map(|value| (IF_NONE_MATCH, value)));
    headers
}

/// What an answer means, and whether its server holds long polls; or what is wrong with it, and its status.
fn read(answer: Answer) -> Result<(Good, bool), (String, u16)> {
    let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (long, code) = (kind == BUNDLES, answer.status.as_u16());
    match answer.status {
        StatusCode::NOT_MODIFIED => Ok((Good::Unchanged, long)),
        StatusCode::OK if !kind.is_empty() && !KINDS.contains(&kind.as_str()) => {
            Err((format!("its answer is `{}` and not a bundle; is the resource right?", kind.escape_debug()), code))
        }
        StatusCode::OK => {
            let etag = answer.headers.get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
            Ok((Good::Archive(answer.body, etag), long))
        }
        status if status.is_redirection() => {
            Err((format!("it answered {status}, and no redirect is followed; configure the place it points to"), code))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err((format!("it answered {}; look at the service's credentials", answer.status), code))
        }
        status => Err((format!("it answered {status}"), code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;

    fn polling() -> Polling {
        Polling { min_delay: Span::seconds(60), max_delay: Span::seconds(120), long_polling: None }
    }

    #[test]
    fn pauses_double_after_failures_and_are_at_random_otherwise() {
        let mut course = Course { etag: Some("1".to_owned()), long: false, failures: 0 };
        let pause = |course: &Course, chance| course.pause(&polling(), false, Duration::ZERO, chance);
        assert_eq!((pause(&course, 0.0), pause(&course, 1.0)), (Duration::from_secs(60), Duration::from_secs(120)));
        let pauses: Vec<u128> = (0..12)
            .map(|_| {
                course.failed();
                pause(&course, 1.0).as_millis()
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 102_400, 120_000]);
        assert_eq!((pause(&course, 0.0), course.etag.clone()), (Duration::from_secs(60), None));
        course.answered(true);
        assert_eq!(course.pause(&polling(), false, Duration::ZERO, 1.0), BREATH, "a server that holds nothing");
        assert_eq!(course.pause(&polling(), false, Duration::from_secs(30), 1.0), Duration::ZERO);
        assert_eq!(
            course.pause(&polling(), true, Duration::ZERO, 0.0),
            Duration::from_secs(60),
            "a refused one is not fetched at once"
        );
        assert!((0.0..=1.0).contains(&chance()));
    }

    fn answer(status: u16, kind: &str) -> Answer {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap()), (ETAG, "\"7\"".parse().unwrap())]);
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::from_static(b"x") }
    }

    #[test]
    fn answers_are_read_as_opa_reads_them() {
        for (kind, long) in [("application/gzip", false), ("application/octet-stream; x=1", false), (BUNDLES, true)] {
            let (good, held) = read(answer(200, kind)).unwrap_or_else(|error| panic!("{kind}: {error:?}"));
            assert!(matches!(good, Good::Archive(_, Some(etag)) if etag == "\"7\"") && held == long, "{kind}");
        }
        assert!(matches!(read(answer(304, BUNDLES)), Ok((Good::Unchanged, true))));
        for (status, kind, said) in [
            (200, "text/html", "`text/html` and not a bundle"),
            (302, "text/html", "no redirect is followed"),
            (401, "text/plain", "credentials"),
            (404, "text/plain", "404 Not Found"),
        ] {
            let (message, code) = read(answer(status, kind)).err().unwrap();
            assert!(message.contains(said) && code == status, "{message}");
        }
    }

    #[test]
    fn a_snapshot_is_asked_for_and_a_long_poll_where_it_is_held() {
        let sent = headers(Some("\"7\""), Some(Duration::from_secs(30)));
        assert_eq!((&sent[PREFER], &sent[IF_NONE_MATCH]), (&"modes=snapshot;wait=30".parse().unwrap(), &"\"7\"".parse().unwrap()));
        let sent = headers(None, None);
        assert!(sent[PREFER] == "modes=snapshot" && !sent.contains_key(IF_NONE_MATCH));
    }
}

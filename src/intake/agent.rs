//! The SPIFFE agent of this machine, listened to for as long as the gate stands.
//!
//! In: its socket. Out: [`News`]: an answer, a denial, or that it cannot be reached, each as it happens. What must stay true: there is
//! always another try, and no try comes at once after a failed one. Not the `spiffe` crate's `X509Source`: that one waits for an agent
//! before it exists, forgets when and why the stream broke, and keeps a former SVID where an answer is not to its liking; all three
//! are ours to decide, and to tell in `status`. An agent on a socket that answers again is noticed within a second; so is one that
//! takes back what it gave, after it was asked again.

use std::error::Error;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use spiffe::transport::{Endpoint, GrpcStatusCode, TransportError};
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Context};
use tokio::sync::mpsc;

/// For a connection and the first answer on it, which comes at once (SPIFFE_Workload_API.md 5.2.1). Later ones come when they come.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

/// How often, and after what, an agent that denies what it gave is asked again before that is believed. SPIRE denies for a moment while
/// it replaces the SVIDs of an authority that was tainted, and each gate would cut everything at once.
const DOUBTED: u8 = 3;
const DOUBT: Duration = Duration::from_millis(300);

/// What is heard of an agent.
#[derive(Debug)]
pub enum News {
    /// Everything it gives us, as of now. What a former answer held and this one lacks has been taken back.
    Answer(Box<X509Context>),
    /// It gives us nothing, and takes back what it gave (`PermissionDenied`).
    Denied(String),
    /// It says what nobody can use, or refuses the question itself.
    Faulty(String),
    /// It cannot be reached, or left.
    Gone(String),
}

/// Listens until nobody wants to hear any more.
pub async fn follow(socket: PathBuf, news: mpsc::Sender<News>) {
    let mut course = Course::default();
    loop {
        let end = match listen(&socket, &news, &mut course).await {
            Ok(()) => News::Gone("it ended the stream".to_owned()),
            Err(error) => classified(&error),
        };
        let Some(end) = course.doubt.weigh(end) else {
            tokio::time::sleep(DOUBT).await;
            continue;
        };
        let wait = course.pause.after(&end);
        if news.send(end).await.is_err() {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}

/// One connection, to its end.
async fn listen(socket: &Path, news: &mpsc::Sender<News>, course: &mut Course) -> Result<(), WorkloadApiError> {
    let first = async {
        let client = WorkloadApiClient::connect(Endpoint::Unix(socket.to_owned())).await?;
        let mut answers = client.stream_x509_contexts().await?;
        Ok((next(&mut answers).await, answers))
    };
    let late = || WorkloadApiError::EmptyResponse;
    let (mut answer, mut answers) =
        tokio::time::timeout(course.doubt.first_within(), first).await.unwrap_or_else(|_| Err(late()))?;
    while let Some(given) = answer {
        let given = News::Answer(Box::new(given?));
        course.answered();
        if news.send(given).await.is_err() {
            break;
        }
        answer = next(&mut answers).await;
    }
    Ok(())
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

fn classified(error: &WorkloadApiError) -> News {
    match error {
        WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => News::Denied(told(error)),
        WorkloadApiError::EmptyResponse => News::Gone("it did not answer in time".to_owned()),
        WorkloadApiError::Transport(TransportError::Status(status)) => match status.code() {
            GrpcStatusCode::InvalidArgument | GrpcStatusCode::Unimplemented => News::Faulty(told(error)),
            _ => News::Gone(told(error)),
        },
        WorkloadApiError::Transport(_) => News::Gone(told(error)),
        // Its answer could not be read. None of these texts quotes it.
        _ => News::Faulty(told(error)),
    }
}

/// An error with its causes: the outermost one says `transport error` and no more.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// What the tries so far have come to.
#[derive(Debug, Default)]
struct Course {
    pause: Pause,
    doubt: Doubt,
}

impl Course {
    fn answered(&mut self) {
        self.pause.reset();
        self.doubt = Doubt { held: true, denial: None };
    }
}

/// A denial is believed when the agent, asked again, gives nothing.
#[derive(Debug, Default)]
struct Doubt {
    /// There is something that could be taken back.
    held: bool,
    /// The denial in doubt, and how often the agent was asked about it.
    denial: Option<(String, u8)>,
}

impl Doubt {
    /// What is to be told, or nothing yet. Once it has denied, an agent that leaves has not given anything either.
    fn weigh(&mut self, end: News) -> Option<News> {
        match (self.denial.take(), end) {
            (None, News::Denied(why)) if self.held => self.denial = Some((why, 0)),
            (Some((why, asked)), _) if asked + 1 < DOUBTED => self.denial = Some((why, asked + 1)),
            (Some((why, _)), _) => {
                self.held = false;
                return Some(News::Denied(why));
            }
            (None, end) => return Some(end),
        }
        None
    }

    const fn first_within(&self) -> Duration {
        if self.denial.is_some() { DOUBT } else { FIRST_WITHIN }
    }
}

/// How long to wait before the next try; longer each time, from and to what the failure deserves.
#[derive(Debug, Default)]
struct Pause {
    last: Option<(Duration, Duration)>,
}

impl Pause {
    /// A socket nobody listens on costs nothing to try, and an SVID may be about to expire. A denial costs the agent an attestation.
    /// Of the last kind the specification says not to retry at all, but the agent may be replaced beneath us, and nobody restarts a
    /// gate for that.
    const fn bounds(end: &News) -> (Duration, Duration) {
        match end {
            News::Gone(_) | News::Answer(_) => (Duration::from_millis(100), Duration::from_millis(800)),
            News::Denied(_) => (Duration::from_millis(500), Duration::from_secs(4)),
            News::Faulty(_) => (Duration::from_secs(1), Duration::from_secs(32)),
        }
    }

    fn after(&mut self, end: &News) -> Duration {
        let (first, most) = Self::bounds(end);
        let wait = match self.last {
            Some((before, bound)) if bound == most => before.saturating_mul(2).min(most),
            _ => first,
        };
        self.last = Some((wait, most));
        wait
    }

    fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests;

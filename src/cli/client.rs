//! The client of the control socket.
//!
//! In: a call. Out: the gate's answer, or a failure with the next step. HTTP/1.1 by hyper over one connection a call; a command
//! makes one or two calls, so nothing is kept.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::data;
use super::failure::Failure;
use crate::control::answers::Problem;

/// The environment variable that names the socket.
const SOCKET: &str = "PORTCULLIS_SOCKET";
/// Longer than the gate gives any call.
const PATIENCE: Duration = Duration::from_secs(35);
/// The largest answer: a gate may hold 100,000 sessions.
const LARGEST: usize = 256 * 1024 * 1024;

/// Where the gate is and how its answers are shown.
#[derive(Clone, Debug, Args)]
pub(super) struct Remote {
    /// The control socket [default: $PORTCULLIS_SOCKET, else portcullis.sock]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Prints JSON, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

/// What the gate answered, when that was no problem.
#[derive(Clone, Debug)]
pub(super) struct Answer(Value);

impl Remote {
    /// What was said after a word of the command line, or else before it.
    pub(super) fn or(&self, before: &Self) -> Self {
        Self { socket: self.socket.clone().or_else(|| before.socket.clone()), json: self.json || before.json }
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.call("GET", path, None)
    }

    pub(super) fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::new(format!("the call cannot be written: {error}")))?;
        self.call("POST", path, Some(body))
    }

    pub(super) fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.call("DELETE", path, None)
    }

    /// Prints an answer: as it came for programs, in words for people.
    pub(super) fn show<T: DeserializeOwned>(&self, answer: &Answer, words: impl FnOnce(T) -> String) -> Result<(), Failure> {
        if self.json {
            return data(&serde_json::to_string_pretty(&answer.0).unwrap_or_default());
        }
        data(&words(answer.read()?))
    }

    fn call(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Result<Answer, Failure> {
        let socket = self.socket.clone().or_else(|| std::env::var_os(SOCKET).filter(|name| !name.is_empty()).map(PathBuf::from));
        let socket = socket.unwrap_or_else(|| PathBuf::from("portcullis.sock"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(format!("no runtime: {error}")))?;
        let call = async { tokio::time::timeout(PATIENCE, exchange(&socket, method, path, body.unwrap_or_default())).await };
        runtime.block_on(call).unwrap_or_else(|_| {
            let message =
                format!("the gate did not answer within {} seconds; what was asked may have happened", PATIENCE.as_secs());
            Err(Failure::new(message).hint("see `portcullis kills` and `portcullis status` before asking again"))
        })
    }
}

impl Answer {
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        T::deserialize(&self.0).map_err(|error| {
            Failure::new(format!("the answer is not one this program knows: {error}"))
                .hint("the gate may be of another version; --json shows the answer as it came")
        })
    }
}

/// A value as part of a path or a query: everything but letters, digits and a few marks escaped (RFC 3986 section 2.3).
pub(super) fn escape(text: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn exchange(socket: &Path, method: &str, path: &str, body: Vec<u8>) -> Result<Answer, Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let broken = |error: &dyn std::fmt::Display| {
        Failure::new(format!("the call broke off: {error}")).hint("the gate's log says why; see `portcullis status`")
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "portcullis")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Failure::misuse(format!("this is no call: {error}")))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(|error| broken(&error))?.to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&body).map(Answer).map_err(|error| broken(&error));
    }
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(problem.into()),
        Err(_) => Err(Failure::new(format!("the gate answered {status}"))),
    }
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(format!("{}: {error}", socket.display()));
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            failure.hint(format!("is the gate running? give --socket or set {SOCKET}"))
        }
        io::ErrorKind::PermissionDenied => failure.hint("the socket is open to root and to the user the gate runs as"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::Api;

    fn remote(socket: &Path) -> Remote {
        Remote { socket: Some(socket.to_owned()), json: false }
    }

    /// The client blocks on a runtime of its own, so it runs beside the one that serves.
    async fn beside<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(act).await.unwrap()
    }

    #[tokio::test]
    async fn a_problem_is_told_with_its_field_and_its_hint() {
        let api = Api::start();
        let socket = api.socket.clone();
        let body = serde_json::json!({"selector": {}, "reason": "x"});
        let failure = beside(move || remote(&socket).post("/v1/kills", &body).unwrap_err()).await;
        let told = failure.to_string();
        assert!(told.starts_with("error: selector: an empty selector would be everybody\nhint: name at least one field"), "{told}");
        assert_eq!(failure.code, 1);
    }

    #[test]
    fn a_gate_that_is_not_there_is_told_with_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let failure = remote(&folder.path().join("none.sock")).get("/v1/status").unwrap_err().to_string();
        assert!(failure.contains("none.sock") && failure.contains("\nhint: is the gate running? give --socket"), "{failure}");
    }

    #[test]
    fn what_stands_in_a_query_stays_in_it() {
        assert_eq!(escape("spiffe://a/b&task=x y"), "spiffe%3A%2F%2Fa%2Fb%26task%3Dx%20y");
    }
}

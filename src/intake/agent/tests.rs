//! An agent of whatever manners: gRPC by hand over h2, so that its answers can be wrong.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::*;
use crate::demo::authority::{Authority, Lifetime};
use crate::spiffe::{SpiffeId, TrustDomain};

#[test]
fn each_failure_is_waited_out_by_its_own_measure() {
    let gone = || News::Gone(String::new());
    let mut pause = Pause::default();
    let waits: Vec<u128> = (0..5).map(|_| pause.after(&gone()).as_millis()).collect();
    assert_eq!(waits, [100, 200, 400, 800, 800]);
    assert_eq!(pause.after(&News::Denied(String::new())).as_millis(), 500);
    assert_eq!(pause.after(&News::Denied(String::new())).as_millis(), 1000);
    assert_eq!(pause.after(&News::Faulty(String::new())).as_millis(), 1000);
    assert_eq!(pause.after(&gone()).as_millis(), 100);
    pause.after(&gone());
    pause.reset();
    assert_eq!(pause.after(&gone()).as_millis(), 100);
}

/// What the agent does with one call.
#[derive(Clone)]
enum Act {
    Send(Vec<u8>),
    /// Ends the stream with a gRPC status.
    Status(u16, &'static str),
    /// Closes the connection as a crash would.
    Crash,
}

/// Length-delimited field of a protobuf message.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut left = value.len();
    while left >= 128 {
        bytes.push(u8::try_from(left % 128).unwrap() | 128);
        left /= 128;
    }
    bytes.push(u8::try_from(left).unwrap());
    bytes.extend(value);
    bytes
}

/// An `X509SVIDResponse` with one SVID.
fn message(authority: &Authority, path: &str) -> Vec<u8> {
    let id = format!("spiffe://example.org/{path}");
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let issued = authority.issue(&SpiffeId::new(&id).unwrap(), Lifetime::starting(seconds - 5, 60)).unwrap();
    let certificate = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let root = CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap();
    field(1, &[field(1, id.as_bytes()), field(2, &certificate), field(3, key.secret_der()), field(4, &root)].concat())
}

fn authority() -> Authority {
    Authority::new(&TrustDomain::new("example.org").unwrap()).unwrap()
}

/// A stand-in that does one list of acts a call, and holds the stream open after the last.
struct StandIn {
    _folder: tempfile::TempDir,
    heard: mpsc::Receiver<News>,
    tasks: [JoinHandle<()>; 2],
}

impl StandIn {
    fn start(calls: Vec<Vec<Act>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let calls = Arc::new(Mutex::new(VecDeque::from(calls)));
        let serving = tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
                    assert_eq!(request.headers()["workload.spiffe.io"], "true");
                    let acts = calls.lock().unwrap().pop_front().unwrap_or_default();
                    if acts.iter().any(|act| matches!(act, Act::Crash)) {
                        break;
                    }
                    // A stream that is dropped is reset.
                    held.extend(play(&mut respond, &acts));
                }
            }
        });
        let (news, heard) = mpsc::channel(8);
        let tasks = [serving, tokio::spawn(follow(socket, news))];
        Self { _folder: folder, heard, tasks }
    }

    async fn next(&mut self) -> News {
        tokio::time::timeout(FIRST_WITHIN * 2, self.heard.recv()).await.expect("news in time").expect("it listens on")
    }

    async fn answer(&mut self) -> String {
        match self.next().await {
            News::Answer(context) => context.default_svid().unwrap().spiffe_id().to_string(),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Plays one call; what is returned is still open.
fn play(respond: &mut SendResponse<Bytes>, acts: &[Act]) -> Option<SendStream<Bytes>> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(head, false).unwrap();
    for act in acts {
        match act {
            Act::Send(message) => {
                let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                stream.send_data([&[0][..], &length, message].concat().into(), false).unwrap();
            }
            Act::Status(code, text) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", (*code).into());
                trailers.insert("grpc-message", text.parse().unwrap());
                stream.send_trailers(trailers).unwrap();
                return None;
            }
            Act::Crash => {}
        }
    }
    Some(stream)
}

#[tokio::test]
async fn every_answer_is_told_as_it_comes_and_a_denial_that_stands_as_one() {
    let authority = authority();
    let answers = [Act::Send(message(&authority, "one")), Act::Send(message(&authority, "two"))];
    let denied = Act::Status(7, "no identity issued");
    let mut agent = StandIn::start(vec![
        [&answers[..], std::slice::from_ref(&denied)].concat(),
        vec![Act::Status(7, "again")],
        vec![Act::Crash],
        vec![Act::Status(14, "away")],
        vec![Act::Status(7, "because")],
        vec![answers[0].clone()],
    ]);
    assert_eq!(agent.answer().await, "spiffe://example.org/one");
    assert_eq!(agent.answer().await, "spiffe://example.org/two");
    assert!(matches!(agent.next().await, News::Denied(why) if why == "no identity issued"));
    assert!(matches!(agent.next().await, News::Denied(why) if why.contains("because")));
    assert_eq!(agent.answer().await, "spiffe://example.org/one");
}

#[tokio::test]
async fn a_denial_of_a_moment_is_told_to_nobody() {
    let authority = authority();
    let denied = || Act::Status(7, "no identity issued");
    let answer = |path: &str| Act::Send(message(&authority, path));
    let mut agent =
        StandIn::start(vec![vec![answer("one"), denied()], vec![denied()], vec![answer("two"), denied()], vec![answer("three")]]);
    for path in ["one", "two", "three"] {
        assert_eq!(agent.answer().await, format!("spiffe://example.org/{path}"));
    }
}

#[tokio::test]
async fn an_agent_that_leaves_is_gone_and_found_again() {
    let authority = authority();
    let answer = Act::Send(message(&authority, "gate"));
    let mut agent = StandIn::start(vec![
        vec![answer.clone(), Act::Status(14, "shutting down")],
        vec![Act::Crash],
        vec![answer.clone(), Act::Status(0, "")],
        vec![Act::Status(13, "broken")],
        vec![answer],
    ]);
    agent.answer().await;
    assert!(matches!(agent.next().await, News::Gone(why) if why.contains("shutting down")));
    assert!(matches!(agent.next().await, News::Gone(_)));
    agent.answer().await;
    assert!(matches!(agent.next().await, News::Gone(why) if why == "it ended the stream"));
    assert!(matches!(agent.next().await, News::Gone(_)));
    agent.answer().await;
}

#[tokio::test]
async fn what_nobody_can_read_is_a_fault_and_quotes_nothing() {
    let authority = authority();
    let good = message(&authority, "gate");
    let svid = |parts: &[Vec<u8>]| field(1, &parts.concat());
    for wrong in [
        Vec::new(),
        b"canary".to_vec(),
        svid(&[field(1, b"spiffe://example.org/canary"), field(2, b"canary"), field(3, b"canary"), field(4, b"canary")]),
        [good.clone(), svid(&[field(1, b"spiffe://example.org/canary")])].concat(),
        [good.clone(), field(3, &[field(1, b"not a domain canary"), field(2, b"canary")].concat())].concat(),
    ] {
        let mut agent = StandIn::start(vec![vec![Act::Send(wrong)], vec![Act::Send(good.clone())]]);
        match agent.next().await {
            News::Faulty(why) | News::Gone(why) => assert!(!why.contains("canary"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(agent.answer().await, "spiffe://example.org/gate");
    }
    for code in [3, 12] {
        let mut agent = StandIn::start(vec![vec![Act::Status(code, "no")], vec![Act::Send(good.clone())]]);
        assert!(matches!(agent.next().await, News::Faulty(_)), "{code}");
        agent.answer().await;
    }
}

#[tokio::test]
async fn an_agent_that_says_nothing_is_left_after_a_while() {
    let authority = authority();
    let mut agent = StandIn::start(vec![vec![], vec![Act::Send(message(&authority, "gate"))]]);
    assert!(matches!(agent.next().await, News::Gone(why) if why == "it did not answer in time"));
    agent.answer().await;
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_gone_and_the_error_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (news, mut heard) = mpsc::channel(8);
    let listening = tokio::spawn(follow(folder.path().join("agent.sock"), news));
    for _ in 0..2 {
        let told = tokio::time::timeout(FIRST_WITHIN, heard.recv()).await.expect("a try").expect("news");
        assert!(matches!(&told, News::Gone(why) if why.contains("No such file")), "{told:?}");
    }
    drop(heard);
    tokio::time::timeout(FIRST_WITHIN, listening).await.expect("it ends when nobody listens").unwrap();
}

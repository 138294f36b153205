//! What goes on, what is refused with which word, and that neither depends on how the bytes were cut into reads.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::frames::Frames;
use super::framing::{Fault, Follower};
use super::{BodyRefused, Limits, Monitor, Wire};
use crate::decision::Refusal;

const LIMITS: Limits = Limits { header_bytes: 600, headers: 8, target_bytes: 100, control_frames: 20, resets: 5, connect: false };

/// Feeds `pieces` one after the other and returns what went on, and the fault.
fn follow(pieces: &[&[u8]]) -> (Vec<u8>, Option<Fault>) {
    follow_within(LIMITS, pieces)
}

fn follow_within(limits: Limits, pieces: &[&[u8]]) -> (Vec<u8>, Option<Fault>) {
    let mut follower = Follower::new(limits);
    let (mut released, mut held) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            match follower.follow(&held) {
                Ok(0) => break,
                Ok(passed) => released.extend(held.drain(..passed)),
                Err(fault) => return (released, Some(fault)),
            }
        }
    }
    (released, None)
}

/// Whole, octet by octet, and cut in two at every place.
fn every_cut(bytes: &[u8], mut check: impl FnMut(Vec<u8>, Option<Fault>)) {
    let singles: Vec<_> = bytes.chunks(1).collect();
    for pieces in (0..=bytes.len()).map(|at| bytes.split_at(at)).map(|(a, b)| vec![a, b]).chain([singles]) {
        let (released, fault) = follow(&pieces);
        check(released, fault);
    }
}

fn head(fields: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

#[test]
fn every_bad_head_is_refused_with_its_own_word_however_it_is_cut() {
    use Refusal::*;
    let long = |n: usize| "x".repeat(n);
    let rows: Vec<(String, Refusal)> = [
        ("GET /a HTTP/1.1\nHost: h\n\n", BareLineEnd),
        ("GET /a HTTP/1.1\r\nHost: h\n\r\n", BareLineEnd),
        ("GET /a HTTP/1.1\r\nHost: h\r\n\n", BareLineEnd),
        ("GET /a HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", BareLineEnd),
        ("GET /a HTTP/1.1\rHost: h\r\n\r\n", BareLineEnd),
        ("GET /a\nHost: h\n\n", BareLineEnd),
        ("\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", LeadingCrlf),
        ("\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", LeadingCrlf),
        (" GET /a HTTP/1.1\r\nHost: h\r\n\r\n", RequestLine),
        ("GET\r\nHost: h\r\n\r\n", RequestLine),
        ("GET /a\r\n\r\n", RequestLine),
        ("GET  /a HTTP/1.1\r\nHost: h\r\n\r\n", RequestLine),
        ("GET /a HTTP/1.1 \r\nHost: h\r\n\r\n", RequestLine),
        ("GET /a http/1.1\r\nHost: h\r\n\r\n", RequestLine),
        ("GET /a \r\nHost: h\r\n\r\n", RequestLine),
        ("G\tET /a HTTP/1.1\r\nHost: h\r\n\r\n", Method),
        ("GE(T /a HTTP/1.1\r\nHost: h\r\n\r\n", Method),
        ("\u{16}\u{3}\u{1}\r\n\r\n", Method),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", MethodRefused),
        ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", MethodRefused),
        ("GET /a HTTP/2.0\r\nHost: h\r\n\r\n", Version),
        ("GET /a HTTP/1.2\r\nHost: h\r\n\r\n", Version),
        ("GET /a HTTP/0.9\r\nHost: h\r\n\r\n", Version),
        ("GET /public#/../admin HTTP/1.1\r\nHost: h\r\n\r\n", Fragment),
        ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /a  HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /\u{e9}/x HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /a\tb HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /a\0b HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /a<b> HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET a HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET http://[::1/a HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /a HTTP/1.1\r\n\r\n", HostMissing),
        ("GET /a HTTP/1.0\r\n\r\n", HostMissing),
        ("GET /a HTTP/1.1\r\nHost: h\r\nhOST: h\r\n\r\n", HostRepeated),
        ("GET /a HTTP/1.1\r\n Host: h\r\n\r\n", ObsFold),
        ("GET /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncoding),
        ("GET /a HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\n\r\n", Expect),
    ]
    .into_iter()
    .map(|(bytes, word)| (bytes.to_owned(), word))
    .chain(
        [
            ("X: a\r\n b\r\n", ObsFold),
            ("X: a\r\n\tb\r\n", ObsFold),
            ("X_Y: a\r\n", HeaderUnderscore),
            ("X : a\r\n", HeaderSpace),
            ("X \t: a\r\n", HeaderSpace),
            ("X Y: a\r\n", HeaderName),
            (": a\r\n", HeaderName),
            ("X\r\n", HeaderName),
            ("X(: a\r\n", HeaderName),
            ("X\0: a\r\n", HeaderName),
            ("X\u{e9}: a\r\n", HeaderName),
            ("X\n: a\r\n", BareLineEnd),
            ("X: a\0b\r\n", HeaderValue),
            ("X: a\u{7f}b\r\n", HeaderValue),
            ("X: a\u{e9}b\r\n", HeaderValue),
            ("X: a\u{1b}b\r\n", HeaderValue),
            ("Content-Length: +5\r\n", ContentLength),
            ("Content-Length: 5, 5\r\n", ContentLength),
            ("Content-Length: 0x5\r\n", ContentLength),
            ("Content-Length:\r\n", ContentLength),
            ("Content-Length: 9999999999999999999\r\n", ContentLength),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", ContentLengthRepeated),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", ContentLengthAndTransferEncoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", ContentLengthAndTransferEncoding),
            ("Content-Length: 5\r\nTransfer-Encoding: x\r\n", ContentLengthAndTransferEncoding),
            ("Transfer-Encoding: gzip, chunked\r\n", TransferEncoding),
            ("Transfer-Encoding: xchunked\r\n", TransferEncoding),
            ("Transfer-Encoding: \"chunked\"\r\n", TransferEncoding),
            ("Transfer-Encoding: identity\r\n", TransferEncoding),
            ("Transfer-Encoding:\r\n", TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", TransferEncoding),
            ("Expect: y 100-continue\r\n", Expect),
            ("Expect: 100-continue, x\r\n", Expect),
            ("Expect:\r\n", Expect),
            ("Expect: 100-continue\r\nExpect: 100-continue\r\n", HeaderRepeated),
            ("Upgrade: h2c\r\n", Upgrade),
            ("Upgrade: websocket, H2C\r\n", Upgrade),
            ("HTTP2-Settings: AAMAAABk\r\n", Upgrade),
            ("Connection: Upgrade, HTTP2-Settings\r\n", Upgrade),
            ("Connection: close, x-forwarded-for\r\n", ConnectionOption),
            ("Connection: authorization\r\n", ConnectionOption),
            ("Connection: host\r\n", ConnectionOption),
            ("Connection: x-any\r\n", ConnectionOption),
            ("Connection: \"close\"\r\n", ConnectionOption),
        ]
        .into_iter()
        .map(|(fields, word)| (head(fields), word)),
    )
    .chain(
        "authorization content-type content-encoding cookie from referer user-agent max-forwards proxy-authorization origin date \
         if-modified-since if-unmodified-since if-range range mcp-session-id traceparent"
            .split_whitespace()
            .map(|name| (head(&format!("{name}: a\r\n{}: a\r\n", name.to_ascii_uppercase())), HeaderRepeated)),
    )
    .chain([
        (format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", long(100)), TargetTooLong),
        (format!("GET /{}\r\n", long(500)), TargetTooLong),
        (head(&"x: 1\r\n".repeat(8)), HeadersTooMany),
        (head(&format!("x: {}\r\n", long(600))), HeadersTooLarge),
        (format!("{}\r\n", long(600)), HeadersTooLarge),
        (head(&format!("x: {}\0{}", long(200), long(600))), HeaderValue),
    ])
    .collect();
    for (bytes, word) in rows {
        every_cut(bytes.as_bytes(), |released, fault| {
            assert_eq!(fault, Some(Fault::Head(word)), "{bytes:?}");
            assert!(released.is_empty(), "{bytes:?} let {released:?} go on");
        });
    }
}

#[test]
fn a_bad_body_is_refused_at_its_first_bad_byte() {
    use Refusal::*;
    let start = "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (good, bad, word) in [
        ("", ";a\r\n", Chunk),
        ("", "\r\n", Chunk),
        ("", "g\r\n", Chunk),
        ("", "-1\r\n", Chunk),
        ("0", "x5\r\n", Chunk),
        ("5", " \r\nhello\r\n", Chunk),
        ("5", "\nhello\r\n", Chunk),
        ("5\r", "hello\r\n", Chunk),
        ("000000000000005", "5\r\n", Chunk),
        ("5;a=", "\u{7}\r\n", Chunk),
        ("5;a", "\nhello", Chunk),
        ("5\r\nhello", "x", Chunk),
        ("5\r\nhello", "\n", Chunk),
        ("5\r\nhello\r", "0\r\n\r\n", Chunk),
        ("0\r\n", "Content-Length: 5\r\n\r\n", Trailer),
        ("0\r\n", "host: h\r\n\r\n", Trailer),
        ("0\r\n", "x: y\r\nX-Forwarded-For: 1\r\n\r\n", Trailer),
        ("0\r\n", "x-spiffe-id: a\r\n\r\n", Trailer),
        ("0\r\n", "authorization: a\r\n\r\n", Trailer),
        ("0\r\n", "x_y: a\r\n\r\n", Trailer),
        ("0\r\n", "x: a\n\r\n", Trailer),
        ("0\r\n", "x: a\r\n b\r\n\r\n", Trailer),
        ("0\r\n", "\n", Trailer),
    ] {
        every_cut(format!("{start}{good}{bad}").as_bytes(), |released, fault| {
            assert_eq!(String::from_utf8_lossy(&released), format!("{start}{good}"), "{bad:?}");
            assert_eq!(fault, Some(Fault::Body(word)), "{bad:?}");
        });
    }
    for endless in
        [format!("5;{}", "x".repeat(300)), format!("0\r\nx: {}", "x".repeat(700)), format!("0\r\n{}", "x: y\r\n".repeat(9))]
    {
        every_cut(format!("{start}{endless}").as_bytes(), |_, fault| assert!(matches!(fault, Some(Fault::Body(_))), "{endless}"));
    }
}

#[test]
fn what_is_unusual_but_clear_goes_on() {
    for (method, target, fields) in [
        ("OPTIONS", "*", ""),
        ("GET", "http://h/a?b=c", ""),
        ("GET", "HTTPS://h:443/", ""),
        ("get", "//x;y=%2F?a=[{}]|^\\", ""),
        ("M-SEARCH", "/", "X:\r\n"),
        ("GET", "/", "Connection: keep-alive, , TE\r\nTE: trailers\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"),
        ("POST", "/", "Expect: 100-Continue\r\nContent-Length: 000\r\n"),
        ("GET", "/", "Accept: a\r\nAccept: b\r\nX: a\tb  \r\n"),
    ] {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        every_cut(bytes.as_bytes(), |released, fault| {
            assert_eq!((String::from_utf8_lossy(&released).as_ref(), fault), (bytes.as_str(), None));
        });
    }
}

#[test]
fn a_tunnel_is_asked_for_where_it_may_be_and_nothing_behind_goes_on() {
    let within = |connect, head: &str| {
        let bytes = format!("{head}GET /b HTTP/1.1\r\nHost: h\r\n\r\n");
        let octets: Vec<&[u8]> = bytes.as_bytes().chunks(1).collect();
        let whole = follow_within(Limits { connect, ..LIMITS }, &[bytes.as_bytes()]);
        assert_eq!(follow_within(Limits { connect, ..LIMITS }, &octets), whole, "{head}");
        whole
    };
    for head in [
        "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
        "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\nContent-Length: 0\r\n\r\n",
        "CONNECT h:443 HTTP/1.0\r\n\r\n",
        "CONNECT h:443 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ] {
        assert_eq!(within(true, head), (head.as_bytes().to_vec(), None), "{head}");
        assert_eq!(within(false, head), (Vec::new(), Some(Fault::Head(Refusal::MethodRefused))), "{head}");
    }
    for (head, refusal) in [
        ("CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::TargetForm),
        ("CONNECT /h:443 HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::TargetForm),
        ("CONNECT http://h:443/ HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::TargetForm),
        ("GET h:443 HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::TargetForm),
        ("CONNECT h:443 HTTP/1.1\r\n\r\n", Refusal::HostMissing),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n", Refusal::ContentLength),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::ContentLength),
        ("TRACE http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::MethodRefused),
    ] {
        assert_eq!(within(true, head).1, Some(Fault::Head(refusal)), "{head}");
    }
}

#[test]
fn nothing_goes_on_after_the_message_that_closes_the_connection() {
    for first in [
        "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /a HTTP/1.0\r\nHost: h\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
    ] {
        every_cut(format!("{first}GET /b HTTP/1.1\r\nHost: h\r\n\r\n\n").as_bytes(), |released, fault| {
            assert_eq!((String::from_utf8_lossy(&released).as_ref(), fault), (first, None));
        });
    }
}

fn message() -> impl Strategy<Value = String> {
    let body = prop_oneof![
        Just(String::new()),
        "[a-z\r\n]{0,40}".prop_map(|body| format!("Content-Length: {}\r\n\r\n{body}", body.len())),
        (proptest::collection::vec(("[a-z\r\n]{1,20}", "(;[a-z =]{0,5})?"), 0..4), "(x-a: [a-z]{0,3}\r\n){0,2}").prop_map(
            |(chunks, trailers)| {
                let chunks: String =
                    chunks.iter().map(|(data, extension)| format!("{:x}{extension}\r\n{data}\r\n", data.len())).collect();
                format!("transfer-encoding: Chunked\r\n\r\n{chunks}0\r\n{trailers}\r\n")
            }
        ),
    ];
    ("[A-Z]{1,3}X", "/[!$-;=?-_a-z~]{0,20}", "(x-[a-z]{1,5}: ?[ -~]{0,10}\r\n){0,3}", body).prop_map(
        |(method, target, fields, rest)| {
            let rest = if rest.is_empty() { "\r\n".to_owned() } else { rest };
            format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{fields}{rest}")
        },
    )
}

/// A connection that yields one piece a read, then ends, and keeps what is written, one entry a write.
#[derive(Default)]
struct Script {
    pieces: VecDeque<Vec<u8>>,
    written: Rc<RefCell<Vec<Vec<u8>>>>,
    /// Takes at most so many bytes a write, and every other write not at all.
    narrow: Option<usize>,
    stuck: bool,
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.pieces.pop_front() {
            let rest = piece.split_off(piece.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            if !rest.is_empty() {
                self.pieces.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stuck = !self.stuck;
        if self.narrow.is_some() && self.stuck {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = bytes.len().min(self.narrow.unwrap_or(usize::MAX));
        self.written.borrow_mut().push(bytes[..length].to_vec());
        Poll::Ready(Ok(length))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.poll_write(cx, &bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn scripted(pieces: &[&[u8]]) -> Script {
    Script { pieces: pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| piece.to_vec()).collect(), ..Script::default() }
}

fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = places.iter().map(|place| place.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// One read with a buffer of `room` bytes; `None` when it is pending.
fn read(wire: &mut Wire<Script>, room: usize) -> Option<io::Result<Vec<u8>>> {
    let mut bytes = vec![0; room];
    let mut buffer = ReadBuf::new(&mut bytes);
    match Pin::new(wire).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
        Poll::Ready(outcome) => Some(outcome.map(|()| buffer.filled().to_vec())),
        Poll::Pending => None,
    }
}

fn rejected(monitor: &Monitor) -> Option<super::Rejection> {
    match monitor.poll_rejected(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(rejection) => Some(rejection),
        Poll::Pending => None,
    }
}

fn flush(wire: &mut Wire<Script>) {
    assert!(Pin::new(wire).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready());
}

proptest! {
    #[test]
    fn valid_messages_pass_byte_for_byte_however_cut_and_whatever_room_hyper_gives(
        messages in proptest::collection::vec(message(), 1..5),
        places in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        room in prop_oneof![1_usize..50, Just(40_000)],
    ) {
        let bytes = messages.concat().into_bytes();
        let (mut wire, monitor) = Wire::http1(scripted(&cut(&bytes, &places)), Limits::default());
        let mut released = Vec::new();
        while let Some(part) = read(&mut wire, room) {
            let part = part.unwrap();
            if part.is_empty() {
                break;
            }
            released.extend(part);
        }
        prop_assert_eq!(String::from_utf8_lossy(&released), String::from_utf8_lossy(&bytes));
        prop_assert_eq!(monitor.heads(), messages.len() as u64);
        prop_assert_eq!(monitor.bytes_in(), bytes.len() as u64);
        prop_assert!(monitor.head_begun().is_none());
    }

    #[test]
    fn any_bytes_end_the_same_however_they_are_cut(
        bytes in proptest::collection::vec(prop::sample::select(b"GET /a HTTP/1.\r\n\r\n:xX_5;0\x00\xff\t".to_vec()), 0..60),
        start in prop::sample::select(vec!["", "GET /a HTTP/1.1\r\nHost: h\r\n", "P /a HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\n\r\n"]),
        places in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        // An incomplete line is judged at its end at the latest, so it must have one to be compared.
        let bytes = [start.as_bytes(), &bytes, b"\n"].concat();
        prop_assert_eq!(follow(&cut(&bytes, &places)), follow(&[&bytes]));
    }

    #[test]
    fn writes_leave_whole_and_in_order_in_fewer_pieces(
        writes in proptest::collection::vec((0_usize..20_000, any::<bool>()), 1..20),
        narrow in prop::option::of(1_usize..5000),
    ) {
        let script = Script { narrow, ..Script::default() };
        let written = Rc::clone(&script.written);
        let (mut wire, monitor) = Wire::http2(script, LIMITS);
        let mut expected = Vec::new();
        run(async {
            for (index, (length, flush)) in writes.iter().enumerate() {
                let bytes = vec![index as u8; *length];
                wire.write_all(&bytes).await.unwrap();
                expected.extend(bytes);
                if *flush {
                    wire.flush().await.unwrap();
                }
            }
            wire.shutdown().await.unwrap();
        });
        prop_assert!(written.borrow().concat() == expected);
        prop_assert_eq!(monitor.bytes_out(), expected.len() as u64);
    }
}

#[test]
fn a_bad_head_sent_ahead_waits_until_the_answer_before_it_has_left() {
    let (mut wire, monitor) = Wire::http1(scripted(&[b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b#c HTTP/1.1\r\n"]), LIMITS);
    assert_eq!(read(&mut wire, 1000).unwrap().unwrap(), b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(monitor.idle_since(), None);
    assert!(read(&mut wire, 1000).is_none());
    assert_eq!(rejected(&monitor), None);
    monitor.exchange_opened();
    assert_eq!(rejected(&monitor), None);
    monitor.exchange_closed();
    assert_eq!(rejected(&monitor), None, "hyper may not have flushed the answer yet");
    flush(&mut wire);
    let rejection = rejected(&monitor).unwrap();
    assert_eq!(rejection.refusal, Refusal::Fragment);
    assert_eq!((rejection.method.as_deref(), rejection.target.as_deref()), (Some("GET"), Some("/b#c")));
    assert_eq!(rejection.bytes_read, 19);
    assert_eq!(rejected(&monitor), None);
}

#[test]
fn after_a_rejection_nothing_more_is_read() {
    let (mut wire, monitor) = Wire::http1(scripted(&[b"G\x01T /a\\b HTTP/1.1\r\n", b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"]), LIMITS);
    assert!(read(&mut wire, 1000).is_none() && read(&mut wire, 1000).is_none());
    assert_eq!(wire.io().pieces.len(), 1);
    let rejection = rejected(&monitor).unwrap();
    assert_eq!((rejection.method.as_deref(), rejection.target.as_deref()), (Some("G\\x01T"), Some("/a\\x5cb")));
    assert_eq!(monitor.heads(), 0);
}

#[test]
fn a_head_cut_short_by_the_end_of_the_connection_never_goes_on() {
    let (mut wire, monitor) = Wire::http1(scripted(&[b"GET /a HTTP/1.1\r\nHost: h\r\n\r"]), LIMITS);
    assert!(monitor.idle_since().is_some());
    assert_eq!(read(&mut wire, 1000).unwrap().unwrap(), b"");
    assert!(monitor.head_begun().is_some() && monitor.idle_since().is_none() && monitor.heads() == 0);
}

#[test]
fn a_head_sent_ahead_in_part_does_not_run_into_the_timeout_of_heads_before_its_turn() {
    let (mut wire, monitor) = Wire::http1(scripted(&[b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b"]), LIMITS);
    read(&mut wire, 1000).unwrap().unwrap();
    monitor.exchange_opened();
    read(&mut wire, 1000).unwrap().unwrap();
    assert_eq!(monitor.head_begun(), None);
    let before = Instant::now();
    monitor.exchange_closed();
    assert!(monitor.head_begun().unwrap() >= before);
}

#[test]
fn a_body_that_breaks_its_framing_is_an_error_of_its_own_exchange() {
    let start = b"P /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab";
    let (mut wire, monitor) = Wire::http1(scripted(&[&start[..], b"cd"]), LIMITS);
    assert_eq!(read(&mut wire, 1000).unwrap().unwrap(), start);
    for _ in 0..2 {
        let error = read(&mut wire, 1000).unwrap().unwrap_err();
        assert_eq!(error.downcast::<BodyRefused>().unwrap(), BodyRefused(Refusal::Chunk));
    }
    assert_eq!((monitor.body_refusal(), rejected(&monitor)), (Some(Refusal::Chunk), None));
}

#[test]
fn little_is_read_ahead_when_hyper_has_much_room() {
    let flood = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n".repeat(10_000);
    let (mut wire, monitor) = Wire::http1(scripted(&[&flood]), LIMITS);
    read(&mut wire, 400_000).unwrap().unwrap();
    assert!(monitor.bytes_in() <= 16 * 1024, "{}", monitor.bytes_in());
    let upload = [b"P /a HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n".as_slice(), &[7; 300_000]];
    let (mut wire, _) = Wire::http1(scripted(&upload), LIMITS);
    read(&mut wire, 400_000).unwrap().unwrap();
    assert_eq!(read(&mut wire, 400_000).unwrap().unwrap().len(), 300_000, "body passes without a bound of ours");
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(length: usize, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let size = (length as u32).to_be_bytes();
    [&size[1..], &[kind, flags], &stream.to_be_bytes(), &vec![0; length]].concat()
}

/// Counts `frames`, each at its millisecond.
fn counted(frames: &[(u64, Vec<u8>)], bought: u64) -> Result<u64, Refusal> {
    let start = Instant::now();
    let mut counter = Frames::new(&LIMITS, start);
    counter.wrote(bought);
    counter.follow(start, PREFACE)?;
    for (millis, frame) in frames {
        counter.follow(start + Duration::from_millis(*millis), frame)?;
    }
    Ok(counter.heads())
}

#[test]
fn each_flood_is_refused_just_above_its_limit_and_not_at_it() {
    use Refusal::*;
    let headers = |stream| frame(3, 1, 4, stream);
    for (name, most, word, make) in [
        ("settings", 20, FloodControlFrames, frame(6, 4, 0, 0)),
        ("ping", 20, FloodControlFrames, frame(8, 6, 0, 0)),
        ("priority", 20, FloodControlFrames, frame(5, 2, 0, 1)),
        ("empty data", 20, FloodControlFrames, frame(0, 0, 0, 1)),
        ("unknown", 20, FloodControlFrames, frame(0, 0x42, 0, 1)),
        ("window update", 160, FloodControlFrames, frame(4, 8, 0, 0)),
        ("reset", 5, FloodResets, frame(4, 3, 0, 1)),
    ] {
        let flood = |count: u64, gap: u64| (0..count).map(|n| (n * gap, make.clone())).collect::<Vec<_>>();
        assert_eq!(counted(&flood(most, 0), 0), Ok(0), "{name}");
        assert_eq!(counted(&flood(most + 1, 0), 0), Err(word), "{name}");
        assert_eq!(counted(&flood(most * 10, 1000 / most + 1), 0), Ok(0), "{name} at its rate");
        assert_eq!(counted(&flood(most * 10, 1000 / most / 2), 0), Err(word), "{name} at twice its rate");
    }
    let data = vec![(0, frame(1, 0, 0, 1)); 500];
    assert_eq!(counted(&data, 0), Ok(0));
    let ends = vec![(0, frame(0, 0, 1, 1)); 500];
    assert_eq!(counted(&ends, 0), Ok(0));
    assert_eq!(counted(&(0..500).map(|n| (0, headers(2 * n + 1))).collect::<Vec<_>>(), 0), Ok(500));
}

#[test]
fn bytes_written_buy_window_updates() {
    let updates = vec![(0, frame(4, 8, 0, 0)); 400];
    assert_eq!(counted(&updates, 0), Err(Refusal::FloodControlFrames));
    assert_eq!(counted(&updates, 300 * 2048), Ok(0));
}

#[test]
fn a_header_block_is_bounded_in_bytes_and_in_frames() {
    let block = |count: usize, length: usize| [vec![(0, frame(1, 1, 0, 1))], vec![(0, frame(length, 9, 0, 1)); count]].concat();
    assert_eq!(counted(&block(32, 0), 0), Ok(1));
    assert_eq!(counted(&block(33, 0), 0), Err(Refusal::FloodControlFrames));
    assert_eq!(counted(&block(3, 199), 0), Ok(1));
    assert_eq!(counted(&block(3, 200), 0), Err(Refusal::HeadersTooLarge));
}

#[test]
fn http2_passes_unchanged_until_the_flood_however_it_is_cut() {
    let good = [PREFACE, &frame(0, 4, 0, 0), &frame(30, 1, 0, 1), &frame(10, 9, 4, 1), &frame(100, 0, 1, 1)].concat();
    let bad = frame(4, 3, 0, 1).repeat(6);
    let all = [good.as_slice(), &bad].concat();
    for size in 1..all.len() {
        let (mut wire, monitor) = Wire::http2(scripted(&all.chunks(size).collect::<Vec<_>>()), LIMITS);
        let mut passed = Vec::new();
        while let Some(part) = read(&mut wire, 1000) {
            passed.extend(part.unwrap());
        }
        assert!(all.starts_with(&passed));
        assert_eq!(rejected(&monitor).unwrap().refusal, Refusal::FloodResets);
    }
}

#[test]
fn a_header_block_that_does_not_end_is_a_head_begun() {
    let (mut wire, monitor) =
        Wire::http2(scripted(&[&PREFACE[..5], &PREFACE[5..], &frame(3, 1, 0, 1), &frame(1, 9, 4, 1)[..9], &[0]]), LIMITS);
    for begun in [true, false, true, true, false] {
        read(&mut wire, 100).unwrap().unwrap();
        assert_eq!(monitor.head_begun().is_some(), begun);
    }
}

#[test]
fn a_flush_that_was_put_off_happens_at_the_next_flush_or_read() {
    let script = Script::default();
    let written = Rc::clone(&script.written);
    let (mut wire, _) = Wire::http2(script, LIMITS);
    let write = |wire: &mut Wire<Script>, text: &str| {
        let outcome = Pin::new(wire).poll_write(&mut Context::from_waker(Waker::noop()), text.as_bytes());
        assert!(matches!(outcome, Poll::Ready(Ok(length)) if length == text.len()));
    };
    for text in ["a", "b", "c"] {
        write(&mut wire, text);
        flush(&mut wire);
    }
    assert!(written.borrow().is_empty());
    flush(&mut wire);
    assert_eq!(*written.borrow(), [b"abc"]);
    write(&mut wire, "d");
    flush(&mut wire);
    read(&mut wire, 10).unwrap().unwrap();
    assert_eq!(written.borrow().concat(), b"abcd");
}

/// An answer to every request: its method and target, and the length of its body.
async fn answer(
    monitor: Monitor,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<http_body_util::Full<bytes::Bytes>>, hyper::Error> {
    use http_body_util::BodyExt;
    let line = format!("{} {} ", request.method(), request.uri());
    let body = request.into_body().collect().await?.to_bytes();
    monitor.exchange_closed();
    Ok(http::Response::new(http_body_util::Full::new(format!("{line}{}{}", body.len(), " ".repeat(1000)).into())))
}

#[test]
fn hyper_serves_good_requests_and_the_bad_one_after_them_is_handed_over() {
    run(async {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (wire, monitor) = Wire::http1(server, Limits::default());
        let seen = monitor.clone();
        let service = hyper::service::service_fn(move |request| {
            seen.exchange_opened();
            answer(seen.clone(), request)
        });
        let mut connection = std::pin::pin!(
            hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(wire), service)
        );
        client
            .write_all(
                b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                  POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
            )
            .await
            .unwrap();
        let rejection = poll_fn(|cx| {
            assert!(connection.as_mut().poll(cx).is_pending());
            monitor.poll_rejected(cx)
        })
        .await;
        assert_eq!(rejection.refusal, Refusal::ContentLengthAndTransferEncoding);
        assert_eq!(rejection.target.as_deref(), Some("/c"));
        let mut text = vec![0; 64 * 1024];
        let length = client.read(&mut text).await.unwrap();
        let text = String::from_utf8_lossy(&text[..length]);
        assert!(text.contains("GET /a 0 ") && text.contains("POST /b 3 "), "{text}");
        assert!(text.ends_with("  "), "the last answer has left to its end");
    });
}

#[test]
fn hyper_gives_the_exchange_an_error_that_says_why_its_body_was_refused() {
    run(async {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (wire, monitor) = Wire::http1(server, Limits::default());
        let service = hyper::service::service_fn(|request| async {
            let error = answer(monitor.clone(), request).await.unwrap_err();
            let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
            let mut found = None;
            while let Some(error) = source {
                let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
                found = found.or(inner.and_then(|inner| inner.downcast_ref::<BodyRefused>().copied()));
                source = error.source();
            }
            Ok::<_, hyper::Error>(http::Response::new(http_body_util::Full::new(bytes::Bytes::from(format!("{found:?}")))))
        });
        client.write_all(b"POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n").await.unwrap();
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(wire), service);
        let _ = connection.await;
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("BodyRefused(Chunk)"), "{text}");
    });
}

/// A connection that counts how often it is written to.
struct Counted<IO> {
    io: IO,
    writes: Rc<RefCell<usize>>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        *self.writes.borrow_mut() += 1;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[derive(Clone)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

#[test]
fn answers_of_streams_that_are_ready_together_leave_in_few_writes() {
    use http_body_util::BodyExt;
    run(tokio::task::LocalSet::new().run_until(async {
        let (client, server) = tokio::io::duplex(256 * 1024);
        let writes = Rc::new(RefCell::new(0));
        let (wire, monitor) = Wire::http2(Counted { io: server, writes: Rc::clone(&writes) }, Limits::default());
        let service = hyper::service::service_fn(move |request| answer(monitor.clone(), request));
        tokio::task::spawn_local(
            hyper::server::conn::http2::Builder::new(Local).serve_connection(hyper_util::rt::TokioIo::new(wire), service),
        );
        let (sender, connection) =
            hyper::client::conn::http2::handshake(Local, hyper_util::rt::TokioIo::new(client)).await.unwrap();
        tokio::task::spawn_local(connection);
        let streams: Vec<_> = (0..10)
            .map(|number| {
                let mut sender = sender.clone();
                tokio::task::spawn_local(async move {
                    let request =
                        http::Request::get(format!("http://h/{number}")).body(http_body_util::Empty::<bytes::Bytes>::new());
                    let response = sender.send_request(request.unwrap()).await.unwrap();
                    response.into_body().collect().await.unwrap().to_bytes()
                })
            })
            .collect();
        for (number, stream) in streams.into_iter().enumerate() {
            assert!(stream.await.unwrap().starts_with(format!("GET http://h/{number} 0 ").as_bytes()));
        }
        // Settings and their acknowledgement, then the answers; without gathering there is one write an answer at least.
        assert!(*writes.borrow() <= 6, "{} writes", writes.borrow());
    }));
}

//! What hyper is given of what came, and when.

use super::*;

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

fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = places.iter().map(|place| place.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
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

//! The demo API over a real socket.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const SOON: Duration = Duration::from_secs(10);

async fn send(api: &Api, head: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(api.address()).await.unwrap();
    let text =
        format!("{head} HTTP/1.1\r\nHost: api\r\nX-Test: yes\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

async fn ask(api: &Api, head: &str, body: &str) -> (u16, String) {
    let mut text = String::new();
    send(api, head, body).await.read_to_string(&mut text).await.unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").unwrap().1.trim_end().to_owned())
}

async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = Vec::new();
    let found = async {
        while !String::from_utf8_lossy(&text).contains(wanted) {
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "ended early");
        }
    };
    tokio::time::timeout(SOON, found).await.expect("it never came");
    String::from_utf8(text).unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn users_are_listed_found_stored_and_removed() {
    let api = Api::start().unwrap();
    let linus = r#"{"id":7,"name":"linus","role":"viewer"}"#;
    for (head, body, status, expected) in [
        ("GET /v1/users/7", "", 200, linus),
        ("DELETE /v1/users/7", "", 204, ""),
        ("GET /v1/users/7", "", 404, r#"{"error":"there is no such user"}"#),
        ("POST /v1/users", r#"{"name":"eve","role":"viewer"}"#, 201, r#"{"id":8,"name":"eve","role":"viewer"}"#),
        ("POST /v1/users", "{", 400, r#"{"error":"the body is not JSON"}"#),
        ("POST /v1/users", r#"{"name":"eve"}"#, 400, r#"{"error":"a user has a name and a role"}"#),
        ("PUT /v1/users", "", 405, r#"{"error":"this cannot be done here"}"#),
        ("POST /v1/users/8", "", 405, r#"{"error":"this cannot be done here"}"#),
        ("POST /v1/events", "", 405, r#"{"error":"this cannot be done here"}"#),
        ("GET /", "", 404, r#"{"error":"there is no such thing"}"#),
    ] {
        assert_eq!(ask(&api, head, body).await, (status, expected.to_owned()), "{head} {body}");
    }
    let (_, all) = ask(&api, "GET /v1/users", "").await;
    assert!(all.contains(r#""name":"eve""#) && !all.contains("linus"), "{all}");
}

#[tokio::test(flavor = "current_thread")]
async fn it_remembers_what_reached_it() {
    let api = Api::start().unwrap();
    assert_eq!((api.count(), api.last()), (0, None));
    for _ in 0..REMEMBERED + 3 {
        ask(&api, "GET /v1/users?page=2", "").await;
    }
    ask(&api, "POST /v1/users", r#"{"name":"eve","role":"admin"}"#).await;
    let last = api.last().unwrap();
    assert_eq!((api.count(), last.number), (REMEMBERED as u64 + 4, REMEMBERED as u64 + 4));
    assert_eq!(last.body, r#"{"name":"eve","role":"admin"}"#);
    assert!(last.head().starts_with("POST /v1/users HTTP/1.1\n") && last.head().contains("x-test: yes\n"), "{}", last.head());
    assert_eq!(lock(&api.house.seen).1.len(), REMEMBERED);
    let (status, _) = ask(&api, "POST /v1/users", &"x".repeat(LARGEST_BODY + 1)).await;
    assert_eq!(status, 400);
}

#[tokio::test(flavor = "current_thread")]
async fn events_count_up_and_the_stream_is_counted_while_it_lives() {
    let api = Api::start().unwrap();
    let mut streams = api.streams();
    let mut stream = send(&api, "GET /v1/events", "").await;
    let text = read_until(&mut stream, "id: 3\n").await;
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["1", "2", "3"]);
    assert_eq!(*streams.borrow_and_update(), 1);
    drop(stream);
    tokio::time::timeout(SOON, streams.wait_for(|open| *open == 0)).await.expect("the stream outlived its reader").unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn the_export_comes_in_pieces_with_every_row_once() {
    let api = Api::start().unwrap();
    let mut stream = send(&api, "GET /v1/export", "").await;
    let text = read_until(&mut stream, "\n130,").await;
    assert!(text.contains("transfer-encoding: chunked"), "{text}");
    let numbers = text.lines().filter_map(|line| line.split_once(",user-")).map(|(number, _)| number.parse::<u64>().unwrap());
    assert!(numbers.take(130).eq(1..=130), "{text}");
}

#[tokio::test(flavor = "current_thread")]
async fn the_terminal_counts_and_repeats_and_is_counted_while_it_lives() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    let api = Api::start().unwrap();
    let mut streams = api.streams();
    let stream = TcpStream::connect(api.address()).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{}/v1/terminal", api.address()), stream).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    let mut heard = Vec::new();
    while !(heard.contains(&Message::text("you said: hello")) && heard.contains(&Message::text("line 2"))) {
        heard.push(tokio::time::timeout(SOON, socket.next()).await.expect("it never came").unwrap().unwrap());
    }
    assert_eq!(*streams.borrow_and_update(), 1);
    drop(socket);
    tokio::time::timeout(SOON, streams.wait_for(|open| *open == 0)).await.expect("the stream outlived its reader").unwrap();
    assert_eq!(ask(&api, "GET /v1/terminal", "").await.0, 426);
}

#[tokio::test(flavor = "current_thread")]
async fn a_watch_is_a_grpc_call_over_http2_with_numbered_messages() {
    let api = Api::start().unwrap();
    let stream = TcpStream::connect(api.address()).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://{}/demo.v1.Users/Watch", api.address())).body(()).unwrap();
    let (response, _) = requests.ready().await.unwrap().send_request(request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut bytes = Vec::new();
    while bytes.len() < 21 {
        bytes.extend_from_slice(&tokio::time::timeout(SOON, body.data()).await.expect("it never came").unwrap().unwrap());
    }
    assert_eq!(bytes[..21], [0, 0, 0, 0, 2, 8, 1, 0, 0, 0, 0, 2, 8, 2, 0, 0, 0, 0, 2, 8, 3]);
    assert_eq!(message(300).as_ref(), [0, 0, 0, 0, 3, 8, 0xac, 0x02]);
}

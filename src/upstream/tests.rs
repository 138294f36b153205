use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::time::timeout;

use super::*;
use crate::demo::authority::{Authority, Lifetime};
use crate::exchange::{Caller, ExchangeId, Kind};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::tls::{self, Holder, Identity};

fn exchange() -> Arc<Exchange> {
    let caller = Caller {
        spiffe_id: String::new(),
        trust_domain: String::new(),
        certificate: String::new(),
        address: IpAddr::from([127, 0, 0, 1]),
        session: String::new(),
    };
    Arc::new(Exchange::new(ExchangeId(uuid::Uuid::nil()), Kind::Connection, Arc::new(caller)))
}

/// Who we are, with files that need not stay.
fn holder() -> Arc<Holder> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let now = rustls::pki_types::UnixTime::now();
    let authority = Authority::new(&TrustDomain::new("example.org").unwrap()).unwrap();
    let lifetime = Lifetime::starting(now.as_secs() - 60, 3600);
    let issued = authority.issue(&SpiffeId::new("spiffe://example.org/gate").unwrap(), lifetime).unwrap();
    let files = tls::Files {
        certificate: write("svid.pem", &issued.certificate_pem),
        private_key: write("svid.key", &issued.key_pem),
        bundles: [("example.org".to_owned(), write("bundle.pem", authority.ca_pem()))].into(),
    };
    let config = tls::Config { trust_domain: "example.org".to_owned(), source: tls::Source::Files(files) };
    Arc::new(Holder::new(Identity::load(&config, now).unwrap()))
}

fn upstream(json: serde_json::Value) -> Result<Upstream, ConfigError> {
    Upstream::new("payroll", &serde_json::from_value(json).unwrap())
}

#[tokio::test(flavor = "current_thread")]
async fn an_upstream_that_moved_gets_no_request_at_its_old_place() {
    let request = || Request::builder().header("host", "a").body(http_body_util::Empty::<Bytes>::new()).unwrap();
    let exchange = exchange();
    let places = [std::net::TcpListener::bind("127.0.0.1:0").unwrap(), std::net::TcpListener::bind("127.0.0.1:0").unwrap()];
    tokio::task::LocalSet::new()
        .run_until(async {
            let (pool, mut stay_open) = (Pool::new(holder()), Vec::new());
            for place in places {
                let endpoint = format!("http://{}", place.local_addr().unwrap());
                let upstream = upstream(serde_json::json!({"endpoint": endpoint})).unwrap();
                let answering = std::thread::spawn(move || {
                    let (mut stream, _) = place.accept().unwrap();
                    let _ = stream.read(&mut [0; 1024]).unwrap();
                    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
                    stream
                });
                let sent = timeout(Duration::from_secs(5), pool.send(&upstream, &exchange, request())).await;
                let (_, lease) = sent.expect("its new place was asked").unwrap();
                stay_open.push(answering.join().unwrap());
                pool.give_back(lease);
            }
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_raw_connection_writes_nothing_once_its_exchange_is_cut() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (pool, exchange) = (Pool::<http_body_util::Empty<Bytes>>::new(holder()), exchange());
    let upstream = upstream(serde_json::json!({"endpoint": format!("http://{address}")})).unwrap();
    for resolved in [false, true] {
        let gate = gate_of(&exchange);
        let connecting = async {
            match resolved {
                false => pool.connect_raw(&upstream, gate).await,
                true => pool.connect_to(address, None, Duration::from_secs(5), gate).await,
            }
        };
        let (ours, theirs) = tokio::join!(connecting, listener.accept());
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap().0);
        if resolved {
            let registry = Arc::new(crate::exchange::Registry::new(1));
            registry.cut(&exchange, crate::decision::Cause::Policy, None);
            assert!(ours.write_all(b"late").await.is_err());
            drop(ours);
            assert_eq!(theirs.read(&mut [0; 8]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        } else {
            ours.write_all(b"before").await.unwrap();
            let mut read = [0; 6];
            theirs.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"before");
        }
    }
}

#[test]
fn endpoints_are_read_or_refused_with_the_form_to_write() {
    let way = |endpoint: &str| upstream(serde_json::json!({"endpoint": endpoint})).map(|upstream| upstream.way);
    for (endpoint, host, port) in [
        ("http://127.0.0.1:9000", "127.0.0.1", 9000),
        ("http://payroll.internal", "payroll.internal", 80),
        ("http://[::1]:81/", "::1", 81),
    ] {
        let way = way(endpoint).unwrap();
        assert_eq!((way.host.as_str(), way.port, way.speaks), (host, port, Speaks::Http1));
    }
    assert!(matches!(way("ftp://a:1"), Err(ConfigError::Scheme(_))));
    for text in ["http://a/path", "http://u@a", "http://a?x", "", "http://"] {
        assert!(way(text).is_err(), "{text}");
    }
}

#[test]
fn an_https_upstream_says_whom_it_expects_and_an_http_one_expects_nobody() {
    let read = |json: serde_json::Value| upstream(json).map(|upstream| (upstream.way.speaks, upstream.way.tls.clone()));
    let ids = serde_json::json!({"spiffe_ids": ["spiffe://example.org/payroll"]});
    let (speaks, expected) = read(serde_json::json!({"endpoint": "https://10.0.0.1", "tls": ids})).unwrap();
    assert_eq!(speaks, Speaks::Either);
    assert!(matches!(expected.unwrap().proof, Proof::SpiffeIds(ids) if ids.len() == 1));
    let https = |more: serde_json::Value| serde_json::json!({"endpoint": "https://a", "tls": more});
    assert!(matches!(read(serde_json::json!({"endpoint": "https://a"})), Err(ConfigError::NobodyExpected)));
    assert!(matches!(read(https(serde_json::json!({}))), Err(ConfigError::NobodyExpected)));
    let both = serde_json::json!({"spiffe_ids": ["spiffe://example.org/payroll"], "ca": "ca.pem"});
    assert!(matches!(read(https(both)), Err(ConfigError::TwoProofs)));
    assert!(matches!(read(serde_json::json!({"endpoint": "http://a", "tls": ids})), Err(ConfigError::PlainTls)));
    assert!(matches!(read(serde_json::json!({"endpoint": "http://a", "protocol": "auto"})), Err(ConfigError::PlainAuto)));
    let gone = upstream(https(serde_json::json!({"ca": "/nowhere/ca.pem"}))).unwrap();
    assert!(gone.check_files().unwrap_err().to_string().starts_with("tls.ca: /nowhere/ca.pem: cannot be read"));
}

/// An HTTP/2 upstream by hand, which answers requests and PINGs as told, and tells the kinds of frames it got.
fn by_hand(answers: bool, pongs: bool) -> (std::net::SocketAddr, std::sync::mpsc::Receiver<u8>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 24]).unwrap();
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        let mut head = [0; 9];
        while stream.read_exact(&mut head).is_ok() {
            let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
            stream.read_exact(&mut payload).unwrap();
            match (head[3], head[4] & 1) {
                (4, 0) => stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).unwrap(),
                // `:status: 200` of the static table, and the end of the stream.
                (1, _) if answers => stream.write_all(&[&[0, 0, 1, 1, 5], &head[5..], &[0x88]].concat()).unwrap(),
                (6, 0) if pongs => stream.write_all(&[&[0, 0, 8, 6, 1, 0, 0, 0, 0], &payload[..]].concat()).unwrap(),
                _ => {}
            }
            let _ = tell.send(head[3]);
        }
    });
    (address, told)
}

/// Waits for a frame without keeping this thread's tasks from running.
async fn frame(told: &std::sync::mpsc::Receiver<u8>, kind: u8) {
    let came = async {
        while told.try_recv() != Ok(kind) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(5), came).await.unwrap_or_else(|_| panic!("no frame of kind {kind} came"));
}

const PING: u8 = 6;
const GO_AWAY: u8 = 7;

#[tokio::test(flavor = "current_thread")]
async fn a_quiet_connection_is_asked_whether_it_lives_and_given_up_when_it_does_not_say_so() {
    for pongs in [false, true] {
        let (address, told) = by_hand(false, pongs);
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let pool = std::rc::Rc::new(Pool::new(holder()));
                let upstream = upstream(serde_json::json!({"endpoint": format!("http://{address}"), "protocol": "h2"})).unwrap();
                let request = Request::builder().header("host", "a").body(http_body_util::Empty::<Bytes>::new()).unwrap();
                let sending = std::rc::Rc::clone(&pool);
                let sent = tokio::task::spawn_local(async move { sending.send(&upstream, &exchange(), request).await.map(drop) });
                frame(&told, 1).await;
                let began = std::time::Instant::now();
                let after = |seconds| pool.sweep(began + Duration::from_secs(seconds));
                after(0);
                after(14);
                after(16);
                frame(&told, PING).await;
                // The answer to it comes in its own time.
                tokio::time::sleep(Duration::from_millis(50)).await;
                after(25);
                after(27);
                after(60);
                if pongs {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    assert!(!sent.is_finished());
                    assert!(!told.try_iter().any(|kind| kind == PING), "once for each time it falls quiet");
                    after(330);
                    frame(&told, PING).await;
                    sent.abort();
                } else {
                    let error = timeout(Duration::from_secs(5), sent).await.expect("it is given up").unwrap().unwrap_err();
                    assert!(matches!(error, UpstreamError::Reset(_)), "{error:?}");
                }
            })
            .await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_shared_connection_that_idles_says_goodbye() {
    let (address, told) = by_hand(true, true);
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let pool = Pool::new(holder());
            let upstream = upstream(serde_json::json!({"endpoint": format!("http://{address}"), "protocol": "h2"})).unwrap();
            let began = std::time::Instant::now();
            for _ in 0..2 {
                let request = Request::builder().header("host", "a").body(http_body_util::Empty::<Bytes>::new()).unwrap();
                let (response, lease) =
                    timeout(Duration::from_secs(5), pool.send(&upstream, &exchange(), request)).await.unwrap().unwrap();
                drop(response);
                pool.give_back(lease);
                pool.sweep(began);
                pool.sweep(began + Duration::from_secs(40));
            }
            assert!(!told.try_iter().any(|kind| kind == GO_AWAY));
            pool.sweep(began + Duration::from_secs(91));
            frame(&told, GO_AWAY).await;
        })
        .await;
}

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;

use super::*;
use crate::tls::Identity;
use crate::units::Size;

fn service(json: serde_json::Value) -> Service {
    Service::new("acme", &serde_json::from_value(json).unwrap(), Arc::new(Holder::new(Identity::none()))).unwrap()
}

/// A server that answers with what it was asked; `/large` is larger than announced, `/silent` never comes, `/moved` is elsewhere.
async fn server() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let (head, body) = request.into_parts();
                let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
                if head.uri.path().ends_with("/silent") {
                    std::future::pending::<()>().await;
                }
                let mut response = Response::new(Full::new(Bytes::from(match head.uri.path() {
                    "/v1/large" => "x".repeat(2000),
                    _ => format!("{} {} {:?} {body}", head.method, head.uri, head.headers),
                })));
                if head.uri.path().ends_with("/moved") {
                    *response.status_mut() = http::StatusCode::FOUND;
                    response.headers_mut().insert("location", HeaderValue::from_static("/v1/elsewhere"));
                }
                Ok::<_, Infallible>(response)
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_call_is_joined_to_the_url_and_carries_the_token() {
    let url = server().await;
    let acme = service(json!({"url": format!("{url}/v1/"), "credentials": {"bearer": {"token": "canary"}}}));
    let answer = acme.send(Call::get("/bundles/authz?x=1", Size::kib(1))).await.unwrap();
    let said = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(said.starts_with("GET /v1/bundles/authz?x=1 ") && said.contains("\"Bearer canary\""), "{said}");
    let call = Call::post("logs", HeaderValue::from_static("application/json"), Bytes::from_static(b"[]"));
    let said = String::from_utf8(acme.send(call).await.unwrap().body.to_vec()).unwrap();
    assert!(said.starts_with("POST /v1/logs ") && said.ends_with(" []") && said.contains("application/json"), "{said}");
    let moved = acme.send(Call::get("moved", Size::kib(1))).await.unwrap();
    assert_eq!(moved.status, http::StatusCode::FOUND, "a redirect is an answer, and the credentials go no further");
    assert!(!format!("{acme:?}").contains("canary"));
    let torn = service(json!({"url": url, "credentials": {"bearer": {"token": "cana\nry"}}}));
    let error = torn.send(Call::get("x", Size::kib(1))).await.unwrap_err();
    assert!(matches!(error, ServiceError::TokenForm) && !format!("{error} {error:?}").contains("cana"), "{error:?}");
}

#[tokio::test]
async fn an_answer_is_bounded_in_size_and_time() {
    let url = server().await;
    let acme = service(json!({"url": format!("{url}/v1"), "timeout": "100ms"}));
    let error = acme.send(Call::get("large", Size(1999))).await.unwrap_err();
    assert!(matches!(error, ServiceError::Large(Size(1999))), "{error:?}");
    assert_eq!(acme.send(Call::get("large", Size(2000))).await.unwrap().body.len(), 2000);
    let error = acme.send(Call::get("silent", Size(1))).await.unwrap_err();
    assert!(matches!(error, ServiceError::Timeout(_)), "{error:?}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = service(json!({"url": format!("http://{nobody}")})).send(Call::get("x", Size(1))).await.unwrap_err();
    assert!(matches!(error, ServiceError::Connect(_)), "{error:?}");
}

#[test]
fn a_url_has_a_scheme_a_host_and_no_query() {
    let holder = || Arc::new(Holder::new(Identity::none()));
    for url in ["acme", "ftp://a/", "https://u@a/", "https://a/?x=1", "/v1"] {
        let config = serde_json::from_value(json!({"url": url})).unwrap();
        assert!(Service::new("acme", &config, holder()).is_err(), "{url}");
    }
    for url in ["http://127.0.0.1:1", "https://[::1]:8443/v1", "https://a"] {
        let config = serde_json::from_value(json!({"url": url})).unwrap();
        assert!(Service::new("acme", &config, holder()).is_ok(), "{url}");
    }
}

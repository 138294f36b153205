use http::uri::Scheme;
use serde_json::json;

use super::identity::IdentityHeaders;
use super::*;
use crate::proxy::normalise::{Downstream, Limits, normalise};
use crate::verdict::Rewrite;

fn request(target: &str, fields: &[(&str, &str)]) -> Request {
    let mut request = http::Request::builder().method("POST").uri(target).header("host", "h.example:8443");
    for &(name, value) in fields {
        request = request.header(name, value);
    }
    let downstream = Downstream { scheme: Scheme::HTTPS, limits: Limits { header_bytes: 65536, headers: 100 }, outbound: false };
    normalise(&mut request.body(()).unwrap().into_parts().0, &downstream).unwrap()
}

fn pairs(list: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    list.iter().map(|(name, values)| ((*name).to_owned(), values.iter().map(|&value| value.to_owned()).collect())).collect()
}

fn field(request: &Request, name: &str) -> Vec<String> {
    request.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[test]
fn request_headers_are_replaced_and_removed() {
    let mut request = request("/", &[("x-role", "user"), ("x-role", "root"), ("x-gone", "1"), ("x-kept", "1"), ("x-empty", "1")]);
    let edits = Edits {
        headers: pairs(&[("X-Role", &["viewer"]), ("x-many", &["a", "b"]), ("x-empty", &[])]),
        request_headers_to_remove: vec!["X-Gone".to_owned(), "x-never-there".to_owned()],
        ..Edits::default()
    };
    apply(&edits, &mut request, None).unwrap();
    assert_eq!(field(&request, "x-role"), ["viewer"]);
    assert_eq!(field(&request, "x-many"), ["a", "b"]);
    assert_eq!(field(&request, "x-kept"), ["1"]);
    assert_eq!(request.headers.len(), 4);
}

#[test]
fn the_gates_own_headers_can_be_neither_set_nor_removed_nor_answered() {
    let names = [
        "Host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "expect",
        "via",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-client-cert",
        "x-real-ip",
        "x-spiffe-id",
        "x-portcullis-anything",
        "x-envoy-peer",
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
        "txn-token",
        "workload-identity-token",
    ];
    for name in names {
        let refused = Err(EditError::HeaderRefused(name.to_ascii_lowercase()));
        let set = Edits { headers: pairs(&[(name, &["a"])]), ..Edits::default() };
        assert_eq!(apply(&set, &mut request("/", &[]), None), refused, "{name}");
        let remove = Edits { request_headers_to_remove: vec![name.to_owned()], ..Edits::default() };
        assert_eq!(apply(&remove, &mut request("/", &[]), None), refused, "{name}");
        assert_eq!(response_headers(&pairs(&[(name, &["a"])])).map(|_| ()), refused, "{name}");
    }
    for name in ["", ":path", "a b", "x_role", "a\r\nb", "é"] {
        let set = Edits { headers: pairs(&[(name, &["a"])]), ..Edits::default() };
        assert_eq!(apply(&set, &mut request("/", &[]), None), Err(EditError::HeaderName(name.to_owned())), "{name:?}");
    }
}

#[test]
fn values_that_could_split_a_head_are_refused_and_not_repeated_in_the_error() {
    for value in ["s3cret\r\nx-evil: 1", "s3cret\n", "s3cret\0", "s3cret é", " s3cret", "s3cret "] {
        let set = Edits { headers: pairs(&[("x-a", &[value])]), ..Edits::default() };
        let error = apply(&set, &mut request("/", &[]), None).unwrap_err();
        assert_eq!(error, EditError::HeaderValue("x-a".to_owned()), "{value:?}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
        assert!(response_headers(&pairs(&[("x-a", &[value])])).is_err());
    }
    let twice = Edits { headers: pairs(&[("authorization", &["a", "b"])]), ..Edits::default() };
    assert_eq!(apply(&twice, &mut request("/", &[]), None), Err(EditError::HeaderRepeated("authorization".to_owned())));
}

#[test]
fn response_headers_keep_all_their_values() {
    let fields = response_headers(&pairs(&[("Set-Cookie", &["a=1", "b=2"]), ("x-reason", &[""])])).unwrap();
    let texts: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(texts, [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-reason", "")]);
}

#[test]
fn query_edits_rebuild_the_query_and_nothing_else_does() {
    let set = |list: &[(&str, &[&str])]| Edits { query_parameters_to_set: pairs(list), ..Edits::default() };
    let remove = |name: &str| Edits { query_parameters_to_remove: vec![name.to_owned()], ..Edits::default() };
    let cases = [
        ("/?a=x+y&b", Edits::default(), "/?a=x+y&b"),
        ("/?a=1&b=2&a=3", set(&[("a", &["9"])]), "/?b=2&a=9"),
        ("/", set(&[("a b", &["c&d=é", "2"])]), "/?a%20b=c%26d%3D%C3%A9&a%20b=2"),
        ("/?a=x+y&b=1", remove("b"), "/?a=x%20y"),
        ("/?%61dmin=1", remove("admin"), "/"),
        ("/?a=1", remove("a"), "/"),
    ];
    for (sent, edits, forwarded) in cases {
        let mut request = request(sent, &[]);
        apply(&edits, &mut request, None).unwrap();
        assert_eq!(request.target(), forwarded, "{sent}");
        let mut again = self::request(forwarded, &[]);
        again.target_as_sent.clone_from(&request.target_as_sent);
        assert_eq!(again, request, "an edited request is still in its one form");
    }
    assert_eq!(apply(&set(&[("a", &["b\r\nc"])]), &mut request("/", &[]), None), Err(EditError::Query("a".to_owned())));
}

#[test]
fn a_rewritten_path_goes_through_the_same_normalisation() {
    let rewrite = |path: &str| Edits { rewrite: Some(Rewrite { path: Some(path.to_owned()), body: None }), ..Edits::default() };
    let mut rewritten = request("/old?x=1", &[]);
    apply(&rewrite("/new/./%7bid}/../7"), &mut rewritten, None).unwrap();
    assert_eq!(
        (rewritten.target().as_str(), rewritten.segments.as_slice()),
        ("/new/7?x=1", &["new".to_owned(), "7".to_owned()][..])
    );
    let refused = [
        ("/a?b=c", Refusal::TargetForm),
        ("/a#b", Refusal::Fragment),
        ("/../a", Refusal::PathAboveRoot),
        ("/a%2fb", Refusal::PathSlash),
        ("https://evil/", Refusal::TargetForm),
        ("*", Refusal::TargetForm),
        ("", Refusal::TargetForm),
        ("/a\r\nx: y", Refusal::PathControl),
    ];
    for (path, refusal) in refused {
        assert_eq!(apply(&rewrite(path), &mut request("/", &[]), None), Err(EditError::Path(refusal)), "{path:?}");
    }
}

#[test]
fn a_rewritten_body_needs_a_body() {
    let operations = vec![json!({"op": "replace", "path": "/limit", "value": 10})];
    let edits = Edits { rewrite: Some(Rewrite { path: None, body: Some(operations) }), ..Edits::default() };
    let mut body = json!({"limit": 1000});
    apply(&edits, &mut request("/", &[]), Some(&mut body)).unwrap();
    assert_eq!(body, json!({"limit": 10}));
    assert_eq!(apply(&edits, &mut request("/", &[]), None), Err(EditError::NoBody));
    let mut other = json!({});
    assert!(matches!(apply(&edits, &mut request("/", &[]), Some(&mut other)), Err(EditError::Body(_))));
}

#[test]
fn only_the_gate_says_who_is_calling() {
    let id = |text: &str| crate::spiffe::SpiffeId::new(text).unwrap();
    let (peer, gate) = (id("spiffe://example.org/agents/research"), id("spiffe://example.org/gate"));
    let digest = "AB".repeat(32);
    let headers = IdentityHeaders::new(&peer, &gate, &digest, "::ffff:10.0.0.7".parse().unwrap()).unwrap();
    let forged = [("x-spiffe-id", "spiffe://example.org/ops/bob"), ("x-forwarded-for", "1.1.1.1"), ("via", "1.1 inner")];
    let mut request = request("/", &forged);
    headers.write(&mut request).unwrap();
    assert_eq!(
        field(&request, "x-forwarded-client-cert"),
        [format!("By=spiffe://example.org/gate;Hash={};URI=spiffe://example.org/agents/research", "ab".repeat(32))]
    );
    assert_eq!(field(&request, "x-spiffe-id"), ["spiffe://example.org/agents/research"]);
    assert_eq!(field(&request, "x-forwarded-for"), ["10.0.0.7"]);
    assert_eq!(field(&request, "x-forwarded-host"), ["h.example:8443"]);
    assert_eq!(field(&request, "x-forwarded-proto"), ["https"]);
    assert_eq!(field(&request, "via"), ["1.1 inner", "1.1 portcullis"]);
    for digest in ["", "ab", &"zz".repeat(32), &format!("{};URI=x", "ab".repeat(29))] {
        assert!(IdentityHeaders::new(&peer, &gate, digest, "10.0.0.7".parse().unwrap()).is_err(), "{digest}");
    }
}

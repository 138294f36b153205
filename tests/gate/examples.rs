//! The examples, as they are written: only addresses are replaced, so that tests can run beside each other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use portcullis::demo::authority::Authority;
use portcullis::spiffe::SpiffeId;

use crate::harness::*;
use crate::upstreams::{domain, http1_over_tls, issued, server_tls};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Copies a folder of the repository with everything in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Starts an example with the SVID its configuration names; `upstreams` take the place of the addresses it names.
fn start(name: &str, authority: Authority, upstreams: &[(&str, SocketAddr)]) -> Gate {
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join("examples").join(name), folder.path());
    for place in ["policies/admin-api", "policy"].map(|place| folder.path().join(place)).into_iter().filter(|place| !place.exists())
    {
        copy(&root().join("policies/admin-api"), &place);
    }
    let issued = authority.issue(&SpiffeId::new("spiffe://example.org/gate").unwrap(), lifetime(3600)).unwrap();
    for (file, text) in [
        ("bundle.pem", authority.ca_pem()),
        ("archive-ca.pem", authority.ca_pem()),
        ("svid.pem", &*issued.certificate_pem),
        ("svid.key", &*issued.key_pem),
    ] {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    let mut yaml = std::fs::read_to_string(folder.path().join("gate.yaml")).unwrap();
    for (written, address) in upstreams {
        assert!(yaml.contains(written), "{name}: {written}");
        yaml = yaml.replace(written, &address.to_string());
    }
    for (written, free) in [(":8443", ":0"), ("0.0.0.0:0", "127.0.0.1:0"), (":9901", ":0"), ("../../policies", "policies")] {
        yaml = yaml.replace(written, free);
    }
    if !yaml.contains("admin:\n") {
        yaml.push_str("\nadmin: {address: 127.0.0.1:0}\n");
    }
    std::fs::write(folder.path().join("gate.yaml"), yaml).unwrap();
    Gate::open(folder, authority)
}

async fn ask(gate: &Gate, who: &str, host: &str, (method, path): (&str, &str)) -> Answer {
    let mut client = gate.http1(who).await;
    let mut request = request(method, path, empty());
    request.headers_mut().insert("host", host.parse().unwrap());
    Answer::of(within(path, client.send(request)).await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_front_of_an_admin_api() {
    let (payroll, authority) = (Backend::start(), domain("example.org"));
    let svid = issued(&authority, "spiffe://example.org/reports/a");
    let (address, _, reports) = http1_over_tls(server_tls(&svid, Some(authority.ca_pem()), &[b"http/1.1"]));
    let gate = start("admin-api", authority, &[("127.0.0.1:9000", payroll.address), ("127.0.0.1:9100", address)]);
    let host = "admin.example.org";
    for (who, asked, status, code) in [
        ("agents/research", ("GET", "/v1/users"), 200, ""),
        ("agents/research", ("DELETE", "/v1/users/7"), 403, "policy"),
        ("ops/alice", ("DELETE", "/v1/users/7"), 200, ""),
        ("agents/stranger", ("GET", "/v1/users"), 403, "policy"),
        // Its route only observes: who would be denied is recorded, and passes.
        ("agents/stranger", ("GET", "/reports/7"), 200, ""),
    ] {
        let answer = ask(&gate, who, host, asked).await;
        assert_eq!(answer.status, status, "{who} {asked:?} {}", answer.body);
        assert!(code.is_empty() || answer.json()["code"] == code, "{who} {asked:?} {}", answer.body);
    }
    assert_eq!(payroll.seen().iter().map(|seen| seen.target().to_owned()).collect::<Vec<_>>(), ["/v1/users", "/v1/users/7"]);
    let reports = reports.lock().unwrap().clone();
    assert!(reports.len() == 1 && reports[0].to_ascii_lowercase().contains("\r\nhost: reports.test\r\n"), "{reports:?}");
    assert_eq!(ask(&gate, "ops/alice", "elsewhere.example.org", ("GET", "/v1/users")).await.status, 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_policy_as_it_stands() {
    let people = Backend::start();
    let gate = start("envoy-opa", domain("example.org"), &[("127.0.0.1:9000", people.address)]);
    let guest = ask(&gate, "agents/research", "people", ("GET", "/people")).await;
    assert_eq!(guest.status, 200);
    assert_eq!(people.seen()[0].header("x-roles"), Some("guest"));
    let denied = ask(&gate, "agents/research", "people", ("POST", "/people")).await;
    assert_eq!((denied.status, &*denied.body), (403, "not one of your roles may do this"));
    assert_eq!(ask(&gate, "agents/unknown", "people", ("GET", "/health")).await.status, 200);
    assert_eq!(people.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shortest_configuration_with_any_policy_beside_it() {
    let service = Backend::start();
    let gate = start("minimal", domain("example.org"), &[("127.0.0.1:9000", service.address)]);
    // Nothing is classified there, so everything counts as destroying something.
    assert_eq!(ask(&gate, "ops/alice", "any", ("DELETE", "/v1/users/7")).await.status, 200);
    assert_eq!(ask(&gate, "agents/research", "any", ("GET", "/v1/users")).await.status, 403);
}

//! The gate's configuration in the demo, as a text people can read and change.
//!
//! In: ports and the upstream's address. Out: YAML whose paths are relative to its own folder. A text and not a `Config` that is
//! serialised: the file is there to be read, and comments do not survive serde.

use std::net::SocketAddr;

use super::stage::Ports;

/// The first line of the file, by which a folder is known as the demo's.
pub(super) const HEADING: &str = "# Written by `portcullis dev`";

/// The whole file.
pub(super) fn text(ports: Ports, upstream: SocketAddr) -> String {
    let Ports { gate, admin } = ports;
    format!(
        r#"{HEADING} at each start; copy it before you change it.
# Check a copy with `portcullis check -c FILE`, run it with `portcullis run -c FILE`.
environment: demo

identity:
  trust_domain: example.org
  source:
    files:
      certificate: gate.pem
      private_key: gate.key
      bundles: {{example.org: bundle.pem}}

listeners:
  - name: admin-api
    address: 127.0.0.1:{gate}
    max_svid_lifetime: 24h
    routes:
      - {{name: calls, path_prefix: /demo.v1.Users, upstream: calls}}
      - {{name: all, hosts: ["*"], path_prefix: /, upstream: users}}

upstreams:
  users:
    endpoint: http://{upstream}
  calls:
    endpoint: http://{upstream}
    protocol: h2                      # gRPC needs HTTP/2 all the way

policy:
  bundles: {{authz: {{path: policy}}}}
  decision: portcullis/decision
  may_kill: [exchange, session]

# What requests touch. What no row matches counts as the most sensitive.
resources:
  - match: {{methods: [GET, HEAD], path: /v1/users}}
    type: user
    sensitivity: low
    effect: read
  - match: {{methods: [GET, HEAD], path: /v1/users/*}}
    type: user
    sensitivity: medium
    effect: read
  - match: {{methods: [POST], path: /v1/users}}
    type: user
    sensitivity: medium
    effect: write
  - match: {{methods: [DELETE], path: /v1/users/*}}
    type: user
    sensitivity: high
    effect: destroy
  - match: {{methods: [POST], path: /demo.v1.Users/*}}
    type: user
    sensitivity: low
    effect: read
  - match: {{methods: [GET], path: /v1/terminal}}
    type: terminal
    sensitivity: medium
    effect: write
  - match: {{methods: [GET], path: /v1/events}}
    type: event
    sensitivity: low
    effect: read
  - match: {{methods: [GET], path: /v1/export}}
    type: export
    sensitivity: medium
    effect: read

workloads:
  - {{spiffe_id: spiffe://example.org/agents/*, owner: data-team, kind: agent, class: high}}
  - {{spiffe_id: spiffe://example.org/ops/*, owner: operations, kind: operator}}

exchanges:
  reassess_every: 30s

# Kills that must survive a restart.
state:
  directory: state

audit:
  file: decisions.jsonl

admin:
  address: 127.0.0.1:{admin}

control:
  socket: control.sock
"#
    )
}

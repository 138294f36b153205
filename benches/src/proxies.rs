//! Who is compared: how each is found, configured and started. A new one is a variant and its configuration here.
//!
//! All of them: one worker, mTLS with the same CA, full handshakes only, HTTP/1.1 and HTTP/2 in, HTTP/1.1 to one upstream that is kept
//! alive, no access log. The gate alone writes a record.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::rig::{LOAD_CORE, PROXY_CORE, Served, free_address, pinned};
use crate::tls::DOMAIN;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gate,
    /// With every request judged, never by a verdict given before.
    GateJudging,
    /// With an anomaly rule; in no comparison.
    GateRules,
    GateAllow,
    Floor,
    Nginx,
    Haproxy,
    Envoy,
    EnvoyRbac,
    EnvoyAuthorizer,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Floor,
        Self::Nginx,
        Self::Haproxy,
        Self::Envoy,
        Self::EnvoyRbac,
        Self::EnvoyAuthorizer,
        Self::GateAllow,
        Self::GateJudging,
        Self::Gate,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Gate => "portcullis, reference policy, record",
            Self::GateJudging => "portcullis, reference policy, record, no verdict reused",
            Self::GateRules => "portcullis, reference policy, an anomaly rule",
            Self::GateAllow => "portcullis, `decision := true`, record",
            Self::Floor => "floor: bare hyper + rustls, no policy",
            Self::Nginx => "nginx, no policy",
            Self::Haproxy => "HAProxy, no policy",
            Self::Envoy => "Envoy, no policy",
            Self::EnvoyRbac => "Envoy, RBAC on the URI SAN",
            Self::EnvoyAuthorizer => "Envoy, external authorizer (gRPC, says yes)",
        }
    }

    /// What a user types to leave out the others.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gate => "portcullis",
            Self::GateJudging => "portcullis-judging",
            Self::GateRules => "portcullis-rules",
            Self::GateAllow => "portcullis-allow",
            Self::Floor => "floor",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::EnvoyRbac => "envoy-rbac",
            Self::EnvoyAuthorizer => "envoy-authorizer",
        }
    }

    const fn how_to_get(self) -> &'static str {
        match self {
            Self::Gate | Self::GateJudging | Self::GateRules | Self::GateAllow | Self::Floor => "built with the benches",
            Self::Nginx => "apt-get install nginx",
            Self::Haproxy => "apt-get install haproxy",
            Self::Envoy | Self::EnvoyRbac | Self::EnvoyAuthorizer => "tests/parts envoy, or ENVOY=/path/to/envoy",
        }
    }
}

/// What every proxy needs to know of the run.
pub struct Place<'a> {
    pub folder: &'a Path,
    pub repository: &'a Path,
    pub gate: &'a Path,
    pub upstream: SocketAddr,
}

/// A proxy that serves.
pub struct Proxy {
    pub kind: Kind,
    pub address: SocketAddr,
    pub served: Served,
    /// The process it asks, where there is one.
    pub authorizer: Option<Served>,
    pub gate: Option<GateDoors>,
}

/// Where a gate can be asked and told things.
pub struct GateDoors {
    pub socket: PathBuf,
    pub admin: SocketAddr,
    pub policy: PathBuf,
}

/// A program that is not on this machine, and how it would get there.
pub fn missing(kind: Kind, place: &Place<'_>) -> Option<String> {
    let needed: Vec<Option<PathBuf>> = match kind {
        Kind::Gate | Kind::GateJudging | Kind::GateRules | Kind::GateAllow | Kind::Floor => vec![],
        Kind::Nginx => vec![which("nginx")],
        Kind::Haproxy => vec![which("haproxy")],
        Kind::Envoy | Kind::EnvoyRbac | Kind::EnvoyAuthorizer => vec![envoy(place.repository)],
    };
    needed.iter().any(Option::is_none).then(|| kind.how_to_get().to_owned())
}

fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let sbin = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The real Envoy inside the Python package; what is on the PATH of the package is a wrapper.
fn envoy(repository: &Path) -> Option<PathBuf> {
    let named = std::env::var_os("ENVOY").map(PathBuf::from);
    let part = || {
        let pythons = std::fs::read_dir(repository.join(".parts/envoy/lib")).ok()?;
        pythons.flatten().map(|python| python.path().join("site-packages/envoy/_bin/envoy")).find(|file| file.is_file())
    };
    named.or_else(part).or_else(|| which("envoy"))
}

/// The versions of what is compared, for the head of the tables.
pub fn versions(place: &Place<'_>) -> Vec<String> {
    let first = |mut command: Command| {
        let output = command.output().ok()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        text.lines().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
    };
    let ask = |program: Option<PathBuf>, argument: &str| {
        let mut command = Command::new(program?);
        command.arg(argument);
        first(command)
    };
    [
        ask(Some(place.gate.to_owned()), "--version"),
        ask(which("nginx"), "-v"),
        ask(which("haproxy"), "-v"),
        ask(envoy(place.repository), "--version"),
        ask(which("rustc"), "--version"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Proxy {
    pub fn start(kind: Kind, place: &Place<'_>) -> Result<Self> {
        let address = free_address()?;
        let home = place.folder.join(kind.word());
        std::fs::create_dir_all(&home)?;
        let log = home.join("log");
        let (mut authorizer, mut gate) = (None, None);
        let command = match kind {
            Kind::Gate | Kind::GateJudging | Kind::GateRules | Kind::GateAllow => {
                let doors = write_gate(kind, place, &home, address)?;
                let mut command = pinned(PROXY_CORE, place.gate);
                command.args(["run", "-c"]).arg(home.join("gate.yaml")).env("PORTCULLIS_LOG", "error");
                gate = Some(doors);
                command
            }
            Kind::Floor => {
                let mut command = pinned(PROXY_CORE, &std::env::current_exe()?);
                command.arg("floor").arg(address.to_string()).arg(place.upstream.to_string()).arg(place.folder);
                command
            }
            Kind::Nginx => {
                std::fs::write(home.join("nginx.conf"), nginx(place, &home, address))?;
                let mut command = pinned(PROXY_CORE, &which("nginx").context("no nginx")?);
                command.arg("-e").arg(home.join("error.log")).arg("-p").arg(&home).arg("-c").arg(home.join("nginx.conf"));
                command
            }
            Kind::Haproxy => {
                std::fs::write(home.join("haproxy.cfg"), haproxy(place, address))?;
                let mut command = pinned(PROXY_CORE, &which("haproxy").context("no haproxy")?);
                command.arg("-db").arg("-f").arg(home.join("haproxy.cfg"));
                command
            }
            Kind::Envoy | Kind::EnvoyRbac | Kind::EnvoyAuthorizer => {
                let service = free_address()?;
                if kind == Kind::EnvoyAuthorizer {
                    let mut command = pinned(LOAD_CORE, &std::env::current_exe()?);
                    command.arg("authorizer").arg(service.to_string());
                    authorizer = Some(Served::start(command, home.join("authorizer.log"), service)?);
                }
                std::fs::write(home.join("envoy.yaml"), envoy_yaml(kind, place, address, service))?;
                let mut command = pinned(PROXY_CORE, &envoy(place.repository).context("no envoy")?);
                command
                    .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"])
                    .arg(home.join("envoy.yaml"));
                command
            }
        };
        let served = Served::start(command, log, address).with_context(|| kind.name())?;
        Ok(Self { kind, address, served, authorizer, gate })
    }
}

fn write_gate(kind: Kind, place: &Place<'_>, home: &Path, address: SocketAddr) -> Result<GateDoors> {
    let admin = free_address()?;
    let doors = GateDoors { socket: home.join("control.sock"), admin, policy: home.join("policy") };
    for left in ["policy", "state", "decisions.jsonl", "control.sock"] {
        let left = home.join(left);
        let _ = std::fs::remove_dir_all(&left).or_else(|_| std::fs::remove_file(&left));
    }
    std::fs::create_dir_all(&doors.policy)?;
    if kind != Kind::GateAllow {
        crate::policy::write(&doors.policy, crate::policy::In::Force)?;
    } else {
        std::fs::write(doors.policy.join("policy.rego"), "package portcullis\n\ndecision := true\n")?;
        std::fs::write(doors.policy.join("data.json"), "{}")?;
    }
    let certificates = place.folder.display();
    let upstream = place.upstream;
    let reuse = if kind == Kind::GateJudging { "0B" } else { "4MiB" };
    let rules = if kind == Kind::GateRules { anomaly() } else { String::new() };
    let text = format!(
        r#"environment: production
identity:
  trust_domain: {DOMAIN}
  source:
    files: {{certificate: {certificates}/gate.pem, private_key: {certificates}/gate.key, bundles: {{{DOMAIN}: {certificates}/ca.pem}}}}
listeners:
  - name: front
    address: {address}
    routes: [{{name: all, upstream: service}}]
upstreams:
  service: {{endpoint: "http://{upstream}"}}
policy:
  bundles: {{authz: {{path: policy}}}}
  limits: {{time: 500ms}}
  reuse: {reuse}
limits:
  connections: 40000
  header_timeout: 60s
  per_identity: {{connections: 40000, exchanges: 40000}}
state: {{directory: state}}
audit: {{file: decisions.jsonl}}
admin: {{address: {admin}}}
control: {{socket: control.sock}}
{rules}"#
    );
    std::fs::write(home.join("gate.yaml"), text)?;
    Ok(doors)
}

/// The requests of the rule of [`Kind::GateRules`], in their order.
pub const STEPS: [&str; 2] = ["/v1/reports/list", "/v1/reports/secret"];

fn anomaly() -> String {
    let steps = STEPS.map(|path| format!("{{match: {{methods: [GET], path: {path}}}}}")).join(", ");
    format!("anomaly:\n  rules:\n    - {{name: theft, sequence: {{within: 60s, steps: [{steps}]}}, action: kill_identity}}\n")
}

fn nginx(place: &Place<'_>, home: &Path, address: SocketAddr) -> String {
    let (certificates, home, upstream) = (place.folder.display(), home.display(), place.upstream);
    format!(
        r"daemon off;
worker_processes 1;
pid {home}/pid;
error_log {home}/error.log error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {home}/t1; proxy_temp_path {home}/t2; fastcgi_temp_path {home}/t3; uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5;
    upstream service {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {address} ssl http2 backlog=4096;
        ssl_certificate {certificates}/gate.pem;
        ssl_certificate_key {certificates}/gate.key;
        ssl_client_certificate {certificates}/ca.pem;
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        ssl_session_cache off;
        ssl_session_tickets off;
        http2_max_concurrent_streams 1000;
        location / {{ proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ''; }}
    }}
}}
"
    )
}

fn haproxy(place: &Place<'_>, address: SocketAddr) -> String {
    let (certificates, upstream) = (place.folder.display(), place.upstream);
    format!(
        r"global
    nbthread 1
    maxconn 4000
    tune.ssl.cachesize 0
    tune.ssl.lifetime 0
defaults
    mode http
    timeout connect 5s
    timeout client 5m
    timeout server 5m
    http-reuse always
frontend front
    bind {address} ssl crt {certificates}/gate.both.pem ca-file {certificates}/ca.pem verify required alpn h2,http/1.1 ssl-min-ver TLSv1.3 no-tls-tickets
    default_backend service
backend service
    server one {upstream} pool-max-conn 512
"
    )
}

/// Nine policies that do not match and one that does, on the prefix of the caller's URI SAN.
fn rbac() -> String {
    let policy = |name: &str, prefix: String| {
        format!(
            "                {name}: {{permissions: [{{url_path: {{path: {{prefix: /}}}}}}], principals: [{{authenticated: {{principal_name: {{prefix: \"{prefix}\"}}}}}}]}}\n"
        )
    };
    let others = (0..9).map(|number| policy(&format!("p{number}"), format!("spiffe://{DOMAIN}/team{number}/")));
    others.chain([policy("p9", format!("spiffe://{DOMAIN}/agents/"))]).collect()
}

fn envoy_yaml(kind: Kind, place: &Place<'_>, address: SocketAddr, service: SocketAddr) -> String {
    let certificates = place.folder.display();
    let (upstream, port) = (place.upstream.ip(), place.upstream.port());
    let filter = match kind {
        Kind::EnvoyRbac => format!(
            "          - name: envoy.filters.http.rbac\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC\n              rules:\n                action: ALLOW\n                policies:\n{}",
            rbac().replace("                p", "                  p")
        ),
        Kind::EnvoyAuthorizer => "          - name: envoy.filters.http.ext_authz\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n              transport_api_version: V3\n              failure_mode_allow: false\n              include_peer_certificate: false\n              grpc_service: {envoy_grpc: {cluster_name: authorizer}, timeout: 2s}\n".to_owned(),
        _ => String::new(),
    };
    let (service_ip, service_port) = (service.ip(), service.port());
    format!(
        r#"static_resources:
  listeners:
  - address: {{socket_address: {{address: {ip}, port_value: {listen}}}}}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          disable_stateless_session_resumption: true
          disable_stateful_session_resumption: true
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
            tls_certificates: [{{certificate_chain: {{filename: {certificates}/gate.pem}}, private_key: {{filename: {certificates}/gate.key}}}}]
            validation_context: {{trusted_ca: {{filename: {certificates}/ca.pem}}}}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          codec_type: AUTO
          http2_protocol_options: {{max_concurrent_streams: 1000, initial_stream_window_size: 65536, initial_connection_window_size: 1048576}}
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: service, timeout: 0s}}}}]}}
          http_filters:
{filter}          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: service
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 20000, max_pending_requests: 20000, max_requests: 20000}}]}}
    load_assignment: {{cluster_name: service, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {upstream}, port_value: {port}}}}}}}}}]}}]}}
  - name: authorizer
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment: {{cluster_name: authorizer, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {service_ip}, port_value: {service_port}}}}}}}}}]}}]}}
"#,
        ip = address.ip(),
        listen = address.port(),
    )
}

//! The reverse proxies, each set up as for production: connections to the origin are kept, nothing is logged, one worker for
//! each core.

use std::{fs, path::Path};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Kind, Speech, Stage, Subject, Target, free_port, wait_for};
use crate::{
    bench::{certificate::Certificate, process::Running, provision::Rivals, wan::Place},
    tools,
};

/// What every nginx here has around its servers.
pub fn nginx_frame(directory: &Path, http: &str) -> String {
    let user = if tools::is_root() { "user root;" } else { "" };
    let directory = directory.display();
    format!(
        "daemon off; {user} worker_processes auto; pid {directory}/nginx.pid;
         events {{ worker_connections 40000; }}
         http {{
           access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 1h;
           client_max_body_size 0; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
           fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
           {http}
         }}\n"
    )
}

/// Where an nginx listens, for callers that speak so. On a port without TLS, 1.22 speaks one of both HTTPs.
pub fn nginx_listen(speech: Speech, at: &str, certificate: &Certificate) -> String {
    let (chain, key) = (certificate.chain.display(), certificate.key.display());
    match speech {
        Speech::Http1 => format!("listen {at} backlog=8192;"),
        Speech::Http2 => format!("listen {at} http2 backlog=8192;"),
        Speech::Https => format!("listen {at} ssl backlog=8192; ssl_certificate {chain}; ssl_certificate_key {key};"),
    }
}

pub fn nginx(stage: &Stage<'_>, rivals: &Rivals) -> Result<Subject> {
    let port = free_port()?;
    let proxy =
        nginx_hop((stage, rivals), ("proxy", stage.near, stage.speech), (port, stage.far.address, stage.origin))?;
    let target = Target::plain(stage.speech, stage.near.address, port);
    Ok(Subject { kind: Kind::Nginx, processes: vec![proxy], target })
}

pub fn nginx_twice(stage: &Stage<'_>, rivals: &Rivals) -> Result<Subject> {
    let (first, second) = (free_port()?, free_port()?);
    let back =
        nginx_hop((stage, rivals), ("back", stage.far, Speech::Http1), (second, stage.far.address, stage.origin))?;
    let front = nginx_hop((stage, rivals), ("front", stage.near, stage.speech), (first, stage.far.address, second))?;
    let target = Target::plain(stage.speech, stage.near.address, first);
    Ok(Subject { kind: Kind::NginxTwice, processes: vec![front, back], target })
}

/// An nginx on a port, before an address and a port.
fn nginx_hop(
    (stage, rivals): (&Stage<'_>, &Rivals),
    (role, place, speech): (&'static str, &Place, Speech),
    (port, next_host, next): (u16, &str, u16),
) -> Result<Running> {
    let directory = stage.directory(&format!("nginx-{role}"))?;
    let http = format!(
        "upstream next {{ server {next_host}:{next}; keepalive 512; keepalive_requests 1000000000; }}
         map $http_upgrade $next_connection {{ default upgrade; '' ''; }}
         proxy_http_version 1.1; proxy_set_header Host $host; proxy_set_header Upgrade $http_upgrade;
         proxy_set_header Connection $next_connection; proxy_read_timeout 1h;
         server {{ {listen} location / {{ proxy_pass http://next; }}
           location /upload {{ proxy_request_buffering off; proxy_pass http://next; }}
           location /sse {{ proxy_buffering off; proxy_pass http://next; }} }}",
        listen = nginx_listen(speech, &format!("{}:{port}", place.address), stage.certificate),
    );
    let conf = directory.join("nginx.conf");
    fs::write(&conf, nginx_frame(&directory, &http))?;
    let mut nginx = place.command(&rivals.nginx);
    nginx.arg("-p").arg(&directory).arg("-c").arg(&conf).arg("-e").arg(directory.join("error.log"));
    let mut running = Running::start(role, &nginx, &directory.join("log"))?;
    wait_for(place, &mut running, &[port])?;
    Ok(running)
}

pub fn haproxy(stage: &Stage<'_>, rivals: &Rivals) -> Result<Subject> {
    let directory = stage.directory("haproxy")?;
    let (port, host, next_host, next) = (free_port()?, stage.near.address, stage.far.address, stage.origin);
    let conf = directory.join("haproxy.cfg");
    let speech = match stage.speech {
        Speech::Http1 => String::new(),
        Speech::Http2 => "proto h2".to_owned(),
        Speech::Https => format!("ssl crt {}", stage.certificate.both.display()),
    };
    let text = format!(
        "global\n  no strict-limits\n  maxconn 40000\ndefaults\n  mode http\n  option http-no-delay\n  maxconn 40000\n  timeout connect 5s\n  timeout client 1h\n  \
         timeout server 1h\n  timeout tunnel 1h\n  timeout http-keep-alive 1h\n\
         frontend front\n  bind {host}:{port} backlog 8192 {speech}\n  default_backend origin\n\
         backend origin\n  http-reuse always\n  server origin {next_host}:{next}\n"
    );
    fs::write(&conf, text)?;
    let mut haproxy = stage.near.command(&rivals.haproxy);
    haproxy.arg("-db").arg("-f").arg(&conf);
    let mut running = Running::start("proxy", &haproxy, &directory.join("log"))?;
    wait_for(stage.near, &mut running, &[port])?;
    let target = Target::plain(stage.speech, stage.near.address, port);
    Ok(Subject { kind: Kind::Haproxy, processes: vec![running], target })
}

pub fn envoy(stage: &Stage<'_>, rivals: &Rivals) -> Result<Subject> {
    let directory = stage.directory("envoy")?;
    let port = free_port()?;
    let conf = directory.join("envoy.json");
    let bootstrap = json!({"static_resources": {
        "listeners": [envoy_listener("origin", stage, port)],
        "clusters": [envoy_cluster("origin", stage.far.address, stage.origin)],
    }});
    fs::write(&conf, serde_json::to_vec_pretty(&bootstrap)?)?;
    let mut envoy = stage.near.command(&rivals.envoy);
    let cores = std::thread::available_parallelism()?.to_string();
    envoy.arg("-c").arg(&conf).args(["--concurrency", &cores, "--log-level", "error", "--disable-hot-restart"]);
    let mut running = Running::start("proxy", &envoy, &directory.join("log"))?;
    wait_for(stage.near, &mut running, &[port])?;
    let target = Target::plain(stage.speech, stage.near.address, port);
    Ok(Subject { kind: Kind::Envoy, processes: vec![running], target })
}

fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

/// Without TLS it tells HTTP/1.1 and HTTP/2 apart by themselves.
fn envoy_listener(name: &str, stage: &Stage<'_>, port: u16) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    let filters = json!([{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]);
    let mut chain = json!({ "filters": filters });
    if stage.speech == Speech::Https {
        chain["transport_socket"] = envoy_tls(stage.certificate);
    }
    json!({"name": name, "address": address(stage.near.address, port), "filter_chains": [chain]})
}

fn envoy_tls(Certificate { chain, key, .. }: &Certificate) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [
            {"certificate_chain": {"filename": chain}, "private_key": {"filename": key}},
        ]},
    }})
}

fn envoy_cluster(name: &str, host: &str, port: u16) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [
            {"max_connections": 40000, "max_pending_requests": 40000, "max_requests": 40000},
        ]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address(host, port)}},
        ]}]},
    })
}

//! `GET /upgrade`: an upgrade to no protocol in particular. After the 101 every byte comes back as it was sent.
//!
//! When the caller closes its sending side, `?digest=1` has the server say what it got in one last line of JSON, and then close its own:
//! a half-closed connection that still works in the other direction.

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::body::{Body, ErrorBody, full};
use crate::call::{Call, Reply};
use crate::digest::hex;
use crate::exchange::Exchange;

const BUFFER: usize = 64 * 1024;

/// Takes whatever protocol the caller names.
pub async fn upgrade(mut call: Call) -> Reply {
    let Some(protocol) = call.request.headers().get(UPGRADE).cloned().filter(|_| call.is_http1()) else {
        let message = "this endpoint needs `Connection: Upgrade` and `Upgrade: <any name>`, on HTTP/1.1";
        return Err(ErrorBody::new(StatusCode::UPGRADE_REQUIRED, message).into());
    };
    let with_digest = call.query.flag("digest");
    let switch = Switch::begin(&mut call);
    call.demo.spawn(echo(switch, with_digest));
    Ok(switching_protocols(protocol))
}

/// The 101.
pub fn switching_protocols(protocol: HeaderValue) -> Response<Body> {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, protocol);
    answer
}

/// A connection that leaves HTTP: what its task needs after the 101.
pub struct Switch {
    on_upgrade: OnUpgrade,
    exchange: Exchange,
}

impl Switch {
    /// To be called before the 101 is answered. The rest of the connection counts in `/disconnects` under the path or `?key=` of its request.
    pub fn begin(call: &mut Call) -> Self {
        call.conn.leave_http();
        let key = call.query.get("key").unwrap_or(call.request.uri().path()).to_owned();
        let exchange = Exchange::begin(&call.demo, key);
        Self { on_upgrade: hyper::upgrade::on(&mut call.request), exchange }
    }

    /// The connection after the 101, and the exchange to end when it ended well. `None` when it ended before the 101 was out.
    pub async fn finish(self) -> Option<(TokioIo<Upgraded>, Exchange)> {
        let upgraded = self.on_upgrade.await.ok()?;
        Some((TokioIo::new(upgraded), self.exchange))
    }
}

async fn echo(switch: Switch, with_digest: bool) {
    if let Some((mut stream, mut exchange)) = switch.finish().await
        && copy_back(&mut stream, with_digest).await.is_ok()
    {
        exchange.end();
    }
}

async fn copy_back(stream: &mut TokioIo<Upgraded>, with_digest: bool) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut sha256 = Sha256::new();
    let mut length = 0;
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        sha256.update(&buffer[..read]);
        length += read as u64;
        stream.write_all(&buffer[..read]).await?;
        stream.flush().await?;
    }
    if with_digest {
        let line = json!({ "body_length": length, "body_sha256": hex(&sha256.finalize()) });
        stream.write_all(format!("{line}\n").as_bytes()).await?;
    }
    stream.shutdown().await
}

//! Any bytes where a server or a proxy answers, and any text where a proxy is named. The fuzz targets and the property tests
//! run these functions.

use std::{
    io,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
};
use tokio_util::either::Either;
use towline_model::Secret;
use towline_tunnel::{
    upgrade::{ConnectionKind, Framing},
    websocket::derive_accept_key,
};
use url::Url;

use super::{
    proxy::{Proxy, ProxyConfig},
    upgrade::UpgradeRequest,
};
use crate::config::AgentConfig;

/// Stands in an answer for what proves that the request for a WebSocket was understood (RFC 6455 §4.2.2).
const ACCEPT: &[u8] = b"{accept}";

/// What a test's agent is set up with; it is read from the machine once.
static CONFIG: LazyLock<AgentConfig> = LazyLock::new(|| {
    let server = Url::parse("https://towline.example.com").expect("it is a URL");
    AgentConfig::new(server, Secret::new(String::new()))
});

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime without I/O");
}

/// A proxy's or a server's answer to the request that a connection begins with. The first byte chooses the request, the
/// second the pieces that the answer comes in.
///
/// # Panics
/// When a connection is taken over that was not given, or bytes behind the answer are lost.
pub fn answer(data: &[u8]) {
    let [request, pieces, answer @ ..] = data else { return };
    let answer = Scripted { rest: answer.to_vec(), piece: usize::from(*pieces) + 1, sent: Vec::new(), pause: false };
    RUNTIME.with(|runtime| match request % 3 {
        0 => runtime.block_on(connect(answer)),
        1 => runtime.block_on(switch(answer, Framing::Bare)),
        _ => runtime.block_on(switch(answer, Framing::WebSocket)),
    });
}

/// What an agent is told of its proxy: the server's URL, the proxy's, and `user:password`, a line each.
///
/// # Panics
/// When other credentials are sent than those that were given, or they can be read where the proxy is shown.
pub fn proxy_settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let (Some(server), Some(url), credentials) = (lines.next(), lines.next(), lines.next()) else { return };
    let Ok(server) = Url::parse(server) else { return };
    if url.trim_start().get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
        // Reads the machine's certificates, each time.
        return;
    }
    let secret = |text: &str| Secret::new(text.to_owned());
    let always = ProxyConfig::Always { url: secret(url), credentials: credentials.map(secret) };
    let config = AgentConfig { server, proxy: always, ..CONFIG.clone() };
    let Ok(Some(proxy)) = Proxy::of(&config) else { return };
    if let Some(credentials) = credentials.filter(|text| text.len() > 1) {
        let expected = format!("Basic {}", STANDARD.encode(credentials));
        assert_eq!(proxy.authorization.as_ref().map(HeaderValue::as_bytes), Some(expected.as_bytes()), "{text:?}");
    }
    let shown = format!("{proxy:?}");
    assert!(!shown.contains("Basic") && shown.contains(&proxy.port.to_string()), "{shown}");
}

async fn connect(answer: Scripted) {
    let all = answer.rest.clone();
    let url = Secret::new("http://ada:hunter2@proxy.example:3128".to_owned());
    let config = AgentConfig { proxy: ProxyConfig::Always { url, credentials: None }, ..CONFIG.clone() };
    let proxy = Proxy::of(&config).expect("the settings are right").expect("there is a proxy");
    match proxy.connect(answer, "towline.example.com:443").await {
        Ok(socket) => {
            let head = Head::of(&all).expect("there was no answer");
            assert!((200..300).contains(&head.status), "{}", head.status);
            assert!(socket.rest == all[head.length..], "bytes behind the answer are lost: {all:?}");
        }
        Err(error) => assert!(!error.to_string().contains("hunter2"), "{error}"),
    }
}

async fn switch(answer: Scripted, framing: Framing) {
    let all = answer.rest.clone();
    let request = UpgradeRequest {
        uri: "/api/v1/agent/session".parse().expect("it is a path"),
        kind: ConnectionKind::Session,
        framing,
        host: HeaderValue::from_static("towline.example.com"),
        authorization: HeaderValue::from_static("Bearer ak-1"),
    };
    // What an error says is for people; that it can be said is all that is wanted of it here.
    let transport = match request.send(answer).await {
        Ok(transport) => transport,
        Err(error) => return drop(error.to_string()),
    };
    let head = Head::of(&all).expect("there was no answer");
    let expected = if framing == Framing::Bare { "towline-session/1" } else { "websocket" };
    assert_eq!((head.status, head.upgrade.as_deref()), (101, Some(expected)), "{all:?}");
    let mut read = Vec::new();
    match transport {
        Either::Left(mut socket) => {
            socket.read_to_end(&mut read).await.expect("nothing breaks");
            assert!(read == all[head.length..], "bytes behind the answer are lost: {all:?}");
        }
        Either::Right(mut socket) => {
            // The frames' rules have a target of their own.
            let _ = socket.read_to_end(&mut read).await;
            assert!(read.len() <= all.len() - head.length + derive_accept_key(b"").len());
        }
    }
}

/// The last head of an answer, read again by a parser that was made to be simple. Lines may end without CR, as the library
/// takes them.
struct Head {
    status: u16,
    upgrade: Option<String>,
    /// With the interim answers before it, in bytes.
    length: usize,
}

impl Head {
    fn of(text: &[u8]) -> Option<Self> {
        let mut length = 0;
        loop {
            let mut lines = text[length..].split_inclusive(|byte| *byte == b'\n');
            let mut next = || {
                let line = lines.next().filter(|line| line.ends_with(b"\n"))?;
                length += line.len();
                Some(String::from_utf8_lossy(line).trim_end().to_owned())
            };
            let mut first = next()?;
            while first.is_empty() {
                first = next()?;
            }
            let status = first.split(' ').nth(1)?.parse().ok()?;
            let mut upgrade = None;
            loop {
                let line = next()?;
                if line.is_empty() {
                    break;
                }
                let (name, value) = line.split_once(':')?;
                if name.trim().eq_ignore_ascii_case("upgrade") && upgrade.is_none() {
                    upgrade = Some(value.trim().to_ascii_lowercase());
                }
            }
            if status == 101 || !(100..200).contains(&status) {
                return Some(Self { status, upgrade, length });
            }
        }
    }
}

/// The other side of a connection: takes everything, and answers in pieces when it was asked.
struct Scripted {
    rest: Vec<u8>,
    /// Bytes that are given at a time.
    piece: usize,
    sent: Vec<u8>,
    /// Whether nothing has come since the last piece.
    pause: bool,
}

impl Scripted {
    fn put_accept(&mut self) {
        let Some(at) = self.rest.windows(ACCEPT.len()).position(|part| part == ACCEPT) else { return };
        let sent = String::from_utf8_lossy(&self.sent);
        let Some(key) = sent.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")) else { return };
        let accept = derive_accept_key(key.as_bytes());
        self.rest.splice(at..at + ACCEPT.len(), accept.into_bytes());
    }
}

impl AsyncRead for Scripted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pause = !self.pause;
        if self.sent.is_empty() || self.pause {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.put_accept();
        let count = self.piece.min(self.rest.len()).min(buf.remaining());
        buf.put_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.sent.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let line = select(vec![
            &b"HTTP/1.1 200 OK\r\n"[..],
            b"HTTP/1.1 101 Switching Protocols\r\n",
            b"HTTP/1.1 103 Early Hints\r\n",
            b"HTTP/1.0 407 No\r\n",
            b"Connection: upgrade\r\n",
            b"Upgrade: towline-session/1\r\n",
            b"Upgrade: websocket\r\n",
            b"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: towline-session.1\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"\r\n",
            b"\r\n",
            b"\r\n",
            b"\n",
            b"\x82\x02hi",
            b" ",
        ]);
        vec(line, 0..10).prop_map(|lines| lines.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_answer_can_be_read(request in 0..3_u8, pieces: u8, answer in prop_oneof![lines(), vec(any::<u8>(), 0..200)]) {
            super::answer(&[&[request, pieces][..], &answer].concat());
        }

        #[test]
        fn any_text_may_name_a_proxy(
            url in prop_oneof!["(http://|socks5://)?([a-z%:@]{1,9}@)?[a-z.:0-9\\[\\]]{1,12}", ".{0,20}"],
            credentials in "[ -~\u{80}-\u{ff}]{0,12}",
        ) {
            proxy_settings(format!("https://towline.example.com\n{url}\n{credentials}").as_bytes());
        }
    }
}

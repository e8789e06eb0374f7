//! Probes of programs that speak HTTP/2 with prior knowledge: a `GET` as with HTTP/1.1, or a call of the gRPC health
//! checking protocol where that is what the path names.

use std::pin::pin;

use bytes::Bytes;
use h2::{Error, RecvStream, client};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use tokio::net::TcpStream;

use super::{BODY_LIMIT, Fault, judge};

/// The method that gRPC services answer with their health.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";
/// A message without fields: not compressed, no bytes. It asks for the server as a whole.
const EMPTY_MESSAGE: Bytes = Bytes::from_static(&[0, 0, 0, 0, 0]);
/// A `HealthCheckResponse` whose field 1, `status`, is 1, `SERVING`.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

pub(super) async fn exchange(socket: TcpStream, host: &HeaderValue, path: &str) -> Result<(), Fault> {
    let (sender, connection) = client::handshake(socket).await.map_err(|error| fault(&error))?;
    let is_grpc = path == GRPC_HEALTH;
    let mut ask = pin!(async {
        let mut sender = sender.ready().await?;
        let (answer, mut body) = sender.send_request(request(host, path, is_grpc), !is_grpc)?;
        if is_grpc {
            body.send_data(EMPTY_MESSAGE, true)?;
        }
        read(answer.await?).await
    });
    let answer = tokio::select! {
        biased;
        answer = &mut ask => answer,
        ended = connection => match ended {
            Ok(()) => ask.await,
            Err(error) => Err(error),
        },
    };
    let answer = answer.map_err(|error| fault(&error))?;
    match is_grpc {
        true => judge_grpc(&answer),
        false => judge(path, answer.status()),
    }
}

/// The answer with its body, and the trailers among its fields.
async fn read(answer: Response<RecvStream>) -> Result<Response<Vec<u8>>, Error> {
    let (mut parts, mut body) = answer.into_parts();
    let mut taken = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if taken.len() < BODY_LIMIT {
            taken.extend_from_slice(&data);
        }
    }
    parts.headers.extend(body.trailers().await?.unwrap_or_else(HeaderMap::new));
    Ok(Response::from_parts(parts, taken))
}

fn request(host: &HeaderValue, path: &str, is_grpc: bool) -> Request<()> {
    let mut request = Request::new(());
    let uri = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path);
    *request.uri_mut() = uri.build().unwrap_or_else(|_| Uri::from_static("http://localhost/"));
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("towline-probe"));
    if is_grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        *request.method_mut() = Method::POST;
    }
    request
}

fn judge_grpc(answer: &Response<Vec<u8>>) -> Result<(), Fault> {
    let status = answer.headers().get("grpc-status").and_then(|code| code.to_str().ok());
    match (status, answer.body().as_slice()) {
        (Some("0"), SERVING) => Ok(()),
        (Some("0"), _) => Err(Fault::Unhealthy(format!("{GRPC_HEALTH} does not answer SERVING"))),
        (Some("12"), _) => Err(Fault::Unhealthy(format!("it has no method {GRPC_HEALTH}"))),
        (Some(code), _) => Err(Fault::Unhealthy(format!("{GRPC_HEALTH} answered with the gRPC status {code}"))),
        (None, _) => Err(Fault::Unhealthy(format!("{GRPC_HEALTH} answered {}, and not as gRPC does", answer.status()))),
    }
}

fn fault(error: &Error) -> Fault {
    if error.is_io() { Fault::Closed } else { Fault::SpeaksNot("HTTP/2 without TLS (h2c)") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::timeout};

    use super::*;

    /// What a program that answers so is found to be.
    async fn probed(
        path: &str,
        status: u16,
        message: &'static [u8],
        trailers: Option<&'static str>,
    ) -> Result<(), Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.uri().authority().unwrap(), "localhost:8080");
                let answer = Response::builder().status(status).body(()).unwrap();
                let mut stream = respond.send_response(answer, false).unwrap();
                stream.send_data(Bytes::from_static(message), trailers.is_none()).unwrap();
                if let Some(code) = trailers {
                    let code = HeaderValue::from_static(code);
                    stream.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), code)])).unwrap();
                }
            }
        };
        let host = HeaderValue::from_static("localhost:8080");
        let ask = async { exchange(TcpStream::connect(address).await.unwrap(), &host, path).await };
        let both = async {
            tokio::select! {
                result = ask => result,
                () = serve => panic!("the connection ended first"),
            }
        };
        timeout(Duration::from_secs(10), both).await.unwrap()
    }

    #[tokio::test]
    async fn a_get_is_judged_by_its_status() {
        assert_eq!(probed("/health", 200, b"ok", None).await, Ok(()));
        let Err(Fault::Unhealthy(why)) = probed("/health", 503, b"", None).await else { panic!("it is healthy") };
        assert!(why.contains("answered 503"), "{why}");
    }

    #[tokio::test]
    async fn grpc_is_asked_in_its_own_way() {
        assert_eq!(probed(GRPC_HEALTH, 200, SERVING, Some("0")).await, Ok(()));
        for (message, code, words) in [
            (&[0, 0, 0, 0, 2, 8, 2][..], Some("0"), "SERVING"),
            (&[][..], Some("12"), "no method"),
            (&[][..], Some("14"), "status 14"),
            (&[][..], None, "not as gRPC does"),
        ] {
            let Err(Fault::Unhealthy(why)) = probed(GRPC_HEALTH, 200, message, code).await else {
                panic!("{words}: it is healthy")
            };
            assert!(why.contains(words), "{why}");
        }
    }

    #[tokio::test]
    async fn another_protocol_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        other.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let host = HeaderValue::from_static("localhost:8080");
        let asked = timeout(Duration::from_secs(10), exchange(socket, &host, "/health")).await.unwrap();
        assert!(matches!(asked, Err(Fault::SpeaksNot(_))), "{asked:?}");
    }
}

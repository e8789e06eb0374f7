//! `towline call`: a request to a service through the proxy, written like one of curl.

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, ValueHint};
use reqwest::{
    Body, Method, RequestBuilder, Response, StatusCode, Version,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use tokio::fs::File;
use tokio_util::io::ReaderStream;
use url::Url;

use crate::{
    cli::ClientArgs,
    client::{Client, ClientError},
    cmd::Context,
    failure::Failure,
    units::parse_duration,
};

const EXAMPLE: &str = "\
Example:
  towline call hello /v1/models
  towline call hello /v1/chat/completions --json @question.json
  towline call hello /upload -X PUT -i --data-binary @big.bin -H 'Content-Type: image/png'
  tar c . | towline call hello /upload --data-binary @-

The answer is written to stdout as it arrives. An error that Towline itself made (an unknown slug, no ready instance) \
goes to stderr with exit code 1; an answer of the service, whatever its status, is printed with exit code 0 unless \
--fail is given.";

/// Arguments of `towline call`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct CallArgs {
    /// The service's slug.
    slug: String,
    /// The path and query, sent exactly as written; a missing first / is added.
    path: String,
    /// The method [default: GET, or POST with a body].
    #[arg(short = 'X', long, value_name = "METHOD")]
    request: Option<Method>,
    /// A request header; repeat for several.
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = parse_header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// A body, sent as a form unless a Content-Type is given; @FILE without its line breaks, @- is stdin.
    #[arg(short, long, value_name = "DATA", allow_hyphen_values = true, conflicts_with_all = ["data_binary", "json"],
          value_hint = ValueHint::FilePath)]
    data: Option<String>,
    /// The same, but a file is sent as it is, streamed, of any size.
    #[arg(
        long,
        value_name = "DATA",
        allow_hyphen_values = true,
        conflicts_with = "json",
        value_hint = ValueHint::FilePath
    )]
    data_binary: Option<String>,
    /// A JSON body; @FILE and @- as with --data-binary. Sets Content-Type and Accept.
    #[arg(long, value_name = "DATA", allow_hyphen_values = true, value_hint = ValueHint::FilePath)]
    json: Option<String>,
    /// Also print the status line and the headers of the answer.
    #[arg(short, long)]
    include: bool,
    /// Exit with 1 when the service answers 400 or above.
    #[arg(short, long)]
    fail: bool,
    /// The longest that the call may take as a whole: a number with ms, s, m or h [default: no limit].
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    max_time: Option<Duration>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Makes the call.
///
/// # Errors
/// When Towline refuses it or the answer is cut.
pub async fn run(args: CallArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let url = target(&client, &args.slug, &args.path)?;
    let has_body = args.data.is_some() || args.data_binary.is_some() || args.json.is_some();
    let method = args.request.clone().unwrap_or(if has_body { Method::POST } else { Method::GET });
    let mut request = with_body(client.request(method, url).await?, &args).await?;
    for (name, value) in &args.header {
        request = request.header(name, value);
    }
    if let Some(time) = args.max_time {
        request = request.timeout(time);
    }
    let response = request.send().await.map_err(|error| ClientError::transport(client.base(), &error))?;
    // Only Towline's own answers carry Proxy-Status; a container's never does.
    if response.headers().contains_key("proxy-status") {
        return Err(ClientError::from_answer(response).await.into());
    }
    let status = response.status();
    if context.output.is_json() {
        print_json(response, context).await?
    } else {
        stream(response, args.include, context).await?
    }
    if args.fail && (status.is_client_error() || status.is_server_error()) {
        return Err(Failure::new(format!("the service answered {status}")));
    }
    Ok(())
}

/// The URL whose path and query are exactly what was written.
fn target(client: &Client, slug: &str, path: &str) -> Result<Url, Failure> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let text = client.url(&format!("/r/containers/{slug}{slash}{path}"));
    let url = Url::parse(&text).map_err(|error| Failure::usage(format!("{text}: {error}")))?;
    if url.fragment().is_some() {
        return Err(Failure::usage("a path with # in it cannot be sent").hint("write %23"));
    }
    if url.as_str() != text {
        return Err(Failure::usage(format!("{slash}{path} cannot be sent as it is written"))
            .hint(format!("it would be sent as part of {url}; write that, or percent-encode what is special")));
    }
    Ok(url)
}

async fn with_body(request: RequestBuilder, args: &CallArgs) -> Result<RequestBuilder, Failure> {
    let gives = |name: HeaderName| args.header.iter().any(|(given, _)| *given == name);
    let typed = |request: RequestBuilder, value: &'static str| {
        if gives(CONTENT_TYPE) { request } else { request.header(CONTENT_TYPE, value) }
    };
    if let Some(data) = &args.json {
        let request = if gives(ACCEPT) { request } else { request.header(ACCEPT, "application/json") };
        return as_it_is(typed(request, "application/json"), data).await;
    }
    if let Some(data) = &args.data_binary {
        return as_it_is(typed(request, "application/x-www-form-urlencoded"), data).await;
    }
    let Some(data) = &args.data else { return Ok(request) };
    let request = typed(request, "application/x-www-form-urlencoded");
    let Some(path) = data.strip_prefix('@') else { return Ok(request.body(data.clone())) };
    let mut bytes = read(path).await?;
    bytes.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    Ok(request.body(bytes))
}

/// A body whose file is streamed.
async fn as_it_is(request: RequestBuilder, data: &str) -> Result<RequestBuilder, Failure> {
    let Some(path) = data.strip_prefix('@') else { return Ok(request.body(data.to_owned())) };
    if path == "-" {
        return Ok(request.body(Body::wrap_stream(ReaderStream::new(tokio::io::stdin()))));
    }
    let cannot = |error| Failure::usage(format!("cannot read {path}: {error}"));
    let file = File::open(path).await.map_err(cannot)?;
    let metadata = file.metadata().await.map_err(cannot)?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!("cannot read {path}: it is a directory")));
    }
    let request = if metadata.is_file() { request.header(CONTENT_LENGTH, metadata.len()) } else { request };
    Ok(request.body(Body::wrap_stream(ReaderStream::with_capacity(file, 64 * 1024))))
}

async fn read(path: &str) -> Result<Vec<u8>, Failure> {
    use tokio::io::AsyncReadExt;
    let mut bytes = vec![];
    let read = if path == "-" {
        tokio::io::stdin().read_to_end(&mut bytes).await.map(drop)
    } else {
        tokio::fs::read(Path::new(path)).await.map(|content| bytes = content)
    };
    read.map(|()| bytes).map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))
}

async fn stream(mut response: Response, include: bool, context: &Context) -> Result<(), Failure> {
    if include {
        context.output.bytes(&head(&response))?;
    }
    let mut received = 0;
    while let Some(chunk) = next_chunk(&mut response, received).await? {
        received += chunk.len();
        context.output.bytes(&chunk)?;
    }
    Ok(())
}

async fn next_chunk(response: &mut Response, received: usize) -> Result<Option<bytes::Bytes>, Failure> {
    response.chunk().await.map_err(|error| {
        let why = if error.is_timeout() { "the time of --max-time is over" } else { "the connection broke" };
        Failure::new(format!("the answer was cut after {received} bytes: {why}"))
    })
}

fn head(response: &Response) -> Vec<u8> {
    let version = match response.version() {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let mut head = format!("{version} {}\r\n", reason_line(response.status())).into_bytes();
    for (name, value) in response.headers() {
        head.extend_from_slice(format!("{name}: ").as_bytes());
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn reason_line(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()).trim_end().to_owned()
}

async fn print_json(mut response: Response, context: &Context) -> Result<(), Failure> {
    let mut body = vec![];
    while let Some(chunk) = next_chunk(&mut response, body.len()).await? {
        body.extend_from_slice(&chunk);
    }
    let headers: Vec<_> = response
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let mut answer = json!({"status_code": response.status().as_u16(), "headers": headers});
    match String::from_utf8(body) {
        Ok(text) => answer["body"] = Value::String(text),
        Err(error) => answer["body_base64"] = Value::String(STANDARD.encode(error.as_bytes())),
    }
    context.output.json(&answer)
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|error| error.to_string())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?;
    if name == reqwest::header::AUTHORIZATION || name == "x-team-id" {
        return Err(format!("{name} carries the sign-in to Towline; choose it with --key"));
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Identity;

    fn path_of(path: &str) -> Result<String, Failure> {
        crate::tls::install();
        let client = Client::new(Url::parse("http://h:1").unwrap(), Identity::Nobody).unwrap();
        target(&client, "hello", path)
            .map(|url| url.as_str().strip_prefix("http://h:1/api/v1/r/containers/hello").unwrap().to_owned())
    }

    #[test]
    fn a_path_is_sent_as_written_or_not_at_all() {
        for path in ["/", "/echo", "//a///b", "/a%2Fb%zz?x=1&y=%20+", "/a;b=c:d@e?q=/?", "/%2e"] {
            if path == "/%2e" {
                assert!(path_of(path).is_err(), "{path} would be normalised");
            } else {
                assert_eq!(path_of(path).unwrap(), path);
            }
        }
        assert_eq!(path_of("echo").unwrap(), "/echo");
        for path in ["/a/../b", "/./a", "/a b", "/ä", "/a#b", "/a\\b", "/a\"b"] {
            assert!(path_of(path).is_err(), "{path}");
        }
    }

    #[test]
    fn headers_are_checked() {
        assert_eq!(parse_header("X-A: b c ").unwrap().1, "b c");
        for wrong in ["X-A", "a b: c", "X: a\nb", "Authorization: Bearer x", "X-Team-ID: y"] {
            assert!(parse_header(wrong).is_err(), "{wrong}");
        }
    }
}

//! The end of the server, and of the program.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use towline_demo::{Config, Ended};

use crate::support::{Answer, Caller, DEADLINE, Server, send, wait_for};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_towline-demo"));
    command.args(["--host", "127.0.0.1", "--port=0"]).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

type Log = Lines<BufReader<ChildStdout>>;

async fn start(command: &mut Command) -> (Child, SocketAddr) {
    let (child, address, _) = start_and_read(command).await;
    (child, address)
}

async fn start_and_read(command: &mut Command) -> (Child, SocketAddr, Log) {
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = line(&mut log).await.strip_prefix("listening on http://").unwrap().parse().unwrap();
    (child, address, log)
}

async fn line(log: &mut Log) -> String {
    tokio::time::timeout(DEADLINE, log.next_line()).await.expect("no line came").unwrap().unwrap()
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

async fn wait(child: &mut Child) -> ExitStatus {
    tokio::time::timeout(DEADLINE, child.wait()).await.expect("the program did not end").unwrap()
}

#[tokio::test]
async fn sigterm_lets_a_request_in_flight_end() {
    for name in ["-TERM", "-INT"] {
        let (mut child, address) = start(&mut program()).await;
        let mut idle = Caller::connect(address).await;
        let mut caller = Caller::connect(address).await;
        caller.write("GET /slow?ms=500 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        wait_for(address, "/disconnects", |answer| answer["in_flight"] == 1).await;
        signal(&child, name);
        assert_eq!(Answer::parse(&caller.read_to_end().await).json()["slept_ms"], 500);
        assert_eq!(idle.read_to_end().await, b"", "an idle connection is closed at once");
        assert_eq!(wait(&mut child).await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_goes_on() {
    let (mut child, address) = start(program().env("DEMO_IGNORE_SIGTERM", "1")).await;
    signal(&child, "-TERM");
    assert_eq!(send(address, "GET", "/health", b"").await.status(), 200);
    signal(&child, "-INT");
    assert_eq!(wait(&mut child).await.code(), Some(0));
}

#[tokio::test]
async fn a_line_is_printed_when_asked_for() {
    let (_child, address, mut log) = start_and_read(&mut program()).await;
    for expected in ["hello", "a second one"] {
        let answer = send(address, "POST", &format!("/log?line={}", expected.replace(' ', "+")), b"").await;
        assert_eq!(answer.json()["line"], expected);
        assert_eq!(line(&mut log).await, expected);
    }
}

#[tokio::test]
async fn the_program_crashes_when_asked_to() {
    let mut child = program().env("DEMO_EXIT_AFTER_MS", "0").env("DEMO_EXIT_CODE", "7").spawn().unwrap();
    assert_eq!(wait(&mut child).await.code(), Some(7));

    let (mut child, address) = start(&mut program()).await;
    let mut caller = Caller::connect(address).await;
    caller.write("POST /exit?code=3 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(wait(&mut child).await.code(), Some(3));
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_a_reason() {
    for (name, value, argument) in
        [("PORT", "eighty", "--port=0"), ("DEMO_X", "", "--prot=0"), ("DEMO_X", "", "--port=x")]
    {
        let output = program().env(name, value).arg(argument).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("PORT=\"eighty\"") || text.contains("--p"), "{text}");
    }
}

#[tokio::test]
async fn what_does_not_end_in_time_is_ended() {
    let server = Server::with(Config { drain: Duration::from_millis(10), ..Config::default() }).await;
    let mut caller = server.connect().await;
    caller.write("GET /slow?ms=600000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.wait_for_in_flight(1).await;
    server.shutdown.cancel();
    assert_eq!(server.ended().await, Ended::Drained);
    assert_eq!(caller.read_to_end().await, b"");
}

#[tokio::test]
async fn an_endless_stream_ends_in_order_with_the_server() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.write("GET /sse?n=0&interval_ms=600000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    caller.read_until("event: tick").await;
    server.shutdown.cancel();
    assert!(caller.read_to_end().await.ends_with(b"\r\n0\r\n\r\n"));
    assert_eq!(server.ended().await, Ended::Drained);
}

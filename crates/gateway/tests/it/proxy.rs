//! What the proxy keeps and what it changes (contract §6).

use towline_gateway::testing::{Container, World};

const HELLO: &str = "/api/v1/r/containers/hello";

/// The lines of a request's head that are fields of that name, as the echo container saw them.
fn fields<'a>(seen: &'a str, name: &str) -> Vec<&'a str> {
    let matches = |line: &&str| line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name));
    seen.lines().filter(matches).map(|line| line[name.len() + 1..].trim()).collect()
}

#[tokio::test]
async fn the_answer_comes_back_as_it_is() {
    let container = Container::answering(
        "HTTP/1.1 299 Quite Fine\r\nContent-Length: 2\r\nX-A: 1\r\nX-B: x\r\nX-A: 2\r\nSet-Cookie: a=b\r\n\
         Set-Cookie: c=d\r\nServer: mine\r\nX-Request-Id: theirs\r\nConnection: keep-alive, X-Hop\r\nX-Hop: gone\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\r\nhi",
    )
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller
        .send(format!(
            "GET {HELLO}/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nX-Request-Id: my-id\r\n\r\n",
            team.key
        ))
        .await;
    let answer = caller.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (299, "hi"));
    assert_eq!(answer.all("x-a"), ["1", "2"]);
    assert_eq!(answer.all("set-cookie"), ["a=b", "c=d"]);
    assert_eq!(answer.header("x-request-id"), Some("theirs"));
    assert_eq!(answer.header("x-towline-request-id"), Some("my-id"));
    let mut names: Vec<_> = answer.lines.iter().map(|line| line.split(':').next().unwrap().to_lowercase()).collect();
    names.sort_unstable();
    names.dedup();
    // Nothing is added but the id: no Date, no Via, no Connection.
    assert_eq!(names, ["content-length", "server", "set-cookie", "x-a", "x-b", "x-request-id", "x-towline-request-id"]);
}

#[tokio::test]
async fn the_reason_phrase_is_kept() {
    let container = Container::answering("HTTP/1.1 299 Quite Fine\r\nContent-Length: 0\r\n\r\n").await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(format!("GET {HELLO}/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key)).await;
    let line = caller.exactly("HTTP/1.1 299 Quite Fine\r\n".len()).await.unwrap();
    assert_eq!(String::from_utf8(line).unwrap(), "HTTP/1.1 299 Quite Fine\r\n");
}

#[tokio::test]
async fn path_and_query_arrive_byte_for_byte() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut targets: Vec<Vec<u8>> = [
        "/",
        "//",
        "/?",
        "/??a",
        "/a//b/../c/./d",
        "/%2e%2E/%2f%00%zz%",
        "/a;b=c,d",
        "/a?b=c&b=&&=",
        "/a?b=/api/v1/r/",
        "/api/v1/r/containers/hello/",
        "/~!$&'()*+,;=:@",
        "/a?b={}|^[]\\",
        "/ü/日本?ü",
        "/a+b?c+d%20e",
        "/..",
        "/.",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    for byte in (0x21..=0x7e).filter(|byte| *byte != b'#') {
        targets.push([b"/x", &[byte][..], b"y?x", &[byte], b"y"].concat());
    }
    let mut refused = String::new();
    for target in targets {
        let mut request = format!("GET {HELLO}").into_bytes();
        request.extend(&target);
        request.extend(format!(" HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key).as_bytes());
        let answer = world.call(request).await;
        if answer.status == 400 {
            refused.push_str(&String::from_utf8_lossy(&target));
            continue;
        }
        assert_eq!(answer.status, 200);
        let seen = answer.text();
        let expected = format!("GET {} HTTP/1.1\r\n", String::from_utf8(target).unwrap());
        assert!(seen.starts_with(&expected), "{expected:?} became {seen:?}");
    }
    // What no URL may hold is refused; nothing is changed.
    assert_eq!(refused, "/x\"y?x\"y/x<y?x<y/x>y?x>y/x`y?x`y", "the refused targets");
}

#[tokio::test]
async fn what_is_not_utf_8_is_refused_and_not_changed() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut request = format!("GET {HELLO}/").into_bytes();
    request.extend(b"\xff\xfe");
    request.extend(format!(" HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key).as_bytes());
    assert_eq!(world.call(request).await.status, 400);
    assert_eq!(container.accepted(), 0);
}

#[tokio::test]
async fn the_request_is_passed_on_with_what_a_gateway_must_change() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let answer = world
        .call(format!(
            "PATCH {HELLO}/x HTTP/1.1\r\nHost: gateway.test:7070\r\nAuthorization: Bearer {}\r\nX-A: 1\r\n\
             Connection: keep-alive, X-Hop, X-Forwarded-For, Content-Type\r\nX-Hop: gone\r\nX-A: 2\r\n\
             X-Team-ID: kept\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
             Via: 1.0 before\r\nTE: trailers, deflate\r\nKeep-Alive: 5\r\nCookie: a=b\r\nContent-Type: text/x\r\n\
             Proxy-Authorization: Basic eDp5\r\nX-Request-Id: my-id\r\nContent-Length: 3\r\n\r\nabc",
            team.key
        ))
        .await;
    let seen = answer.text();
    assert!(seen.starts_with("PATCH /x HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nabc"), "{seen}");
    for (name, expected) in [
        ("host", &["localhost:8080"][..]),
        ("authorization", &[]),
        ("x-a", &["1", "2"]),
        ("x-hop", &[]),
        ("keep-alive", &[]),
        ("x-team-id", &["kept"]),
        ("cookie", &["a=b"]),
        ("content-type", &["text/x"]),
        ("content-length", &["3"]),
        ("transfer-encoding", &[]),
        ("proxy-authorization", &["Basic eDp5"]),
        ("te", &["trailers"]),
        ("connection", &["TE"]),
        ("via", &["1.0 before", "1.1 towline"]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("x-forwarded-proto", &["http"]),
        ("x-forwarded-host", &["gateway.test:7070"]),
        ("x-forwarded-prefix", &[HELLO]),
        ("forwarded", &["for=127.0.0.1;host=\"gateway.test:7070\";proto=http"]),
        ("x-request-id", &["my-id"]),
    ] {
        assert_eq!(fields(&seen, name), expected, "{name} in {seen}");
    }
}

#[tokio::test]
async fn every_method_passes() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X-MINE"] {
        let request = format!("{method} {HELLO}/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key);
        let seen = world.call(request).await.text();
        assert!(seen.starts_with(&format!("{method} / HTTP/1.1\r\n")), "{seen}");
        // A request without a body gets none.
        assert!(fields(&seen, "content-length").is_empty() && fields(&seen, "transfer-encoding").is_empty(), "{seen}");
    }
}

#[tokio::test]
async fn a_caller_can_send_one_request_after_another() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    for round in 0..20 {
        let target = format!("{HELLO}/{round}");
        caller.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key)).await;
        assert!(caller.answer().await.text().starts_with(&format!("GET /{round} ")));
    }
    assert_eq!(container.accepted(), 1, "one connection to the container serves them all");
}

#[tokio::test]
async fn an_absolute_target_names_the_host() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let request = format!(
        "GET http://absolute.test{HELLO}/a?b HTTP/1.1\r\nHost: other.test\r\nAuthorization: Bearer {}\r\n\r\n",
        team.key
    );
    let seen = world.call(request).await.text();
    assert!(seen.starts_with("GET /a?b HTTP/1.1\r\n"), "{seen}");
    assert_eq!(fields(&seen, "x-forwarded-host"), ["absolute.test"]);
}

#[tokio::test]
async fn other_paths_are_the_control_planes() {
    let world = World::start().await;
    let answer =
        world.call("GET /api/v1/r/containers/hello?x HTTP/1.1\r\nHost: h\r\nX-Request-Id: my-id\r\n\r\n").await;
    assert_eq!(answer.text(), "api GET /api/v1/r/containers/hello?x my-id");
    assert_eq!(answer.header("x-request-id"), Some("my-id"));
    assert!(answer.header("date").is_some());
    assert!(answer.header("proxy-status").is_none());
}

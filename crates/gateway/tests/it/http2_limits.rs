//! What a caller of HTTP/2 may ask for, and how much of it: the limits of a connection and how it ends, frame by frame.
//! Sections are those of RFC 9113 unless said otherwise.

use std::{collections::HashMap, time::Duration};

use bytes::{BufMut as _, BytesMut};
use socket2::SockRef;
use tokio::{
    net::TcpSocket,
    sync::{mpsc, watch},
};
use towline_gateway::{
    GatewayConfig,
    testing::{AgentKind, Container, World, narrow, wait_until, within},
};

use crate::{
    http2_frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, GOAWAY, HEADERS, NO_ERROR,
        Outcome, PING, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, good, headers,
    },
    http2_websocket::{shouting, switch},
};

const PATH: &str = "/api/v1/r/containers/hello/";

/// A container that answers when it may.
async fn waiting(go: &watch::Sender<bool>) -> Container {
    let wait = go.subscribe();
    Container::start(move |mut exchange, _| {
        let mut wait = wait.clone();
        async move {
            while exchange.request().await?.is_some() {
                let _ = wait.wait_for(|go| *go).await;
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
            }
            Ok(())
        }
    })
    .await
}

async fn answering() -> Container {
    Container::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await
}

#[tokio::test]
async fn the_limits_are_said_first() {
    // §3.4 and §6.5.2; RFC 8441 §3.
    let world = World::start().await;
    let mut frames = Frames::connect(&world).await;
    let settings = within("SETTINGS", frames.next()).await.unwrap();
    assert_eq!((settings.kind, settings.flags, settings.stream), (SETTINGS, 0, 0));
    let pair =
        |pair: &[u8]| (u16::from_be_bytes([pair[0], pair[1]]), u32::from_be_bytes(pair[2..].try_into().unwrap()));
    let said: HashMap<u16, u32> = settings.payload.chunks(6).map(pair).collect();
    let (streams, window, head) = (128, 256 << 10, 64 << 10);
    assert_eq!(said, HashMap::from([(3, streams), (4, window), (6, head), (8, 1)]));
    let update = within("room for every stream", frames.next_of(WINDOW_UPDATE)).await.unwrap();
    // §6.9.2: of the connection, to whose window 65 535 bytes belong already.
    assert_eq!((update.stream, update.number(0)), (0, streams * window - 65_535));
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_and_the_others_go_on() {
    // §5.1.2.
    let go = watch::Sender::new(false);
    let container = waiting(&go).await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let mut frames = Frames::connect(&world).await;
    let fields = good(&team.key, PATH);
    for number in 0..129 {
        frames.headers(number * 2 + 1, true, &fields).await;
    }
    assert_eq!(within("the last", frames.outcome(257)).await, Outcome::Reset(REFUSED_STREAM));
    wait_until("the others", || world.gateway.in_flight(service) == 128).await;
    go.send_replace(true);
    let mut answered = Vec::new();
    while answered.len() < 128 {
        let answer = within("an answer", frames.next_of(HEADERS)).await.unwrap();
        assert_eq!(answer.status(), 200);
        answered.push(answer.stream);
    }
    answered.sort_unstable();
    assert!(answered.into_iter().eq((0..128).map(|number| number * 2 + 1)));
    frames.headers(259, true, &fields).await;
    assert_eq!(within("one more", frames.outcome(259)).await, Outcome::Answered(200));
}

#[tokio::test]
async fn requests_that_are_reset_at_once_end_the_connection() {
    // CVE-2023-44487: each would have made work, and none of them counts as open.
    let container = answering().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let fields = block(&good(&team.key, PATH));
    for (count, is_over) in [(20, false), (21, true), (1000, true)] {
        let mut frames = Frames::connect(&world).await;
        within("the beginning", frames.round_trip()).await;
        // In one write, so that nobody looks at a request before its reset has come.
        let mut out = BytesMut::new();
        for number in 0..count {
            out.extend(headers(number * 2 + 1, false, &fields));
            out.extend(frame(RST_STREAM, 0, number * 2 + 1, &[0, 0, 0, 8]));
        }
        out.extend(headers(count * 2 + 1, true, &fields));
        frames.send(&out).await;
        let expected = if is_over { Outcome::Over(Some(ENHANCE_YOUR_CALM)) } else { Outcome::Answered(200) };
        assert_eq!(within("the end", frames.outcome(count * 2 + 1)).await, expected, "{count}");
    }
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn faults_without_an_end_end_the_connection() {
    let world = World::start().await;
    let team = world.team();
    let mut frames = Frames::connect(&world).await;
    let faulty = block(&[good(&team.key, PATH), vec![("connection", "close")]].concat());
    for batch in 0..16 {
        for number in 0..64 {
            frames.send(&headers((batch * 64 + number) * 2 + 1, true, &faulty)).await;
        }
        for _ in 0..64 {
            within("each is reset", frames.next_of(RST_STREAM)).await.unwrap();
        }
    }
    frames.send(&headers(2049, true, &faulty)).await;
    assert_eq!(within("the end", frames.outcome(2049)).await, Outcome::Over(Some(ENHANCE_YOUR_CALM)));
}

#[tokio::test]
async fn heads_in_too_many_pieces_end_the_connection() {
    // CVE-2024-27316: §6.10 sets no limit.
    let container = answering().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let fields = block(&good(&team.key, PATH));
    // As many as a head of 64 KiB can be in, and a few.
    for (pieces, is_over) in [(5, false), (6, true), (2000, true)] {
        let mut frames = Frames::connect(&world).await;
        let mut out = frame(HEADERS, END_STREAM, 1, &fields);
        for _ in 0..pieces {
            out.extend(frame(CONTINUATION, 0, 1, &block(&[("x-a", "1")])));
        }
        if !is_over {
            out.extend(frame(CONTINUATION, END_HEADERS, 1, &[]));
        }
        frames.send(&out).await;
        let expected = if is_over { Outcome::Over(Some(ENHANCE_YOUR_CALM)) } else { Outcome::Answered(200) };
        assert_eq!(within("the end", frames.outcome(1)).await, expected, "{pieces}");
    }
}

#[tokio::test]
async fn a_long_head_is_a_431_and_no_more_than_that() {
    // §10.5.1.
    heads_up_to(GatewayConfig::default(), 64 << 10).await;
    heads_up_to(GatewayConfig { head_limit: 40_000, ..GatewayConfig::default() }, 40_000).await;
}

async fn heads_up_to(config: GatewayConfig, limit: usize) {
    let container = answering().await;
    let world = World::start_with(config).await;
    let (team, _agent, _) = world.hello(&container).await;
    let own = good(&team.key, PATH).iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>();
    let mut frames = Frames::connect(&world).await;
    for (stream, size, status) in [(1, limit - 1, 200), (3, limit, 431), (5, limit / 2, 200)] {
        let (filler, count) = (size - own, (size - own).div_ceil(8000));
        let part = |number| filler / count + usize::from(number < filler % count);
        // Each counts with its name and 32 more.
        let values: Vec<_> = (0..count).map(|number| "v".repeat(part(number) - 35)).collect();
        let more = values.iter().map(|value| ("x-l", value.as_str()));
        let fields = block(&good(&team.key, PATH).into_iter().chain(more).collect::<Vec<_>>());
        let (first, rest) = fields.split_at(16 << 10);
        frames.frame(HEADERS, END_STREAM, stream, first).await;
        for piece in rest.chunks(16 << 10) {
            frames.frame(CONTINUATION, 0, stream, piece).await;
        }
        frames.frame(CONTINUATION, END_HEADERS, stream, &[]).await;
        assert_eq!(within("an answer", frames.outcome(stream)).await, Outcome::Answered(status), "{size}");
    }
}

#[tokio::test]
async fn a_head_that_unfolds_without_an_end_is_refused() {
    // RFC 7541 §7.3: a byte that stands for a field of 4 KiB.
    let world = World::start().await;
    let team = world.team();
    let size = |(name, value): &(&str, &str)| name.len() + value.len() + 32;
    let own = good(&team.key, PATH).iter().map(size).sum::<usize>();
    let value = "v".repeat(3900);
    let long = ("x-l", &*value);
    // Four times what is a 431 is no mistake any more.
    let fit = ((256 << 10) - own) / size(&long);
    for (count, expected) in [
        (fit, Outcome::Answered(431)),
        (fit + 1, Outcome::Over(Some(ENHANCE_YOUR_CALM))),
        (12_000, Outcome::Over(Some(ENHANCE_YOUR_CALM))),
    ] {
        let mut frames = Frames::connect(&world).await;
        let mut fields = block(&good(&team.key, PATH));
        // With indexing (§6.2.1), and then so often the newest entry (§6.1).
        fields.put_u8(0x40);
        fields.extend(&block(&[long])[1..]);
        fields.put_bytes(0xbe, count - 1);
        frames.send(&headers(1, true, &fields)).await;
        assert_eq!(within("the end", frames.outcome(1)).await, expected, "{count}");
    }
}

/// A caller's WebSocket, over frames.
async fn open_websocket(world: &World, key: &str) -> Frames {
    let mut frames = Frames::connect(world).await;
    let mut fields = good(key, PATH);
    fields[0].1 = "CONNECT";
    fields.insert(1, (":protocol", "websocket"));
    frames.headers(1, false, &fields).await;
    assert_eq!(within("an answer", frames.outcome(1)).await, Outcome::Answered(200));
    frames
}

/// The content of a stream, so many bytes of it.
async fn exactly(frames: &mut Frames, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(within("more", frames.next_of(DATA)).await.unwrap().payload);
    }
    all
}

#[tokio::test]
async fn a_server_that_stops_says_goodbye_and_waits_for_websockets() {
    let container = shouting().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut frames = open_websocket(&world, &team.key).await;
    let mut idle = Frames::connect(&world).await;
    within("the beginning", idle.round_trip()).await;
    world.shutdown.cancel();
    for (frames, last) in [(&mut frames, 1), (&mut idle, 0)] {
        // §6.8: first that no more is wanted, and when that has arrived, what was taken.
        let goodbye = within("a goodbye", frames.next_of(GOAWAY)).await.unwrap();
        assert_eq!((goodbye.number(0), goodbye.number(4)), (u32::MAX >> 1, NO_ERROR));
        let ping = within("whether it has arrived", frames.next_of(PING)).await.unwrap();
        frames.frame(PING, ACK, 0, &ping.payload).await;
        let goodbye = within("the last goodbye", frames.next_of(GOAWAY)).await.unwrap();
        assert_eq!((goodbye.number(0), goodbye.number(4)), (last, NO_ERROR));
    }
    assert_eq!(within("the end", idle.next()).await, None, "nothing is waited for there");
    frames.frame(DATA, 0, 1, b"still").await;
    assert_eq!(exactly(&mut frames, 5).await, b"STILL");
    assert!(!world.served.is_empty(), "it is waited for");
    frames.frame(DATA, END_STREAM, 1, &[]).await;
    assert_eq!(exactly(&mut frames, 3).await, b"BYE");
    while let Some(frame) = within("the connection's end", frames.next()).await {
        assert!(![RST_STREAM, GOAWAY].contains(&frame.kind), "{frame:?}");
    }
    drop((frames, idle));
    within("the server's end", world.served.wait()).await;
}

#[tokio::test]
async fn a_connection_without_requests_ends_in_order() {
    let container = shouting().await;
    let caller_idle = Duration::from_secs(1);
    let world = World::start_with(GatewayConfig { caller_idle, ..GatewayConfig::default() }).await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut busy = open_websocket(&world, &team.key).await;
    let [mut idle, mut deaf] = [Frames::connect(&world).await, Frames::connect(&world).await];
    for frames in [&mut idle, &mut deaf] {
        let goodbye = within("a goodbye", frames.next_of(GOAWAY)).await.unwrap();
        assert_eq!((goodbye.number(0), goodbye.number(4)), (u32::MAX >> 1, NO_ERROR));
    }
    let ping = within("whether it has arrived", idle.next_of(PING)).await.unwrap();
    idle.frame(PING, ACK, 0, &ping.payload).await;
    let goodbye = within("the last goodbye", idle.next_of(GOAWAY)).await.unwrap();
    assert_eq!((goodbye.number(0), goodbye.number(4)), (0, NO_ERROR));
    assert_eq!(within("the end", idle.next()).await, None);
    // One that does not answer is not waited for as long as it likes.
    assert_eq!(within("the end", deaf.next_of(GOAWAY)).await, None);
    // A request may take its time.
    busy.frame(DATA, 0, 1, b"still").await;
    assert_eq!(exactly(&mut busy, 10).await, b"HELLOSTILL");
    busy.frame(DATA, END_STREAM, 1, &[]).await;
    assert_eq!(exactly(&mut busy, 3).await, b"BYE");
    assert!(within("a goodbye", busy.next_of(GOAWAY)).await.is_some());
}

#[tokio::test]
async fn only_a_caller_that_says_nothing_at_all_is_given_up() {
    let container = shouting().await;
    let (ping_after, ping_patience) = (Duration::from_millis(50), Duration::from_secs(1));
    let world = World::start_with(GatewayConfig { ping_after, ping_patience, ..GatewayConfig::default() }).await;
    let (team, _agent, service) = world.hello(&container).await;
    let mut frames = open_websocket(&world, &team.key).await;
    let (mut pings, mut said) = (0, Vec::new());
    while said != b"HELLOHEREBYE" {
        let frame = within("a sign of life", frames.next()).await.unwrap();
        match frame.kind {
            DATA => said.extend(frame.payload),
            PING => {
                frames.frame(PING, ACK, 0, &frame.payload).await;
                pings += 1;
                // It is still there when another one comes.
                if pings == 2 {
                    frames.frame(DATA, END_STREAM, 1, b"here").await;
                }
            }
            _ => {}
        }
    }
    drop(frames);

    // What it has asked for goes with it.
    let mut frames = open_websocket(&world, &team.key).await;
    while within("the end", frames.next()).await.is_some() {}
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn what_outlasts_the_drain_is_cut() {
    let container = shouting().await;
    let drain_timeout = Duration::from_millis(300);
    let world = World::start_with(GatewayConfig { drain_timeout, ..GatewayConfig::default() }).await;
    let (team, _agent, service) = world.hello(&container).await;
    let mut frames = open_websocket(&world, &team.key).await;
    assert_eq!(exactly(&mut frames, 5).await, b"HELLO");
    world.shutdown.cancel();
    while let Some(frame) = within("the connection's end", frames.next()).await {
        assert!(frame.kind != DATA || frame.flags & END_STREAM == 0, "it does not look complete: {frame:?}");
    }
    within("the server's end", world.served.wait()).await;
    assert_eq!(world.gateway.in_flight(service), 0);
}

#[tokio::test]
async fn a_websocket_that_is_not_read_is_held_back() {
    // By what has come from whoever reads none of it: both ends do nothing but send.
    const PIECE: usize = 16 << 10;
    let (counts, mut counted) = watch::channel(0_usize);
    let container = Container::start(move |mut exchange, _| {
        let counts = counts.clone();
        async move {
            narrow(&SockRef::from(&exchange.socket))?;
            switch(&mut exchange, "").await?;
            loop {
                exchange.write(vec![7; PIECE]).await?;
                counts.send_modify(|count| *count += PIECE);
            }
        }
    })
    .await;
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    let service = world.service(&team, "hello");
    world.instance(service, &agent, AgentKind::ConnectNarrowly(container.address()));
    let mut frames = open_websocket(&world, &team.key).await;
    // §6.9: the window is 256 KiB once SETTINGS are acknowledged, and more only for what was passed on.
    let (mut room, mut sent) = (256_usize << 10, 0);
    let mut other = Frames::connect(&world).await;
    let settled = async {
        let mut still = 0;
        // That nothing more goes is seen when nothing has for so many turns of others.
        while still < 1000 {
            let before = (sent, *counted.borrow_and_update());
            while room >= PIECE {
                frames.frame(DATA, 0, 1, &[7; PIECE]).await;
                (room, sent) = (room - PIECE, sent + PIECE);
            }
            frames.frame(PING, 0, 0, b"are read").await;
            loop {
                let frame = within("what comes back", frames.next()).await.unwrap();
                match frame.kind {
                    RST_STREAM | GOAWAY => panic!("{frame:?}"),
                    WINDOW_UPDATE if frame.stream == 1 => room += frame.number(0) as usize,
                    PING if frame.flags & ACK != 0 => break,
                    _ => {}
                }
            }
            within("others have their turn", other.round_trip()).await;
            let is_still = before == (sent, *counted.borrow());
            still = if is_still { still + 1 } else { 0 };
        }
    };
    within("nothing moves any more", settled).await;
    let taken = *counted.borrow();
    // The windows of HTTP/2 and of the tunnel, and buffers of some KiB between them; the sockets take next to nothing.
    assert!((64 << 10..1 << 20).contains(&taken), "{taken} bytes were taken from the container");
    assert!((256 << 10..1 << 20).contains(&sent), "{sent} bytes were taken from the caller");
    drop(frames);
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn interim_answers_are_not_kept_for_a_caller_that_takes_nothing() {
    // Heads are under no flow control.
    const COUNT: usize = 8000;
    let (tells, mut told) = mpsc::channel(1);
    let container = Container::start(move |mut exchange, _| {
        let tells = tells.clone();
        async move {
            exchange.request().await?;
            for number in 0..COUNT {
                // Each is another, so that HPACK cannot make it short.
                let filler = format!("{number:08x}").repeat(500);
                exchange.write(format!("HTTP/1.1 102 Processing\r\nX-Filler: {filler}\r\n\r\n")).await?;
            }
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await?;
            tells.send(()).await.unwrap();
            exchange.ended().await
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut frames = Frames::speak(socket.connect(world.address).await.unwrap()).await;
    frames.headers(1, true, &good(&team.key, PATH)).await;
    within("the container is not held up", told.recv()).await.unwrap();
    let mut heads = 0;
    while let Some(frame) = within("what was kept", frames.next()).await {
        heads += usize::from(frame.kind == HEADERS);
        if frame.kind == DATA {
            assert_eq!(frame.payload, "hi");
            break;
        }
    }
    // What the sockets between have taken, of 32 MB.
    assert!(heads > 1 && heads < COUNT / 2, "{heads} of {COUNT}");
}

//! After a container's `101`: bytes in both directions, whatever they mean.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional_with_sizes, time::timeout};
use tokio_util::sync::CancellationToken;
use towline_model::InstanceId;

use crate::{
    body::{ResponseBody, Terms},
    caller::{Active, Caller},
    dispatch::Answer,
    gateway::Shared,
    headers::{put_switching_hops, take_response_hops},
    proxy::Additions,
    service::InFlight,
    upstream::Connection,
};

/// Bytes that wait in each direction.
const COPY_BUFFER: usize = 16 << 10;
/// How long both sides may take to switch.
const SWITCH_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// Passes the `101` on, and bytes from then on.
pub(crate) fn switch(
    shared: &Arc<Shared>,
    active: &Active,
    on_caller: OnUpgrade,
    answer: Answer,
    (terms, additions): (Terms, &Additions<'_>),
) -> Response<ResponseBody> {
    let Answer { mut response, mut connection, in_flight } = answer;
    let instance = in_flight.instance().id;
    connection.mark_long_lived();
    let on_container = hyper::upgrade::on(&mut response);
    let caller = Arc::clone(active.caller());
    caller.note_upgrade();
    let tunnel = Tunnel {
        connection,
        on_caller,
        on_container,
        caller,
        revoked: terms.revoked.unwrap_or_default(),
        cut: shared.cut.clone(),
        _in_flight: in_flight,
    };
    shared.upgraded.spawn(tunnel.run());
    switching(response, additions, instance)
}

fn switching(response: Response<Incoming>, additions: &Additions<'_>, instance: InstanceId) -> Response<ResponseBody> {
    let (mut parts, _) = response.into_parts();
    let protocol = take_response_hops(&mut parts.headers).upgrade;
    put_switching_hops(&mut parts.headers, protocol.unwrap_or_else(|| HeaderValue::from_static("unknown")));
    // A 101 has no body, whatever its head says (RFC 9110 §8.6).
    parts.headers.remove(header::CONTENT_LENGTH);
    additions.put_switching(&mut parts.headers, instance);
    parts.version = http::Version::HTTP_11;
    debug_assert_eq!(parts.status, StatusCode::SWITCHING_PROTOCOLS);
    Response::from_parts(parts, ResponseBody::empty())
}

/// A caller's connection and a container's, joined.
struct Tunnel {
    connection: Connection,
    on_caller: OnUpgrade,
    on_container: OnUpgrade,
    caller: Arc<Caller>,
    revoked: CancellationToken,
    cut: CancellationToken,
    _in_flight: InFlight,
}

impl Tunnel {
    async fn run(self) {
        let Self { mut connection, on_caller, on_container, caller, revoked, cut, _in_flight } = self;
        let switch = async {
            std::future::poll_fn(|cx| connection.drive(cx)).await;
            tokio::try_join!(on_caller, on_container)
        };
        let Ok(Ok((caller_side, container_side))) = timeout(SWITCH_DEADLINE, switch).await else { return };
        let mut caller_side = TokioIo::new(caller_side);
        let mut container_side = TokioIo::new(container_side);
        let finished = tokio::select! {
            copied = copy_bidirectional_with_sizes(&mut caller_side, &mut container_side, COPY_BUFFER, COPY_BUFFER) => {
                copied.is_ok()
            }
            () = revoked.cancelled() => false,
            () = cut.cancelled() => false,
        };
        if !finished {
            // Both sides are to see that this is not the end that the other one meant.
            caller.abort_on_close();
        }
    }
}

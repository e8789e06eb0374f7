//! Sends one request to one instance of a service, and again to another where that is safe.

use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, StatusCode};
use tokio::time::Instant;
use towline_model::{InstanceId, ServiceStatus};
use towline_tunnel::{RefuseCode, Refused};

use crate::{
    affinity::Preference,
    alarm::{Alarm, Elapsed},
    balance::{self, NoInstance},
    body::Terms,
    connect::{Need, Tls, connect, note_closed},
    error::{BusyReason, ExchangeError, ExchangeFailure, GatewayError},
    gateway::Shared,
    h1::head::ResponseHead,
    http2,
    line::{Entry, Slot},
    outgoing::{Interrupt, Outgoing, Source, SourceFault},
    patience::Patience,
    retry::{self, Facts, Verdict},
    service::{InFlight, Instance, Service},
    upstream::{Connection, Failure, FailureReason},
};

/// Attempts that one request may take, those that a refusal ended included.
const MAX_ATTEMPTS: usize = 4;

/// A request as a container is to see it.
#[derive(Debug)]
pub(crate) struct Outbound<S> {
    pub method: Method,
    /// All of it, as bytes.
    pub request: Outgoing<S>,
    /// Whether it asks for another protocol.
    pub upgrade: bool,
    /// The instances that the caller wants.
    pub preference: Preference,
}

/// A container's answer, with everything that is behind it.
#[derive(Debug)]
pub(crate) struct Answer<S> {
    pub head: ResponseHead,
    pub connection: Box<Connection>,
    pub in_flight: InFlight,
    /// The request, of which not everything may be sent yet.
    pub request: Outgoing<S>,
}

/// Sends the request within its terms, when it is its turn. `alarm` is the timer that its deadline is kept with.
pub(crate) async fn dispatch<S: Source>(
    shared: &Shared,
    service: &Arc<Service>,
    outbound: Outbound<S>,
    terms: &Terms,
    alarm: &mut Alarm,
) -> Result<Answer<S>, GatewayError> {
    let mut dispatch = Dispatch::new(shared, service, outbound);
    let maybe_processed = !dispatch.method.is_idempotent();
    // Each stays where it was made: one that is handed on is copied whole, and has room for everything below it.
    let timed = pin!(async {
        let Some((at, length)) = terms.deadline else {
            let slot = dispatch.take_turn().await?;
            return dispatch.run(slot).await;
        };
        let turn = alarm.guard(at, pin!(dispatch.take_turn())).await;
        let slot = turn.unwrap_or_else(|Elapsed| Err(dispatch.busy(BusyReason::WaitedInVain)))?;
        alarm.guard(at, pin!(dispatch.run(slot))).await.unwrap_or_else(|Elapsed| {
            let reason = ExchangeFailure::Timeout(length);
            Err(GatewayError::Exchange(ExchangeError { reason, maybe_processed }))
        })
    });
    let Some(standing) = &terms.standing else { return timed.await };
    tokio::select! {
        biased;
        () = standing.lost() => Err(GatewayError::Revoked),
        answer = timed => answer,
    }
}

/// One request's attempts.
struct Dispatch<'a, S> {
    shared: &'a Shared,
    /// As it was when the request came, or when it had waited for its turn.
    service: Cow<'a, Arc<Service>>,
    method: Method,
    request: Outgoing<S>,
    upgrade: bool,
    preference: Preference,
    /// Instances that cannot help.
    tried: Vec<InstanceId>,
    /// Whether only a new stream will do.
    fresh: bool,
    /// Whether it was sent again after a container may have got it.
    resent: bool,
}

impl<'a, S: Source> Dispatch<'a, S> {
    fn new(shared: &'a Shared, service: &'a Arc<Service>, outbound: Outbound<S>) -> Self {
        let Outbound { method, request, upgrade, preference } = outbound;
        let service = Cow::Borrowed(service);
        Self { shared, service, method, request, upgrade, preference, tried: Vec::new(), fresh: upgrade, resent: false }
    }

    /// Waits until the service takes one more request, if it takes only so many.
    async fn take_turn(&mut self) -> Result<Option<Slot>, GatewayError> {
        let Some(line) = &self.service.line else { return Ok(None) };
        let mut waiting = match line.enter(Instant::now()) {
            Entry::In(slot) => return Ok(Some(slot)),
            Entry::Full => return Err(self.busy(BusyReason::LineIsFull)),
            Entry::Waits(waiting) => waiting,
        };
        let service = self.service.route.service_id;
        tracing::debug!(%service, position = waiting.position, "a request waits for its turn");
        let slot = poll_fn(|cx| {
            // First, so that nobody is let in who may not be, or is not there any more.
            if let Poll::Ready(interrupt) = self.request.source.poll_interrupt(cx) {
                return Poll::Ready(Err(retry::interrupted(interrupt)));
            }
            Pin::new(&mut waiting).poll(cx).map(Ok)
        })
        .await?;
        tracing::debug!(%service, waited = waiting.since.elapsed().as_secs_f32(), "it is a request's turn");
        drop(waiting);
        self.look_again()?;
        Ok(Some(slot))
    }

    /// The service may have changed while the request waited.
    fn look_again(&mut self) -> Result<(), GatewayError> {
        let state = self.shared.state.load();
        let route = &self.service.route;
        let service = state.service(route.team_id, &route.slug).filter(|now| now.route.service_id == route.service_id);
        let Some(service) = service else { return Err(GatewayError::ServiceNotFound { slug: route.slug.clone() }) };
        if service.route.status != ServiceStatus::Running {
            return Err(GatewayError::ServiceNotRunning { slug: route.slug.clone(), status: service.route.status });
        }
        self.service = Cow::Owned(Arc::clone(service));
        Ok(())
    }

    fn busy(&self, reason: BusyReason) -> GatewayError {
        let status = self.service.line.as_ref().map(|line| line.status(Instant::now())).unwrap_or_default();
        GatewayError::ServiceBusy { slug: self.service.route.slug.clone(), status, reason }
    }

    async fn run(mut self, mut slot: Option<Slot>) -> Result<Answer<S>, GatewayError> {
        let mut last = None;
        for _ in 0..MAX_ATTEMPTS {
            let now = Instant::now();
            let picked = match balance::pick(&self.service.candidates, &self.tried, self.preference, now) {
                Ok(picked) => picked,
                Err(none) => return Err(last.unwrap_or_else(|| self.unavailable(none))),
            };
            let mut in_flight = InFlight::begin(picked.instance, now);
            match self.try_once(&in_flight, picked.is_only, now).await {
                Ok(Some((head, connection))) => {
                    in_flight.trial().succeeded();
                    in_flight.hold(slot.take());
                    return Ok(Answer { head, connection, in_flight, request: self.request });
                }
                Ok(None) => {
                    self.tried.push(in_flight.instance().id);
                    last = Some(self.unavailable(NoInstance::NoneReachable));
                }
                Err(failure) => {
                    judge_instance(&failure.reason, &in_flight);
                    last = Some(self.learn(failure, in_flight.instance().id)?);
                }
            }
        }
        Err(last.unwrap_or_else(|| self.unavailable(NoInstance::NoneReachable)))
    }

    /// One attempt at one instance. `None` when its agent has no carrier for it.
    async fn try_once(
        &mut self,
        in_flight: &InFlight,
        is_only: bool,
        now: Instant,
    ) -> Result<Option<(ResponseHead, Box<Connection>)>, Failure> {
        let service = &self.service;
        let need = Need {
            now,
            upgrade: self.upgrade,
            idempotent: self.method.is_idempotent(),
            fresh: self.fresh || in_flight.trial().decides(),
            // Nobody waits for one agent while another could serve.
            wait: if is_only { self.shared.config.carrier_wait } else { Duration::ZERO },
            confirm: in_flight.trial().decides(),
            connect_timeout: service.route.timeouts.connect,
            head_limit: self.shared.config.head_limit,
            tls: service
                .external
                .as_ref()
                .map(|external| Tls { client: &self.shared.external_tls, name: &external.name }),
        };
        let source = &mut self.request.source;
        let connected = find_connection(self.shared, service, in_flight.instance(), need, source).await;
        let nothing = |reason| Failure { reason, untouched: true, reused: false };
        let Some(mut connection) = connected.map_err(nothing)? else { return Ok(None) };
        if in_flight.trial().decides() {
            // It was asked for nothing but this.
            in_flight.trial().succeeded();
        }
        match self.attempt(&mut connection).await {
            Ok(head) => Ok(Some((head, connection))),
            Err(reason) => {
                if matches!(reason, FailureReason::Closed) {
                    note_closed(&connection, in_flight.instance());
                }
                Err(connection.failure(reason))
            }
        }
    }

    async fn attempt(&mut self, connection: &mut Connection) -> Result<ResponseHead, FailureReason> {
        self.request.rewind();
        let timeouts = self.service.route.timeouts;
        let mut patience = [timeouts.idle, timeouts.first_byte].map(Patience::new);
        let head = poll_fn(|cx| {
            loop {
                if let Poll::Ready(Err(SourceFault)) = self.request.poll_send(cx, connection.socket()) {
                    return Poll::Ready(Err(FailureReason::CallerBody));
                }
                if let Poll::Ready(interrupt) = self.request.source.poll_interrupt(cx) {
                    return Poll::Ready(Err(interrupt.into()));
                }
                if !self.request.source.takes_interim() {
                    return Poll::Pending;
                }
                let Poll::Ready(head) = connection.poll_head(cx, &self.method) else {
                    return poll_late(cx, &self.request, &mut patience).map(|late| Err(FailureReason::Late(late)));
                };
                let head = head?;
                if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(head));
                }
                self.request.source.interim(head);
            }
        })
        .await?;
        self.request.forget();
        Ok(head)
    }

    /// Decides what a failed attempt means: the answer to give if nothing else helps, or at once.
    fn learn(&mut self, mut failure: Failure, instance: InstanceId) -> Result<GatewayError, GatewayError> {
        if self.request.has_failed() {
            failure.reason = FailureReason::CallerBody;
        }
        let facts = Facts {
            slug: &self.service.route.slug,
            idempotent: self.method.is_idempotent(),
            replayable: self.request.can_replay(),
            resent: self.resent,
        };
        match retry::judge(failure, facts) {
            Verdict::GiveUp(error) => Err(error),
            Verdict::Again { elsewhere, resent, otherwise } => {
                tracing::debug!(%instance, reason = %otherwise, "a request is sent again");
                if elsewhere {
                    self.tried.push(instance);
                }
                self.resent |= resent;
                self.fresh = true;
                Ok(otherwise)
            }
        }
    }

    fn unavailable(&self, none: NoInstance) -> GatewayError {
        let slug = self.service.route.slug.clone();
        match none {
            NoInstance::NoneReady => GatewayError::NoReadyInstance { slug },
            NoInstance::NoneReachable => GatewayError::AgentUnreachable { slug },
            NoInstance::NotThatOne(instance) => {
                GatewayError::InstanceUnavailable { slug, instance, gone: false, forget: None }
            }
            NoInstance::ThatOneIsGone(instance) => {
                GatewayError::InstanceUnavailable { slug, instance, gone: true, forget: None }
            }
        }
    }
}

/// Finds a connection, while somebody waits for the answer.
async fn find_connection<S: Source>(
    shared: &Shared,
    service: &Service,
    instance: &Instance,
    need: Need<'_>,
    source: &mut S,
) -> Result<Option<Box<Connection>>, FailureReason> {
    let mut connecting = pin!(async {
        match service.is_http2() {
            // Boxed, so that every request does not keep room for it.
            true => Box::pin(http2::connection::connect(instance, need, shared)).await,
            false => connect(instance, need).await,
        }
    });
    poll_fn(|cx| {
        // Most often there is one, and nothing to wait for.
        if let Poll::Ready(connection) = connecting.as_mut().poll(cx) {
            return Poll::Ready(connection);
        }
        source.poll_interrupt(cx).map(|interrupt| Err(interrupt.into()))
    })
    .await
}

/// Whether the container takes too long, to take the request or to begin its answer. While the caller is still sending it is
/// not waited for.
fn poll_late<S: Source>(
    cx: &mut Context<'_>,
    request: &Outgoing<S>,
    [sending, answering]: &mut [Patience; 2],
) -> Poll<ExchangeFailure> {
    if request.is_sent() {
        return answering.poll_waiting(cx, 0).map(ExchangeFailure::NoAnswer);
    }
    if request.waits_for_socket() {
        return sending.poll_waiting(cx, request.written()).map(ExchangeFailure::Stalled);
    }
    sending.pause();
    Poll::Pending
}

/// What a failed attempt says about the instance.
fn judge_instance(reason: &FailureReason, in_flight: &InFlight) {
    match reason {
        FailureReason::Refused(Refused { code: RefuseCode::ConnectFailed | RefuseCode::Unresolved, .. })
        | FailureReason::ConnectTimeout(_) => in_flight.trial().failed(Instant::now()),
        FailureReason::Closed
        | FailureReason::BrokeHttp(_)
        | FailureReason::NoWebSockets
        | FailureReason::Late(_)
        | FailureReason::Tls(_) => in_flight.trial().succeeded(),
        FailureReason::Refused(_) | FailureReason::TunnelLost | FailureReason::CallerBody | FailureReason::Revoked => {}
    }
}

impl From<Interrupt> for FailureReason {
    fn from(interrupt: Interrupt) -> Self {
        match interrupt {
            Interrupt::Gone => Self::CallerBody,
            Interrupt::Revoked => Self::Revoked,
        }
    }
}

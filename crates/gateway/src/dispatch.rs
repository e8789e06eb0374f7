//! Sends one request to one instance of a service, and again to another where that is safe.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Poll, ready},
    time::Duration,
};

use http::{Method, StatusCode};
use tokio::time::timeout_at;
use towline_model::InstanceId;

use crate::{
    affinity::Preference,
    balance::{self, NoInstance},
    body::Terms,
    connect::{Need, Tls, connect},
    error::{ExchangeError, ExchangeFailure, GatewayError},
    gateway::Shared,
    h1::head::ResponseHead,
    outgoing::{Interrupt, Outgoing, Source, SourceFault},
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
    pub connection: Connection,
    pub in_flight: InFlight,
    /// The request, of which not everything may be sent yet.
    pub request: Outgoing<S>,
}

/// Sends the request within its terms.
pub(crate) async fn dispatch<S: Source>(
    shared: &Shared,
    service: &Service,
    outbound: Outbound<S>,
    terms: &Terms,
) -> Result<Answer<S>, GatewayError> {
    let dispatch = Dispatch::new(shared, service, outbound);
    let maybe_processed = !dispatch.method.is_idempotent();
    let timed = async {
        match terms.deadline {
            None => dispatch.run().await,
            Some((at, length)) => timeout_at(at, dispatch.run()).await.unwrap_or_else(|_| {
                let reason = ExchangeFailure::Timeout(length);
                Err(GatewayError::Exchange(ExchangeError { reason, maybe_processed }))
            }),
        }
    };
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
    service: &'a Service,
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
    fn new(shared: &'a Shared, service: &'a Service, outbound: Outbound<S>) -> Self {
        let Outbound { method, request, upgrade, preference } = outbound;
        Self { shared, service, method, request, upgrade, preference, tried: Vec::new(), fresh: upgrade, resent: false }
    }

    async fn run(mut self) -> Result<Answer<S>, GatewayError> {
        let mut last = None;
        for _ in 0..MAX_ATTEMPTS {
            let picked = match balance::pick(&self.service.candidates, &self.tried, self.preference) {
                Ok(picked) => picked,
                Err(none) => return Err(last.unwrap_or_else(|| self.unavailable(none))),
            };
            let in_flight = InFlight::begin(self.service, picked.instance);
            let need = Need {
                upgrade: self.upgrade,
                idempotent: self.method.is_idempotent(),
                fresh: self.fresh,
                // Nobody waits for one agent while another could serve.
                wait: if picked.is_only { self.shared.config.carrier_wait } else { Duration::ZERO },
                tls: self
                    .service
                    .external
                    .as_ref()
                    .map(|external| Tls { client: &self.shared.external_tls, name: &external.name }),
            };
            let mut connection = match self.connect(in_flight.instance(), need).await {
                Ok(Some(connection)) => connection,
                Ok(None) => {
                    self.tried.push(in_flight.instance().id);
                    last = Some(self.unavailable(NoInstance::NoneReachable));
                    continue;
                }
                Err(reason) => {
                    let failure = Failure { reason, nothing_sent: true, reused: false };
                    last = Some(self.learn(failure, in_flight.instance().id)?);
                    continue;
                }
            };
            match self.attempt(&mut connection).await {
                Ok(head) => return Ok(Answer { head, connection, in_flight, request: self.request }),
                Err(reason) => {
                    let failure = connection.failure(reason);
                    drop(connection);
                    last = Some(self.learn(failure, in_flight.instance().id)?);
                }
            }
        }
        Err(last.unwrap_or_else(|| self.unavailable(NoInstance::NoneReachable)))
    }

    /// Finds a connection, while somebody waits for the answer.
    async fn connect(&mut self, instance: &Instance, need: Need<'_>) -> Result<Option<Connection>, FailureReason> {
        let mut connecting = pin!(connect(instance, need));
        poll_fn(|cx| {
            // Most often there is one, and nothing to wait for.
            if let Poll::Ready(connection) = connecting.as_mut().poll(cx) {
                return Poll::Ready(connection);
            }
            self.request.source.poll_interrupt(cx).map(|interrupt| Err(interrupt.into()))
        })
        .await
    }

    async fn attempt(&mut self, connection: &mut Connection) -> Result<ResponseHead, FailureReason> {
        self.request.rewind();
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
                let head = ready!(connection.poll_head(cx, &self.method))?;
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

impl From<Interrupt> for FailureReason {
    fn from(interrupt: Interrupt) -> Self {
        match interrupt {
            Interrupt::Gone => Self::CallerBody,
            Interrupt::Revoked => Self::Revoked,
        }
    }
}

//! Sends one request to one instance of a service, and again to another where that is safe.

use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, Uri, header};
use hyper::body::Incoming;
use tokio::time::timeout_at;
use towline_model::InstanceId;

use crate::{
    affinity::Preference,
    balance::{self, NoInstance},
    body::Terms,
    connect::{Need, Tls, connect},
    error::{ExchangeError, ExchangeFailure, GatewayError},
    gateway::Shared,
    request_body::{BodySource, RequestBody},
    retry::{self, Facts, Verdict},
    service::{InFlight, Service},
    upstream::{Connection, Failure, FailureReason},
};

/// Attempts that one request may take, those that a refusal ended included.
const MAX_ATTEMPTS: usize = 4;

/// A request as a container is to see it.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub head: Head,
    pub body: BodySource,
    /// Whether it asks for another protocol.
    pub upgrade: bool,
    /// The instances that the caller wants.
    pub preference: Preference,
}

/// The head of a request.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
}

/// A container's answer, with everything that is behind it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub response: Response<Incoming>,
    pub connection: Connection,
    pub in_flight: InFlight,
}

/// Sends the request within its terms.
pub(crate) async fn dispatch(
    shared: &Shared,
    service: &Service,
    outbound: Outbound,
    terms: &Terms,
) -> Result<Answer, GatewayError> {
    let mut dispatch = Dispatch::new(shared, service, outbound);
    let maybe_processed = !dispatch.idempotent;
    let timed = async {
        match terms.deadline {
            None => dispatch.run().await,
            Some((at, length)) => timeout_at(at, dispatch.run()).await.unwrap_or_else(|_| {
                let reason = ExchangeFailure::Timeout(length);
                Err(GatewayError::Exchange(ExchangeError { reason, maybe_processed }))
            }),
        }
    };
    match &terms.revoked {
        None => timed.await,
        Some(revoked) => revoked.run_until_cancelled(timed).await.unwrap_or(Err(GatewayError::Revoked)),
    }
}

/// One request's attempts.
struct Dispatch<'a> {
    shared: &'a Shared,
    service: &'a Service,
    /// `None` when it was sent and no copy was kept.
    head: Option<Head>,
    body: BodySource,
    upgrade: bool,
    idempotent: bool,
    preference: Preference,
    /// Instances that cannot help.
    tried: Vec<InstanceId>,
    /// Whether only a new stream will do.
    fresh: bool,
    /// Whether it was sent again after a container may have got it.
    resent: bool,
}

impl<'a> Dispatch<'a> {
    fn new(shared: &'a Shared, service: &'a Service, outbound: Outbound) -> Self {
        let Outbound { head, body, upgrade, preference } = outbound;
        let idempotent = head.method.is_idempotent();
        let head = Some(head);
        Self {
            shared,
            service,
            head,
            body,
            upgrade,
            idempotent,
            preference,
            tried: Vec::new(),
            fresh: upgrade,
            resent: false,
        }
    }

    async fn run(&mut self) -> Result<Answer, GatewayError> {
        let mut last = None;
        for _ in 0..MAX_ATTEMPTS {
            let picked = match balance::pick(&self.service.candidates, &self.tried, self.preference) {
                Ok(picked) => picked,
                Err(none) => return Err(last.unwrap_or_else(|| self.unavailable(none))),
            };
            let in_flight = InFlight::begin(self.service, picked.instance);
            let need = Need {
                upgrade: self.upgrade,
                idempotent: self.idempotent,
                fresh: self.fresh,
                // Nobody waits for one agent while another could serve.
                wait: if picked.is_only { self.shared.config.carrier_wait } else { Duration::ZERO },
                tls: self
                    .service
                    .external
                    .as_ref()
                    .map(|external| Tls { client: &self.shared.external_tls, name: &external.name }),
            };
            let mut connection = match connect(in_flight.instance(), need).await {
                Ok(Some(connection)) => connection,
                Ok(None) => {
                    self.tried.push(in_flight.instance().id);
                    last = Some(self.unavailable(NoInstance::NoneReachable));
                    continue;
                }
                Err(reason) => {
                    let failure = Failure { reason, unsent: None, nothing_sent: true, reused: false };
                    last = Some(self.learn(failure, in_flight.instance().id)?);
                    continue;
                }
            };
            match self.attempt(&mut connection).await {
                Ok(response) => return Ok(Answer { response, connection, in_flight }),
                Err(failure) => {
                    drop(connection);
                    last = Some(self.learn(failure, in_flight.instance().id)?);
                }
            }
        }
        Err(last.unwrap_or_else(|| self.unavailable(NoInstance::NoneReachable)))
    }

    async fn attempt(&mut self, connection: &mut Connection) -> Result<Response<Incoming>, Failure> {
        let head = self.head.take().expect("another attempt is only made while the head is here");
        // A copy is kept only where the request could be sent again.
        if self.idempotent || !connection.is_reused() {
            self.head = Some(head.clone());
        }
        if self.upgrade {
            connection.allow_upgrade();
        }
        let response = connection.exchange(request(head, &self.body)).await?;
        self.body.forget();
        if !self.body.is_complete() {
            connection.hand_over(&self.shared.tasks);
        }
        Ok(response)
    }

    /// Decides what a failed attempt means: the answer to give if nothing else helps, or at once.
    fn learn(&mut self, mut failure: Failure, instance: InstanceId) -> Result<GatewayError, GatewayError> {
        if let Some(unsent) = failure.unsent.take() {
            let (parts, _) = unsent.into_parts();
            self.head = Some(Head { method: parts.method, uri: parts.uri, headers: parts.headers });
        }
        if self.body.has_failed() {
            failure.reason = FailureReason::CallerBody;
        }
        let facts = Facts {
            slug: &self.service.route.slug,
            idempotent: self.idempotent,
            replayable: self.head.is_some() && self.body.can_replay(),
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

fn request(head: Head, body: &BodySource) -> Request<RequestBody> {
    let mut request = Request::new(body.attempt());
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.headers_mut() = head.headers;
    if let BodySource::Relayed(source) = body
        && request.headers().contains_key(header::EXPECT)
    {
        let source = std::sync::Arc::clone(source);
        hyper::ext::on_informational(&mut request, move |interim| {
            if interim.status() == http::StatusCode::CONTINUE {
                source.open_gate();
            }
        });
    }
    request
}

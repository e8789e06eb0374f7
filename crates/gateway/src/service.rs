//! Services and instances as the request path uses them: the snapshot's routes, joined with what outlives a snapshot
//! (connections, counts of requests in flight, agents' places).

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderValue, header, uri::PathAndQuery};
use tokio::time::Instant;
use towline_model::{InstanceId, service::AppProtocol};

use crate::{
    agents::slot::AgentSlot,
    error::GatewayError,
    external::External,
    fields::{Fields, Headers as _},
    health::{Health, Trial},
    http2::connection::Connections,
    line::{Line, Slot},
    path::PROXY_PREFIX,
    pool::Pool,
    snapshot::{Concurrency, ServiceRoute, Upstream},
};

/// A service of the current snapshot.
#[derive(Debug)]
pub(crate) struct Service {
    pub route: Arc<ServiceRoute>,
    pub candidates: Vec<Candidate>,
    /// Where requests wait when it takes only so many; carried on from snapshot to snapshot.
    pub line: Option<Arc<Line>>,
    /// How it is called if it is a server elsewhere.
    pub external: Option<External>,
    /// What containers are told as `Host`.
    pub host: HeaderValue,
    /// The part of a proxied request's path that the container does not see.
    pub prefix: HeaderValue,
}

/// What a service keeps from snapshot to snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Carried {
    /// Requests in flight.
    pub in_flight: Arc<AtomicUsize>,
    pub line: Option<Arc<Line>>,
}

impl Carried {
    /// Takes over the service's limit.
    pub(crate) fn limit(&mut self, limits: Option<Concurrency>) {
        match (&self.line, limits) {
            (Some(line), limits) => line.set_limits(limits),
            (None, Some(limits)) => self.line = Some(Arc::new(Line::new(limits))),
            (None, None) => {}
        }
        if limits.is_none() {
            self.line = None;
        }
    }
}

/// An instance that may be chosen.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub ready: bool,
    pub instance: Arc<Instance>,
}

/// One instance, for as long as it has a route.
#[derive(Debug)]
pub(crate) struct Instance {
    pub id: InstanceId,
    /// Where its agent is.
    pub slot: Arc<AgentSlot>,
    /// Idle connections to it.
    pub pool: Pool,
    /// HTTP/2 connections to it, if it is spoken to with that.
    pub http2: Connections,
    /// Whether it takes connections.
    pub health: Health,
    in_flight: AtomicUsize,
    /// Requests in flight at all of its service's instances, those that have no route any more included.
    service_in_flight: Arc<AtomicUsize>,
}

impl Service {
    pub(crate) fn new(route: Arc<ServiceRoute>, candidates: Vec<Candidate>, line: Option<Arc<Line>>) -> Self {
        let host = match &route.upstream {
            Upstream::Container { exposed_port } => format!("localhost:{exposed_port}"),
            Upstream::Attached { authority } => authority.clone(),
            Upstream::External(external) => external.authority.clone(),
        };
        let external = match &route.upstream {
            Upstream::External(external) => External::of(external),
            Upstream::Container { .. } | Upstream::Attached { .. } => None,
        };
        let prefix = format!("{PROXY_PREFIX}{}", route.slug);
        Self {
            candidates,
            line,
            external,
            host: HeaderValue::try_from(host).unwrap_or_else(|_| HeaderValue::from_static("localhost")),
            prefix: HeaderValue::try_from(prefix).unwrap_or_else(|_| HeaderValue::from_static(PROXY_PREFIX)),
            route,
        }
    }

    /// Whether it is spoken to with HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.route.protocol == AppProtocol::H2c
    }

    /// The path and query that are asked for.
    pub(crate) fn target<'a>(&self, target: &'a str) -> Result<Cow<'a, str>, GatewayError> {
        let Some(external) = &self.external else { return Ok(Cow::Borrowed(target)) };
        let path = PathAndQuery::try_from(target).ok().and_then(|target| external.path(&target));
        let path = path.ok_or_else(|| GatewayError::MalformedRequest("the path cannot be passed on".to_owned()))?;
        Ok(Cow::Owned(path.to_string()))
    }

    /// Writes the fields that are this service's own into the head of a request.
    pub(crate) fn put_own_headers(&self, headers: &mut Fields) {
        headers.insert(header::HOST, &self.host);
        if let Some(value) = self.external.as_ref().and_then(|external| external.authorization.as_ref()) {
            headers.insert(header::AUTHORIZATION, value);
        }
    }
}

impl Instance {
    /// `service_in_flight` is what its service's other instances have, too.
    pub(crate) fn new(id: InstanceId, slot: Arc<AgentSlot>, pool: Pool, service_in_flight: Arc<AtomicUsize>) -> Self {
        Self {
            id,
            slot,
            pool,
            http2: Connections::default(),
            health: Health::default(),
            in_flight: AtomicUsize::new(0),
            service_in_flight,
        }
    }

    /// Requests in flight at it.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// One request in flight at one instance; over when dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    trial: Trial,
    /// Its place among the requests that the service takes at a time.
    slot: Option<Slot>,
}

impl InFlight {
    pub(crate) fn begin(instance: Arc<Instance>, now: Instant) -> Self {
        instance.service_in_flight.fetch_add(1, Ordering::Relaxed);
        instance.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { trial: Trial::begin(instance, now), slot: None }
    }

    /// Keeps a place until the request is over.
    pub(crate) fn hold(&mut self, slot: Option<Slot>) {
        self.slot = slot;
    }

    /// What the attempt to reach the instance teaches.
    pub(crate) const fn trial(&self) -> &Trial {
        &self.trial
    }

    pub(crate) const fn instance(&self) -> &Arc<Instance> {
        self.trial.instance()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let instance = self.instance();
        instance.service_in_flight.fetch_sub(1, Ordering::Relaxed);
        instance.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

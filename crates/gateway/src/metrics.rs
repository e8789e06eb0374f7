//! What can be measured of the gateway, as OpenMetrics 1.0 text: put together when somebody asks for it, from what is so at
//! that moment and what has been counted since the process began (for a line: since its service has one).

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::Counter, gauge::ConstGauge, histogram::Histogram},
    registry::Registry,
};

use crate::{gateway::Shared, line::Line, server_tls::ServerTls, service::Service};

/// Places in a line, from 1.
const POSITIONS: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0];
/// Seconds.
const WAITS: [f64; 10] = [0.0, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];

/// What has been counted at one line.
#[derive(Debug)]
pub(crate) struct LineMetrics {
    /// The places that those got who had to wait.
    pub position: Histogram,
    /// How long those who came in had waited.
    pub wait: Histogram,
    /// Who was sent away because the line was full.
    pub refused: Counter,
    /// Who waited and left before it was his turn.
    pub left: Counter,
}

impl Default for LineMetrics {
    fn default() -> Self {
        Self {
            position: Histogram::new(POSITIONS),
            wait: Histogram::new(WAITS),
            refused: Counter::default(),
            left: Counter::default(),
        }
    }
}

/// All of it, as text.
pub(crate) fn text(shared: &Arc<Shared>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Moment(Arc::clone(shared))));
    let mut written = String::new();
    // Text has room for everything.
    let _ = text::encode(&mut written, &registry);
    written
}

struct Moment(Arc<Shared>);

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Moment")
    }
}

impl Collector for Moment {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = self.0.state.load_full();
        let mut page = Page { encoder, services: state.services().map(Arc::as_ref).collect() };
        page.services.sort_unstable_by_key(|service| (service.route.team_id, &service.route.slug));
        page.gauge("towline_agent_sessions", "Agents that are connected", self.0.agents.current_sessions().len())?;
        if let Some(said) = self.0.config.tls.as_ref().and_then(ServerTls::said) {
            let expiry = ConstGauge::new(said.not_after.as_unix_seconds());
            page.number("towline_tls_certificate_expiry_timestamp_seconds", "When the certificate ends", &expiry)?;
        }
        page.gauge("towline_tunnel_window_bytes", "Memory that windows have grown by", self.0.budget.used())?;

        let in_flight = |service: &Service| Some(gauge(state.in_flight(service.route.service_id)));
        page.services("towline_requests_in_flight", "Requests that run, WebSockets included", in_flight)?;
        page.lines("towline_line_running", "Requests that count against the limit", |line| {
            gauge(line.counts().running)
        })?;
        page.lines("towline_line_waiting", "Requests that wait", |line| gauge(line.counts().waiting))?;
        page.lines("towline_line_position", "Places in the line of those who had to wait", |line| {
            line.metrics.position.clone()
        })?;
        page.lines("towline_line_wait_seconds", "How long those who came in had waited", |line| {
            line.metrics.wait.clone()
        })?;
        page.lines("towline_line_refused", "Requests that were sent away because the line was full", |line| {
            line.metrics.refused.clone()
        })?;
        page.lines("towline_line_left", "Requests that left the line before their turn", |line| {
            line.metrics.left.clone()
        })
    }
}

struct Page<'e, 's> {
    encoder: DescriptorEncoder<'e>,
    services: Vec<&'s Service>,
}

impl Page<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, number: usize) -> fmt::Result {
        self.number(name, help, &gauge(number))
    }

    fn number(&mut self, name: &str, help: &str, number: &ConstGauge<i64>) -> fmt::Result {
        number.encode(self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    /// One metric of each service that has a line.
    fn lines<M: EncodeMetric>(&mut self, name: &str, help: &str, of: impl Fn(&Line) -> M) -> fmt::Result {
        self.services(name, help, |service| service.line.as_deref().map(&of))
    }

    /// One metric of each service that has one.
    fn services<M: EncodeMetric>(&mut self, name: &str, help: &str, of: impl Fn(&Service) -> Option<M>) -> fmt::Result {
        let metrics: Vec<_> = self.services.iter().filter_map(|service| Some((service, of(service)?))).collect();
        let Some((_, first)) = metrics.first() else { return Ok(()) };
        let mut family = self.encoder.encode_descriptor(name, help, None, first.metric_type())?;
        for (service, metric) in metrics {
            let labels = [("team", service.route.team_id.to_string()), ("service", service.route.slug.clone())];
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn gauge(number: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX))
}

//! Reports: what runs on a machine, written down as far as the machine may speak of it.
//!
//! A report is fenced: it counts only for instances that are placed on its agent and for the generation that they belong
//! to, and only in the agent's newest session.

use std::collections::BTreeSet;

use towline_model::{AgentId, InstanceId, InstancePhase, ServiceType, SessionId, Timestamp};
use towline_store::{AgentObservation, InstanceObservation, InstanceRow, ReportOutcome, StoreError, Tx};
use towline_tunnel::message::{InstanceReport, Report};

use super::{AgentEvents, MAX_REASON_BYTES, engine};
use crate::{
    event::{EventKind, Subject, cut},
    reconcile::verdict::reason_name,
};

/// What a report changed.
#[derive(Default)]
struct Noted {
    /// The reconciler has something to look at.
    is_news: bool,
    /// Callers are served by other instances than before.
    readiness: bool,
}

impl AgentEvents {
    pub(super) async fn report(&mut self, session_id: SessionId, agent_id: AgentId, report: Report) {
        let engine_is_news = match self.known.get_mut(&agent_id) {
            Some(known) => std::mem::replace(&mut known.engine, report.engine.clone()) != report.engine,
            None => true,
        };
        match self.write_report(session_id, agent_id, &report).await {
            Ok(noted) => {
                let is_idle =
                    report.instances.is_empty() && self.desired.note_idle(agent_id, session_id, report.revision);
                if noted.readiness
                    && let Err(error) = self.publisher.refresh().await
                {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the gateway's routes are late; they follow"
                    );
                }
                if noted.is_news || engine_is_news || is_idle {
                    self.wake.wake();
                }
            }
            // The agent says the same again within ten seconds.
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, %agent_id, "a report was lost"),
        }
    }

    async fn write_report(
        &self,
        session_id: SessionId,
        agent_id: AgentId,
        report: &Report,
    ) -> Result<Noted, StoreError> {
        let now = self.clock.now();
        let (engine_ready, engine_message) = engine(&report.engine);
        let observation = AgentObservation { seen_at: now, engine_ready, engine_message: Some(engine_message) };
        let mut tx = self.store.write().await?;
        if !tx.touch_agent(agent_id, session_id, &observation).await? {
            // A newer session speaks for this agent.
            return Ok(Noted::default());
        }
        let placed = tx.instances_of_agent(agent_id).await?;
        let mut noted = Noted::default();
        for said in &report.instances {
            if let Some(before) = placed.iter().find(|row| row.id == said.instance_id) {
                self.note(&mut tx, agent_id, before, said, &mut noted, now).await?;
            }
        }
        let silent = placed.iter().filter(|row| !report.instances.iter().any(|said| said.instance_id == row.id));
        for before in silent {
            let revision = match report.endpoints_revision {
                // They differ on a machine without a container engine, which knows of no containers.
                endpoints if endpoints != report.revision && is_endpoint(&mut tx, before).await? => endpoints,
                _ => report.revision,
            };
            if let Some(told) = self.desired.told(agent_id, session_id, revision) {
                self.note_absence(&mut tx, agent_id, before, &told, &mut noted, now).await?;
            }
        }
        tx.commit().await?;
        Ok(noted)
    }

    /// Writes down what is said of one instance.
    async fn note(
        &self,
        tx: &mut Tx,
        agent_id: AgentId,
        before: &InstanceRow,
        said: &InstanceReport,
        noted: &mut Noted,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let observation = observation(said, now);
        if tx.record_report(agent_id, &observation).await? != ReportOutcome::Changed {
            return Ok(());
        }
        noted.is_news = true;
        if before.phase == said.phase {
            return Ok(());
        }
        noted.readiness |= before.phase == InstancePhase::Ready || said.phase == InstancePhase::Ready;
        let Some((kind, message)) = self.in_words(agent_id, before, &observation) else { return Ok(()) };
        tx.append_event(&subject(before).event(kind, message, Some(before.id), now)).await
    }

    /// An instance that the agent does not speak of: it is gone if it should be, and not there yet if it should.
    async fn note_absence(
        &self,
        tx: &mut Tx,
        agent_id: AgentId,
        before: &InstanceRow,
        told: &BTreeSet<InstanceId>,
        noted: &mut Noted,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let is_wished = told.contains(&before.id);
        if !is_wished && before.stop_requested_at.is_some() {
            noted.is_news |= tx.delete_instance(before.id).await?;
            let message = format!("an instance on {} is gone", self.name(agent_id));
            let event = subject(before).event(EventKind::Gone, message, Some(before.id), now);
            return tx.append_event(&event).await;
        }
        if is_wished && before.phase != InstancePhase::Pending {
            let absent = InstanceObservation {
                instance_id: before.id,
                generation: before.generation,
                phase: InstancePhase::Pending,
                reason_kind: None,
                reason: None,
                restart_count: before.restart_count,
                container_id: None,
                reported_at: now,
            };
            noted.is_news |= tx.record_report(agent_id, &absent).await? == ReportOutcome::Changed;
            noted.readiness |= before.phase == InstancePhase::Ready;
        }
        Ok(())
    }

    fn in_words(
        &self,
        agent_id: AgentId,
        before: &InstanceRow,
        said: &InstanceObservation,
    ) -> Option<(EventKind, String)> {
        let agent = self.name(agent_id);
        let reason = said.reason.as_deref().unwrap_or("no reason was given");
        match said.phase {
            InstancePhase::Pulling => Some((EventKind::Pulling, format!("{agent} is getting the image"))),
            // A container that is started again and again is told once.
            InstancePhase::Starting if before.started_at.is_none() && said.container_id.is_some() => {
                Some((EventKind::Starting, format!("the container has started on {agent}")))
            }
            InstancePhase::Ready => Some((EventKind::Ready, format!("an instance on {agent} is ready"))),
            InstancePhase::Unhealthy => {
                Some((EventKind::Unhealthy, format!("an instance on {agent} fails its health probe: {reason}")))
            }
            InstancePhase::BackingOff => Some((EventKind::BackingOff, format!("{agent} will try again: {reason}"))),
            InstancePhase::Starting | InstancePhase::Pending | InstancePhase::Stopping => None,
        }
    }
}

/// Whether the instance is a place that its agent connects to, rather than a container.
async fn is_endpoint(tx: &mut Tx, row: &InstanceRow) -> Result<bool, StoreError> {
    let service = tx.find_service(row.team_id, row.service_id).await?;
    Ok(service.is_some_and(|service| service.spec.service_type != ServiceType::Deployed))
}

fn subject(row: &InstanceRow) -> Subject {
    Subject { team_id: row.team_id, service_id: row.service_id }
}

fn observation(said: &InstanceReport, now: Timestamp) -> InstanceObservation {
    InstanceObservation {
        instance_id: said.instance_id,
        generation: said.generation,
        phase: said.phase,
        reason_kind: said.reason.as_ref().map(|reason| reason_name(reason.kind).to_owned()),
        reason: said.reason.as_ref().map(|reason| cut(reason.message.clone(), MAX_REASON_BYTES)),
        restart_count: i64::from(said.restart_count),
        container_id: said.container_id.as_ref().map(|id| cut(id.clone(), 128)),
        reported_at: now,
    }
}

//! Rows to begin with.

use std::time::Duration;

use serde_json::json;
use towline_model::{
    AgentId, CredentialId, InstanceId, InstancePhase, KeyHash, KeyKind, Role, Scope, Secret, SecretId, ServiceId,
    ServiceSpec, ServiceStatus, TeamId, Timestamp, UserId,
};
use towline_store::{
    AgentRegistration, AgentRow, CredentialRow, EventRow, InstanceObservation, InstanceRow, MembershipRow, Page,
    SecretRow, ServiceRow, Store, TeamRow, UserRow,
};
use uuid::Uuid;

/// The moment `seconds` after the tests' beginning of time.
pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_790_000_000_000_001) + Duration::from_secs(seconds)
}

pub(crate) const fn page(current_page: u32, per_page: u32) -> Page {
    Page { current_page, per_page, after: None }
}

/// A team and its owner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Team {
    pub(crate) id: TeamId,
    pub(crate) owner: UserId,
}

pub(crate) fn user_row(email_address: &str) -> UserRow {
    UserRow {
        id: UserId::generate(),
        email_address: email_address.to_owned(),
        password_hash: Secret::new("$argon2id$…".to_owned()),
        display_name: None,
        created_at: at(0),
    }
}

pub(crate) fn team_row(name: &str) -> TeamRow {
    TeamRow { id: TeamId::generate(), name: name.to_owned(), created_at: at(0) }
}

/// Stores a team with an owner.
pub(crate) async fn add_team(store: &Store) -> Team {
    let team = team_row("blue");
    let user = user_row(&format!("{}@example.com", team.id));
    let mut tx = store.write().await.unwrap();
    tx.insert_team(&team).await.unwrap();
    tx.insert_user(&user).await.unwrap();
    tx.insert_membership(&MembershipRow { team_id: team.id, user_id: user.id, role: Role::Owner }).await.unwrap();
    tx.commit().await.unwrap();
    Team { id: team.id, owner: user.id }
}

pub(crate) fn spec(slug: &str) -> ServiceSpec {
    let definition = json!({
        "service_slug": slug, "display_name": "Grüße 🐙", "docker_image": "towline-demo:latest",
        "env_config": [{"env_name": "TOKEN", "env_value": "a \"quoted\" \\ value\n"}], "cpu_limit": 0.1,
    });
    serde_json::from_value(definition).unwrap()
}

pub(crate) fn service_row(team_id: TeamId, slug: &str) -> ServiceRow {
    ServiceRow {
        id: ServiceId::generate(),
        team_id,
        spec: spec(slug),
        deployed_spec: None,
        generation: 0,
        status: ServiceStatus::Created,
        status_reason: None,
        deploy_started_at: None,
        drain_until: None,
        rollout: None,
        version: 0,
        created_at: at(0),
        updated_at: at(0),
        unreadable: None,
    }
}

pub(crate) async fn add_service(store: &Store, team_id: TeamId, slug: &str) -> ServiceRow {
    let service = service_row(team_id, slug);
    let mut tx = store.write().await.unwrap();
    tx.insert_service(&service).await.unwrap();
    tx.commit().await.unwrap();
    service
}

pub(crate) fn instance_row(service: &ServiceRow) -> InstanceRow {
    InstanceRow {
        id: InstanceId::generate(),
        service_id: service.id,
        team_id: service.team_id,
        generation: 1,
        agent_id: None,
        stop_requested_at: None,
        phase: InstancePhase::Pending,
        reason_kind: None,
        reason: None,
        restart_count: 0,
        container_id: None,
        started_at: None,
        ready_since: None,
        reported_at: None,
        placed_at: None,
        created_at: at(0),
    }
}

pub(crate) async fn add_instance(store: &Store, service: &ServiceRow, agent_id: Option<AgentId>) -> InstanceRow {
    let instance = InstanceRow { agent_id, ..instance_row(service) };
    let mut tx = store.write().await.unwrap();
    tx.insert_instance(&instance).await.unwrap();
    tx.commit().await.unwrap();
    instance
}

pub(crate) fn observation(instance: &InstanceRow, phase: InstancePhase, seconds: u64) -> InstanceObservation {
    InstanceObservation {
        instance_id: instance.id,
        generation: instance.generation,
        phase,
        reason_kind: None,
        reason: None,
        restart_count: 0,
        container_id: Some("c0ffee".to_owned()),
        reported_at: at(seconds),
    }
}

pub(crate) fn registration() -> AgentRegistration {
    AgentRegistration {
        machine_id: "machine-1".to_owned(),
        agent_version: "0.1.0".to_owned(),
        labels: vec!["gpu".to_owned(), "Münster".to_owned()],
        capabilities: vec!["attached".to_owned()],
        gpu_count: 2,
        engine_ready: true,
        engine_message: Some("Docker 27".to_owned()),
        transport: "upgrade".to_owned(),
        via_proxy: false,
    }
}

pub(crate) async fn add_agent(store: &Store, team_id: TeamId, name: &str) -> AgentRow {
    let mut tx = store.write().await.unwrap();
    let agent = tx.upsert_agent(team_id, name, &registration(), at(0)).await.unwrap();
    tx.commit().await.unwrap();
    agent
}

pub(crate) fn credential_row(team: Team, kind: KeyKind) -> CredentialRow {
    let id = CredentialId::generate();
    CredentialRow {
        id,
        team_id: team.id,
        user_id: (kind == KeyKind::Device).then_some(team.owner),
        created_by: team.owner,
        kind,
        display_name: "laptop".to_owned(),
        key_prefix: "sk-abcdefghi".to_owned(),
        key_hash: KeyHash::of(&id.to_string()),
        scopes: Scope::DEFAULT.to_vec(),
        created_at: at(0),
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        services: None,
        companion_id: None,
    }
}

pub(crate) fn secret_row(team_id: TeamId, name: &str) -> SecretRow {
    SecretRow {
        id: SecretId::generate(),
        team_id,
        name: name.to_owned(),
        description: "für 🐙".to_owned(),
        key_id: "0badcafe".to_owned(),
        sealed: "1.c2VhbGVk".to_owned(),
        told_bytes: 9,
        version: 1,
        created_at: at(0),
        updated_at: at(0),
    }
}

pub(crate) async fn add_secret(store: &Store, team_id: TeamId, name: &str) -> SecretRow {
    let secret = secret_row(team_id, name);
    let mut tx = store.write().await.unwrap();
    tx.insert_secret(&secret).await.unwrap();
    tx.commit().await.unwrap();
    secret
}

pub(crate) fn event_row(service: &ServiceRow, seconds: u64, message: &str) -> EventRow {
    EventRow {
        id: Uuid::now_v7(),
        team_id: service.team_id,
        service_id: service.id,
        at: at(seconds),
        kind: "deploy".to_owned(),
        message: message.to_owned(),
        instance_id: None,
    }
}

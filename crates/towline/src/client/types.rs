//! Answers of the API, as far as people are shown them. `-o json` prints the server's own JSON, with all that a newer
//! server may have added.

use serde::Deserialize;
use serde_json::{Map, Value};
use towline_model::ServiceId;

use super::ClientError;

/// A service: what is shown of it, and all of it.
#[derive(Debug, Clone)]
pub struct Service {
    /// What is shown.
    pub view: ServiceView,
    /// The server's JSON.
    pub json: Value,
}

/// What is shown of a service.
#[derive(Debug, Clone, Deserialize)]
pub struct ServiceView {
    /// Its id.
    pub id: ServiceId,
    /// Its slug.
    pub service_slug: String,
    /// Its status, such as `running`.
    pub service_status: String,
    /// Why it has that status.
    #[serde(default)]
    pub status_reason: Option<String>,
    /// The image it runs.
    #[serde(default)]
    pub docker_image: Option<String>,
    /// How many instances it should have.
    #[serde(default)]
    pub replica_count: u32,
    /// How many instances take requests.
    #[serde(default)]
    pub instances_ready: u32,
    /// How many instances the deploy that runs should have; 0 when none does.
    #[serde(default)]
    pub instances_total: u32,
    /// How the newest deploy goes.
    #[serde(default)]
    pub rollout: Option<RolloutView>,
}

/// What is shown of a deploy.
#[derive(Debug, Clone, Deserialize)]
pub struct RolloutView {
    /// `progressing`, `succeeded` or `failed`.
    pub state: String,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
}

impl ServiceView {
    /// How many instances there should be.
    pub const fn wished(&self) -> u32 {
        if self.instances_total > 0 { self.instances_total } else { self.replica_count }
    }

    /// Ready of wished instances, such as `1/2`.
    pub fn ready(&self) -> String {
        format!("{}/{}", self.instances_ready, self.wished())
    }
}

impl Service {
    /// The fields of the answer.
    pub fn fields(&self) -> &Map<String, Value> {
        self.json.as_object().unwrap_or_else(|| unreachable!("it was read as an object"))
    }
}

impl TryFrom<Value> for Service {
    type Error = ClientError;

    fn try_from(json: Value) -> Result<Self, ClientError> {
        let view =
            ServiceView::deserialize(&json).map_err(|error| ClientError::Shape(format!("a service: {error}")))?;
        Ok(Self { view, json })
    }
}

/// What is shown of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstanceView {
    /// Its id.
    pub id: String,
    /// How far it is, such as `pulling`.
    pub phase: String,
    /// The deploy that it belongs to.
    #[serde(default)]
    pub generation: i64,
    /// The name of the agent that it is placed on.
    #[serde(default)]
    pub agent_name: Option<String>,
    /// Why it is not ready.
    #[serde(default)]
    pub reason: Option<String>,
    /// How often it was started again.
    #[serde(default)]
    pub restart_count: u64,
}

/// A text field of an answer, for showing; empty when there is none.
pub fn text(value: &Value, field: &str) -> String {
    match value.get(field) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let items: Vec<_> =
                items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect();
            items.join(", ")
        }
        Some(other) => other.to_string(),
    }
}

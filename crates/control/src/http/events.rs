//! What happened to a service.

use axum::{Json, extract::State};
use serde::Serialize;
use towline_model::{InstanceId, ServiceId, Timestamp};
use towline_store::EventRow;
use uuid::Uuid;

use super::{
    access::Caller,
    extract::PathParam,
    page::{PageMeta, PageParams, PageQuery},
    problem::ApiResult,
};
use crate::{app::App, event::EventKind};

/// Something that happened to a service.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct EventItem {
    /// Its id.
    id: Uuid,
    /// When it happened.
    at: Timestamp,
    /// What kind of event it is.
    #[schema(value_type = EventKind)]
    kind: String,
    /// What happened, in words.
    #[schema(example = "an instance of deploy 1 goes to machine-1")]
    message: String,
    /// The instance that it happened to; it may be gone by now.
    instance_id: Option<InstanceId>,
}

/// A page of events.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct EventList {
    /// The events.
    event_list: Vec<EventItem>,
    /// Where in the list this is.
    page_meta: PageMeta,
}

impl From<EventRow> for EventItem {
    fn from(row: EventRow) -> Self {
        Self { id: row.id, at: row.at, kind: row.kind, message: row.message, instance_id: row.instance_id }
    }
}

/// List what happened to a service, the newest first.
///
/// The newest 200 events are kept.
#[utoipa::path(
    get,
    path = "/api/v1/containers/{id}/events",
    operation_id = "list_events",
    tag = "services",
    params(("id" = ServiceId, Path, description = "The service's id."), PageQuery),
    responses((status = 200, description = "A page of events.", body = EventList))
)]
pub async fn list(
    State(app): State<App>,
    Caller(principal): Caller,
    PathParam(id): PathParam<ServiceId>,
    PageParams(page): PageParams,
) -> ApiResult<Json<EventList>> {
    let events = app.list_events(&principal, id, page).await?;
    Ok(Json(EventList {
        page_meta: PageMeta::new(page, &events),
        event_list: events.items.into_iter().map(Into::into).collect(),
    }))
}

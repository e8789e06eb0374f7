//! Whether the server lives, and whether it can do its work: for whoever watches over it.

use axum::{Json, extract::State};
use serde::Serialize;

use super::problem::ApiResult;
use crate::app::App;

/// The server is well.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

const OK: Json<Health> = Json(Health { status: "ok" });

/// Tell that the server lives.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "healthz",
    tag = "operations",
    responses((status = 200, description = "It does.", body = Health))
)]
pub async fn healthz() -> Json<Health> {
    OK
}

/// Tell whether the server can do its work: its database answers.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = "operations",
    responses((status = 200, description = "It can.", body = Health))
)]
pub async fn readyz(State(app): State<App>) -> ApiResult<Json<Health>> {
    app.check_database().await?;
    Ok(OK)
}

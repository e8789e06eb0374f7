//! The whole URL table of the management API.
//!
//! A route is registered with its [`Access`] or not at all. What is not here belongs to the gateway: agents' sockets,
//! the proxy (`/api/v1/r/containers/{slug}/…`) and invoke (`/api/v1/r/invoke/{slug}`).

use axum::{
    Router,
    handler::Handler,
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use http::Method;
use towline_model::{Action, ErrorCode};

use super::{
    access::{Access, Limit, guard},
    agents, audit, auth, conditional, credentials, events,
    finish::finish,
    health, instances, invitations, logs, members, oidc, openapi, pair_page, pairing,
    problem::ApiError,
    runtime, secrets, services, teams, users,
};
use crate::app::App;

/// One row of the table.
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with `{names}` of parameters.
    pub path: &'static str,
    /// What a request needs.
    pub access: Access,
    /// As what it is counted.
    pub limit: Limit,
    handler: MethodRouter<App>,
}

/// Every route.
#[must_use]
#[rustfmt::skip]
pub fn routes() -> Vec<Route> {
    use Access::{Anybody, Device, Public, SignedIn, Team};
    use Action::{CreateServices, InvokeServices, ManageCredentials, ManageSecrets, ManageServices, ReadAgents, ReadAudit, ReadCredentials, ReadSecrets, ReadServices};
    use Action::{DeleteTeam, LeaveTeam, ManageInvitations, ManageMembers, ManageTeam, PairDevices, ReadMembers, ReadTeam, TransferTeam};
    vec![
        post("/api/v1/auth/login", Public, auth::login).counted(Limit::SignIn),
        post("/api/v1/auth/refresh", Public, auth::refresh),
        post("/api/v1/auth/logout", Public, auth::logout),
        get("/api/v1/auth/oidc/start", Public, oidc::start).counted(Limit::SignIn),
        get("/api/v1/auth/oidc/callback", Public, oidc::callback).counted(Limit::SignIn),
        get("/api/v1/users/me", SignedIn, users::me),
        put("/api/v1/users/me", SignedIn, users::update_me),

        post("/api/v1/teams", SignedIn, teams::create),
        get("/api/v1/teams", SignedIn, teams::list),
        get("/api/v1/teams/current", Team(ReadTeam), teams::show),
        put("/api/v1/teams/current", Team(ManageTeam), teams::update),
        delete("/api/v1/teams/current", Team(DeleteTeam), teams::delete),
        post("/api/v1/teams/current/transfer", Team(TransferTeam), teams::transfer),
        post("/api/v1/teams/current/leave", Team(LeaveTeam), teams::leave),

        get("/api/v1/members", Team(ReadMembers), members::list),
        get("/api/v1/members/{id}", Team(ReadMembers), members::show),
        put("/api/v1/members/{id}", Team(ManageMembers), members::update),
        delete("/api/v1/members/{id}", Team(ManageMembers), members::remove),

        post("/api/v1/invitations", Team(ManageInvitations), invitations::create),
        get("/api/v1/invitations", Team(ManageInvitations), invitations::list),
        delete("/api/v1/invitations/{id}", Team(ManageInvitations), invitations::revoke),
        post("/api/v1/invitations/accept", Anybody, invitations::accept).counted(Limit::SignIn),

        post("/api/v1/credentials", Team(ManageCredentials), credentials::create),
        get("/api/v1/credentials", Team(ReadCredentials), credentials::list),
        delete("/api/v1/credentials/{id}", Team(ManageCredentials), credentials::revoke),

        post("/api/v1/desktop/pair/start", Public, pairing::start).counted(Limit::SignIn),
        post("/api/v1/desktop/pair/poll", Public, pairing::poll),
        post("/api/v1/desktop/pair/confirm", Team(PairDevices), pairing::confirm).counted(Limit::SignIn),
        post("/api/v1/auth/device/revoke", Device, pairing::revoke),

        post("/api/v1/containers", Team(CreateServices), services::create),
        get("/api/v1/containers", Team(ReadServices), services::list),
        get("/api/v1/containers/{id}", Team(ReadServices), services::show),
        put("/api/v1/containers/{id}", Team(ManageServices), services::update),
        delete("/api/v1/containers/{id}", Team(ManageServices), services::delete),
        post("/api/v1/containers/{id}/deploy", Team(ManageServices), services::deploy),
        post("/api/v1/containers/{id}/undeploy", Team(ManageServices), services::undeploy),
        post("/api/v1/containers/{id}/restart", Team(ManageServices), services::restart),
        get("/api/v1/containers/{id}/instances", Team(ReadServices), instances::list),
        get("/api/v1/containers/{id}/events", Team(ReadServices), events::list),
        get("/api/v1/containers/{id}/logs", Team(ReadServices), logs::read),

        post("/api/v1/secrets", Team(ManageSecrets), secrets::create),
        get("/api/v1/secrets", Team(ReadSecrets), secrets::list),
        get("/api/v1/secrets/{id}", Team(ReadSecrets), secrets::show),
        put("/api/v1/secrets/{id}", Team(ManageSecrets), secrets::update),
        delete("/api/v1/secrets/{id}", Team(ManageSecrets), secrets::delete),

        get("/api/v1/agents", Team(ReadAgents), agents::list),

        get("/api/v1/audit", Team(ReadAudit), audit::list),
        get("/api/v1/audit/export", Team(ReadAudit), audit::export),

        get("/api/v1/r/containers", Team(ReadServices), runtime::list_services),
        get("/api/v1/r/containers/{slug}", Team(ReadServices), runtime::show_service),
        post("/api/v1/r/containers/{slug}/ticket", Team(InvokeServices), runtime::create_ticket),
        get("/api/v1/r/agents", Team(ReadAgents), runtime::list_agents),

        get("/api/v1/openapi.json", Public, openapi::serve),
        get("/healthz", Public, health::healthz).counted(Limit::None),
        get("/readyz", Public, health::readyz).counted(Limit::None),
    ]
}

/// The management API as a service.
pub fn router(app: &App) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let guard = middleware::from_fn_with_state((app.clone(), route.access, route.limit), guard);
        router = router.route(route.path, route.handler.route_layer(guard));
    }
    router
        .merge(pair_page::router())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(conditional::tag))
        .layer(middleware::from_fn(finish))
        .with_state(app.clone())
}

async fn not_found() -> Response {
    let message = "there is nothing at this path; GET /api/v1/openapi.json describes what there is";
    ApiError::new(ErrorCode::NotFound, message).into_response()
}

async fn method_not_allowed() -> Response {
    let message = "this path does not take this method; the Allow header names those that it takes";
    ApiError::new(ErrorCode::MethodNotAllowed, message).into_response()
}

impl Route {
    const fn new(method: Method, path: &'static str, access: Access, handler: MethodRouter<App>) -> Self {
        Self { method, path, access, limit: Limit::Api, handler }
    }

    /// Counts its requests as something else than the API's.
    fn counted(mut self, limit: Limit) -> Self {
        self.limit = limit;
        self
    }
}

fn get<H: Handler<T, App>, T: 'static>(path: &'static str, access: Access, handler: H) -> Route {
    Route::new(Method::GET, path, access, on(MethodFilter::GET, handler))
}

fn post<H: Handler<T, App>, T: 'static>(path: &'static str, access: Access, handler: H) -> Route {
    Route::new(Method::POST, path, access, on(MethodFilter::POST, handler))
}

fn put<H: Handler<T, App>, T: 'static>(path: &'static str, access: Access, handler: H) -> Route {
    Route::new(Method::PUT, path, access, on(MethodFilter::PUT, handler))
}

fn delete<H: Handler<T, App>, T: 'static>(path: &'static str, access: Access, handler: H) -> Route {
    Route::new(Method::DELETE, path, access, on(MethodFilter::DELETE, handler))
}

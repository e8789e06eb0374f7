//! A server on a fresh SQLite database with two teams, and callers of every kind.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tower::ServiceExt;
use towline_control::{
    Server, ServerConfig, app::password::Passwords, http::router::router, rate_limit::RateLimitConfig,
};
use towline_gateway::access_token::TokenHolder;
use towline_model::{Clock, CredentialId, KeyKind, RawKey, Role, Scope, Secret, SignInId, SystemClock, TeamId, UserId};
use towline_store::{CredentialRow, MembershipRow, Store, StoreOptions, TeamRow, Tx, UserRow};

/// The password of every user.
pub const PASSWORD: &str = "correct horse battery staple";

/// A server with two teams.
pub struct TestServer {
    pub server: Server,
    pub config: ServerConfig,
    pub router: Router,
    pub ours: Team,
    pub theirs: Team,
    _directory: TempDir,
}

/// A team with a user of each role and a key of each kind.
#[derive(Debug, Clone)]
pub struct Team {
    pub id: TeamId,
    pub users: BTreeMap<Role, UserId>,
    /// Keys by their kind or scope: `sk`, `sk-read`, `sk-invoke`, `sk-manage`, `dk` (of the admin), `ak`.
    pub keys: BTreeMap<&'static str, String>,
}

/// With what a request is made.
#[derive(Debug, Clone)]
pub struct Caller {
    pub headers: Vec<(&'static str, String)>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts with other settings.
    pub async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::start_as(change, Arc::new(SystemClock)).await
    }

    /// Starts at another time of day. Tokens are issued by the machine's.
    pub async fn start_at(clock: Arc<dyn Clock>) -> Self {
        Self::start_as(|_| {}, clock).await
    }

    async fn start_as(change: impl FnOnce(&mut ServerConfig), clock: Arc<dyn Clock>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = ServerConfig::new(directory.path().join("data"));
        // Tests ask faster than people; the limits have tests of their own.
        config.rate_limits = RateLimitConfig {
            sign_in_per_address: None,
            sign_in_per_account: None,
            api_per_credential: None,
            api_per_address: None,
        };
        change(&mut config);
        let (ours, theirs) = fill(&config).await;
        let server = start_at(&config, clock).await;
        Self { router: router(server.app()), server, config, ours, theirs, _directory: directory }
    }

    /// Ends the server; its data stays as long as what is given back.
    pub async fn stop(self) -> TempDir {
        self.server.shutdown().await;
        self._directory
    }

    /// A signed-in user of our team.
    pub fn user(&self, role: Role) -> Caller {
        self.user_in(&self.ours, role)
    }

    pub fn user_in(&self, team: &Team, role: Role) -> Caller {
        let token = self.token(team.users[&role]);
        Caller { headers: vec![("authorization", format!("Bearer {token}")), ("x-team-id", team.id.to_string())] }
    }

    pub fn owner(&self) -> Caller {
        self.user(Role::Owner)
    }

    /// An access token.
    pub fn token(&self, user: UserId) -> String {
        let tokens = self.server.app().gateway().tokens();
        let holder = TokenHolder { user_id: user, sign_in: SignInId::generate() };
        tokens.issue(holder, SystemClock.now(), Duration::from_secs(600)).expose().clone()
    }

    /// One of our team's keys.
    pub fn key(&self, name: &str) -> Caller {
        Caller::bearer(&self.ours.keys[name])
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn call(&self, caller: &Caller, method: Method, path: &str, body: Option<&Value>) -> Answer {
        self.send(caller.request(method, path, body)).await
    }

    pub async fn get(&self, caller: &Caller, path: &str) -> Answer {
        self.call(caller, Method::GET, path, None).await
    }

    pub async fn post(&self, caller: &Caller, path: &str, body: &Value) -> Answer {
        self.call(caller, Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, caller: &Caller, path: &str, body: &Value) -> Answer {
        self.call(caller, Method::PUT, path, Some(body)).await
    }

    pub async fn act(&self, caller: &Caller, path: &str) -> Answer {
        self.call(caller, Method::POST, path, None).await
    }

    pub async fn delete(&self, caller: &Caller, path: &str) -> Answer {
        self.call(caller, Method::DELETE, path, None).await
    }

    /// Defines a service of our team and gives its path.
    pub async fn create(&self, spec: &Value) -> String {
        let answer = self.post(&self.owner(), "/api/v1/containers", spec).await.json(201);
        format!("/api/v1/containers/{}", answer["id"].as_str().unwrap())
    }

    /// Asks for a service until it is as it should be.
    pub async fn wait_for(&self, path: &str, what: &str, is_there: impl Fn(&Value) -> bool) -> Value {
        let owner = self.owner();
        let mut last = Value::Null;
        let wait = async {
            loop {
                last = self.get(&owner, path).await.json(200);
                if is_there(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(45), wait).await;
        assert!(in_time.is_ok(), "it never came that {what}: {last:#}");
        last
    }

    pub async fn wait_for_status(&self, path: &str, status: &str) -> Value {
        self.wait_for(path, status, |service| service["service_status"] == status).await
    }
}

impl Caller {
    pub const NOBODY: Self = Self { headers: Vec::new() };

    pub fn bearer(text: &str) -> Self {
        Self { headers: vec![("authorization", format!("Bearer {text}"))] }
    }

    pub fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Request<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        match body {
            None => request.body(Body::empty()).unwrap(),
            Some(body) => {
                request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap()
            }
        }
    }
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON of an answer with this status.
    #[track_caller]
    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The sentence of an error answer, after all that every error answer has was checked.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        let problem = self.json(status);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(problem["error_code"], code, "{problem:#}");
        assert_eq!(problem["status"], status, "{problem:#}");
        assert_eq!(problem["detail"], problem["error_message"], "{problem:#}");
        assert_eq!(problem["request_id"].as_str().unwrap(), self.headers["x-request-id"], "{problem:#}");
        assert_eq!(self.headers.contains_key(header::WWW_AUTHENTICATE), status == 401);
        let text = problem.to_string().to_lowercase();
        for leak in ["select ", "sqlx", "panicked", "src/", "towline_control"] {
            assert!(!text.contains(leak), "{leak} leaks: {problem:#}");
        }
        problem["error_message"].as_str().unwrap().to_owned()
    }
}

/// A definition with nothing but what it must have.
pub fn minimal(slug: &str) -> Value {
    json!({"service_slug": slug, "display_name": slug, "docker_image": "demo:1"})
}

/// The same with one more field.
pub fn with(slug: &str, field: &str, value: Value) -> Value {
    let mut spec = minimal(slug);
    spec[field] = value;
    spec
}

pub async fn start(config: &ServerConfig) -> Server {
    start_at(config, Arc::new(SystemClock)).await
}

async fn start_at(config: &ServerConfig, clock: Arc<dyn Clock>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Box::pin(Server::start(config.clone(), listener, clock)).await.unwrap()
}

/// What the API of today cannot make is written into the database before the server starts.
async fn fill(config: &ServerConfig) -> (Team, Team) {
    let store = Store::connect(&config.database_url, StoreOptions::default()).await.unwrap();
    let hash = Passwords::new().hash(Secret::new(PASSWORD.to_owned())).await.unwrap();
    let mut tx = store.write().await.unwrap();
    let ours = fill_team(&mut tx, "ours", &hash).await;
    let theirs = fill_team(&mut tx, "theirs", &hash).await;
    tx.commit().await.unwrap();
    store.close().await;
    (ours, theirs)
}

async fn fill_team(tx: &mut Tx, name: &str, password_hash: &Secret<String>) -> Team {
    let (id, now) = (TeamId::generate(), SystemClock.now());
    tx.insert_team(&TeamRow { id, name: name.to_owned(), created_at: now }).await.unwrap();
    let mut users = BTreeMap::new();
    for role in Role::ALL {
        let user_id = UserId::generate();
        let row = UserRow {
            id: user_id,
            email_address: format!("{}@{name}.example", role.as_str()),
            password_hash: password_hash.clone(),
            display_name: None,
            created_at: now,
        };
        tx.insert_user(&row).await.unwrap();
        tx.insert_membership(&MembershipRow { team_id: id, user_id, role }).await.unwrap();
        users.insert(role, user_id);
    }
    let mut keys = BTreeMap::new();
    for (name, kind, scopes) in [
        ("sk", KeyKind::Integration, Scope::DEFAULT.to_vec()),
        ("sk-read", KeyKind::Integration, vec![Scope::Read]),
        ("sk-invoke", KeyKind::Integration, vec![Scope::Invoke]),
        ("sk-manage", KeyKind::Integration, vec![Scope::Manage]),
        ("dk", KeyKind::Device, Vec::new()),
        ("ak", KeyKind::Agent, Vec::new()),
    ] {
        let key = RawKey::generate(kind, &mut rand::rng());
        let row = CredentialRow {
            id: CredentialId::generate(),
            team_id: id,
            user_id: (kind == KeyKind::Device).then(|| users[&Role::Admin]),
            created_by: users[&Role::Owner],
            kind,
            display_name: name.to_owned(),
            key_prefix: key.visible_prefix().to_owned(),
            key_hash: key.hash(),
            scopes,
            created_at: now,
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
            services: None,
            companion_id: None,
        };
        tx.insert_credential(&row).await.unwrap();
        keys.insert(name, key.expose().clone());
    }
    Team { id, users, keys }
}

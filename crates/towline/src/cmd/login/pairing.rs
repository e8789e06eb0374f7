//! Signing in by pairing: this machine shows a code, somebody lets it in at the server's page, and it fetches its keys.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use towline_agent::identity;
use towline_model::Secret;
use url::Url;

use crate::{
    client::{Client, ClientError, DeviceLogin, Identity},
    cmd::Context,
    failure::Failure,
    signals::SignalWatch,
};

/// How much longer than the code is good the server is asked: whoever confirms in the last moment is not let down.
const GRACE: Duration = Duration::from_secs(30);

/// What the server begins with.
#[derive(Deserialize)]
struct Started {
    device_code: Secret<String>,
    user_code: String,
    verification_uri: String,
    /// Seconds until the codes are of no use.
    expires_in: u64,
    /// Seconds between two questions.
    interval: u64,
}

/// What the server answers to a question.
#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Answer {
    Pending,
    Approved { raw_key: Secret<String>, agent_key: Option<Secret<String>> },
}

/// Shows the code and waits until this machine is let in. `None` when it is interrupted before.
pub(super) async fn pair(server: &Url, context: &Context) -> Result<Option<DeviceLogin>, Failure> {
    let signals = SignalWatch::start()?;
    let nobody = context.told_of_waits(Client::new(server.clone(), Identity::Nobody)?);
    let started: Started = nobody.post("/desktop/pair/start", None).await?;
    context.output.note(format!(
        "To let this machine in, open\n\n  {}\n\nand sign in there. The code is {}, good for {} minutes.\n",
        link(&started),
        started.user_code,
        (started.expires_in / 60).max(1),
    ));
    let _progress = context.output.progress("waiting to be let in");
    wait(&nobody, &started, &signals.shutdown()).await
}

/// The page with the code and a name for this machine filled in.
fn link(started: &Started) -> String {
    match Url::parse(&started.verification_uri) {
        Ok(mut url) => {
            let mut name = identity::default_name();
            name.retain(|c| !c.is_control());
            url.query_pairs_mut().append_pair("code", &started.user_code).append_pair("name", &name);
            url.into()
        }
        // For people to make sense of.
        Err(_) => started.verification_uri.clone(),
    }
}

async fn wait(
    nobody: &Client,
    started: &Started,
    shutdown: &CancellationToken,
) -> Result<Option<DeviceLogin>, Failure> {
    let body = json!({"device_code": started.device_code.expose()});
    let deadline = Instant::now() + Duration::from_secs(started.expires_in) + GRACE;
    let mut pause = Duration::from_secs(started.interval);
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
        // A question is not broken off: its answer may be the keys, which are given once.
        match nobody.post("/desktop/pair/poll", Some(&body)).await {
            Ok(Answer::Approved { raw_key, agent_key }) => {
                return Ok(Some(DeviceLogin { device_key: raw_key, agent_key }));
            }
            Err(error) if error.code() == "not_found" => return Err(expired()),
            // The server may be starting again, or be busy: there is time.
            Err(error) if Instant::now() < deadline && is_passing(&error) => pause += Duration::from_secs(1),
            Err(error) => return Err(error.into()),
            Ok(Answer::Pending) if Instant::now() < deadline => {}
            Ok(Answer::Pending) => return Err(expired()),
        }
    }
}

fn expired() -> Failure {
    Failure::new("nobody has let this machine in, and the code has expired").hint("run `towline login` again")
}

fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::Broken { .. } => true,
        ClientError::Refused(problem) => matches!(problem.http_status, 429 | 500..),
        ClientError::NotTowline { status, .. } => status.is_server_error(),
        _ => false,
    }
}

//! A secret that does not open stands in the way of what needs it, and of nothing else.

use towline_model::SecretId;

use super::*;
use crate::secrets::ClosedSecret;

const WHY: &str = "it is sealed under a key that is not here; set the value anew";

fn needing(secret: SecretId) -> Value {
    json!({"replica_count": 2, "env_config": [{"env_name": "TOKEN", "secret_id": secret}]})
}

fn close(scene: &mut Scene, secret: SecretId) {
    let closed = ClosedSecret { name: "db/password".to_owned(), why: WHY.to_owned() };
    scene.world.closed_secrets.insert(secret, closed);
}

#[test]
fn a_deploy_that_needs_it_fails_and_says_which_and_what_to_do() {
    let mut scene = Scene::new();
    scene.agent("a");
    let secret = SecretId::generate();
    let id = scene.service("hello", needing(secret));
    let other = scene.service("other", no_more());
    close(&mut scene, secret);
    scene.deploy(id);
    scene.deploy(other);
    scene.pass();
    assert_eq!((scene.status(id), scene.status(other)), (ServiceStatus::Failed, ServiceStatus::Deploying));
    let expected = format!("the secret db/password (env_config[0].secret_id) cannot be opened: {WHY}");
    assert_eq!(scene.reason(id), expected);
    assert!(scene.state(id).instances.is_empty(), "no agent is asked to start it");
    assert_eq!(scene.state(other).instances.len(), 1);
}

#[test]
fn what_runs_goes_on_and_is_complete_again_when_it_opens() {
    let mut scene = Scene::new();
    scene.agent("a");
    let secret = SecretId::generate();
    let id = scene.running("hello", needing(secret));
    close(&mut scene, secret);
    scene.pass();
    assert_eq!((scene.status(id), scene.state(id).row.status_reason.as_ref()), (ServiceStatus::Running, None));
    let lost = scene.instances(id)[0];
    scene.report(lost, InstancePhase::BackingOff, Some((ReasonKind::Exited, "it ended")));
    scene.pass();
    assert_eq!((scene.status(id), scene.instances(id).len()), (ServiceStatus::Running, 2), "it is not replaced");
    assert!(scene.reason(id).starts_with("1 of 2 instances ready: the secret db/password"), "{}", scene.reason(id));
    scene.world.closed_secrets.clear();
    scene.report_all(id, InstancePhase::Ready);
    scene.pass();
    assert_eq!(scene.state(id).row.status_reason, None);
}

#[test]
fn an_update_that_needs_it_is_given_up_and_what_ran_before_stays() {
    let mut scene = Scene::new();
    scene.agent("a");
    let id = scene.running("hello", no_more());
    let secret = SecretId::generate();
    scene.update(id, needing(secret));
    scene.deploy(id);
    scene.pass();
    close(&mut scene, secret);
    scene.pass();
    assert_eq!((scene.status(id), scene.reached(id)), (ServiceStatus::Running, Some(1)));
    assert_eq!(scene.rollout(id).state, RolloutState::Failed);
    assert!(scene.rollout(id).message.as_ref().unwrap().contains("db/password"));
}

#[test]
fn an_external_service_cannot_go_on_without_it() {
    let mut scene = Scene::new();
    scene.agent("a");
    let secret = SecretId::generate();
    let more = json!({
        "service_type": "external", "external_url": "https://api.example", "external_auth_credential_id": secret,
    });
    let mut definition = json!({"service_slug": "api", "display_name": "api"});
    definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let spec = ServiceSpec::from_json(definition.as_object().unwrap().clone()).unwrap();
    let id = scene.add(spec);
    scene.deploy(id);
    scene.pass();
    scene.report_all(id, InstancePhase::Ready);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Running);
    close(&mut scene, secret);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Running, "the wish is that it runs");
    assert!(scene.reason(id).starts_with("0 of 1 instances ready: the secret db/password"), "{}", scene.reason(id));
}

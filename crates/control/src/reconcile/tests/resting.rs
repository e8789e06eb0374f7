//! When the state is not read again.

use super::{super::rest::LONGEST, *};

const LONGEST_REST: u64 = LONGEST as u64;

#[test]
fn what_runs_and_what_was_never_deployed_is_left_in_peace() {
    let mut scene = Scene::new();
    scene.agent("a");
    scene.service("later", no_more());
    let id = scene.running("hello", no_more());
    assert_eq!(scene.rest(), LONGEST_REST);
    let instance = scene.instances(id)[0];
    scene.report(instance, InstancePhase::Unhealthy, None);
    scene.pass();
    assert_eq!(scene.rest(), LONGEST_REST, "only its agent can tell that it is healthy again");
}

#[test]
fn a_deadline_is_not_slept_through() {
    let mut scene = Scene::new();
    scene.agent("a");
    let id = scene.service("hello", json!({"probe": {"start_deadline_seconds": 25}}));
    scene.deploy(id);
    scene.pass();
    scene.report_all(id, InstancePhase::Starting);
    scene.pass();
    let mut rests = Vec::new();
    while scene.status(id) == ServiceStatus::Deploying {
        rests.push(scene.rest());
        scene.advance(1);
        scene.pass();
    }
    let expected: Vec<_> = (0..rests.len() as u64).rev().map(|left| left.min(LONGEST_REST)).collect();
    assert_eq!(rests, expected);
    assert_eq!((scene.status(id), rests.len()), (ServiceStatus::Failed, 25), "{}", scene.reason(id));
}

#[test]
fn requests_in_flight_are_watched() {
    let mut scene = Scene::new();
    scene.agent("a");
    let id = scene.running("hello", no_more());
    scene.state_mut(id).in_flight = 1;
    assert_eq!(scene.rest(), LONGEST_REST, "of a service that goes on they are nobody's business");
    scene.undeploy(id);
    scene.pass();
    assert_eq!(scene.rest(), 0);

    let mut scene = Scene::new();
    scene.agent("a");
    let id = scene.running("other", no_more());
    scene.state_mut(id).in_flight = 1;
    scene.update(id, json!({"display_name": "new"}));
    scene.deploy(id);
    scene.pass();
    scene.report_all(id, InstancePhase::Ready);
    scene.pass();
    assert_eq!(scene.rest(), 0);
}

#[test]
fn news_end_a_rest() {
    let mut scene = Scene::new();
    let a = scene.agent("a");
    scene.running("hello", no_more());
    let sessions = vec![session(scene.agent_mut(a)).unwrap()];
    let other = AgentSession { session_id: SessionId::generate(), ..sessions[0].clone() };
    let rest = Rest::of(&scene.world, (0, &sessions), |_| true, scene.now, &scene.limits).unwrap();
    let last = scene.now + Duration::from_secs(LONGEST_REST);
    assert!(rest.lasts(0, &sessions, last));
    assert!(!rest.lasts(0, &sessions, last + Duration::from_millis(1)), "time");
    assert!(!rest.lasts(0, &sessions, scene.now - Duration::from_secs(3600)), "the clock was set");
    assert!(!rest.lasts(1, &sessions, last), "something was written");
    assert!(!rest.lasts(0, &[], last), "an agent has gone");
    assert!(!rest.lasts(0, &[other], last), "an agent has come again");

    // A session that is written down nowhere is ended at a time, too.
    let mut scene = Scene::new();
    let a = scene.agent("a");
    let sessions = vec![session(scene.agent_mut(a)).unwrap()];
    scene.agent_mut(a).session_id = None;
    let ended_at = sessions[0].since + Duration::from_secs(15);
    scene.now = ended_at - Duration::from_secs(4);
    let rest = Rest::of(&scene.world, (0, &sessions), |_| true, scene.now, &scene.limits).unwrap();
    assert_eq!(ended_at.since(rest.until), Duration::from_secs(1));
}

//! The rules of the contract's §4, one case each.

use super::*;

#[test]
fn a_deploy_gets_its_instances_and_runs_with_the_first_ready_one() {
    let mut scene = Scene::new();
    let (a, b) = (scene.agent("a"), scene.agent("b"));
    let id = scene.service("hello", json!({"replica_count": 3}));
    assert!(scene.pass().is_empty(), "what is not deployed is left alone");
    scene.deploy(id);
    scene.pass();
    let placed: Vec<_> = scene.state(id).instances.iter().filter_map(|row| row.agent_id).collect();
    assert_eq!((placed.len(), placed.contains(&a), placed.contains(&b)), (3, true, true), "they are spread");
    assert!(scene.reason(id).contains("0 of 3"), "{}", scene.reason(id));
    let first = scene.instances(id)[0];
    scene.report(first, InstancePhase::Pulling, None);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Deploying);
    scene.report(first, InstancePhase::Ready, None);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Running);
    assert!(scene.reason(id).starts_with("1 of 3 instances ready"), "{}", scene.reason(id));
    scene.report_all(id, InstancePhase::Ready);
    scene.pass();
    assert_eq!(scene.state(id).row.status_reason, None);
    assert_eq!(scene.rollout(id).state, RolloutState::Succeeded);
}

#[test]
fn the_least_loaded_agent_is_chosen() {
    let mut scene = Scene::new();
    let busy = scene.agent("busy");
    scene.running("other", json!({"replica_count": 2}));
    let idle = scene.agent("idle");
    let id = scene.service("hello", json!({"replica_count": 2}));
    scene.deploy(id);
    scene.pass();
    let placed: Vec<_> = scene.state(id).instances.iter().filter_map(|row| row.agent_id).collect();
    assert_eq!(placed, [idle, busy], "first the idle one, then one where this service has none yet");
}

#[test]
fn an_agent_gets_no_more_than_it_can_be_told() {
    let mut scene = Scene::new();
    let small = scene.agent("small");
    let env = json!([
        {"env_name": "A", "env_value": "x".repeat(60 << 10)},
        {"env_name": "B", "env_value": "x".repeat(60 << 10)},
    ]);
    for slug in ["one", "two"] {
        scene.running(slug, json!({"replica_count": 10, "env_config": env}));
    }
    let id = scene.service("three", json!({"replica_count": 10, "env_config": env}));
    scene.deploy(id);
    scene.pass();
    let placed = |scene: &Scene| scene.state(id).instances.iter().filter(|row| row.agent_id.is_some()).count();
    assert_eq!(placed(&scene), 5, "25 of 121 KiB are less than 3 MiB");
    assert_eq!(
        scene.reason(id),
        "0 of 10 instances ready: no agent can run it: small has as much to run as one agent can be told (3 MiB of definitions)"
    );
    scene.agent("large");
    scene.pass();
    assert_eq!(placed(&scene), 10);
    let elsewhere = scene.state(id).instances.iter().filter(|row| row.agent_id != Some(small)).count();
    assert_eq!(elsewhere, 5);
}

#[test]
fn without_an_eligible_agent_a_deploy_waits_and_then_fails_with_the_reason() {
    type Case = (&'static str, fn(&mut Scene), &'static [&'static str]);
    let unfit: [Case; 6] = [
        ("no agent", |_| {}, &["no agent has joined", "towline agent"]),
        (
            "offline",
            |scene| {
                let a = scene.agent("box");
                scene.set_online(a, false);
            },
            &["box is offline"],
        ),
        (
            "labels",
            |scene| {
                scene.agent("box");
            },
            &["box lacks the label gpu"],
        ),
        (
            "gpus",
            |scene| {
                let a = scene.agent("box");
                scene.agent_mut(a).labels = vec!["gpu".to_owned()];
            },
            &["box has 0 of the 2 GPUs that it needs"],
        ),
        (
            "engine",
            |scene| {
                let a = scene.agent("box");
                let agent = scene.agent_mut(a);
                agent.labels = vec!["gpu".to_owned()];
                agent.gpu_count = 2;
                agent.engine_ready = false;
                agent.engine_message = Some("Docker is not installed; apt-get install docker.io".to_owned());
            },
            &["box has no working container engine", "apt-get install docker.io"],
        ),
        (
            "another team's",
            |scene| {
                let a = scene.agent("box");
                let agent = scene.agent_mut(a);
                agent.labels = vec!["gpu".to_owned()];
                agent.gpu_count = 2;
                agent.team_id = TeamId::generate();
            },
            &["no agent has joined"],
        ),
    ];
    for (name, arrange, expected) in unfit {
        let mut scene = Scene::new();
        arrange(&mut scene);
        let id = scene.service("hello", json!({"required_labels": ["gpu"], "gpu_count": 2, "replica_count": 2}));
        scene.deploy(id);
        scene.pass();
        for _ in 0..29 {
            scene.advance(1);
            scene.pass();
            assert_eq!(scene.status(id), ServiceStatus::Deploying, "{name}");
        }
        let waiting = scene.reason(id).to_owned();
        scene.advance(1);
        scene.pass();
        assert_eq!(scene.status(id), ServiceStatus::Failed, "{name}");
        for part in expected {
            assert!(
                waiting.contains(part) && scene.reason(id).contains(part),
                "{name}: {waiting} / {}",
                scene.reason(id)
            );
        }
        assert!(scene.instances(id).is_empty(), "{name}: nothing is left");
        assert_eq!(scene.rollout(id).state, RolloutState::Failed);
    }
}

#[test]
fn an_agent_that_comes_in_time_gets_what_waits() {
    let mut scene = Scene::new();
    let id = scene.service("hello", no_more());
    scene.deploy(id);
    scene.pass();
    scene.advance(20);
    let late = scene.agent("late");
    scene.pass();
    assert_eq!(scene.state(id).instances[0].agent_id, Some(late));
    scene.advance(60);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Deploying, "the deadline was for the placement");
}

#[test]
fn all_gpus_of_a_machine_are_at_least_one() {
    let mut scene = Scene::new();
    let agent = scene.agent("box");
    let id = scene.service("hello", json!({"gpu_count": -1}));
    scene.deploy(id);
    scene.pass();
    assert_eq!(scene.state(id).instances[0].agent_id, None);
    scene.agent_mut(agent).gpu_count = 1;
    scene.pass();
    assert_eq!(scene.state(id).instances[0].agent_id, Some(agent));
}

/// A service with one instance that was reported like that.
fn deploying(more: Value, phase: InstancePhase, reason: Option<(ReasonKind, &str)>) -> (Scene, ServiceId) {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.service("hello", more);
    scene.deploy(id);
    scene.pass();
    let instance = scene.instances(id)[0];
    scene.report(instance, phase, reason);
    (scene, id)
}

#[test]
fn hopeless_failures_are_believed_after_a_grace() {
    for (kind, phase) in [
        (ReasonKind::ImageUnavailable, InstancePhase::BackingOff),
        (ReasonKind::ImageUnavailable, InstancePhase::Pulling),
        (ReasonKind::StartFailed, InstancePhase::BackingOff),
    ] {
        let (mut scene, id) = deploying(no_more(), phase, Some((kind, "manifest unknown")));
        scene.advance(4);
        scene.pass();
        assert_eq!(scene.status(id), ServiceStatus::Deploying, "{kind:?}");
        scene.advance(1);
        scene.pass();
        assert_eq!(scene.status(id), ServiceStatus::Failed, "{kind:?}");
        let reason = scene.reason(id);
        assert!(reason.contains("manifest unknown") && reason.contains("box"), "{reason}");
        assert!(kind != ReasonKind::ImageUnavailable || reason.contains("demo:1"), "{reason}");
        assert!(scene.wished(id, 1).is_empty(), "it is removed");
        scene.report_gone(id);
        assert!(scene.pass().is_empty());
    }
}

#[test]
fn a_failure_on_one_machine_is_no_failure_while_another_may_succeed() {
    let mut scene = Scene::new();
    scene.agent("a");
    scene.agent("b");
    let id = scene.service("hello", json!({"replica_count": 2}));
    scene.deploy(id);
    scene.pass();
    let [first, second] = scene.instances(id)[..] else { panic!("two instances") };
    scene.report(first, InstancePhase::BackingOff, Some((ReasonKind::ImageUnavailable, "not found")));
    scene.report(second, InstancePhase::Starting, None);
    scene.advance(30);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Deploying);
    scene.report(second, InstancePhase::Ready, None);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Running);
    assert!(scene.reason(id).contains("not found"), "{}", scene.reason(id));
}

#[test]
fn a_probe_that_never_passes_fails_at_the_start_deadline() {
    let more = json!({"probe": {"start_deadline_seconds": 20}, "health_path": "/up", "exposed_port": 81});
    let (mut scene, id) =
        deploying(more, InstancePhase::Starting, Some((ReasonKind::ProbeFailed, "GET /up answered 500")));
    scene.advance(19);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Deploying);
    scene.advance(1);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Failed);
    for part in ["/up", "81", "20 seconds", "answered 500"] {
        assert!(scene.reason(id).contains(part), "{part}: {}", scene.reason(id));
    }
}

#[test]
fn the_start_deadline_does_not_run_while_the_image_is_pulled() {
    let (mut scene, id) = deploying(json!({"probe": {"start_deadline_seconds": 10}}), InstancePhase::Pulling, None);
    for _ in 0..60 {
        scene.advance(30);
        scene.pass();
        assert_eq!(scene.status(id), ServiceStatus::Deploying);
    }
    scene.advance(1800);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Failed, "but not for ever");
}

#[test]
fn a_crash_loop_is_told_with_the_last_end() {
    let (mut scene, id) = deploying(no_more(), InstancePhase::BackingOff, Some((ReasonKind::Exited, "exit code 42")));
    let instance = scene.instances(id)[0];
    for restarts in 0..3 {
        assert_eq!(scene.status(id), ServiceStatus::Deploying);
        scene.instance_mut(instance).restart_count = restarts + 1;
        scene.advance(2);
        scene.pass();
    }
    assert_eq!(scene.status(id), ServiceStatus::Failed);
    assert!(scene.reason(id).contains("exit code 42"), "{}", scene.reason(id));
}

#[test]
fn an_agent_that_never_takes_it_up_is_not_waited_for_for_ever() {
    let (mut scene, id) = deploying(json!({"probe": {"start_deadline_seconds": 5}}), InstancePhase::Pending, None);
    scene.advance(34);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Deploying);
    scene.advance(1);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Failed);
}

#[test]
fn a_failed_service_can_be_deployed_again_at_once() {
    let (mut scene, id) = deploying(no_more(), InstancePhase::BackingOff, Some((ReasonKind::StartFailed, "no")));
    scene.advance(5);
    scene.pass();
    scene.deploy(id);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Deploying);
    assert_eq!((scene.wished(id, 1).len(), scene.wished(id, 2).len()), (0, 1));
}

#[test]
fn an_undeploy_drains_then_stops_then_is_done() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.running("hello", json!({"replica_count": 2}));
    scene.state_mut(id).in_flight = 1;
    scene.undeploy(id);
    for _ in 0..10 {
        scene.pass();
        assert_eq!((scene.reached(id), scene.wished(id, 1).len()), (None, 2), "no new requests, old ones go on");
        scene.advance(1);
    }
    assert!(scene.reason(id).contains("in flight"), "{}", scene.reason(id));
    scene.state_mut(id).in_flight = 0;
    scene.pass();
    assert!(scene.wished(id, 1).is_empty());
    assert_eq!(scene.status(id), ServiceStatus::Stopping, "the containers are still there");
    scene.report_gone(id);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Stopped);
    assert_eq!(scene.state(id).row.status_reason, None);
}

#[test]
fn a_drain_has_an_end() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.running("hello", no_more());
    scene.state_mut(id).in_flight = 7;
    scene.undeploy(id);
    scene.advance(29);
    scene.pass();
    assert_eq!(scene.wished(id, 1).len(), 1);
    scene.advance(1);
    scene.pass();
    assert_eq!(scene.wished(id, 1).len(), 0);
}

#[test]
fn an_agent_that_is_away_does_not_hold_up_a_stop() {
    let mut scene = Scene::new();
    let agent = scene.agent("box");
    let id = scene.running("hello", no_more());
    scene.set_online(agent, false);
    scene.undeploy(id);
    scene.advance(1);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Stopping, "it may be back in a moment");
    scene.advance(10);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Stopped);
    assert!(scene.instances(id).is_empty());
}

#[test]
fn an_agent_that_cannot_stop_a_container_does_not_hold_up_a_stop_for_ever() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.running("hello", no_more());
    scene.undeploy(id);
    scene.advance(1);
    scene.pass();
    scene.report_all(id, InstancePhase::Stopping);
    scene.advance(119);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Stopping);
    scene.advance(1);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Stopped);
}

#[test]
fn an_undeploy_without_any_agent_is_quick() {
    let mut scene = Scene::new();
    let id = scene.service("hello", no_more());
    scene.deploy(id);
    scene.pass();
    scene.undeploy(id);
    scene.advance(1);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Stopped);
}

#[test]
fn a_running_service_stays_running_without_instances() {
    let mut scene = Scene::new();
    let agent = scene.agent("box");
    let id = scene.running("hello", no_more());
    let instance = scene.instances(id)[0];
    scene.report(instance, InstancePhase::Unhealthy, Some((ReasonKind::ProbeFailed, "timeout")));
    scene.advance(3600);
    scene.pass();
    assert_eq!((scene.status(id), scene.wished(id, 1).len()), (ServiceStatus::Running, 1));
    assert!(scene.reason(id).contains("timeout"), "{}", scene.reason(id));
    scene.set_online(agent, false);
    scene.advance(3600);
    scene.pass();
    assert_eq!((scene.status(id), scene.wished(id, 1).len()), (ServiceStatus::Running, 1), "nowhere else to go");
    assert!(scene.reason(id).contains("offline"), "{}", scene.reason(id));
    scene.set_online(agent, true);
    scene.report(instance, InstancePhase::Ready, None);
    scene.pass();
    assert_eq!(scene.state(id).row.status_reason, None);
    assert_eq!(scene.instances(id), [instance], "it is the same one");
}

#[test]
fn instances_of_a_lost_agent_move_and_the_old_ones_are_fenced() {
    let mut scene = Scene::new();
    let lost = scene.agent("lost");
    let id = scene.running("hello", no_more());
    let old = scene.instances(id)[0];
    let other = scene.agent("other");
    scene.set_online(lost, false);
    scene.advance(59);
    scene.pass();
    assert_eq!(scene.instances(id), [old], "it may be back in a moment");
    scene.advance(1);
    scene.pass();
    let wished = scene.wished(id, 1);
    assert_eq!((wished.len(), wished[0].agent_id), (1, Some(other)));
    scene.advance(10);
    scene.pass();
    assert!(!scene.instances(id).contains(&old), "it is in no desired set any more");
}

#[test]
fn a_server_that_was_away_does_not_take_agents_for_lost() {
    let mut scene = Scene::new();
    let first = scene.agent("first");
    scene.agent("second");
    let id = scene.running("hello", no_more());
    let old = scene.instances(id)[0];
    scene.set_online(first, false);
    scene.advance(3600);
    scene.world.up_since = scene.now;
    scene.pass();
    assert_eq!(scene.instances(id), [old]);
    scene.advance(60);
    scene.pass();
    assert_ne!(scene.instances(id), [old]);
}

#[test]
fn an_update_takes_over_when_all_of_it_is_ready() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.running("hello", json!({"replica_count": 2}));
    scene.update(id, json!({"replica_count": 3, "docker_image": "demo:2"}));
    scene.deploy(id);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Running, "callers are served all along");
    assert_eq!((scene.wished(id, 1).len(), scene.wished(id, 2).len()), (2, 3));
    let fresh: Vec<_> = scene.wished(id, 2).iter().map(|row| row.id).collect();
    for instance in &fresh[..2] {
        scene.report(*instance, InstancePhase::Ready, None);
        scene.pass();
        assert_eq!((scene.reached(id), scene.rollout(id).state), (Some(1), RolloutState::Progressing));
    }
    scene.report(fresh[2], InstancePhase::Ready, None);
    scene.pass();
    assert_eq!((scene.reached(id), scene.rollout(id).state), (Some(2), RolloutState::Succeeded));
    assert_eq!(scene.wished(id, 1).len(), 2, "requests in flight go on");
    scene.advance(1);
    scene.pass();
    assert_eq!(scene.wished(id, 1).len(), 0);
    scene.report_gone(id);
    scene.pass();
    assert_eq!(scene.rollout(id).previous, None, "the old definition is forgotten with its last instance");
    assert_eq!(scene.instances(id).len(), 3);
}

#[test]
fn an_update_that_fails_leaves_what_ran() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.running("hello", json!({"replica_count": 2}));
    let old = scene.instances(id);
    scene.update(id, json!({"docker_image": "demo:2"}));
    scene.deploy(id);
    scene.pass();
    let [first, second] = scene.wished(id, 2)[..] else { panic!("two new ones") };
    let (first, second) = (first.id, second.id);
    scene.report(first, InstancePhase::Ready, None);
    scene.report(second, InstancePhase::BackingOff, Some((ReasonKind::ImageUnavailable, "no such tag")));
    scene.advance(5);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Running);
    assert_eq!((scene.reached(id), scene.rollout(id).state), (Some(1), RolloutState::Failed));
    assert!(scene.rollout(id).message.as_deref().unwrap().contains("no such tag"));
    assert_eq!(scene.wished(id, 2).len(), 0);
    scene.report_gone(id);
    scene.pass();
    assert_eq!(scene.instances(id), old);
    // The next one starts from what runs.
    scene.deploy(id);
    scene.pass();
    assert_eq!((scene.wished(id, 1).len(), scene.wished(id, 3).len()), (2, 2));
    for instance in scene.instances(id) {
        scene.report(instance, InstancePhase::Ready, None);
    }
    scene.pass();
    assert_eq!(scene.reached(id), Some(3));
}

#[test]
fn an_update_that_alone_serves_callers_is_not_taken_away() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.running("hello", json!({"replica_count": 2}));
    for instance in scene.instances(id) {
        scene.report(instance, InstancePhase::BackingOff, Some((ReasonKind::Exited, "it ended")));
    }
    scene.update(id, json!({"docker_image": "demo:2"}));
    scene.deploy(id);
    scene.pass();
    let [first, second] = scene.wished(id, 2)[..] else { panic!("two new ones") };
    let (first, second) = (first.id, second.id);
    scene.report(first, InstancePhase::Ready, None);
    scene.report(second, InstancePhase::BackingOff, Some((ReasonKind::StartFailed, "no such device")));
    scene.advance(10);
    scene.pass();
    assert_eq!((scene.reached(id), scene.rollout(id).state), (Some(2), RolloutState::Progressing));
    assert_eq!(scene.wished(id, 2).len(), 2, "both are kept");
    // As soon as the older deploy can serve again, the failed one goes.
    for instance in scene.wished(id, 1).iter().map(|instance| instance.id).collect::<Vec<_>>() {
        scene.report(instance, InstancePhase::Ready, None);
    }
    scene.pass();
    assert_eq!((scene.reached(id), scene.rollout(id).state), (Some(1), RolloutState::Failed));
}

#[test]
fn the_time_that_the_server_was_away_is_not_held_against_a_deploy() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.service("hello", json!({}));
    scene.deploy(id);
    scene.pass();
    let instance = scene.instances(id)[0];
    scene.report(instance, InstancePhase::Starting, None);
    scene.advance(600);
    scene.world.up_since = scene.now;
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Deploying);
    scene.report(instance, InstancePhase::Ready, None);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Running);
}

#[test]
fn a_newer_update_replaces_one_that_is_on_its_way() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.running("hello", no_more());
    scene.deploy(id);
    scene.pass();
    scene.deploy(id);
    scene.pass();
    assert_eq!([1, 2, 3].map(|generation| scene.wished(id, generation).len()), [1, 0, 1]);
    assert_eq!(scene.reached(id), Some(1));
}

#[test]
fn callers_reach_the_newer_deploy_early_when_the_older_one_is_down() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.running("hello", json!({"replica_count": 2}));
    for instance in scene.instances(id) {
        scene.report(instance, InstancePhase::BackingOff, Some((ReasonKind::Exited, "exit code 1")));
    }
    scene.deploy(id);
    scene.pass();
    let fresh = scene.wished(id, 2)[0].id;
    scene.report(fresh, InstancePhase::Ready, None);
    scene.pass();
    assert_eq!(scene.reached(id), Some(2));
}

#[test]
fn an_undeploy_in_the_middle_of_an_update_stops_both() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.running("hello", no_more());
    scene.deploy(id);
    scene.pass();
    scene.undeploy(id);
    scene.advance(1);
    scene.pass();
    assert_eq!([1, 2].map(|generation| scene.wished(id, generation).len()), [0, 0]);
    scene.report_gone(id);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Stopped);
}

#[test]
fn too_many_instances_become_fewer_and_ready_ones_stay() {
    let mut scene = Scene::new();
    let agent = scene.agent("box");
    let id = scene.running("hello", no_more());
    let ready = scene.instances(id)[0];
    let now = scene.now;
    let service = scene.state_mut(id);
    let extra = new_instance(&service.row, 1, Some(agent), now);
    service.instances.insert(0, extra);
    scene.pass();
    assert_eq!(scene.wished(id, 1).iter().map(|row| row.id).collect::<Vec<_>>(), [ready]);
}

/// The fields of an attached service.
fn attached() -> Value {
    json!({"service_type": "attached", "docker_image": null, "attached_target": "127.0.0.1:11434"})
}

#[test]
fn an_attached_service_needs_no_engine_and_an_agent_that_knows_such() {
    let mut scene = Scene::new();
    let earlier = scene.agent("earlier");
    scene.agent_mut(earlier).capabilities.clear();
    let id = scene.service("ollama", attached());
    scene.deploy(id);
    scene.pass();
    let expected = "earlier runs version 1, which has no attached services; install the server's version";
    assert!(scene.reason(id).contains(expected), "{}", scene.reason(id));
    let bare = scene.agent("bare");
    scene.agent_mut(bare).engine_ready = false;
    scene.pass();
    assert_eq!(scene.state(id).instances[0].agent_id, Some(bare));
    scene.report_all(id, InstancePhase::Ready);
    scene.pass();
    assert_eq!((scene.status(id), scene.reached(id)), (ServiceStatus::Running, Some(1)));
}

#[test]
fn an_agent_that_was_replaced_by_an_earlier_version_loses_its_places() {
    let mut scene = Scene::new();
    let first = scene.agent("first");
    let id = scene.running("ollama", attached());
    scene.agent_mut(first).capabilities.clear();
    scene.pass();
    assert!(scene.reason(id).contains("first runs version 1"), "{}", scene.reason(id));
    let second = scene.agent("second");
    scene.pass();
    let wished = scene.wished(id, 1);
    assert_eq!((wished.len(), wished[0].agent_id), (1, Some(second)));
}

#[test]
fn the_own_label_of_an_agent_leads_to_it_and_cannot_be_claimed() {
    let mut scene = Scene::new();
    let other = scene.agent("other");
    let mine = scene.agent("mine");
    let label = towline_model::service::own_label(mine);
    scene.agent_mut(other).labels = vec![label.clone()];
    let mut more = attached();
    more["required_labels"] = json!([label]);
    let id = scene.service("ollama", more);
    scene.deploy(id);
    scene.pass();
    assert_eq!(scene.state(id).instances[0].agent_id, Some(mine));
    scene.set_online(mine, false);
    scene.advance(120);
    scene.pass();
    assert_eq!(scene.wished(id, 1).iter().filter(|row| row.agent_id == Some(other)).count(), 0);
}

#[test]
fn a_place_that_is_not_reached_fails_its_deploy_in_words() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.service("ollama", attached());
    scene.deploy(id);
    scene.pass();
    let instance = scene.instances(id)[0];
    scene.report(
        instance,
        InstancePhase::Starting,
        Some((ReasonKind::ProbeFailed, "nothing listens on 127.0.0.1:11434")),
    );
    scene.pass();
    assert!(
        scene.reason(id).contains("box does not reach 127.0.0.1:11434 yet: nothing listens"),
        "{}",
        scene.reason(id)
    );
    scene.advance(121);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Failed);
    assert!(scene.reason(id).contains("within 120 seconds: nothing listens on"), "{}", scene.reason(id));
}

#[test]
fn a_place_that_is_denied_fails_its_deploy_at_once() {
    let mut scene = Scene::new();
    scene.agent("box");
    let id = scene.service("ollama", attached());
    scene.deploy(id);
    scene.pass();
    let instance = scene.instances(id)[0];
    scene.report(instance, InstancePhase::Starting, Some((ReasonKind::Denied, "10.0.0.1 is a private address")));
    scene.advance(6);
    scene.pass();
    assert_eq!(scene.status(id), ServiceStatus::Failed);
    let expected = "box may not connect to 127.0.0.1:11434: 10.0.0.1 is a private address";
    assert!(scene.reason(id).contains(expected), "{}", scene.reason(id));
}

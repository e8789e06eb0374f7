//! What holds from any state, also from those that should never be.

use proptest::prelude::*;

use super::*;

/// One instance, by small numbers.
type Sketch = (u8, u8, bool, u8, u8, u8, u8);

fn scene_of(
    status: ServiceStatus,
    rollout: u8,
    replicas: u32,
    agents: &[(bool, bool, u8)],
    sketches: &[Sketch],
) -> Scene {
    let mut scene = Scene::new();
    let ids: Vec<_> = agents
        .iter()
        .enumerate()
        .map(|(number, (online, engine_ready, _))| {
            let id = scene.agent(&format!("agent-{number}"));
            scene.agent_mut(id).engine_ready = *engine_ready;
            scene.set_online(id, *online);
            id
        })
        .collect();
    let id = scene.service("hello", json!({"replica_count": replicas, "probe": {"start_deadline_seconds": 30}}));
    scene.deploy(id);
    // A first deploy has nothing before it.
    if rollout > 0 && status != ServiceStatus::Deploying {
        scene.state_mut(id).row.status = ServiceStatus::Running;
        scene.deploy(id);
        let service = scene.state_mut(id);
        let record = service.rollout.as_mut().unwrap();
        record.state =
            [RolloutState::Progressing, RolloutState::Succeeded, RolloutState::Failed][usize::from(rollout) % 3];
        record.drain_until = (record.state == RolloutState::Succeeded).then_some(START + Duration::from_secs(70));
        service.row.rollout = Some(record.to_stored());
    }
    let service = scene.state_mut(id);
    service.row.status = status;
    service.row.drain_until = (status == ServiceStatus::Stopping).then_some(START + Duration::from_secs(80));
    for &(generation, agent, stopped, phase, started, reason, restarts) in sketches {
        let agent = ids.get(usize::from(agent)).copied();
        let at = |seconds: u8| START + Duration::from_secs(u64::from(seconds));
        let service = scene.state_mut(id);
        let mut row = new_instance(&service.row, i64::from(generation % 4), agent, at(started));
        row.stop_requested_at = stopped.then(|| at(started));
        if agent.is_none() {
            // Nobody has said anything of what is nowhere.
            service.instances.push(row);
            continue;
        }
        row.phase = InstancePhase::ALL[usize::from(phase) % InstancePhase::ALL.len()];
        if matches!(row.phase, InstancePhase::Starting | InstancePhase::Ready | InstancePhase::Unhealthy) {
            row.started_at = Some(at(started));
        }
        row.reason_kind = [None, Some("image_unavailable"), Some("start_failed"), Some("exited")]
            [usize::from(reason) % 4]
            .map(str::to_owned);
        row.restart_count = i64::from(restarts % 5);
        service.instances.push(row);
    }
    for (agent, (_, _, silence)) in ids.iter().zip(agents) {
        scene.agent_mut(*agent).last_seen_at = Some(START + Duration::from_secs(u64::from(*silence)));
    }
    scene.now = START + Duration::from_secs(90);
    scene
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// `Scene::pass` checks the rest: planning is a function, nothing is left to plan, nothing is placed or stopped twice,
    /// and no deploy has more instances than it wishes.
    #[test]
    fn one_pass_is_enough_from_anywhere(
        status in prop::sample::select(ServiceStatus::ALL.to_vec()),
        rollout in 0u8..4,
        replicas in 1u32..5,
        agents in prop::collection::vec((any::<bool>(), any::<bool>(), 0u8..90), 0..4),
        sketches in prop::collection::vec(any::<Sketch>().prop_map(|(g, a, s, p, t, r, c)| (g, a % 5, s, p, t % 90, r, c)), 0..12),
        seconds in prop::collection::vec(0u64..40, 0..6),
    ) {
        let mut scene = scene_of(status, rollout, replicas, &agents, &sketches);
        scene.pass();
        for step in seconds {
            scene.advance(step);
            scene.pass();
        }
    }
}

//! What is planned, as tables, and what holds for any view.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    converge::memory::ImageState,
    tests::{instance, spec},
};

/// A world for the planner. Containers are written as `(instance, generation, state)`.
#[derive(Debug, Clone, Default)]
struct World {
    desired: BTreeMap<InstanceId, InstanceSpec>,
    containers: Vec<Container>,
    memory: HashMap<InstanceId, InstanceMemory>,
    images: HashMap<String, ImageState>,
    removals: HashMap<ContainerId, Retry>,
    busy: HashSet<StepKey>,
}

fn desired(number: u128, generation: i64) -> InstanceSpec {
    InstanceSpec { instance_id: instance(number), ..spec(generation) }
}

fn running() -> ContainerState {
    ContainerState::Running { endpoint: Some(([127, 0, 0, 1], 49153).into()) }
}

impl World {
    fn new(desired_instances: &[(u128, i64)]) -> Self {
        let specs = desired_instances.iter().map(|&(number, generation)| desired(number, generation));
        Self { desired: specs.map(|spec| (spec.instance_id, spec)).collect(), ..Self::default() }
    }

    fn has(mut self, number: u128, generation: i64, state: ContainerState) -> Self {
        let count = self.containers.len() + 1;
        self.containers.push(Container {
            id: ContainerId::new(format!("c{count}")),
            instance_id: instance(number),
            generation,
            fingerprint: Some(fingerprint::of(&desired(number, generation))),
            stop_grace: Duration::from_secs(10),
            created_at: i64::try_from(count).unwrap(),
            state,
        });
        self
    }

    fn with_image(mut self) -> Self {
        self.images.insert(spec(1).image, ImageState::Present);
        self
    }

    fn busy(mut self, key: StepKey) -> Self {
        self.busy.insert(key);
        self
    }

    fn remembers(mut self, number: u128, change: impl FnOnce(&mut InstanceMemory)) -> Self {
        change(self.memory.entry(instance(number)).or_default());
        self
    }

    fn plan(&self, now: Instant) -> Plan {
        let view = View {
            desired: &self.desired,
            containers: &self.containers,
            memory: &self.memory,
            images: &self.images,
            removals: &self.removals,
            busy: &self.busy,
        };
        plan_converge(&view, now)
    }

    /// The steps in short: `fetch`, `create 1`, `start c1`, `look c1`, `remove c1`.
    fn steps(&self, now: Instant) -> Vec<String> {
        let short = |step: &Step| match step {
            Step::FetchImage(_) => "fetch".to_owned(),
            Step::Create(instance) => format!("create {}", instance.as_uuid().as_u128()),
            Step::Start(_, container) => format!("start {container}"),
            Step::LookIntoEnd(_, container) => format!("look {container}"),
            Step::Remove(container) => format!("remove {}", container.id),
        };
        self.plan(now).steps.iter().map(short).collect()
    }
}

#[track_caller]
fn check(world: &World, expected: &[&str]) {
    assert_eq!(world.steps(Instant::now()), expected, "{world:#?}");
}

#[test]
fn a_new_instance_gets_its_image_first_then_its_container() {
    check(&World::new(&[(1, 1)]), &["fetch"]);
    check(&World::new(&[(1, 1)]).busy(StepKey::Image(spec(1).image)), &[]);
    check(&World::new(&[(1, 1)]).with_image(), &["create 1"]);
    check(&World::new(&[(1, 1)]).with_image().busy(StepKey::Instance(instance(1))), &[]);
    check(&World::new(&[(1, 1)]).has(1, 1, ContainerState::Created), &["start c1"]);
    check(&World::new(&[(1, 1)]).has(1, 1, running()), &[]);
}

#[test]
fn what_is_withheld_is_never_made_and_goes_on_if_it_is_there() {
    let withhold = |mut world: World| {
        for spec in world.desired.values_mut() {
            spec.withheld = Some("the secret db cannot be opened".to_owned());
        }
        world
    };
    // The step tells people why; it asks the engine for nothing, not even for the image.
    check(&withhold(World::new(&[(1, 1)])), &["create 1"]);
    check(&withhold(World::new(&[(1, 1)]).has(1, 1, running())), &[]);
    check(&withhold(World::new(&[(1, 1)]).has(1, 1, ContainerState::Created)), &["start c1"]);
}

#[test]
fn instances_of_one_image_fetch_it_once() {
    check(&World::new(&[(1, 1), (2, 1)]), &["fetch"]);
    check(&World::new(&[(1, 1), (2, 1)]).with_image(), &["create 1", "create 2"]);
}

#[test]
fn what_is_not_desired_goes() {
    check(&World::new(&[]).has(1, 1, running()), &["remove c1"]);
    check(&World::new(&[]).has(1, 1, ContainerState::Exited), &["remove c1"]);
    check(&World::new(&[]).has(1, 1, ContainerState::Created), &["remove c1"]);
    check(&World::new(&[]).has(1, 1, ContainerState::Dead), &["remove c1"]);
    check(&World::new(&[]).has(1, 1, ContainerState::Removing), &[]);
    check(&World::new(&[]).has(1, 1, running()).busy(StepKey::Container(ContainerId::new("c1"))), &[]);
    // It is being started at the moment: that is waited for.
    check(&World::new(&[]).has(1, 1, running()).busy(StepKey::Instance(instance(1))), &[]);
}

#[test]
fn another_generation_is_replaced_one_after_the_other() {
    check(&World::new(&[(1, 2)]).with_image().has(1, 1, running()), &["remove c1"]);
    check(&World::new(&[(1, 2)]).with_image().has(1, 1, ContainerState::Removing), &[]);
    check(&World::new(&[(1, 2)]).with_image().has(1, 1, running()).has(1, 2, running()), &["remove c1"]);
    check(&World::new(&[(1, 2)]).with_image(), &["create 1"]);
}

#[test]
fn the_right_generation_of_another_making_is_replaced() {
    let mut world = World::new(&[(1, 1)]).has(1, 1, running());
    world.containers[0].fingerprint = Some("1:of something else".to_owned());
    check(&world, &["remove c1"]);
    // A fingerprint of a form that this build does not know says nothing.
    world.containers[0].fingerprint = None;
    check(&world, &[]);
}

#[test]
fn of_duplicates_one_that_runs_is_kept_and_of_several_the_oldest() {
    let world = World::new(&[(1, 1)]).has(1, 1, ContainerState::Exited).has(1, 1, running()).has(1, 1, running());
    check(&world, &["remove c1", "remove c3"]);
    let world = World::new(&[(1, 1)]).has(1, 1, ContainerState::Created).has(1, 1, ContainerState::Created);
    check(&world, &["remove c2", "start c1"]);
    check(&World::new(&[(1, 1)]).with_image().has(1, 1, ContainerState::Dead), &["remove c1"]);
}

#[tokio::test(start_paused = true)]
async fn an_end_is_looked_into_and_then_waited_out() {
    let now = Instant::now();
    let world = World::new(&[(1, 1)]).has(1, 1, ContainerState::Exited);
    assert_eq!(world.steps(now), ["look c1"]);
    let later = now + Duration::from_secs(4);
    let world = world.remembers(1, |memory| {
        memory.ended = Some(ContainerId::new("c1"));
        memory.not_before = Some(later);
    });
    assert_eq!(world.plan(now), Plan { wake_at: Some(later), kept: world.plan(now).kept, ..Plan::default() });
    assert_eq!(world.steps(later), ["start c1"]);
    // Another container's end says nothing of this one's.
    let world = world.remembers(1, |memory| memory.ended = Some(ContainerId::new("c0")));
    assert_eq!(world.steps(now), ["look c1"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_waited_out() {
    let now = Instant::now();
    let later = now + Duration::from_secs(8);
    let mut world = World::new(&[(1, 1)]);
    let missing = ImageState::Missing { failures: 1, not_before: later, reason: None };
    world.images.insert(spec(1).image, missing);
    assert_eq!((world.steps(now).len(), world.plan(now).wake_at), (0, Some(later)));
    assert_eq!(world.steps(later), ["fetch"]);
    let world = World::new(&[(1, 1)]).with_image().remembers(1, |memory| memory.not_before = Some(later));
    assert_eq!((world.steps(now).len(), world.plan(now).wake_at), (0, Some(later)));
    assert_eq!(world.steps(later), ["create 1"]);
    let mut world = World::new(&[]).has(1, 1, running());
    world.removals.insert(ContainerId::new("c1"), Retry { failures: 1, not_before: later });
    assert_eq!((world.steps(now).len(), world.plan(now).wake_at), (0, Some(later)));
    assert_eq!(world.steps(later), ["remove c1"]);
}

fn any_state() -> impl Strategy<Value = ContainerState> {
    prop_oneof![
        Just(ContainerState::Created),
        Just(running()),
        Just(ContainerState::Running { endpoint: None }),
        Just(ContainerState::Exited),
        Just(ContainerState::Removing),
        Just(ContainerState::Dead),
    ]
}

fn any_world() -> impl Strategy<Value = World> {
    let wish = proptest::collection::vec((1_u128..6, 1_i64..3), 0..5);
    let containers = proptest::collection::vec((1_u128..8, 1_i64..3, any_state()), 0..10);
    let ended = proptest::collection::vec((1_u128..8, 1_usize..10), 0..4);
    (wish, containers, ended, any::<bool>()).prop_map(|(wish, containers, ended, has_image)| {
        let mut world = World::new(&wish);
        for (number, generation, state) in containers {
            world = world.has(number, generation, state);
        }
        for (number, container) in ended {
            world = world.remembers(number, |memory| memory.ended = Some(ContainerId::new(format!("c{container}"))));
        }
        if has_image { world.with_image() } else { world }
    })
}

/// What the steps come to when the engine does as it is told.
fn carry_out(world: &mut World, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::FetchImage(image) => drop(world.images.insert(image, ImageState::Present)),
            Step::Create(id) => {
                let spec = world.desired[&id].clone();
                let made = world.clone().has(id.as_uuid().as_u128(), spec.generation, running());
                world.containers = made.containers;
            }
            Step::Start(_, id) => {
                for container in world.containers.iter_mut().filter(|container| container.id == id) {
                    container.state = running();
                }
            }
            Step::LookIntoEnd(instance, id) => world.memory.entry(instance).or_default().ended = Some(id),
            Step::Remove(gone) => world.containers.retain(|container| container.id != gone.id),
        }
    }
    // What the engine was removing by itself is gone.
    world.containers.retain(|container| container.state != ContainerState::Removing);
}

proptest! {
    #[test]
    fn steps_never_touch_one_thing_twice(world in any_world()) {
        let plan = world.plan(Instant::now());
        let keys: HashSet<_> = plan.steps.iter().map(Step::key).collect();
        prop_assert_eq!(keys.len(), plan.steps.len());
        for step in &plan.steps {
            if let Step::Remove(container) = step {
                prop_assert!(!plan.kept.values().any(|kept| *kept == container.id), "removes what is kept");
            }
        }
    }

    #[test]
    fn planning_again_plans_the_same(world in any_world()) {
        let now = Instant::now();
        prop_assert_eq!(world.plan(now), world.plan(now));
    }

    #[test]
    fn any_world_comes_to_what_is_desired_and_stays_there(world in any_world()) {
        let now = Instant::now();
        let mut world = world;
        for _ in 0..6 {
            let steps = world.plan(now).steps;
            carry_out(&mut world, steps);
        }
        prop_assert_eq!(world.steps(now), Vec::<String>::new());
        let mut there: Vec<_> = world.containers.iter().map(|c| (c.instance_id, c.generation)).collect();
        there.sort_unstable();
        let wanted: Vec<_> = world.desired.values().map(|spec| (spec.instance_id, spec.generation)).collect();
        prop_assert_eq!(there, wanted);
        let all_run = world.containers.iter().all(|c| matches!(c.state, ContainerState::Running { .. }));
        prop_assert!(all_run);
    }

    #[test]
    fn what_runs_and_is_desired_is_never_removed(world in any_world()) {
        let plan = world.plan(Instant::now());
        for spec in world.desired.values() {
            let right: Vec<_> = world.containers.iter()
                .filter(|c| c.instance_id == spec.instance_id && is_right(c, spec) && matches!(c.state, ContainerState::Running { .. }))
                .collect();
            let removed = |c: &&&Container| plan.steps.iter().any(|step| matches!(step, Step::Remove(gone) if gone.id == c.id));
            prop_assert_eq!(right.iter().filter(removed).count(), right.len().saturating_sub(1));
        }
    }
}

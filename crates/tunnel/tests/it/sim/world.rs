//! Everything in one simulation, and what must hold at its end.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use towline_model::InstanceId;
use towline_tunnel::{
    Budget, CarrierEnd, OpenTarget, RefuseCode, Refused, ResetCode, StreamEnd, frame,
    mux::{Mux, MuxConfig, OpenError, Side, outbox::Outbox},
};
use uuid::Uuid;

use super::{
    endpoint::{Endpoint, Exit, Plan, Task},
    random::Random,
    wire::Wire,
};

/// Virtual time without anything done by a stream after which it is a deadlock.
const PATIENCE: Duration = Duration::from_secs(300);

const GATEWAY: usize = 0;
const AGENT: usize = 1;

pub struct Outcome {
    pub frames: usize,
    pub finished_streams: usize,
}

struct Node {
    mux: Mux,
    outbox: Outbox,
    input: BytesMut,
    budget: Budget,
    /// By the number of the stream in the plan.
    endpoints: BTreeMap<usize, Endpoint>,
}

struct StreamPlan {
    near: Plan,
    far: Plan,
    refuse: bool,
    opens_at: Duration,
}

pub struct World {
    random: Random,
    start: Instant,
    now: Duration,
    nodes: [Node; 2],
    /// To the agent, to the gateway.
    wires: [Wire; 2],
    plans: Vec<StreamPlan>,
    /// Streams of the plan that were not opened yet.
    unopened: Vec<usize>,
    acceptor: Arc<Task>,
    max_streams: u32,
    /// Tasks are also woken for no reason.
    is_restless: bool,
    frames: usize,
    dies_after: Option<usize>,
    is_dead: [bool; 2],
    progress_at: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Open(usize),
    Accept,
    Run(usize, usize),
    Send(usize),
    Receive(usize),
    Die(usize),
}

impl World {
    pub fn new(seed: u64, dies_after: Option<usize>) -> Self {
        let mut random = Random::new(seed);
        let start = Instant::now();
        let initial_window = *random.pick(&[1, 10, 64, 500, 4000, 65_536]);
        let max_streams = random.between(1, 6) as u32;
        let smallest_queue = *random.pick(&[1, 100, 3000]);
        let node = |side, random: &mut Random| {
            let budget = Budget::new(*random.pick(&[0, 10_000, 1 << 20]));
            let config = MuxConfig {
                side,
                initial_window,
                max_window: initial_window * random.between(1, 64) as u32,
                max_streams,
                send_queue: *random.pick(&[smallest_queue, 65_536]),
                ping_interval: Duration::from_secs(random.between(1, 20) as u64),
                ping_timeout: Duration::from_secs(100),
                budget: budget.clone(),
            };
            let outbox = Outbox::new(random.one_in(2));
            let input = BytesMut::new();
            Node { mux: Mux::new(config, start), outbox, input, budget, endpoints: BTreeMap::new() }
        };
        let nodes = [node(Side::Gateway, &mut random), node(Side::Agent, &mut random)];
        let wires = [Wire::new(&mut random), Wire::new(&mut random)];
        // One byte at a time takes long, and shows nothing new after a while.
        let narrowest = wires[0].capacity.min(wires[1].capacity).min(initial_window as usize).min(smallest_queue);
        let most = (narrowest * 50).clamp(200, 20_000);
        let plans: Vec<_> = (0..random.between(1, 8)).map(|_| StreamPlan::new(most, &mut random)).collect();
        Self {
            unopened: (0..plans.len()).collect(),
            start,
            now: Duration::ZERO,
            nodes,
            wires,
            plans,
            acceptor: Task::woken(),
            max_streams,
            is_restless: random.one_in(4),
            frames: 0,
            dies_after,
            is_dead: [false; 2],
            progress_at: Duration::ZERO,
            random,
        }
    }

    pub fn run(mut self) -> Outcome {
        while !self.everybody_is_done() {
            self.step();
        }
        if self.dies_after.is_none() {
            self.drain();
        } else {
            self.die_if_not_dead();
        }
        self.check();
        let finished = |node: &Node| {
            let in_order = |end: &&Endpoint| end.seen.as_ref().is_some_and(|seen| seen.read_to_end);
            node.endpoints.values().filter(in_order).count()
        };
        Outcome { frames: self.frames, finished_streams: finished(&self.nodes[GATEWAY]) }
    }

    fn everybody_is_done(&self) -> bool {
        self.unopened.is_empty()
            && self.nodes.iter().all(|node| node.endpoints.values().all(Endpoint::is_done))
            && self.nodes[GATEWAY].mux.stream_count() == 0
            && self.nodes[AGENT].mux.stream_count() == 0
    }

    fn step(&mut self) {
        let steps = self.possible_steps();
        if steps.is_empty() {
            return self.pass_time();
        }
        assert!(self.now - self.progress_at < PATIENCE, "nothing has moved for long: {:?}", self.waiting());
        let step = *self.random.pick(&steps);
        let now = self.start + self.now;
        match step {
            Step::Open(number) => self.open(number),
            Step::Accept => self.accept(),
            Step::Run(side, number) => {
                let node = &mut self.nodes[side];
                let end = node.endpoints.get_mut(&number).unwrap();
                let before = (end.sent, end.received, end.is_done());
                end.run(&mut node.mux, (now, self.now), &mut self.random);
                if before != (end.sent, end.received, end.is_done()) {
                    self.progress_at = self.now;
                }
            }
            Step::Send(side) => {
                let node = &mut self.nodes[side];
                node.mux.transmit(&mut node.outbox, now);
                if !node.outbox.is_empty() {
                    self.wires[side].write(&mut node.outbox, self.now, &mut self.random);
                }
            }
            Step::Receive(side) => self.receive(side),
            Step::Die(side) => {
                self.is_dead[side] = true;
                self.nodes[side].mux.peer_closed();
            }
        }
        for node in &mut self.nodes {
            node.mux.take_wakes().wake();
        }
        if self.is_restless && self.random.one_in(10) {
            self.wake_somebody();
        }
    }

    fn wake_somebody(&mut self) {
        let side = self.random.between(0, 1);
        for end in self.nodes[side].endpoints.values().filter(|end| end.rests_until.is_none()) {
            end.task.wake_again();
        }
    }

    fn dying(&self) -> bool {
        self.dies_after.is_some_and(|frames| self.frames >= frames)
    }

    fn possible_steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for &number in &self.unopened {
            let room = self.nodes[GATEWAY].mux.has_room() || self.nodes[GATEWAY].mux.end().is_some();
            if self.plans[number].opens_at <= self.now && room {
                steps.push(Step::Open(number));
            }
        }
        if self.acceptor.is_woken() {
            steps.push(Step::Accept);
        }
        for side in [GATEWAY, AGENT] {
            for (&number, end) in &self.nodes[side].endpoints {
                let rested = end.rests_until.is_some_and(|until| until <= self.now);
                if !end.is_done() && (rested || end.rests_until.is_none() && end.task.is_woken()) {
                    steps.push(Step::Run(side, number));
                }
            }
            if self.dying() {
                if !self.is_dead[side] {
                    steps.push(Step::Die(side));
                }
                continue;
            }
            let node = &self.nodes[side];
            if self.wires[side].has_room() && (node.mux.has_output() || !node.outbox.is_empty()) {
                steps.push(Step::Send(side));
            }
            if self.wires[1 - side].arrival().is_some_and(|at| at <= self.now) {
                steps.push(Step::Receive(side));
            }
        }
        steps
    }

    /// Nothing can be done now: goes to the next moment at which something can.
    fn pass_time(&mut self) {
        let timeouts = self.nodes.iter().map(|node| node.mux.timeout().saturating_duration_since(self.start));
        let rests = self.nodes.iter().flat_map(|node| node.endpoints.values());
        let rests = rests.filter(|end| !end.is_done()).filter_map(|end| end.rests_until);
        let arrivals = self.wires.iter().filter_map(Wire::arrival);
        let opens = self.unopened.iter().map(|&number| self.plans[number].opens_at);
        let moments = timeouts.chain(rests).chain(arrivals).chain(opens);
        self.now = moments.filter(|&at| at > self.now).min().unwrap_or(self.now + Duration::from_secs(1));
        for node in &mut self.nodes {
            node.mux.handle_timeout(self.start + self.now);
            for end in node.endpoints.values_mut().filter(|end| end.rests_until.is_some_and(|at| at <= self.now)) {
                end.rests_until = None;
                end.task.wake_again();
            }
            node.mux.take_wakes().wake();
        }
        assert!(self.now - self.progress_at < PATIENCE, "nothing moves any more: {:?}", self.waiting());
    }

    fn waiting(&self) -> Vec<(usize, usize, &Endpoint)> {
        let waiting = |side: usize| {
            let ends = self.nodes[side].endpoints.iter().filter(|(_, end)| !end.is_done());
            ends.map(move |(&number, end)| (side, number, end))
        };
        waiting(GATEWAY).chain(waiting(AGENT)).collect()
    }

    fn open(&mut self, number: usize) {
        let target = OpenTarget::Instance(InstanceId::from_uuid(Uuid::from_u128(number as u128)));
        match self.nodes[GATEWAY].mux.open(&target) {
            Ok(id) => {
                let end = Endpoint::new(id, self.plans[number].near.clone(), number as u64 * 2);
                self.nodes[GATEWAY].endpoints.insert(number, end);
            }
            Err(OpenError::Closed(_)) => {}
            Err(error) => panic!("there was room: {error}"),
        }
        self.unopened.retain(|&other| other != number);
        self.progress_at = self.now;
    }

    fn accept(&mut self) {
        let waker = self.acceptor.begin();
        let node = &mut self.nodes[AGENT];
        while let Poll::Ready(Some((id, target))) = node.mux.poll_arrival(&waker) {
            self.progress_at = self.now;
            let OpenTarget::Instance(instance) = target else { panic!("not the target that was sent") };
            let number = instance.as_uuid().as_u128() as usize;
            if self.plans[number].refuse {
                let why = Refused::new(RefuseCode::NotReady, number.to_string());
                node.mux.refuse(id, why, self.start + self.now);
                continue;
            }
            node.mux.accept(id);
            let end = Endpoint::new(id, self.plans[number].far.clone(), number as u64 * 2 + 1);
            node.endpoints.insert(number, end);
        }
    }

    fn receive(&mut self, side: usize) {
        let now = self.start + self.now;
        let node = &mut self.nodes[side];
        self.wires[1 - side].read(&mut node.input, self.now, &mut self.random);
        node.mux.received(now);
        while self.dies_after.is_none_or(|most| self.frames < most) {
            let Some(frame) = frame::decode(&mut node.input).unwrap() else { break };
            self.frames += 1;
            node.mux.handle(frame.clone(), now).unwrap_or_else(|error| panic!("{error} after {frame:?} to {side}"));
        }
        let most = self.max_streams as usize;
        assert!(side == GATEWAY || node.mux.stream_count() <= 2 * most, "more streams than allowed");
    }

    /// The end in order: GOAWAY both ways.
    fn drain(&mut self) {
        let side = self.random.between(0, 1);
        self.nodes[side].mux.go_away();
        self.progress_at = self.now;
        let drained = |node: &Node| node.mux.is_drained() && node.outbox.is_empty();
        while !self.nodes.iter().all(drained) || !self.everybody_is_done() {
            self.step();
        }
        for node in &mut self.nodes {
            node.mux.peer_closed();
            assert_eq!(node.mux.end(), Some(&CarrierEnd::Drained));
        }
    }

    fn die_if_not_dead(&mut self) {
        self.wires.iter_mut().for_each(Wire::cut);
        for node in &mut self.nodes {
            node.mux.peer_closed();
        }
    }

    /// What must hold when all is over.
    fn check(&self) {
        for node in &self.nodes {
            assert_eq!(node.mux.stream_count(), 0, "streams are left");
            assert_eq!(node.mux.queued_bytes(), 0, "bytes are left");
            assert_eq!(node.budget.used(), 0, "the budget has a leak");
        }
        for (number, near) in &self.nodes[GATEWAY].endpoints {
            match self.nodes[AGENT].endpoints.get(number) {
                Some(far) => {
                    self.check_stream(near, far);
                    self.check_stream(far, near);
                }
                None => self.check_unaccepted(*number, near),
            }
        }
    }

    /// What `one` has seen of what `other` did.
    fn check_stream(&self, one: &Endpoint, other: &Endpoint) {
        let seen = one.seen.as_ref().unwrap();
        assert!(one.received <= other.sent, "bytes from nowhere");
        if seen.read_to_end {
            assert_eq!(one.received, other.plan.to_send, "the end came too early");
        }
        if let Some(StreamEnd::Reset { code, delivered }) = &seen.end {
            assert!(*delivered <= other.received, "more delivered than was read");
            match other.plan.exit {
                Exit::ResetAt(_) => assert_eq!(*code, ResetCode::Internal),
                Exit::ResetAfterData => {
                    assert_eq!(*code, ResetCode::ConnectionReset);
                    assert_eq!(one.received, other.plan.to_send, "the reset came before the data");
                }
                Exit::DropAt(_) | Exit::InOrder => assert_eq!(*code, ResetCode::Cancelled),
            }
        }
        let both_in_order = one.plan.exit == Exit::InOrder && other.plan.exit == Exit::InOrder;
        if both_in_order && self.dies_after.is_none() {
            assert!(seen.read_to_end, "a stream in order ended as {:?}", seen.end);
        }
    }

    fn check_unaccepted(&self, number: usize, near: &Endpoint) {
        assert_eq!(near.received, 0);
        let seen = near.seen.as_ref().unwrap();
        let left_first = near.plan.exit != Exit::InOrder;
        match &seen.end {
            // An agent whose applications are slow to let go of ended streams may have to refuse new ones.
            Some(StreamEnd::Refused(why)) if why.code == RefuseCode::Limit => {}
            Some(StreamEnd::Refused(why)) => {
                assert!(self.plans[number].refuse && why.message == number.to_string(), "{why}");
            }
            _ => assert!(left_first || self.dies_after.is_some(), "ended unaccepted as {:?}", seen.end),
        }
    }
}

impl StreamPlan {
    fn new(most: usize, random: &mut Random) -> Self {
        let (near, far) = (Plan::new(most, random), Plan::new(most, random));
        Self { near, far, refuse: random.one_in(10), opens_at: random.millis(500) }
    }
}

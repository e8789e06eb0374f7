//! Which instance a request goes to: of two that are picked at random among those that can take it, the one with fewer
//! requests in flight. Two random choices keep the loads nearly as even as a full comparison does, and many gateways
//! that compare stale numbers do not all run to the same instance. One that takes no connections is left out while there
//! is another (`health`).

use std::sync::Arc;

use tokio::time::Instant;
use towline_model::InstanceId;

use crate::{
    affinity::Preference,
    service::{Candidate, Instance},
};

/// Why no instance can take a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoInstance {
    /// None is ready.
    NoneReady,
    /// Some are ready, but none of their agents is connected.
    NoneReachable,
    /// The one that is insisted on is not ready.
    NotThatOne(InstanceId),
    /// The one that is insisted on does not exist (any more).
    ThatOneIsGone(InstanceId),
}

/// An instance that was picked.
#[derive(Debug)]
pub(crate) struct Picked {
    pub instance: Arc<Instance>,
    /// Whether it is the only one that can take the request.
    pub is_only: bool,
}

/// Picks an instance, leaving out those that were tried before.
pub(crate) fn pick(
    candidates: &[Candidate],
    tried: &[InstanceId],
    preference: Preference,
    now: Instant,
) -> Result<Picked, NoInstance> {
    let is_in = |candidate: &Candidate| can_take(candidate, tried) && candidate.instance.health.takes(now);
    match preference {
        Preference::Insist(id) => return insist(candidates, tried, id),
        Preference::Prefer(id) => {
            let others = || candidates.iter().filter(|candidate| candidate.instance.id != id);
            let is_left_out = candidates.iter().any(|c| c.instance.id == id && !c.instance.health.takes(now));
            if !(is_left_out && others().any(is_in))
                && let Ok(picked) = insist(candidates, tried, id)
            {
                // Others can take the request when this one turns out not to.
                let is_only = others().all(|candidate| !can_take(candidate, tried));
                return Ok(Picked { is_only, ..picked });
            }
        }
        Preference::Any => {}
    }
    let dice = |below| rand::random_range(0..below);
    // Who is left out is better than nobody.
    pick_with(candidates, tried, is_in, dice)
        .or_else(|_| pick_with(candidates, tried, |candidate| can_take(candidate, tried), dice))
}

fn insist(candidates: &[Candidate], tried: &[InstanceId], id: InstanceId) -> Result<Picked, NoInstance> {
    let Some(candidate) = candidates.iter().find(|candidate| candidate.instance.id == id) else {
        return Err(NoInstance::ThatOneIsGone(id));
    };
    if can_take(candidate, tried) {
        return Ok(Picked { instance: Arc::clone(&candidate.instance), is_only: true });
    }
    let offline = candidate.ready && !candidate.instance.slot.is_online();
    Err(if offline { NoInstance::NoneReachable } else { NoInstance::NotThatOne(id) })
}

fn can_take(candidate: &Candidate, tried: &[InstanceId]) -> bool {
    candidate.ready && candidate.instance.slot.is_online() && !tried.contains(&candidate.instance.id)
}

fn pick_with(
    candidates: &[Candidate],
    tried: &[InstanceId],
    fits: impl Fn(&Candidate) -> bool,
    mut random_below: impl FnMut(usize) -> usize,
) -> Result<Picked, NoInstance> {
    let eligible = || candidates.iter().filter(|candidate| fits(candidate)).map(|candidate| &candidate.instance);
    let (count, last) = eligible().fold((0, None), |(count, _), instance| (count + 1, Some(instance)));
    let chosen = match count {
        0 | 1 => last,
        _ => {
            let first = random_below(count);
            let second = (first + 1 + random_below(count - 1)) % count;
            // An agent may have gone between counting and looking.
            match (eligible().nth(first), eligible().nth(second)) {
                (Some(a), Some(b)) if b.in_flight() < a.in_flight() => Some(b),
                (Some(a), _) => Some(a),
                (None, b) => b,
            }
        }
    };
    chosen.map(|instance| Picked { instance: Arc::clone(instance), is_only: count == 1 }).ok_or_else(|| {
        let any_ready = candidates.iter().any(|c| c.ready && !tried.contains(&c.instance.id));
        if any_ready { NoInstance::NoneReachable } else { NoInstance::NoneReady }
    })
}

#[cfg(test)]
mod tests {
    use towline_model::{AgentId, ServiceId, ServiceStatus, SessionId, TeamId, Timestamp, service::AppProtocol};
    use towline_tunnel::placement::PlacementLimits;

    use super::*;
    use crate::{
        agents::{session::Session, slot::AgentSlot},
        health::Trial,
        pool::Pool,
        service::{InFlight, Service},
        snapshot::{ServiceRoute, Timeouts, Upstream},
    };

    fn candidate(ready: bool, online: bool) -> Candidate {
        let slot = Arc::new(AgentSlot::new(AgentId::generate()));
        if online {
            let now = Timestamp::from_micros(0);
            let limits = PlacementLimits::default();
            slot.replace(Arc::new(Session::new(SessionId::generate(), Arc::clone(&slot), now, limits)));
        }
        Candidate {
            ready,
            instance: Arc::new(Instance::new(InstanceId::generate(), slot, Pool::new(0), Arc::default())),
        }
    }

    fn service(candidates: Vec<Candidate>) -> Service {
        let route = ServiceRoute {
            service_id: ServiceId::generate(),
            team_id: TeamId::generate(),
            slug: "hello".to_owned(),
            status: ServiceStatus::Running,
            upstream: Upstream::Container { exposed_port: 8080 },
            protocol: AppProtocol::default(),
            timeouts: Timeouts::default(),
            concurrency: None,
            instances: Vec::new(),
        };
        Service::new(Arc::new(route), candidates, None)
    }

    #[test]
    fn what_is_missing_is_told() {
        let pick = |candidates: &[Candidate]| {
            pick(candidates, &[], Preference::Any, Instant::now()).map(|picked| picked.instance.id)
        };
        assert_eq!(pick(&[]), Err(NoInstance::NoneReady));
        assert_eq!(pick(&[candidate(false, true)]), Err(NoInstance::NoneReady));
        assert_eq!(pick(&[candidate(true, false), candidate(false, true)]), Err(NoInstance::NoneReachable));
        let good = candidate(true, true);
        let id = good.instance.id;
        assert_eq!(pick(&[candidate(true, false), good]), Ok(id));
    }

    #[test]
    fn an_instance_is_not_tried_twice() {
        let all = [candidate(true, true), candidate(true, true)];
        let tried = [all[0].instance.id];
        for _ in 0..20 {
            let picked = pick(&all, &tried, Preference::Any, Instant::now()).unwrap();
            assert_eq!((picked.instance.id, picked.is_only), (all[1].instance.id, true));
        }
        let both = all.each_ref().map(|c| c.instance.id);
        assert_eq!(pick(&all, &both, Preference::Any, Instant::now()).unwrap_err(), NoInstance::NoneReady);
    }

    #[test]
    fn a_preferred_instance_is_taken_while_it_can_be() {
        use Preference::{Insist, Prefer};
        let all = [candidate(true, true), candidate(true, true), candidate(false, true), candidate(true, false)];
        let [first, second, unready, offline] = all.each_ref().map(|c| c.instance.id);
        let pick = |tried: &[InstanceId], preference| {
            pick(&all, tried, preference, Instant::now()).map(|p| (p.instance.id, p.is_only))
        };
        for _ in 0..20 {
            assert_eq!(pick(&[], Prefer(first)), Ok((first, false)));
            assert_eq!(pick(&[second], Prefer(first)), Ok((first, true)), "the others cannot take it");
            assert_eq!(pick(&[], Insist(second)), Ok((second, true)));
            assert_eq!(pick(&[first], Prefer(first)), Ok((second, true)));
            for gone in [unready, offline, InstanceId::generate()] {
                assert!([first, second].contains(&pick(&[], Prefer(gone)).unwrap().0));
            }
        }
        let gone = InstanceId::generate();
        assert_eq!(pick(&[], Insist(gone)), Err(NoInstance::ThatOneIsGone(gone)));
        assert_eq!(pick(&[], Insist(unready)), Err(NoInstance::NotThatOne(unready)));
        assert_eq!(pick(&[], Insist(offline)), Err(NoInstance::NoneReachable));
        assert_eq!(pick(&[first], Insist(first)), Err(NoInstance::NotThatOne(first)));
    }

    #[test]
    fn the_less_busy_of_two_is_taken_whatever_the_dice_say() {
        let service = service(vec![candidate(true, true), candidate(true, true)]);
        let _busy = InFlight::begin(Arc::clone(&service.candidates[0].instance), Instant::now());
        for first in 0..2 {
            let mut dice = [first, 0].into_iter();
            let picked = pick_with(&service.candidates, &[], |_| true, |_| dice.next().unwrap()).unwrap();
            assert_eq!((picked.instance.id, picked.is_only), (service.candidates[1].instance.id, false));
        }
    }

    #[test]
    fn loads_stay_even() {
        let service = service((0..5).map(|_| candidate(true, true)).collect());
        let held: Vec<_> = (0..500)
            .map(|_| {
                let picked = pick(&service.candidates, &[], Preference::Any, Instant::now()).unwrap();
                InFlight::begin(picked.instance, Instant::now())
            })
            .collect();
        let loads: Vec<_> = service.candidates.iter().map(|c| c.instance.in_flight()).collect();
        assert!(loads.iter().all(|load| (90..=110).contains(load)), "{loads:?}");
        assert_eq!(loads.iter().sum::<usize>(), held.len());
        drop(held);
        assert!(service.candidates.iter().all(|candidate| candidate.instance.in_flight() == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_no_connections_is_left_out_while_there_is_another() {
        let all = [candidate(true, true), candidate(true, true)];
        let [bad, good] = all.each_ref().map(|c| c.instance.id);
        for _ in 0..3 {
            Trial::begin(Arc::clone(&all[0].instance), Instant::now()).failed(Instant::now());
        }
        let pick =
            |tried: &[InstanceId], preference| pick(&all, tried, preference, Instant::now()).map(|p| p.instance.id);
        for _ in 0..20 {
            assert_eq!(pick(&[], Preference::Any), Ok(good));
            assert_eq!(pick(&[], Preference::Prefer(bad)), Ok(good));
        }
        assert_eq!(pick(&[], Preference::Insist(bad)), Ok(bad), "there is nothing but that one");
        assert_eq!(pick(&[good], Preference::Any), Ok(bad), "it is better than nobody");
        assert_eq!(pick(&[good], Preference::Prefer(bad)), Ok(bad));
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        let seen: std::collections::HashSet<_> = (0..50).map(|_| pick(&[], Preference::Any).unwrap()).collect();
        assert_eq!(seen.len(), 2, "it is tried again");
        let trial = Trial::begin(Arc::clone(&all[0].instance), Instant::now());
        assert!((0..50).all(|_| pick(&[], Preference::Any) == Ok(good)), "by one");
        trial.succeeded();
        drop(trial);
        let seen: std::collections::HashSet<_> = (0..50).map(|_| pick(&[], Preference::Any).unwrap()).collect();
        assert_eq!(seen.len(), 2);
    }
}

//! What must hold, told again in other words than the ledger's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::controller::{Controller, named};
use super::world::{ADDRESSES, World, address};
use crate::config::{Config, OnRemove, Pool, Written, compile};
use crate::ipam::wish::{ExternalWish, external_wish, wish};
use crate::ipam::{Decision, Ledger, Outcome, Rules};
use crate::model::{Family, Service, ServiceKey};
use crate::ownership::{Place, may_share, owned, owned_external, resolve, takes_external_ips};
use crate::reason::Reason;

/// No two Services own an address that they may not share, and may not have shared as somebody may yet see them.
pub(super) fn no_address_twice(world: &World) {
    let raw: Vec<_> = world.pools.values().map(|(_, pool)| pool.clone()).collect();
    let config = compile(&Written::new(&raw, &[])).config;
    let services: Vec<&Service> = world.services.values().map(|(_, service)| service).collect();
    let owns = |service: &Service, address: IpAddr| {
        service.ingress.contains(&address) && owned(service, address, &config, super::super::DEFAULT).is_ok()
            || service.external_ips.contains(&address)
                && owned_external(service, address, &config).is_some_and(|verdict| verdict.is_ok())
    };
    let forged = |service: &Service, address: IpAddr| {
        let mut forged = world.forged.iter();
        forged.any(|(key, forged)| *key == service.key && *forged == address)
    };
    let lately = |key: &ServiceKey| world.lately.get(key).into_iter().flatten();
    for address in (0..ADDRESSES).map(address) {
        let owners: Vec<&&Service> = services.iter().filter(|service| owns(service, address)).collect();
        for (n, a) in owners.iter().enumerate() {
            for b in &owners[..n] {
                let shared = lately(&a.key).any(|a| lately(&b.key).any(|b| may_share(a, b, false).is_ok()));
                assert!(
                    shared || forged(a, address) || forged(b, address),
                    "{} and {} both own {address}",
                    a.key,
                    b.key
                );
            }
        }
    }
}

/// Nobody owns anything that another has, now that all is quiet.
pub(super) fn no_double_assignment(world: &World) {
    let raw: Vec<_> = world.pools.values().map(|(_, pool)| pool.clone()).collect();
    let config = compile(&Written::new(&raw, &[])).config;
    let ownership = resolve(
        world.services.values().map(|(_, s)| s),
        &config,
        super::super::DEFAULT,
    );
    for (key, address, refusal) in ownership.refused {
        assert_ne!(
            refusal.reason,
            Reason::DoubleAssignment,
            "{key} {address}: {}",
            refusal.message
        );
    }
}

/// The counts say what the Services name, and every owner keeps its address unless there is a cause.
pub(super) fn decisions(controller: &Controller) {
    let (ledger, view) = (&controller.ledger, controller.view());
    let rules = ledger.rules();
    counts(ledger, &view);
    let services = view.iter().map(|(service, _)| service);
    let ownership = resolve(services, &rules.config, super::super::DEFAULT);
    for (address, owner) in &ownership.owners {
        for (service, place) in &owner.services {
            let decision = ledger.decision(&service.key).expect("every Service is decided");
            let cause = given(decision).contains(address)
                || match place {
                    Place::Ingress => gives_up_ingress(rules, service, *address, decision),
                    Place::External => gives_up_external(rules, service, *address, decision),
                };
            assert!(
                cause,
                "{} loses {address} ({place:?}) without need: {decision:?}\n{service:?}",
                service.key
            );
        }
    }
}

fn counts(ledger: &Ledger, view: &[(Service, Vec<IpAddr>)]) {
    let rules = ledger.rules();
    let decided: BTreeSet<IpAddr> = ledger
        .decisions()
        .flat_map(|(_, decision)| given(decision))
        .collect();
    let mut claimed = decided.clone();
    for (service, held) in view {
        claimed.extend(named(service));
        claimed.extend(held);
    }
    for pool in rules.config.pools.values() {
        let state = ledger.pool(&pool.name);
        for (family, usage) in [(Family::V4, state.v4), (Family::V6, state.v6)] {
            let of_pool = |address: &IpAddr| {
                let owner = rules.config.pool_of(*address);
                Family::of(*address) == family && owner.is_some_and(|owner| owner.name == pool.name)
            };
            let free = (0..ADDRESSES).map(address).filter(|address| {
                of_pool(address)
                    && pool.contains(*address)
                    && rules.assignable(*address, pool).is_ok()
                    && !claimed.contains(address)
            });
            let free = u64::try_from(free.count()).unwrap();
            let assigned = u64::try_from(decided.iter().filter(|address| of_pool(address)).count()).unwrap();
            let usage = usage.unwrap_or_default();
            assert_eq!(
                (usage.available, usage.assigned),
                (free, assigned),
                "{} {family}",
                pool.name
            );
        }
        let outside = |address: &IpAddr| {
            let owner = rules.config.pool_of(*address);
            owner.is_some_and(|owner| owner.name == pool.name) && !pool.contains(*address)
        };
        let live = decided.iter().copied().filter(outside);
        assert!(
            live.collect::<BTreeSet<_>>().is_subset(&state.retained),
            "{}: {state:?}",
            pool.name
        );
        assert!(
            state
                .retained
                .iter()
                .all(|address| claimed.contains(address) && outside(address))
        );
    }
}

/// A ledger that was fed change by change knows what a new one knows, and nobody waits for what is free.
pub(super) fn settled(controller: &Controller) {
    let (ledger, view) = (&controller.ledger, controller.view());
    let mut cold = Ledger::new(ledger.rules().clone());
    for (service, held) in &view {
        cold.set(service.clone().into(), held.clone());
    }
    cold.settle();
    let decisions = |ledger: &Ledger| {
        let all = ledger.decisions();
        all.map(|(key, decision)| (key.clone(), decision.clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(decisions(ledger), decisions(&cold));
    assert_eq!(ledger.claimed(), cold.claimed());
    for name in ledger.rules().config.pools.keys() {
        assert_eq!(ledger.pool(name), cold.pool(name), "{name}");
    }
    for (service, _) in &view {
        let decision = ledger.decision(&service.key).expect("every Service is decided");
        if let Some(Outcome::Refused(refusal)) = &decision.ingress
            && refusal.reason == Reason::PoolExhausted
            && service.wishes.pools.is_none()
            && service.families.len() == 1
        {
            for pool in ledger.rules().pools() {
                let usage = match service.families[0] {
                    Family::V4 => ledger.pool(&pool.name).v4,
                    Family::V6 => ledger.pool(&pool.name).v6,
                };
                let for_it = pool.auto_assign && ledger.rules().allows(pool, service);
                let free = usage.map_or(0, |usage| usage.available);
                assert!(
                    !for_it || free == 0,
                    "{} waits while {} has {free}",
                    service.key,
                    pool.name
                );
            }
        }
    }
}

fn given(decision: &Decision) -> Vec<IpAddr> {
    let ingress = match &decision.ingress {
        Some(Outcome::Assigned { addresses, .. }) => addresses.as_slice(),
        _ => &[],
    };
    let external = decision.external.iter().flat_map(|external| &external.addresses);
    let ingress = ingress.iter().map(|(address, _)| *address);
    ingress.chain(external.map(|external| external.address)).collect()
}

/// The pool renumbers, and the address has left its spec.
fn renumbers(pool: Option<&Pool>, address: IpAddr) -> bool {
    pool.is_some_and(|pool| pool.on_remove == OnRemove::Reassign && !pool.contains(address))
}

fn gives_up_ingress(rules: &Rules, service: &Service, address: IpAddr, decision: &Decision) -> bool {
    let family = Family::of(address);
    if service.deleting {
        return false;
    }
    if !service.families.contains(&family) {
        return true;
    }
    let Ok(wish) = wish(service, rules.class.metallb) else {
        return false;
    };
    let Some(Outcome::Assigned { addresses, .. }) = &decision.ingress else {
        return false;
    };
    let gets = |address: &IpAddr| addresses.iter().any(|(given, _)| given == address);
    if !wish.addresses.iter().all(gets) {
        return false;
    }
    if wish.addresses.iter().any(|wished| Family::of(*wished) == family) {
        return !wish.addresses.contains(&address);
    }
    // What it has instead: another one of its own, or one that is better.
    let (pool, owned) = (rules.config.pool_of(address), &service.assigned);
    let instead = addresses.iter().filter(|(given, _)| Family::of(*given) == family);
    let unwished = |name: &String| !wish.pools.is_empty() && !wish.pools.contains(name);
    instead.into_iter().any(|(given, _)| {
        let extra =
            service.ingress.contains(given) && owned.as_ref().is_some_and(|record| record.names(*given));
        extra || renumbers(pool, address) || pool.is_some_and(|pool| unwished(&pool.name))
    })
}

fn gives_up_external(rules: &Rules, service: &Service, address: IpAddr, decision: &Decision) -> bool {
    let family = Family::of(address);
    if service.deleting {
        return false;
    }
    if !takes_external_ips(service) || !service.families.contains(&family) {
        return true;
    }
    let pool = rules.config.pool_of(address);
    if pool.is_some_and(|pool| !pool.ranges.is_empty() && denies(rules, pool, service)) {
        return true;
    }
    let mut recorded = service.external.iter().flat_map(|record| &record.addresses);
    if recorded.any(|recorded| recorded.address == address && recorded.adopted) {
        return false;
    }
    let names = match service.external_wish.as_deref().map(external_wish) {
        None => return true,
        Some(Err(_)) => return false,
        Some(Ok(ExternalWish::Addresses(addresses))) => return !addresses.contains(&address),
        Some(Ok(ExternalWish::Pools(names))) => names,
    };
    let given = decision.external.iter().flat_map(|external| &external.addresses);
    let mut instead = given.filter(|external| Family::of(external.address) == family && !external.adopted);
    instead.any(|external| {
        let extra = service.recorded_external(external.address).is_some();
        extra || renumbers(pool, address) || pool.is_some_and(|pool| !names.contains(&pool.name))
    })
}

fn denies(rules: &Rules, pool: &Pool, service: &Service) -> bool {
    !rules.allows_external(pool, &service.key.namespace) || !rules.allows(pool, service)
}

/// The configuration as the API server has it.
pub(super) fn config(world: &World) -> Config {
    let raw: Vec<_> = world.pools.values().map(|(_, pool)| pool.clone()).collect();
    compile(&Written::new(&raw, &[])).config
}

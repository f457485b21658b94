//! `helm uninstall`, by which this program leaves the lab as it was. The last one of its tests, by its name.

use std::sync::atomic::Ordering;

use fairlead_e2e::product::{install, wait_for};
use fairlead_e2e::routers::Router;

use super::fixture::{Fixture, NAME, NODES, SESSION, SOON, node, v4};

#[test]
fn uninstalled_it_withdraws_and_ends_its_sessions() {
    let f = Fixture::new();
    let (web, frr) = (f.web(), &f.stage.frr);
    f.uninstalled.store(true, Ordering::Relaxed);
    install::uninstall(f.lab).unwrap();
    f.leads_to(frr, web, &[]);
    for name in NODES {
        let neighbor = frr.wait_down(v4(node(name)), SESSION).unwrap();
        println!("{name}: {:?}", neighbor.and_then(|n| n.last_error));
        // No daemon is left.
        wait_for("the BGP daemon to be gone", SOON, || {
            let pids = f.pids(node(name), "gobgpd");
            if pids.is_empty() {
                Ok(())
            } else {
                Err(format!("{pids:?}"))
            }
        })
        .unwrap();
    }
    // The configuration is the user's, and so is the namespace. Nothing holds either.
    let own = "/apis/fairlead.dev/v1alpha1";
    for path in [
        format!("/api/v1/namespaces/{NAME}"),
        format!("/api/v1/namespaces/{}", install::NAMESPACE),
        format!("{own}/bgpadvertisements/{NAME}"),
        format!("{own}/bgppeers/{NAME}"),
        format!("{own}/addresspools/{NAME}"),
    ] {
        f.cluster.delete_and_wait(&path, SESSION + SOON).unwrap();
    }
}

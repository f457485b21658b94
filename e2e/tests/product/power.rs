//! Nodes that die without a word. The last of the tests, since what runs on such a node is restarted.

use std::net::SocketAddr;
use std::time::Duration;

use fairlead_e2e::Progress;
use fairlead_e2e::client::ClientOptions;
use fairlead_e2e::product::wait_for;
use fairlead_e2e::topology::Place;

use super::fixture::Fixture;

#[test]
fn a_dead_node_is_replaced() {
    let f = Fixture::new("power", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node1", "node2"]);
    let before = f.wait_announcer(vip, |_| true);
    let place: Place = before.parse().unwrap();
    let client = f
        .lab
        .start_client(Place::Client, &ClientOptions::new(SocketAddr::from((vip, 80))))
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    f.lab.power_off(place).unwrap();
    let moved = wait_for("another node to announce", Duration::from_secs(60), || {
        match f.announcers(vip).as_slice() {
            [one] if *one != before => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    std::thread::sleep(Duration::from_secs(2));
    let report = client.stop().unwrap();
    println!("node powered off: {report}");
    f.lab.power_on(place, &Progress::quiet()).unwrap();
    moved.unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
    // When it is back, one of them announces, not both.
    f.wait_announcer(vip, |_| true);
}

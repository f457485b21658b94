//! The API server is silent: what is announced stays, nodes still fail over, and a speaker that restarts goes on.

use std::net::SocketAddr;
use std::time::Duration;

use fairlead_e2e::Lab;
use fairlead_e2e::client::ClientOptions;
use fairlead_e2e::product::wait_for;
use fairlead_e2e::topology::Place;

use super::fixture::{Fixture, SOON, node};

/// The API server goes on, also after a failed test.
struct Silent<'a>(&'a Lab);

impl<'a> Silent<'a> {
    fn new(lab: &'a Lab) -> Self {
        lab.pause_api_server().unwrap();
        Self(lab)
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.resume_api_server() {
            eprintln!("cleaning up: {error}");
        }
    }
}

fn speaker(f: &Fixture, place: Place) -> Option<String> {
    let output = f
        .lab
        .exec(place, ["pgrep", "-f", "^/usr/bin/fairlead-speaker"])
        .unwrap();
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .map(str::to_owned)
}

/// A speaker that starts without the API server goes on with what the one before it announced, and its record too: whoever
/// asks is answered by one node, and no connection fails.
#[test]
fn a_speaker_that_restarts_goes_on_with_its_addresses() {
    let f = Fixture::new("silent", &["172.30.0.100-172.30.0.101"]);
    // The only candidate: nobody else could take the address over.
    let vip = f.web("web", "Local", &["node2"]);
    let place = node("node2");
    f.wait_announcer(vip, |name| name == "node2");
    let client = f
        .lab
        .start_client(Place::Client, &ClientOptions::new(SocketAddr::from((vip, 80))))
        .unwrap();
    let silent = Silent::new(&f.lab);
    let before = speaker(&f, place).expect("a speaker runs");
    f.run(place, &["kill", "-9", &before]);
    wait_for("the speaker to run again", SOON, || match speaker(&f, place) {
        Some(pid) if pid != before => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    f.wait_announcer(vip, |name| name == "node2");
    f.stays_with("node2", vip);
    drop(silent);
    // The API server is back: nothing changes by that.
    std::thread::sleep(Duration::from_secs(2));
    f.stays_with("node2", vip);
    let report = client.stop().unwrap();
    println!("speaker restarted without the API server: {report}");
    assert!(report.longest_gap.ms < 1000, "{report}");
    f.wait_condition("web", "fairlead.dev/Announced", "True", "Announced");
}

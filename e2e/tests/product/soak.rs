//! A short soak. `make soak` does the same for an hour.

use std::time::Duration;

use fairlead_e2e::Progress;
use fairlead_e2e::random::Random;
use fairlead_e2e::soak::{Options, run};

use super::fixture::Fixture;

/// How long; SOAK_SECONDS for another time.
const SECONDS: u64 = 75;

#[test]
fn random_faults_never_leave_two_owners_nor_none() {
    let f = Fixture::new(
        "soak",
        &["172.30.0.100-172.30.0.109", "fd00:30::100-fd00:30::109"],
    );
    let given = std::env::var("SOAK_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let options = Options {
        length: Duration::from_secs(given.unwrap_or(SECONDS)),
        ipv6: true,
        // Twice what is allowed on a quiet machine.
        doubled: Duration::from_secs(2),
        silent: Duration::from_secs(4),
    };
    let mut random = Random::new("soak");
    let report = run(
        &f.lab,
        &f.cluster,
        &f.name,
        &options,
        &mut random,
        &Progress::stderr(),
    )
    .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
    println!("soak: {} steps", report.steps.len());
    assert!(report.violations.is_empty(), "{}", report.violations.join("\n"));
}

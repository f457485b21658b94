//! End-to-end tests of Fairlead on a lab: `FAIRLEAD_LAB=NAME cargo test --features cluster --test product`.
//!
//! Each test shows what it claims by packets. They share one cluster and one installation and must run one at a time.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, with what it saw"
)]

mod product {
    mod addresses;
    mod addressing;
    mod admission;
    mod annotations;
    mod announcing;
    mod api_only;
    mod bgp_config;
    mod bulk;
    mod chaos;
    mod chart;
    mod churn;
    mod external;
    mod failover;
    mod families;
    mod faults;
    mod fixture;
    mod forwarding;
    mod gossip_key;
    mod layer2;
    mod leader;
    mod lifecycle;
    mod live;
    mod malformed;
    mod pools;
    mod power;
    mod proxies;
    mod requests;
    mod settings;
    mod sharing;
    mod soak;
    mod upgrade;
    mod validation;
    mod without_api;
}

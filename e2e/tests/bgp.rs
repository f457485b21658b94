//! End-to-end tests of BGP on a lab with real routers: `FAIRLEAD_LAB=NAME cargo test --features cluster --test bgp`.
//!
//! A test program of its own, since the product is installed with BGP. What is claimed is shown by the routers' tables and
//! by clients behind them. Tests share one cluster and one installation and must run one at a time; the last one leaves
//! the lab without either.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, with what it saw"
)]

mod bgp {
    mod attributes;
    mod faults;
    mod fixture;
    mod many;
    mod outlives;
    mod peers;
    mod routing;
    mod sessions;
    mod uninstall;
}

//! BGP in the lab: what end-to-end tests and benchmarks of it share.

pub mod fib;
pub mod load;
pub mod manifests;

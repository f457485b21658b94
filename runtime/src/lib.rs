//! What every program of Fairlead stands on: watching into an index, the link between node agent and speaker,
//! arguments, logs, health and metrics, and orderly ends.

pub mod args;
pub mod client;
#[cfg(test)]
mod fake_api;
pub mod files;
pub mod gossip_key;
pub mod lease;
pub mod leaving;
pub mod link;
pub mod memory;
pub mod readiness;
pub mod said;
pub mod server;
pub mod services;
pub mod shutdown;
pub mod slices;
pub mod table;
pub mod telemetry;
pub mod watch;

pub use args::{CommonArgs, class_policy};
pub use client::client;
pub use files::raise_file_limit;
pub use leaving::follow_leaving;
pub use readiness::{Guard, Readiness};
pub use server::serve_http;
pub use services::follow_services;
pub use shutdown::shutdown;
pub use slices::Slices;
pub use table::Table;
pub use telemetry::init;

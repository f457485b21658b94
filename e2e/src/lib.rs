//! The lab: a real bare-metal Kubernetes cluster on one Linux machine, of network namespaces.
//!
//! Everything the `lab` command does is a call of this library first, so that end-to-end tests can do the same.

pub mod announcers;
pub mod capture;
mod certs;
mod cgroup;
mod cluster;
mod control_plane;
mod down;
mod error;
mod inside;
mod lab;
mod net;
mod node;
mod parallel;
mod partition;
mod process;
mod state;
mod status;
mod traffic;
mod up;

pub mod bench;
pub mod bgp;
pub mod client;
pub mod components;
pub mod failover;
pub mod forward;
pub mod images;
pub mod machine;
pub mod preflight;
pub mod product;
pub mod progress;
pub mod random;
pub mod routers;
pub mod soak;
pub mod topology;

pub use capture::Capture;
pub use down::down;
pub use error::{LabError, Result};
pub use lab::Lab;
pub use progress::Progress;
pub use state::{KubeProxy, Paths, Shape};
pub use status::{MachineStatus, NodeStatus, Status};
pub use traffic::RunningClient;
pub use up::UpOptions;

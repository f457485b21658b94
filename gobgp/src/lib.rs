//! A client of GoBGP's API, version 4, over a Unix socket: the calls and fields that Fairlead uses, and no others.

mod daemon;
mod error;

pub use daemon::{Daemon, Events};
pub use error::Error;

/// The messages, as generated from `proto/gobgp.proto`.
#[allow(missing_docs, reason = "the definitions say what is to be said")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod api {
    tonic::include_proto!("api");
}

impl std::fmt::Debug for api::PeerConf {
    /// All but the password.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PeerConf")
            .field("neighbor_address", &self.neighbor_address)
            .field("neighbor_interface", &self.neighbor_interface)
            .field("local_asn", &self.local_asn)
            .field("peer_asn", &self.peer_asn)
            .field("type", &self.r#type)
            .field("description", &self.description)
            .field("password", &!self.auth_password.is_empty())
            .finish_non_exhaustive()
    }
}

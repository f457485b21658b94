//! Everything of Kubernetes that Fairlead's programs share: the custom resources, the conditions, labels and
//! annotations, and the conversions to the vocabulary of `fairlead-core`.

pub mod annotations;
pub mod bgp_advertisement;
pub mod bgp_peer;
pub mod conditions;
pub mod convert;
pub mod crd;
pub mod l2_advertisement;
pub mod node_state;
pub mod pool;
mod schema;

pub use bgp_advertisement::{BGPAdvertisement, BGPAdvertisementSpec};
pub use bgp_peer::{BGPPeer, BGPPeerSpec};
pub use l2_advertisement::{L2Advertisement, L2AdvertisementSpec};
pub use node_state::{NodeState, NodeStateSpec, NodeStateStatus};
pub use pool::{AddressPool, AddressPoolSpec};

/// API group of the custom resources, and prefix of conditions, labels and annotations.
pub const GROUP: &str = "fairlead.dev";

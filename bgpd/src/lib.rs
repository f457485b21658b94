//! The parent of the BGP daemon.
//!
//! `gobgpd` announces whatever it was told last, for as long as it lives. So it has a parent, the program `fairlead-bgpd`, that
//! knows whether there is still somebody to tell it: the speaker says once a second that it is alive, over a Unix socket, and
//! how its routes are to end before it ends itself. Without a word for too long, the parent withdraws all routes and ends the
//! daemon. If the daemon dies, the parent starts another one.
//!
//! - [`word`]: what the speaker says.
//! - [`heartbeat`]: the speaker's side.
//! - [`machine`]: when the daemon is started and ended, as a function of what was heard and the time.
//! - [`listen`], [`daemon`], [`farewell`]: the socket, the process, and what is asked of the daemon before it ends.
//! - [`answers`]: whether the daemon still answers at all.
//! - [`run`]: all of it together.

pub mod answers;
pub mod daemon;
pub mod farewell;
pub mod heartbeat;
pub mod listen;
pub mod machine;
pub mod run;
pub mod word;

/// Where the sockets are, by default.
pub const DIRECTORY: &str = "/run/fairlead/bgp";
/// Name of the daemon's socket in there, for gRPC.
pub const API_SOCKET: &str = "api.sock";
/// Name of the parent's socket in there.
pub const PARENT_SOCKET: &str = "parent.sock";

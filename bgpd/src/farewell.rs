//! What is asked of the daemon before it ends.

use std::path::Path;
use std::time::Duration;

use fairlead_gobgp::Daemon;
use fairlead_gobgp::api::peer_state::SessionState;
use fairlead_gobgp::api::{Family, family::Afi, family::Safi};
use tokio::time::{sleep, timeout};

use crate::machine::Ending;

/// All of it takes no longer.
pub const LIMIT: Duration = Duration::from_secs(3);
/// How long the peers' sessions may take to end.
const SESSIONS: Duration = Duration::from_secs(1);

/// Why the daemon was not told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It refused, or is not there.
    #[error(transparent)]
    Daemon(#[from] fairlead_gobgp::Error),
    /// It did not answer in time.
    #[error("the BGP daemon did not answer within {} s", LIMIT.as_secs())]
    Late,
}

/// Has the daemon withdraw its routes and take leave of its peers, or stop without a word to those who keep the routes.
///
/// # Errors
/// When it cannot be reached, does not do it, or not in time.
pub async fn say(socket: &Path, ending: Ending) -> Result<(), Error> {
    let said = async {
        let mut daemon = Daemon::connect(socket).await?;
        if daemon.global().await?.is_none() {
            // Nobody has told it anything yet.
            return Ok(());
        }
        match ending {
            Ending::Withdraw(why) => withdraw(&mut daemon, &why.to_string()).await,
            Ending::Keep => Ok(daemon.stop(true).await?),
        }
    };
    timeout(LIMIT, said).await.unwrap_or(Err(Error::Late))
}

/// Deletes all routes first: a peer that keeps routes through a CEASE, as RFC 8538 lets it, has none then.
async fn withdraw(daemon: &mut Daemon, why: &str) -> Result<(), Error> {
    for afi in [Afi::Ip, Afi::Ip6] {
        let family = Family {
            afi: afi as i32,
            safi: Safi::Unicast as i32,
        };
        daemon.delete_all_paths(family).await?;
    }
    // All of them.
    daemon.shut_down_peer("", why).await?;
    // Each session sends its farewell by itself, and the end of the daemon must not overtake it. A peer that does not
    // listen is not waited for.
    let established = SessionState::Established as i32;
    let ended = async {
        while daemon
            .peers(false)
            .await?
            .iter()
            .filter_map(|peer| peer.state.as_ref())
            .any(|state| state.session_state == established)
        {
            sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, Error>(())
    };
    timeout(SESSIONS, ended).await.unwrap_or(Ok(()))
}

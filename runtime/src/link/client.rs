//! The speaker's end.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::frame::exchange;
use super::{AgentReport, AgentView, SpeakerReport};

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(200);

/// Keeps a connection to the node agent for ever, reconnecting when it ends. `agent` holds the last report and whether
/// the agent is there; receivers are notified when either changes, and of every report, since its age counts.
pub async fn connect(path: &Path, report: watch::Receiver<SpeakerReport>, agent: watch::Sender<AgentView>) {
    let mut complained = false;
    loop {
        match UnixStream::connect(path).await {
            Err(error) => {
                if !complained {
                    warn!(path = %path.display(), %error, "cannot reach the node agent; trying on");
                    complained = true;
                }
                debug!(%error, "cannot reach the node agent");
            }
            Ok(stream) => {
                complained = false;
                info!("connected to the node agent");
                let error = exchange(stream, report.clone(), |report: AgentReport| {
                    agent.send_modify(|view| {
                        *view = AgentView {
                            last: Some(report),
                            connected: true,
                            last_seen: Some(Instant::now()),
                        };
                    });
                })
                .await;
                warn!(%error, "lost the node agent");
                agent.send_modify(|view| view.connected = false);
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

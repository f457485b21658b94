//! What kube-proxy answers about a node, for nodes without kube-proxy: health-check node ports, and `/healthz` and
//! `/livez` on port 10256. Load balancers, cloud controllers and our own speaker ask there.
//!
//! Ports are opened and closed as Services come and go. One that cannot be opened is told, and tried again.

pub mod answer;
pub mod facts;
pub mod servers;

use std::time::{Duration, Instant};

use fairlead_core::model::NodeName;
use fairlead_runtime::link::{AgentReport, LocalEndpoints};
use fairlead_runtime::watch::Shared;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::facts::{Facts, Watched};
use self::servers::Servers;
use crate::index::Index;
use crate::metrics::Metrics;

/// Port of `/healthz` and `/livez`, as kube-proxy has it.
pub const PORT: u16 = 10256;
/// Changes come in flocks; they are taken together within this time.
const GATHER: Duration = Duration::from_millis(20);
/// How often ports that could not be opened are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What is looked at to know what to answer.
pub struct Sources {
    /// This node.
    pub me: NodeName,
    /// The watched objects: ports of Services, and the Node.
    pub index: Shared<Index>,
    /// Ready endpoints of what is in the kernel.
    pub endpoints: watch::Receiver<Option<LocalEndpoints>>,
    /// What of the plan is in the kernel.
    pub reports: watch::Receiver<AgentReport>,
}

/// Answers for ever, with `/healthz` and `/livez` on `port`.
pub async fn run(mut sources: Sources, port: u16, metrics: &Metrics) {
    let (sender, facts) = watch::channel(Facts::starting(Instant::now()));
    let mut servers = Servers::new(facts);
    let mut changes = sources.index.changes();
    loop {
        changes.mark_unchanged();
        let known = sender.borrow().clone();
        let now = sources.index.with(|index| {
            known.updated(&Watched {
                node: index.nodes.get(sources.me.as_str()),
                service: &|key| index.services.get(&key.to_string()),
                endpoints: sources.endpoints.borrow_and_update().as_ref(),
                report: &sources.reports.borrow_and_update(),
                now: (Instant::now(), jiff::Timestamp::now()),
            })
        });
        let wanted = now.wanted(port);
        sender.send_replace(now);
        servers.become_those(&wanted).await;
        metrics.healthz(servers.open(), servers.failing());
        let news = async {
            tokio::select! {
                Ok(()) = changes.changed() => {}
                Ok(()) = sources.endpoints.changed() => {}
                Ok(()) = sources.reports.changed() => {}
                else => std::future::pending().await, // we are ending
            }
        };
        if timeout(RETRY, news).await.is_ok() {
            sleep(GATHER).await;
        }
    }
}

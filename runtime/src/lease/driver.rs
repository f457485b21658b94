//! The requests of an election.
//!
//! Tasks: one that asks, one that watches the Lease so that a release is noticed at once. Both end with the
//! [`Election`].

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::elector::{Action, Answer, Elector};
use super::leadership::{Crown, Leadership};
use super::metrics::Metrics;
use super::record::Record;
use super::settings::Settings;
use crate::watch::{Retry, config};

/// A release that is not done after so long is left undone: the others wait for the lease duration then.
const RELEASE: Duration = Duration::from_secs(3);

/// Which Lease.
#[derive(Clone, Debug)]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// An identity for this life of this process: the pod's name for people, and 64 random bits, since a restarted process
/// must not take itself for its former self, whose writes may still be under way.
pub fn identity(pod: &str) -> String {
    format!("{pod}_{:016x}", random())
}

/// The standard library's hash keys are random; that is all the randomness an election needs.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// An election in which this process takes part.
#[derive(Debug)]
pub struct Election {
    leadership: Leadership,
    decided: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    driver: JoinHandle<()>,
}

impl Election {
    /// Takes part, until [`Election::release`]. `client` should be one of its own: a connection that others have clogged
    /// must not cost the Lease.
    pub fn start(
        client: Client,
        lease: &LeaseName,
        identity: String,
        settings: Settings,
        metrics: Metrics,
    ) -> Self {
        let (crown, leadership) = Crown::new(settings.slack());
        let (stop, stopping) = watch::channel(false);
        let (holder, shown) = watch::channel(None);
        let (decide, decided) = watch::channel(false);
        let api: Api<Lease> = Api::namespaced(client, &lease.namespace);
        info!(lease = %format_args!("{}/{}", lease.namespace, lease.name), identity, "taking part in the election");
        let watching = tokio::spawn(follow_holder(api.clone(), lease.name.clone(), holder));
        let driver = Driver {
            api,
            name: lease.name.clone(),
            elector: Elector::new(identity, settings, random(), Instant::now()),
            last: None,
            crown,
            decide,
            term: None,
            metrics,
            failing: false,
        };
        let driver = tokio::spawn(async move {
            driver.run(stopping, shown).await;
            watching.abort();
        });
        Self {
            leadership,
            decided,
            stop,
            driver,
        }
    }

    /// What the rest of the program asks.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Waits until it is known whether this process leads, or that it cannot be known as yet.
    ///
    /// Cancel safety: cancel safe.
    pub async fn decided(&self) {
        let _ = self.decided.clone().wait_for(|decided| *decided).await;
    }

    /// Completes only if the election has come to an end by a fault of its own.
    ///
    /// Cancel safety: cancel safe.
    pub async fn broken(&mut self) {
        let _ = (&mut self.driver).await;
    }

    /// Gives the Lease back, so that another may lead at once, and takes part no longer. Everything that was begun while
    /// leading must have ended. Takes 3 s at the most.
    pub async fn release(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(RELEASE, &mut self.driver).await.is_err() {
            warn!("the Lease was not released in time; it will expire");
            self.driver.abort();
        }
    }
}

/// Watches who holds the Lease, until `holder` has no reader.
async fn follow_holder(api: Api<Lease>, name: String, holder: watch::Sender<Option<String>>) {
    let only = watcher::Config {
        field_selector: Some(format!("metadata.name={name}")),
        ..config()
    };
    let mut events = watcher::watcher(api, only).backoff(Retry::default()).boxed();
    let mut listed = false;
    while let Some(event) = events.next().await {
        let shown = match event {
            Ok(Event::Init) => {
                listed = false;
                continue;
            }
            Ok(Event::InitApply(lease) | Event::Apply(lease)) => {
                listed = true;
                Record::read(lease.spec.as_ref()).holder
            }
            Ok(Event::Delete(_)) => String::new(),
            Ok(Event::InitDone) if !listed => String::new(),
            Ok(Event::InitDone) => continue,
            Err(error) => {
                // Nothing is lost but speed.
                debug!(%error, "watching the Lease failed");
                continue;
            }
        };
        holder.send_replace(Some(shown));
    }
}

struct Driver {
    api: Api<Lease>,
    name: String,
    elector: Elector,
    /// The Lease as it was last seen; its version is what a write is made from.
    last: Option<Lease>,
    crown: Crown,
    decide: watch::Sender<bool>,
    /// Number of the term that was published.
    term: Option<u64>,
    metrics: Metrics,
    failing: bool,
}

impl Driver {
    async fn run(mut self, mut stop: watch::Receiver<bool>, mut shown: watch::Receiver<Option<String>>) {
        let mut watching = true;
        let mut stopping = false;
        loop {
            let now = Instant::now();
            if !stopping && *stop.borrow() {
                stopping = true;
                self.elector.release(now);
            }
            let patience = self.elector.patience(now);
            let action = self.elector.next(now, Timestamp::now());
            self.publish();
            let request = match action {
                Action::Done => break,
                Action::Wait(until) => {
                    self.decide.send_replace(true);
                    tokio::select! {
                        changed = stop.changed(), if !stopping => if changed.is_err() {
                            break;
                        },
                        changed = shown.changed(), if watching => match changed {
                            Ok(()) => {
                                let holder = shown.borrow_and_update().clone();
                                self.elector.hint(&holder.unwrap_or_default(), Instant::now());
                            }
                            Err(_) => watching = false,
                        },
                        () = tokio::time::sleep_until(until.into()) => {}
                    }
                    continue;
                }
                Action::Read => None,
                Action::Write(record) => Some(record),
            };
            let answer = self.ask(request.as_ref(), patience).await;
            self.elector.ended(answer, Instant::now());
            self.publish();
        }
        self.crown.set(None);
    }

    /// Tells the others where we stand.
    fn publish(&mut self) {
        let term = self.elector.term();
        self.crown.set(term);
        let (number, before) = (term.map(|term| term.number), self.term);
        if number == before {
            return;
        }
        self.term = number;
        self.metrics.leader.set(i64::from(number.is_some()));
        self.metrics.transitions.inc();
        match number {
            Some(_) => info!("leads"),
            None => info!(holder = self.elector.holder(), "leads no longer"),
        }
    }

    /// Reads the Lease, or writes a record into it.
    async fn ask(&mut self, record: Option<&Record>, patience: Duration) -> Answer {
        let request = async {
            match record {
                None => self.api.get_opt(&self.name).await,
                Some(record) => self.write(record).await.map(Some),
            }
        };
        let problem = match tokio::time::timeout(patience, request).await {
            Ok(Ok(lease)) => {
                if std::mem::take(&mut self.failing) {
                    info!("the Lease can be reached again");
                }
                let found = lease.as_ref().map(|lease| Record::read(lease.spec.as_ref()));
                self.last = lease;
                return match (record, found) {
                    (Some(_), Some(written)) => Answer::Written(written),
                    (_, found) => Answer::Found(found),
                };
            }
            Ok(Err(kube::Error::Api(status)))
                if record.is_some() && (status.code == 409 || status.code == 404 && self.last.is_some()) =>
            {
                debug!(%status, "the Lease has changed");
                return Answer::Conflict;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:.1} s", patience.as_secs_f64()),
        };
        if self.term.is_some() {
            self.metrics.failures.inc();
        }
        // The first failure is news, the following ones are the same news.
        if std::mem::replace(&mut self.failing, true) {
            debug!(problem, "the Lease cannot be reached still");
        } else {
            warn!(
                problem,
                leading = self.term.is_some(),
                "cannot read or write the Lease"
            );
        }
        Answer::Failed
    }

    async fn write(&self, record: &Record) -> kube::Result<Lease> {
        let params = PostParams::default();
        match &self.last {
            // With the version that was read, so that it fails if anything has changed since.
            Some(last) => {
                let mut lease = last.clone();
                record.write(lease.spec.get_or_insert_default());
                self.api.replace(&self.name, &params, &lease).await
            }
            None => {
                let mut spec = LeaseSpec::default();
                record.write(&mut spec);
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(spec),
                };
                self.api.create(&params, &lease).await
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Makes the Secret with the key that speakers share, when there is none. It changes none that exists: whoever wants a
//! new key deletes the Secret, or writes one.

use std::time::Duration;

use fairlead_core::reason::{Reason, Refusal};
use fairlead_runtime::Table;
use fairlead_runtime::gossip_key::{KEY, LENGTH, Problem, TYPE, followed, keys};
use fairlead_runtime::lease::Leadership;
use fairlead_runtime::watch::Shared;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use ring::rand::{SecureRandom, SystemRandom};
use tracing::{info, warn};

use crate::change::Notice;
use crate::events::Events;
use crate::index::Index;

/// Until the watch shows what was created, and between two attempts.
const AGAIN: Duration = Duration::from_secs(1);
/// For one request.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the keeper of the key needs.
pub struct Keeper {
    /// For the Secret.
    pub client: Client,
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub name: String,
    /// Tells whether the installation is being removed.
    pub index: Shared<Index>,
    /// Where events go.
    pub events: Events,
    /// May we write?
    pub leadership: Leadership,
}

/// What is to be known of the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    uid: String,
    problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Create,
    Complain(Entry),
}

impl Keeper {
    /// Keeps the Secret for ever, whenever this process leads.
    ///
    /// Cancel safety: dropping the future ends it; a Secret that was being created exists or does not.
    pub async fn keep(self) {
        let shared = Shared::new(Table::new("Secret"));
        let watching = followed(
            self.client.clone(),
            &self.namespace,
            &self.name,
            shared.clone(),
            |secret| Some(entry(secret)),
        );
        let mut leadership = self.leadership.clone();
        let leading = async {
            loop {
                let term = leadership.begun().await;
                // One that is created after the end of the term does no harm: the API server knows whether there is one.
                tokio::select! {
                    () = leadership.lost(term.number) => {}
                    () = self.lead(&shared) => {}
                }
            }
        };
        tokio::join!(watching, leading);
    }

    async fn lead(&self, shared: &Shared<Table<Entry>>) {
        let (mut changes, mut others) = (shared.changes(), self.index.changes());
        let mut said = None;
        loop {
            changes.borrow_and_update();
            others.borrow_and_update();
            let may_create = self.index.with(|index| index.listed() && !index.is_leaving());
            let again = match shared.with(|table| due(table, may_create)) {
                Due::Nothing => false,
                Due::Create => {
                    self.create().await;
                    true
                }
                Due::Complain(entry) => {
                    if said.as_ref() != Some(&entry) {
                        self.complain(&entry);
                        said = Some(entry);
                    }
                    false
                }
            };
            tokio::select! {
                _ = changes.changed() => {}
                _ = others.changed() => {}
                () = tokio::time::sleep(AGAIN), if again => {}
            }
        }
    }

    async fn create(&self) {
        let secret = match new_secret(&self.name) {
            Ok(secret) => secret,
            Err(error) => {
                warn!(error, "cannot make a gossip key");
                return;
            }
        };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = &self.name;
        match tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &secret)).await {
            Ok(Ok(_)) => info!(secret = name, "made a new gossip key"),
            // Our watch is about to show it.
            Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => {}
            Ok(Err(error)) => warn!(secret = name, %error, "cannot create the Secret of the gossip key"),
            Err(_) => warn!(
                secret = name,
                "no answer to the creation of the Secret of the gossip key"
            ),
        }
    }

    fn complain(&self, entry: &Entry) {
        let problems: Vec<String> = entry.problems.iter().map(ToString::to_string).collect();
        let message = format!(
            "{}. Speakers go on with the keys that they know. Delete this Secret to have a new key made, or correct it.",
            problems.join("; ")
        );
        warn!(secret = self.name, "{message}");
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(entry.uid.clone()),
            ..ObjectReference::default()
        };
        let refusal = Refusal::new(Reason::InvalidGossipKey, message);
        self.events
            .publish(reference, Notice::warning("Configure", &refusal));
    }
}

fn entry(secret: &Secret) -> Entry {
    Entry {
        uid: secret.uid().unwrap_or_default(),
        problems: keys(secret).1,
    }
}

fn due(table: &Table<Entry>, may_create: bool) -> Due {
    match table.values().next() {
        _ if !table.listed() => Due::Nothing,
        None if may_create => Due::Create,
        Some(entry) if !entry.problems.is_empty() => Due::Complain(entry.clone()),
        _ => Due::Nothing,
    }
}

/// A Secret with a new key.
fn new_secret(name: &str) -> Result<Secret, &'static str> {
    let mut key = vec![0; LENGTH];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| "the system gives no random numbers")?;
    let labels = [
        ("app.kubernetes.io/name", "fairlead"),
        ("app.kubernetes.io/component", "gossip-key"),
        ("app.kubernetes.io/managed-by", "fairlead-controller"),
    ];
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(
                labels
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some([(KEY.to_owned(), ByteString(key))].into()),
        ..Secret::default()
    })
}

/// Deletes the Secret, for the end of an uninstall; `pause` is the time in which it must not have come back.
///
/// # Errors
/// What the API server answers.
pub async fn remove(client: Client, namespace: &str, name: &str, pause: Duration) -> kube::Result<()> {
    let api: Api<Secret> = Api::namespaced(client, namespace);
    // A controller that has not yet heard of the leaving makes another one.
    loop {
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => tokio::time::sleep(pause).await,
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_secret_is_sound_and_unlike_any_other() {
        let (one, other) = (new_secret("s").unwrap(), new_secret("s").unwrap());
        assert_eq!(one.name_any(), "s");
        let (found, problems) = keys(&one);
        assert_eq!((found.len(), found[0].len(), problems.len()), (1, LENGTH, 0));
        assert_ne!(found, keys(&other).0);
    }

    #[test]
    fn it_is_created_only_when_it_is_known_to_be_absent() {
        let mut table = Table::new("Secret");
        assert_eq!(due(&table, true), Due::Nothing, "not listed");
        table.reset(Default::default());
        assert_eq!(due(&table, true), Due::Create);
        assert_eq!(due(&table, false), Due::Nothing, "being removed");
        let sound = entry(&new_secret("s").unwrap());
        table.apply("ns/s", Some(sound));
        assert_eq!(due(&table, true), Due::Nothing);
        let empty = entry(&Secret::default());
        table.apply("ns/s", Some(empty.clone()));
        assert_eq!(due(&table, true), Due::Complain(empty), "never overwritten");
    }
}

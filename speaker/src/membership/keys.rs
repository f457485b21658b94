//! Following the Secret with the gossip key.

use fairlead_runtime::Table;
use fairlead_runtime::gossip_key::{followed, keys};
use fairlead_runtime::watch::Shared;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use tokio::sync::watch;
use tracing::{info, warn};

use super::seal::Key;

/// Follows the Secret for ever. The value is the keys that are in it, newest first, and stays what it was when the Secret
/// is gone or says nothing that can be used. It is empty until the Secret has been read.
///
/// Cancel safety: dropping the future ends the watch. Whoever receives sees the last value then.
pub async fn follow_keys(client: Client, namespace: String, name: String, sender: watch::Sender<Vec<Key>>) {
    let shared = Shared::new(Table::<Result<Vec<Key>, String>>::new("Secret"));
    let mut changes = shared.changes();
    let watching = followed(client, &namespace, &name, shared.clone(), |secret| {
        Some(read(secret))
    });
    let reading = async {
        let mut missing = false;
        // The sender lives as long as `shared`.
        while changes.changed().await.is_ok() {
            match shared.with(|table| table.values().next().cloned()) {
                Some(Ok(keys)) => {
                    missing = false;
                    info!(?keys, "gossip keys read");
                    sender.send_replace(keys);
                }
                Some(Err(error)) => {
                    warn!(
                        secret = name,
                        error, "no gossip key can be read; going on with what is known"
                    );
                }
                None if !missing => {
                    missing = true;
                    info!(
                        secret = name,
                        "there is no Secret with a gossip key; going on with what is known"
                    );
                }
                None => {}
            }
        }
    };
    tokio::join!(watching, reading);
}

/// The keys of a Secret, newest first. One that cannot be used is left out if it is not the newest.
fn read(secret: &Secret) -> Result<Vec<Key>, String> {
    let (keys, problems) = keys(secret);
    let keys: Vec<Key> = keys.into_iter().filter_map(|key| Key::new(key).ok()).collect();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    if keys.is_empty() {
        return Err(problems.join("; "));
    }
    if !problems.is_empty() {
        warn!(
            problems = problems.join("; "),
            "not all entries of the gossip key's Secret are keys"
        );
    }
    Ok(keys)
}

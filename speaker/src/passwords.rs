//! Following the Secrets with the passwords of BGP sessions.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_runtime::Table;
use fairlead_runtime::gossip_key::followed;
use fairlead_runtime::watch::Shared;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use tokio::sync::watch;

use crate::bgp::Password;

/// The key in a Secret of type `kubernetes.io/basic-auth` (and in any other) that has the password.
const KEY: &str = "password";

/// The passwords by the name of their Secret, or why there is none, as a sentence.
pub type Passwords = BTreeMap<String, Result<Password, String>>;

/// Follows the Secrets of these names for ever. What is in `sender` before stays until a Secret has been read.
pub async fn follow_passwords(
    client: Client,
    namespace: &str,
    names: &BTreeSet<String>,
    sender: &watch::Sender<Passwords>,
) {
    let each = names
        .iter()
        .map(|name| follow_one(client.clone(), namespace, name, sender));
    join_all(each).await;
}

async fn follow_one(client: Client, namespace: &str, name: &str, sender: &watch::Sender<Passwords>) {
    let shared = Shared::new(Table::<Result<String, String>>::new("Secret"));
    let mut changes = shared.changes();
    let watching = followed(client, namespace, name, shared.clone(), |secret| {
        Some(read(secret))
    });
    let telling = async {
        // The sender lives as long as `shared`.
        while changes.changed().await.is_ok() {
            let found = shared.with(|table| table.listed().then(|| table.values().next().cloned()));
            let Some(found) = found else { continue };
            let known = match found {
                Some(Ok(password)) => Ok(Password::new(password)),
                Some(Err(why)) => Err(format!("the Secret {namespace}/{name} {why}")),
                None => Err(format!("there is no Secret {namespace}/{name}")),
            };
            sender.send_if_modified(|passwords| {
                let changed = passwords.get(name) != Some(&known);
                if changed {
                    passwords.insert(name.to_owned(), known);
                }
                changed
            });
        }
    };
    tokio::join!(watching, telling);
}

/// The password of a Secret, or what is wrong with it. A line break at its end is an accident of whoever wrote it.
fn read(secret: &Secret) -> Result<String, String> {
    let value = secret.data.as_ref().and_then(|data| data.get(KEY));
    let bytes = &value.ok_or_else(|| format!("has no key `{KEY}`"))?.0;
    let text = std::str::from_utf8(bytes).map_err(|_| format!("has a `{KEY}` that is no text"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("has an empty `{KEY}`")),
        password if password.len() > 80 => Err(format!("has a `{KEY}` of more than 80 bytes (RFC 2385)")),
        password => Ok(password.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn a_secret_has_a_password_or_it_is_said_what_it_lacks() {
        let secret = |key: &str, value: &[u8]| Secret {
            data: Some([(key.to_owned(), ByteString(value.to_vec()))].into()),
            ..Secret::default()
        };
        assert_eq!(read(&secret(KEY, b"tiger\n")), Ok("tiger".to_owned()));
        for (secret, says) in [
            (Secret::default(), "has no key `password`"),
            (secret("pass", b"tiger"), "has no key `password`"),
            (secret(KEY, b"\n"), "has an empty `password`"),
            (secret(KEY, &[0xff]), "has a `password` that is no text"),
            (
                secret(KEY, &[b'x'; 81]),
                "has a `password` of more than 80 bytes (RFC 2385)",
            ),
        ] {
            assert_eq!(read(&secret), Err(says.to_owned()));
        }
    }
}

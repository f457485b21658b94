//! The Secret with the key that speakers share: what it looks like, and following it.
//!
//! Data key [`KEY`] is the newest key; whatever else is in it is accepted from other speakers as well. The controller
//! makes the Secret when there is none and never changes one.

use std::fmt::{self, Debug};

use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::{Client, runtime::watcher};

use crate::table::Table;
use crate::watch::{Guarded, Shared, config, follow};

/// The Secret's type.
pub const TYPE: &str = "fairlead.dev/gossip-key";
/// Data key of the newest key.
pub const KEY: &str = "key";
/// A key has at least so many bytes; one made by the controller has exactly so many.
pub const LENGTH: usize = 32;

/// Where the Secret is.
#[derive(Clone, Debug, Args)]
pub struct GossipKeyArgs {
    /// Secret, in the namespace that Fairlead is installed in, with the key that speakers share
    #[arg(
        long,
        env = "FAIRLEAD_GOSSIP_SECRET",
        default_value = "fairlead-gossip",
        value_name = "NAME"
    )]
    pub gossip_secret: String,
}

/// What is wrong with an entry of the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is no entry [`KEY`].
    Missing,
    /// The entry is too short to be a key.
    TooShort {
        /// Its data key.
        entry: String,
        /// Its length in bytes.
        length: usize,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Missing => write!(f, "there is no entry {KEY:?}"),
            Problem::TooShort { entry, length } => write!(
                f,
                "entry {entry:?} has {length} bytes; a key has at least {LENGTH}"
            ),
        }
    }
}

/// The keys of the Secret, newest first, and what is wrong with it. Without a sound entry [`KEY`] there are none: it
/// cannot be told which of the others is to be used.
pub fn keys(secret: &Secret) -> (Vec<&[u8]>, Vec<Problem>) {
    let (mut keys, mut problems) = (Vec::new(), Vec::new());
    let data = secret.data.iter().flatten();
    for (entry, bytes) in data {
        let bytes = bytes.0.as_slice();
        match entry.as_str() {
            _ if bytes.len() < LENGTH => problems.push(Problem::TooShort {
                entry: entry.clone(),
                length: bytes.len(),
            }),
            KEY => keys.insert(0, bytes),
            _ => keys.push(bytes),
        }
    }
    let newest = secret.data.as_ref().and_then(|data| data.get(KEY));
    if newest.is_none() {
        problems.push(Problem::Missing);
    }
    if newest.is_none_or(|newest| newest.0.len() < LENGTH) {
        keys.clear();
    }
    (keys, problems)
}

/// Follows the one Secret for ever into a table of it alone. May be read without the right to read other Secrets.
///
/// Cancel safety: dropping the future ends the watch and leaves the table as it was.
pub async fn followed<T>(
    client: Client,
    namespace: &str,
    name: &str,
    shared: Shared<Table<T>>,
    convert: fn(&Secret) -> Option<T>,
) where
    T: PartialEq,
{
    let api: Api<Guarded<Secret>> = Api::namespaced(client, namespace);
    let config = watcher::Config {
        field_selector: Some(format!("metadata.name={name}")),
        ..config()
    };
    follow(api, config, shared, |table| table, convert).await;
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(entries: &[(&str, usize)]) -> Secret {
        let data = entries
            .iter()
            .map(|(name, length)| ((*name).to_owned(), ByteString(vec![*length as u8; *length])));
        Secret {
            data: Some(data.collect()),
            ..Secret::default()
        }
    }

    fn read(entries: &[(&str, usize)]) -> (Vec<usize>, Vec<String>) {
        let secret = secret(entries);
        let (keys, problems) = keys(&secret);
        let lengths = keys.iter().map(|key| key.len()).collect();
        (lengths, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_newest_key_comes_first() {
        assert_eq!(read(&[("key", 32)]), (vec![32], vec![]));
        assert_eq!(
            read(&[("a", 33), ("key", 64), ("previous", 34)]),
            (vec![64, 33, 34], vec![])
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let missing = "there is no entry \"key\"".to_owned();
        let short = |entry: &str| format!("entry {entry:?} has 31 bytes; a key has at least 32");
        assert_eq!(keys(&Secret::default()).1, [Problem::Missing]);
        assert_eq!(read(&[("previous", 32)]), (vec![], vec![missing]));
        assert_eq!(
            read(&[("key", 31), ("previous", 32)]),
            (vec![], vec![short("key")])
        );
        assert_eq!(
            read(&[("key", 32), ("previous", 31)]),
            (vec![32], vec![short("previous")])
        );
    }
}

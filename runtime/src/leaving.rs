//! Is the installation being removed?
//!
//! The chart has a ConfigMap of which `data.leaving` becomes `"true"` before an uninstall deletes anything. Then
//! speakers withdraw, node agents remove their rules, and the controller stops writing. A ConfigMap that is absent says
//! nothing: deleting it by mistake must not stop traffic.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::{Client, runtime::watcher};
use tokio::sync::watch;

use crate::table::Table;
use crate::watch::{Guarded, Shared, config, follow};

/// Key in the ConfigMap.
pub const KEY: &str = "leaving";

/// Follows the ConfigMap. Once it has said `"true"`, the answer stays so for the life of the process, so that Helm
/// deleting the ConfigMap together with everything else does not bring rules back.
pub fn follow_leaving(client: Client, namespace: &str, name: &str) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    let shared = Shared::new(Table::<bool>::new("ConfigMap"));
    let api: Api<Guarded<ConfigMap>> = Api::namespaced(client, namespace);
    let config = watcher::Config {
        field_selector: Some(format!("metadata.name={name}")),
        ..config()
    };
    let watching = tokio::spawn(follow(
        api,
        config,
        shared.clone(),
        |table| table,
        |map| Some(is_leaving(map)),
    ));
    tokio::spawn(async move {
        let mut changes = shared.changes();
        while changes.changed().await.is_ok() {
            if shared.with(|table| table.values().any(|leaving| *leaving)) {
                tracing::info!("the installation is being removed");
                sender.send_replace(true);
                break;
            }
        }
        watching.abort();
        // Held so that receivers see the last value instead of a closed channel.
        sender.closed().await;
    });
    receiver
}

/// Does the ConfigMap mark the installation as being removed?
pub fn is_leaving(map: &ConfigMap) -> bool {
    map.data
        .as_ref()
        .and_then(|data| data.get(KEY))
        .is_some_and(|value| value == "true")
}

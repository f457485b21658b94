//! Sends one write to the API server.

use std::fmt::Debug;
use std::time::Duration;

use fairlead_api::{AddressPool, BGPAdvertisement, BGPPeer, L2Advertisement};
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Service};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::change::{Change, Part};
use crate::planner::Write;
use crate::writes::{Ended, Object};

/// A write and how it ended.
pub type Done = (Write, Ended);

/// Knows where objects are.
#[derive(Clone)]
pub struct Sender {
    client: Client,
    namespace: String,
    state: String,
}

impl Sender {
    /// `namespace` and `state` are those of the state ConfigMap.
    pub fn new(client: Client, namespace: &str, state: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            state: state.to_owned(),
        }
    }

    /// Sends one patch, for so long at the most. That it may be sent twice does no harm: the second one meets another
    /// version.
    pub async fn send(self, write: Write, limit: Duration) -> Done {
        let (api, name) = self.target(&write.object);
        let answer = patch(&api, &name, &write.change);
        let (kind, shown) = (write.object.kind(), write.object.name());
        let ended = match tokio::time::timeout(limit, answer).await {
            // Its last finalizer was taken out, and with that it is gone: there is no new version.
            Ok(Ok(object))
                if object.metadata.deletion_timestamp.is_some()
                    && object.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) =>
            {
                Ended::Stale
            }
            Ok(Ok(object)) => Ended::Accepted(object.metadata.resource_version.unwrap_or_default()),
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => {
                Ended::Stale
            }
            // Only a client error says that nothing happened; a server error may come after the fact.
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) => {
                Ended::Refused(status.message.clone())
            }
            Ok(Err(error)) => {
                warn!(kind, name = shown, %error, "cannot write");
                Ended::Unknown
            }
            Err(_) => {
                warn!(kind, name = shown, "no answer to a write");
                Ended::Unknown
            }
        };
        (write, ended)
    }

    fn target(self, object: &Object) -> (Api<DynamicObject>, String) {
        match object {
            Object::Service(key) => {
                let resource = ApiResource::erase::<Service>(&());
                let api = Api::namespaced_with(self.client, &key.namespace, &resource);
                (api, key.name.clone())
            }
            Object::Pool(name) => {
                let resource = ApiResource::erase::<AddressPool>(&());
                (Api::all_with(self.client, &resource), name.clone())
            }
            Object::Advertisement(name) => {
                let resource = ApiResource::erase::<L2Advertisement>(&());
                (Api::all_with(self.client, &resource), name.clone())
            }
            Object::Peer(name) => {
                let resource = ApiResource::erase::<BGPPeer>(&());
                (Api::all_with(self.client, &resource), name.clone())
            }
            Object::BgpAdvertisement(name) => {
                let resource = ApiResource::erase::<BGPAdvertisement>(&());
                (Api::all_with(self.client, &resource), name.clone())
            }
            Object::State => {
                let resource = ApiResource::erase::<ConfigMap>(&());
                let api = Api::namespaced_with(self.client, &self.namespace, &resource);
                (api, self.state)
            }
        }
    }
}

/// Carries out a change.
///
/// # Errors
/// What the API server answers, or that it does not.
pub async fn patch<K>(api: &Api<K>, name: &str, change: &Change) -> kube::Result<K>
where
    K: Clone + Debug + DeserializeOwned,
{
    let (params, patch) = (PatchParams::default(), Patch::Merge(&change.patch));
    match change.part {
        Part::Main => api.patch(name, &params, &patch).await,
        Part::Status => api.patch_status(name, &params, &patch).await,
    }
}

/// What an event is about.
pub fn reference(object: &Object, uid: &str) -> ObjectReference {
    let (version, namespace, name) = match object {
        Object::Service(key) => (
            Service::api_version(&()),
            Some(key.namespace.clone()),
            key.name.clone(),
        ),
        Object::Pool(name) => (AddressPool::api_version(&()), None, name.clone()),
        Object::Advertisement(name) => (L2Advertisement::api_version(&()), None, name.clone()),
        Object::Peer(name) => (BGPPeer::api_version(&()), None, name.clone()),
        Object::BgpAdvertisement(name) => (BGPAdvertisement::api_version(&()), None, name.clone()),
        Object::State => (ConfigMap::api_version(&()), None, object.name()),
    };
    ObjectReference {
        api_version: Some(version.into_owned()),
        kind: Some(object.kind().to_owned()),
        namespace,
        name: Some(name),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

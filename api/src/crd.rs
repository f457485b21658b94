//! The CustomResourceDefinitions, as `crdgen` writes them into the chart.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::{AddressPool, BGPAdvertisement, BGPPeer, L2Advertisement, NodeState};

/// All our CustomResourceDefinitions. They stay when the release is uninstalled, so that no configuration is lost.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        AddressPool::crd(),
        BGPAdvertisement::crd(),
        BGPPeer::crd(),
        L2Advertisement::crd(),
        NodeState::crd(),
    ];
    for crd in &mut crds {
        crd.metadata
            .annotations
            .get_or_insert_default()
            .insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    }
    crds
}

/// Conditions are a list-map by type, so that several writers can share the list.
pub(crate) fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    let items = generator.subschema_for::<Condition>();
    json_schema!({
        "type": "array",
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

//! What speaker and node agent both watch.

use fairlead_api::{AddressPool, convert};
use fairlead_core::config::RawPool;
use fairlead_core::model::{Service, Slice};
use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::api::discovery::v1 as discovery_v1;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;
use tracing::warn;

use crate::said::Said;
use crate::table::Table;
use crate::watch::{Guarded, Shared, config, follow};

/// The label selector of Services and EndpointSlices. Headless Services are left out, as by kube-proxy.
///
/// The label `service.kubernetes.io/service-proxy-name` is of no account: it takes the ClusterIP of a Service from
/// kube-proxy and gives it to another proxy. Whose an external address is, the class of the Service and the
/// controller's record say.
const WATCHED: &str = "!service.kubernetes.io/headless";

/// Starts the watches that speaker and node agent have in common: Services, EndpointSlices and AddressPools. Both must
/// see the same Services, or they would not agree on who owns which address. What is wrong with an EndpointSlice is
/// logged, once for each slice and kind of fault; the rest of the slice is used.
pub fn follow_services<I: Send + 'static>(
    client: &Client,
    shared: &Shared<I>,
    tasks: &mut JoinSet<()>,
    services: fn(&mut I) -> &mut Table<Service>,
    slices: fn(&mut I) -> &mut Table<Slice>,
    pools: fn(&mut I) -> &mut Table<RawPool>,
) {
    let proxied = watcher::Config {
        label_selector: Some(WATCHED.to_owned()),
        ..config()
    };
    tasks.spawn(follow(
        Api::<Guarded<core_v1::Service>>::all(client.clone()),
        proxied.clone(),
        shared.clone(),
        services,
        convert::service,
    ));
    tasks.spawn(follow(
        Api::<Guarded<discovery_v1::EndpointSlice>>::all(client.clone()),
        proxied,
        shared.clone(),
        slices,
        slice_or_complaint(),
    ));
    tasks.spawn(follow(
        Api::<Guarded<AddressPool>>::all(client.clone()),
        config(),
        shared.clone(),
        pools,
        convert::pool,
    ));
}

/// Converts EndpointSlices, and logs what is wrong with them.
fn slice_or_complaint() -> impl FnMut(&discovery_v1::EndpointSlice) -> Option<Slice> {
    let mut said = Said::default();
    move |object| {
        let (slice, faults) = convert::slice_and_faults(object);
        for fault in faults {
            let key = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
            if said.first(&key, fault.kind) {
                warn!(slice = key, "passing over {fault} in an EndpointSlice");
            }
        }
        slice
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_of_other_proxies_are_watched_and_headless_ones_are_not() {
        assert!(WATCHED.contains("!service.kubernetes.io/headless"));
        assert!(!WATCHED.contains("service-proxy-name"));
    }

    #[test]
    fn a_malformed_slice_is_used_as_far_as_it_is_sound() {
        let object = serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "b", "labels": {convert::SERVICE_NAME_LABEL: "s"}},
            "addressType": "IPv4", "ports": [{"port": 0}, {"port": 80}],
            "endpoints": [{"addresses": ["127.0.0.1"]}, {"addresses": ["10.0.0.1"]}],
        }))
        .unwrap();
        let mut read = slice_or_complaint();
        let slices = [read(&object).unwrap(), read(&object).unwrap()];
        for slice in slices {
            assert_eq!((slice.ports.len(), slice.endpoints.len()), (1, 1));
        }
    }
}

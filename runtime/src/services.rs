//! What speaker and node agent both watch.

use fairlead_api::{AddressPool, convert};
use fairlead_core::config::RawPool;
use fairlead_core::model::{Service, Slice};
use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::api::discovery::v1 as discovery_v1;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::task::JoinSet;

use crate::table::Table;
use crate::watch::{Guarded, Shared, config, follow};

/// Starts the watches that speaker and node agent have in common: Services, EndpointSlices and AddressPools. Both must
/// see the same Services, or they would not agree on who owns which address. Headless Services and those of other
/// service proxies are left out, as kube-proxy does; nothing on the nodes serves them for us.
pub fn follow_services<I: Send + 'static>(
    client: &Client,
    shared: &Shared<I>,
    tasks: &mut JoinSet<()>,
    services: fn(&mut I) -> &mut Table<Service>,
    slices: fn(&mut I) -> &mut Table<Slice>,
    pools: fn(&mut I) -> &mut Table<RawPool>,
) {
    let proxied = watcher::Config {
        label_selector: Some(
            "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name".to_owned(),
        ),
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
        convert::slice,
    ));
    tasks.spawn(follow(
        Api::<Guarded<AddressPool>>::all(client.clone()),
        config(),
        shared.clone(),
        pools,
        convert::pool,
    ));
}

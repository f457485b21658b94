//! The programs of the control plane, and what they are told.

use crate::{
    certs::file,
    components::Components,
    error::{Doing, Result},
    machine::ServiceSpec,
    state::Paths,
    topology::{POD_CIDR_V4, POD_CIDR_V6, Place, SERVICE_CIDR_V4, SERVICE_CIDR_V6},
};

/// The service that `pause api-server` stops.
pub(crate) const API_SERVER: &str = "kube-apiserver";

/// etcd and the API server, which find each other in whatever order they start.
pub(crate) fn first(paths: &Paths, components: &Components) -> Vec<ServiceSpec> {
    vec![etcd(paths, components), api_server(paths, components)]
}

/// What needs a ready API server: it would wait with growing pauses, or give up.
pub(crate) fn second(paths: &Paths, components: &Components) -> Result<Vec<ServiceSpec>> {
    Ok(vec![
        controller_manager(paths, components),
        scheduler(paths, components),
        coredns(paths, components)?,
    ])
}

fn spec(components: &Components, name: &str, flags: &[(&str, String)]) -> ServiceSpec {
    let program = components.bin(name).display().to_string();
    let flags = flags.iter().map(|(flag, value)| format!("--{flag}={value}"));
    ServiceSpec::new(name, std::iter::once(program).chain(flags))
}

fn etcd(paths: &Paths, components: &Components) -> ServiceSpec {
    let data = paths.machine(Place::ControlPlane).join("etcd");
    spec(
        components,
        "etcd",
        &[
            ("name", "lab".into()),
            ("data-dir", data.display().to_string()),
            ("listen-client-urls", "http://127.0.0.1:2379".into()),
            ("advertise-client-urls", "http://127.0.0.1:2379".into()),
            ("listen-peer-urls", "http://127.0.0.1:2380".into()),
            ("initial-advertise-peer-urls", "http://127.0.0.1:2380".into()),
            ("initial-cluster", "lab=http://127.0.0.1:2380".into()),
            ("unsafe-no-fsync", "true".into()),
            ("log-level", "warn".into()),
        ],
    )
}

fn api_server(paths: &Paths, components: &Components) -> ServiceSpec {
    let pki = |name: &str| file(paths, name).display().to_string();
    spec(
        components,
        API_SERVER,
        &[
            ("etcd-servers", "http://127.0.0.1:2379".into()),
            ("bind-address", "::".into()),
            ("advertise-address", "172.30.0.2".into()),
            ("secure-port", "6443".into()),
            ("tls-cert-file", pki("kube-apiserver.crt")),
            ("tls-private-key-file", pki("kube-apiserver.key")),
            ("client-ca-file", pki("ca.crt")),
            ("authorization-mode", "Node,RBAC".into()),
            ("enable-admission-plugins", "NodeRestriction".into()),
            ("allow-privileged", "true".into()),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc.cluster.local".into(),
            ),
            ("service-account-key-file", pki("service-account.pub")),
            ("service-account-signing-key-file", pki("service-account.key")),
            (
                "service-cluster-ip-range",
                format!("{SERVICE_CIDR_V4},{SERVICE_CIDR_V6}"),
            ),
            (
                "kubelet-client-certificate",
                pki("kube-apiserver-kubelet-client.crt"),
            ),
            ("kubelet-client-key", pki("kube-apiserver-kubelet-client.key")),
            ("kubelet-certificate-authority", pki("ca.crt")),
            ("kubelet-preferred-address-types", "InternalIP".into()),
            // Webhooks are reached at their pods: no service proxy runs beside the API server.
            ("enable-aggregator-routing", "true".into()),
            ("proxy-client-cert-file", pki("front-proxy-client.crt")),
            ("proxy-client-key-file", pki("front-proxy-client.key")),
            ("requestheader-client-ca-file", pki("front-proxy-ca.crt")),
            ("requestheader-allowed-names", "front-proxy-client".into()),
            ("requestheader-username-headers", "X-Remote-User".into()),
            ("requestheader-group-headers", "X-Remote-Group".into()),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-".into()),
        ],
    )
}

fn controller_manager(paths: &Paths, components: &Components) -> ServiceSpec {
    let pki = |name: &str| file(paths, name).display().to_string();
    let kubeconfig = pki("kube-controller-manager.kubeconfig");
    spec(
        components,
        "kube-controller-manager",
        &[
            ("kubeconfig", kubeconfig.clone()),
            ("authentication-kubeconfig", kubeconfig.clone()),
            ("authorization-kubeconfig", kubeconfig),
            ("bind-address", "127.0.0.1".into()),
            ("leader-elect", "false".into()),
            ("use-service-account-credentials", "true".into()),
            ("allocate-node-cidrs", "true".into()),
            ("cluster-cidr", format!("{POD_CIDR_V4},{POD_CIDR_V6}")),
            (
                "service-cluster-ip-range",
                format!("{SERVICE_CIDR_V4},{SERVICE_CIDR_V6}"),
            ),
            ("service-account-private-key-file", pki("service-account.key")),
            ("root-ca-file", pki("ca.crt")),
            ("client-ca-file", pki("ca.crt")),
            ("requestheader-client-ca-file", pki("front-proxy-ca.crt")),
            ("cluster-signing-cert-file", pki("ca.crt")),
            ("cluster-signing-key-file", pki("ca.key")),
        ],
    )
}

fn scheduler(paths: &Paths, components: &Components) -> ServiceSpec {
    let kubeconfig = file(paths, "kube-scheduler.kubeconfig").display().to_string();
    spec(
        components,
        "kube-scheduler",
        &[
            ("kubeconfig", kubeconfig.clone()),
            ("authentication-kubeconfig", kubeconfig.clone()),
            ("authorization-kubeconfig", kubeconfig),
            ("bind-address", "127.0.0.1".into()),
            ("leader-elect", "false".into()),
        ],
    )
}

/// Where CoreDNS says whether it is ready: port on the control plane's address.
pub(crate) const COREDNS_READY_PORT: u16 = 8181;

fn coredns(paths: &Paths, components: &Components) -> Result<ServiceSpec> {
    let kubeconfig = file(paths, "coredns.kubeconfig");
    // There is no world outside the lab: any other name does not exist, which is answered at once. (A block of its
    // own, since `template` comes before `kubernetes` whatever the order in one block.)
    let text = format!(
        "cluster.local in-addr.arpa ip6.arpa {{
    errors
    ready :{COREDNS_READY_PORT}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {}
        pods insecure
        ttl 5
    }}
}}
. {{
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
",
        kubeconfig.display()
    );
    let corefile = paths.machine(Place::ControlPlane).join("Corefile");
    std::fs::write(&corefile, text).doing(format!("write {}", corefile.display()))?;
    let program = components.bin("coredns").display().to_string();
    Ok(ServiceSpec::new(
        "coredns",
        [program, "-conf".into(), corefile.display().to_string()],
    ))
}

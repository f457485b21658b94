//! The programs of a node, and what they are told.

use std::{
    fs,
    io::Write,
    os::unix::net::UnixStream,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    certs::file,
    cgroup,
    components::Components,
    error::{Doing, LabError, Result},
    images::PAUSE,
    lab::Lab,
    machine::{Machine, ServiceSpec, ServiceState},
    net::wait_http_ok,
    progress::Progress,
    state::{KubeProxy, Paths, Shape},
    topology::{POD_CIDR_V4, POD_CIDR_V6, Place, pod_cidrs},
};

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

const KUBE_PROXY: &str = "kube-proxy";

/// Where kube-proxy says whether it is healthy: port on the node's addresses.
pub(crate) const KUBE_PROXY_HEALTH_PORT: u16 = 10256;

/// Writes the configuration of node `n`'s programs and makes its cgroups. The node must be off.
pub(crate) fn prepare(paths: &Paths, shape: &Shape, n: u8) -> Result<()> {
    let place = Place::Node(n);
    let (own, name) = (paths.machine(place), place.name());
    cgroup::remove_node(paths.name(), &name)?;
    cgroup::create(paths.name(), &name)?;
    write(&own.join("containerd.toml"), &containerd_toml())?;
    write(&own.join("cni/net.d/10-lab.conflist"), &cni(n).to_string())?;
    write(&own.join("kubelet.json"), &kubelet(paths, &name).to_string())?;
    write(
        &own.join("kube-proxy.json"),
        &kube_proxy(paths, shape, &name).to_string(),
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).doing(format!("create {}", parent.display()))?;
    }
    fs::write(path, text).doing(format!("write {}", path.display()))
}

/// containerd, which needs nobody.
pub(crate) fn first(paths: &Paths, n: u8) -> ServiceSpec {
    let config = paths.machine(Place::Node(n)).join("containerd.toml");
    ServiceSpec::new(
        "containerd",
        [
            "containerd".to_owned(),
            "--config".into(),
            config.display().to_string(),
        ],
    )
}

/// kubelet and kube-proxy, which need the API server, and containerd to listen.
pub(crate) fn second(paths: &Paths, components: &Components, shape: &Shape, n: u8) -> Vec<ServiceSpec> {
    let place = Place::Node(n);
    let own = paths.machine(place);
    let addresses = place
        .uplink()
        .map(|i| format!("{},{}", i.v4, i.v6))
        .unwrap_or_default();
    let mut services = vec![ServiceSpec::new(
        "kubelet",
        [
            components.bin("kubelet").display().to_string(),
            format!("--config={}", own.join("kubelet.json").display()),
            format!(
                "--kubeconfig={}",
                file(paths, &format!("{}.kubeconfig", place.name())).display()
            ),
            format!("--hostname-override={}", place.name()),
            format!("--node-ip={addresses}"),
            "--root-dir=/var/lib/kubelet".into(),
            "--v=2".into(),
        ],
    )];
    if shape.kube_proxy != KubeProxy::None {
        let config = own.join("kube-proxy.json");
        let program = components.bin(KUBE_PROXY).display().to_string();
        services.push(ServiceSpec::new(
            KUBE_PROXY,
            [program, format!("--config={}", config.display())],
        ));
    }
    services
}

fn containerd_toml() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
"#
    )
}

/// A routed veth for each pod. A bridge would need br_netfilter for Service traffic that stays on the node.
fn cni(n: u8) -> serde_json::Value {
    let (v4, v6) = pod_cidrs(n);
    json!({
        "cniVersion": "0.4.0",
        "name": "lab",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    // Forgotten at a power cycle, as the pods are.
                    "dataDir": "/run/cni/networks",
                    "ranges": [[{"subnet": v4.to_string()}], [{"subnet": v6.to_string()}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
}

fn kubelet(paths: &Paths, name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": file(paths, "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": file(paths, &format!("{name}-serving.crt")),
        "tlsPrivateKeyFile": file(paths, &format!("{name}-serving.key")),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "clusterDomain": "cluster.local",
        "clusterDNS": ["172.30.0.2"],
        "resolvConf": "/etc/resolv.conf",
        "podLogsDir": "/var/log/pods",
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup::root_of(paths.name(), name),
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        "failSwapOn": false,
        // The disk is the host's: how full it is says nothing about this node, and no image is to be deleted for it.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    })
}

fn kube_proxy(paths: &Paths, shape: &Shape, name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": shape.kube_proxy.name(),
        "clientConnection": {"kubeconfig": file(paths, "kube-proxy.kubeconfig")},
        "hostnameOverride": name,
        "clusterCIDR": format!("{POD_CIDR_V4},{POD_CIDR_V6}"),
        // These sysctls are the host's own; inside a network namespace they cannot be written.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": format!("0.0.0.0:{KUBE_PROXY_HEALTH_PORT}"),
    })
}

/// Ends a node's kube-proxy, removes its rules, and starts it in another mode, if there is to be one.
pub(crate) fn switch_kube_proxy(lab: &Lab, machine: &Machine, mode: KubeProxy) -> Result<()> {
    const ENDS_WITHIN: Duration = Duration::from_secs(10);
    let is = |service: &ServiceState| service.name == KUBE_PROXY;
    if machine.services()?.iter().any(|s| is(s) && s.is_running()) {
        machine.end_service(KUBE_PROXY, Signal::SIGTERM, ENDS_WITHIN)?;
    }
    let components = Components::ensure(&Progress::stderr())?;
    let program = components.bin(KUBE_PROXY).display().to_string();
    let what = || format!("removal of kube-proxy's rules on {}", machine.place().name());
    let output = machine
        .command([&program, "--cleanup"])
        .stdin(Stdio::null())
        .output()
        .doing(what())?;
    if !output.status.success() {
        let detail = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(LabError::Command {
            command: what(),
            detail,
        });
    }
    if mode == KubeProxy::None {
        return Ok(());
    }
    let (paths, shape) = (lab.paths(), lab.shape());
    let Place::Node(n) = machine.place() else {
        return Err(LabError::Refused(format!(
            "{} is no node",
            machine.place().name()
        )));
    };
    let shape = Shape {
        kube_proxy: mode,
        ..shape.clone()
    };
    let own = paths.machine(machine.place());
    write(
        &own.join("kube-proxy.json"),
        &kube_proxy(paths, &shape, &machine.place().name()).to_string(),
    )?;
    let spec = second(paths, &components, &shape, n)
        .into_iter()
        .find(|spec| spec.name == KUBE_PROXY);
    spec.map_or(Ok(()), |spec| machine.start_service(spec))?;
    wait_http_ok(
        machine,
        KUBE_PROXY_HEALTH_PORT,
        "/healthz",
        Duration::from_secs(30),
    )
}

/// Waits until containerd accepts connections.
pub(crate) fn wait_containerd(machine: &Machine) -> Result<()> {
    let socket = format!("/proc/{}/root{CONTAINERD_SOCKET}", machine.id().pid);
    let (begun, limit) = (Instant::now(), Duration::from_secs(60));
    while let Err(error) = UnixStream::connect(&socket) {
        let ended = machine
            .services()?
            .into_iter()
            .find(|s| s.name == "containerd" && !s.is_running());
        if ended.is_some() || begun.elapsed() > limit {
            let seen = ended.and_then(|s| s.ended).unwrap_or_else(|| error.to_string());
            let what = format!("containerd on {} (see its log)", machine.place().name());
            return Err(LabError::Timeout {
                what,
                after: begun.elapsed(),
                seen,
            });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Imports a docker archive into a node's containerd.
pub(crate) fn import_image(machine: &Machine, archive: &Path) -> Result<()> {
    let what = || format!("import of {} on {}", archive.display(), machine.place().name());
    // By standard input: the archive may lie in a directory that the node does not see.
    let input = fs::File::open(archive).doing(what())?;
    let output = machine
        .command([
            "ctr",
            "-a",
            CONTAINERD_SOCKET,
            "-n",
            "k8s.io",
            "images",
            "import",
            "-",
        ])
        .stdin(Stdio::from(input))
        .output()
        .doing(what())?;
    if output.status.success() {
        return Ok(());
    }
    let detail = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Command {
        command: what(),
        detail,
    })
}

/// As [`import_image`], unless this very archive was imported here before.
pub(crate) fn import_image_once(paths: &Paths, machine: &Machine, archive: &Path) -> Result<()> {
    let what = || format!("image archive {}", archive.display());
    let meta = fs::metadata(archive).doing(what())?;
    let stamp = format!(
        "{} {} {:?}\n",
        archive.display(),
        meta.len(),
        meta.modified().doing(what())?
    );
    let record = paths.machine(machine.place()).join("imported");
    if fs::read_to_string(&record).is_ok_and(|text| text == stamp) {
        return Ok(());
    }
    import_image(machine, archive)?;
    let mut file = fs::File::create(&record).doing(what())?;
    file.write_all(stamp.as_bytes()).doing(what())
}

//! The same traffic beside kube-proxy in each of its modes, and without one.

use std::cell::Cell;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use fairlead_e2e::KubeProxy;
use fairlead_e2e::product::{install, manifests, wait_for, wire};
use fairlead_e2e::topology::Place;
use serde_json::{Value, json};

use super::fixture::{Fixture, SOON, node};

const POOL: [&str; 2] = ["172.30.0.100-172.30.0.109", "fd00:30::100-fd00:30::10f"];
const EXTERNAL: &str = "172.30.0.105";
const ROLLED_OUT: Duration = Duration::from_secs(120);
const OUTSIDE: [&str; 2] = ["172.31.0.2", "fd00:31::2"];

/// Who programs Services, and the chart's values for it; put back when this is dropped. With it, whether nobody does.
struct Mode<'a>(&'a Fixture, Cell<bool>);

impl<'a> Mode<'a> {
    fn own(f: &'a Fixture) -> Self {
        Self(f, Cell::new(f.lab.shape().kube_proxy == KubeProxy::None))
    }

    fn set(&self, mode: KubeProxy) -> fairlead_e2e::Result<()> {
        let (lab, absent) = (&self.0.lab, mode == KubeProxy::None);
        let values: &[&str] = if absent {
            &[
                "--set=kubeProxy=absent",
                "--set=apiServer.host=172.30.0.2",
                "--set=apiServer.port=6443",
            ]
        } else {
            &[]
        };
        let was_absent = self.1.replace(absent);
        // Where Fairlead is to find the API server by its Service, a kube-proxy must be there first.
        lab.switch_kube_proxy(mode)?;
        if absent != was_absent {
            install::install_chart(lab, values)?;
            install::wait_ready(&self.0.cluster, ROLLED_OUT)?;
        }
        if was_absent && !absent {
            // It tries to open health-check node ports once, and node agents had them then.
            lab.switch_kube_proxy(mode)?;
        }
        Ok(())
    }
}

impl Drop for Mode<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.set(self.0.lab.shape().kube_proxy) {
            eprintln!("back to the lab's own kube-proxy: {error}");
        }
    }
}

/// A Service of both families, on TCP port 80 and UDP port 81 of the web servers with the label `app`.
fn service(f: &Fixture, name: &str, policy: &str) -> Value {
    let mut service = manifests::service(&f.name, name, policy);
    service["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    service["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    service["spec"]["ports"] = json!([
        {"name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP"},
        {"name": "udp", "port": 81, "targetPort": 8081, "protocol": "UDP"},
    ]);
    service
}

fn target(address: &str, port: impl std::fmt::Display) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// Asks the test server by UDP who it is.
fn ask_udp(f: &Fixture, from: Place, address: &str, port: &str) -> Result<String, String> {
    let to = target(address, port);
    let ask = || -> std::io::Result<String> {
        let any = if address.contains(':') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect(&to)?;
        socket.send(b"hostname")?;
        let mut answer = [0; 256];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).trim().to_owned())
    };
    let answer = f.lab.inside(from, ask).map_err(|e| e.to_string())?;
    answer.map_err(|e| e.to_string())
}

/// All that a mode must let through, and whom the pod sees.
fn try_all(f: &Fixture, mode: KubeProxy, vips: &[(&str, Vec<String>)], ports: &Value) {
    let began = Instant::now();
    let curl = |from: Place, address: &str, port: &str, pods: &[&str], client: Option<&str>| {
        let to = target(address, port);
        let what = format!("{mode:?}: {to} from {}", from.name());
        wait_for(&what, SOON, || {
            let answer =
                wire::curl(&f.lab, from, &to, Duration::from_secs(2)).map_err(|e| e.to_string())??;
            let seen = answer.client.trim_matches(['[', ']']).to_owned();
            let right = client.is_none_or(|client| client == seen);
            let wrong = || format!("{} saw {seen}", answer.backend);
            (right && pods.contains(&answer.backend.as_str()))
                .then_some(())
                .ok_or_else(wrong)
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
    };
    let udp = |from: Place, address: &str, port: &str, pods: &[&str]| {
        wait_for(
            &format!("{mode:?}: UDP {address} {port} from {}", from.name()),
            SOON,
            || {
                let answer = ask_udp(f, from, address, port)?;
                pods.contains(&answer.as_str()).then_some(()).ok_or(answer)
            },
        )
        .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
    };
    let (node1, node2, node3) = (node("node1"), node("node2"), node("node3"));
    for (name, addresses) in vips {
        let local = *name == "local";
        let pods: &[&str] = if local {
            &["local-node1"]
        } else {
            &["cluster-node1", "cluster-node2"]
        };
        let node_port = |n: usize| ports[*name]["spec"]["ports"][n]["nodePort"].to_string();
        for (address, outside) in addresses.iter().zip(OUTSIDE) {
            // The client's address is kept with Local, which is served by the node of the pod alone.
            let seen = local.then_some(outside);
            curl(Place::Client, address, "80", pods, seen);
            udp(Place::Client, address, "81", pods);
            curl(Place::LanClient, address, "80", pods, None);
            curl(node1, address, "80", pods, None);
            curl(node3, address, "80", pods, None);
            let six = address.contains(':');
            let at = |place: Place| {
                let uplink = place.uplink().unwrap();
                if six {
                    uplink.v6.to_string()
                } else {
                    uplink.v4.to_string()
                }
            };
            curl(Place::Client, &at(node1), &node_port(0), pods, seen);
            udp(Place::Client, &at(node1), &node_port(1), pods);
            if !local {
                curl(Place::Client, &at(node3), &node_port(0), pods, None);
                curl(node2, &at(node3), &node_port(0), pods, None);
            }
            // From pods: of the node of the endpoint and of another.
            for pod in ["cluster-node1", "cluster-node2"] {
                let url = format!("http://{}/hostname", target(address, 80));
                let argv = ["exec", "-n", &f.name, pod, "--", "curl", "-gsS", "-m", "3", &url];
                let told = wait_for(&format!("{mode:?}: {address} from pod {pod}"), SOON, || {
                    install::run(&mut f.lab.kubectl(argv).unwrap()).map_err(|e| e.to_string())
                })
                .unwrap();
                assert!(pods.contains(&told.trim()), "{told}");
            }
        }
    }
    curl(
        Place::Client,
        EXTERNAL,
        "80",
        &["cluster-node1", "cluster-node2"],
        None,
    );
    curl(node3, EXTERNAL, "80", &["cluster-node1", "cluster-node2"], None);
    // What a load balancer asks: here is an endpoint, there is none, and the proxy works.
    let check = ports["local"]["spec"]["healthCheckNodePort"].to_string();
    for (place, port, path, wanted) in [
        (node1, check.as_str(), "/", "200"),
        (node2, &check, "/", "503"),
        (node1, "10256", "/healthz", "200"),
        (node3, "10256", "/healthz", "200"),
        (node3, "10256", "/livez", "200"),
    ] {
        let url = format!("http://{}:{port}{path}", place.uplink().unwrap().v4);
        wait_for(&format!("{mode:?}: {url} to answer {wanted}"), SOON, || {
            let argv = [
                "curl",
                "-s",
                "-m",
                "2",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                &url,
            ];
            let said = f.lab.exec(Place::LanClient, argv).map_err(|e| e.to_string())?;
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            (said == wanted).then_some(()).ok_or(said)
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
    }
    println!(
        "{mode:?}: all traffic flows, tried in {:.1} s",
        began.elapsed().as_secs_f64()
    );
}

#[test]
fn traffic_flows_beside_every_mode_of_kube_proxy_and_without_one() {
    let f = Fixture::new("modes", &POOL);
    let rule = json!({"policy": "Allow", "namespaces": [f.name]});
    f.set_pool("", &POOL, json!({"externalIPs": rule}));
    for (name, policy, nodes) in [
        ("local", "Local", &["node1"][..]),
        ("cluster", "Cluster", &["node1", "node2"]),
    ] {
        f.cluster.apply(&service(&f, name, policy)).unwrap();
        for node in nodes {
            f.cluster.apply(&manifests::web_pod(&f.name, name, node)).unwrap();
        }
    }
    let external = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": f.name, "name": "external"},
        "spec": {
            "selector": {"app": "cluster"}, "externalIPs": [EXTERNAL],
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    });
    wait_for("external IPs to be allowed", SOON, || {
        f.cluster.apply(&external).map_err(|e| e.to_string())
    })
    .unwrap();
    for pod in ["local-node1", "cluster-node1", "cluster-node2"] {
        f.wait_pod_ready(pod);
    }
    let vips = ["local", "cluster"].map(|name| {
        let addresses = wait_for("both addresses", SOON, || {
            let ingress = f.ingress(name);
            if ingress.len() == 2 {
                Ok(ingress)
            } else {
                Err(format!("{ingress:?}"))
            }
        });
        (name, addresses.unwrap())
    });
    let ports = json!({"local": f.service("local"), "cluster": f.service("cluster")});
    let own = f.lab.shape().kube_proxy;
    try_all(&f, own, &vips, &ports);
    let mode = Mode::own(&f);
    let all = [KubeProxy::Nftables, KubeProxy::Iptables, KubeProxy::None];
    // The lab's own comes last, so that each way back is gone as well.
    for next in all.into_iter().filter(|mode| *mode != own).chain([own]) {
        mode.set(next).unwrap();
        try_all(&f, next, &vips, &ports);
    }
}

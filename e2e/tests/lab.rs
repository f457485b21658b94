//! What the lab promises to everything that is tested on it. Needs a lab that is up, named by `FAIRLEAD_LAB`.
// The helpers are parts of tests, which clippy does not see in a file of their own.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fairlead_e2e::{
    Lab, Progress, UpOptions, announcers::Witness, client::ClientOptions, images::AGNHOST, topology::Place,
};
use k8s_openapi::ByteString;
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

const NODE1: Place = Place::Node(1);
const NODE2: Place = Place::Node(2);

/// The tests share one lab, and some take parts of it away for a while: one at a time.
fn lab() -> (Lab, MutexGuard<'static, ()>) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let name = std::env::var("FAIRLEAD_LAB").unwrap_or_else(|_| {
        eprintln!("these tests need a lab: bring one up (lab up --name X) and name it by FAIRLEAD_LAB=X");
        std::process::exit(1);
    });
    let lab = Lab::open(&name).unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(1);
    });
    (lab, turn)
}

/// A namespace with a netexec pod on each of the first two nodes, and a NodePort Service `web` in front of them.
struct Web<'a> {
    lab: &'a Lab,
    namespace: String,
}

impl<'a> Web<'a> {
    fn new(lab: &'a Lab, name: &str) -> Self {
        let web = Self {
            lab,
            namespace: format!("lab-{name}-{}", std::process::id()),
        };
        let pod = |n: u8| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("web{n}"), "labels": {"app": "web"}},
                "spec": {
                    "nodeName": format!("node{n}"),
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "web", "image": AGNHOST, "args": ["netexec", "--http-port=8080"],
                        "readinessProbe": {"httpGet": {"port": 8080, "path": "/healthz"}, "periodSeconds": 1},
                    }],
                },
            })
        };
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {
                "type": "NodePort", "selector": {"app": "web"}, "ipFamilyPolicy": "PreferDualStack",
                "ports": [{"port": 80, "targetPort": 8080}],
            },
        });
        web.kubectl(&["create", "namespace", &web.namespace]);
        // The account of a new namespace is made by a controller, and no pod can be made before.
        wait("the service account", || {
            web.try_kubectl(&["get", "serviceaccount", "default"])
        });
        web.apply(&[pod(1), pod(2), service]);
        web.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
        web
    }

    fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let arguments = ["-n", &self.namespace]
            .into_iter()
            .chain(arguments.iter().copied());
        run(&mut self.lab.kubectl(arguments).unwrap())
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments)
            .unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    fn apply(&self, objects: &[Value]) {
        self.try_apply(objects).unwrap();
    }

    fn try_apply(&self, objects: &[Value]) -> Result<String, String> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let mut command = self
            .lab
            .kubectl(["-n", &self.namespace, "apply", "-f", "-"])
            .unwrap();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
        outcome(&child.wait_with_output().unwrap())
    }

    /// Runs a shell line in the first pod.
    fn in_pod(&self, line: &str) -> Result<String, String> {
        self.try_kubectl(&["exec", "web1", "--", "/bin/sh", "-c", line])
    }

    fn node_port(&self) -> u16 {
        self.kubectl(&[
            "get",
            "service",
            "web",
            "-o",
            "jsonpath={.spec.ports[0].nodePort}",
        ])
        .parse()
        .unwrap()
    }
}

impl Drop for Web<'_> {
    fn drop(&mut self) {
        let _ = self.try_kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    outcome(&command.stdin(Stdio::null()).output().unwrap())
}

fn outcome(output: &std::process::Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!(
            "{}: {}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        ))
    }
}

/// Tries until it succeeds, for 30 s at most.
fn wait<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(seen) if begun.elapsed() > Duration::from_secs(30) => panic!("no {what} after 30 s: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn ping(lab: &Lab, from: Place, to: Place) -> Result<String, String> {
    let address = to.uplink().unwrap().v4.to_string();
    run(&mut lab
        .command(from, ["ping", "-c", "1", "-W", "1", &address])
        .unwrap())
}

#[test]
fn up_on_a_healthy_lab_returns_at_once() {
    let (lab, _turn) = lab();
    let begun = Instant::now();
    Lab::up(&UpOptions::new(lab.name()), &Progress::stderr()).unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "took {took:?}");
    let status = lab.status().unwrap();
    assert!(status.is_healthy(), "{status}");
}

#[test]
fn pods_resolve_names_and_reach_services() {
    let (lab, _turn) = lab();
    let web = Web::new(&lab, "dns");
    let full = format!("web.{}.svc.cluster.local", web.namespace);
    for url in [
        "http://web/hostname".to_owned(),
        format!("http://{full}/hostname"),
    ] {
        for family in ["-4", "-6"] {
            let line = format!("curl -sS -m 5 {family} {url}");
            let answer = wait("answer of the Service", || web.in_pod(&line));
            assert!(["web1", "web2"].contains(&answer.as_str()), "{line}: {answer}");
        }
    }
    let api = web
        .in_pod("curl -sS -k -m 5 https://kubernetes.default.svc.cluster.local/version")
        .unwrap();
    assert!(api.contains("gitVersion"), "{api}");
    let nowhere = web.in_pod("curl -sS -m 5 http://nowhere.example/").unwrap_err();
    assert!(nowhere.contains("Could not resolve host"), "{nowhere}");
}

#[test]
fn exec_logs_port_forward_and_run() {
    let (lab, _turn) = lab();
    let web = Web::new(&lab, "kubectl");
    assert_eq!(web.in_pod("hostname").unwrap(), "web1");
    let logs = web.kubectl(&["logs", "web2"]);
    assert!(logs.contains("Started HTTP server"), "{logs}");

    let mut forward = lab
        .kubectl(["-n", &web.namespace, "port-forward", "pod/web2", ":8080"])
        .unwrap();
    let mut forward = forward.stdout(Stdio::piped()).spawn().unwrap();
    // Kept until the end: kubectl goes on writing to it.
    let mut said = BufReader::new(forward.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let address = line
        .split_whitespace()
        .nth(2)
        .and_then(|word| word.parse::<SocketAddr>().ok());
    let answer = address.map(|address| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    forward.kill().unwrap();
    forward.wait().unwrap();
    assert!(
        answer.as_ref().is_some_and(|a| a.ends_with("web2")),
        "{line:?}: {answer:?}"
    );

    // What a container says before kubectl is attached is lost, so it waits to be spoken to.
    let image = format!("--image={AGNHOST}");
    let script = "read line; echo heard $line; /agnhost dns-suffix";
    let run = [
        "-n",
        &web.namespace,
        "run",
        "once",
        &image,
        "--restart=Never",
        "--rm",
        "-i",
        "--quiet",
    ];
    let mut run = lab
        .kubectl(run.into_iter().chain(["--command", "--", "sh", "-c", script]))
        .unwrap();
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    run.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let said = String::from_utf8(run.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("heard hello"), "{said}");
    assert!(said.contains("svc.cluster.local"), "{said}");
}

#[test]
fn the_api_server_reaches_webhooks_in_pods() {
    let (lab, _turn) = lab();
    let web = Web::new(&lab, "webhook");
    let namespace = &web.namespace;
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec![format!("hook.{namespace}.svc")];
    let certificate = CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    web.apply(&[
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hook"},
            "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()},
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hook", "labels": {"app": "hook"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "volumes": [{"name": "tls", "secret": {"secretName": "hook"}}],
                "containers": [{
                    "name": "hook", "image": AGNHOST,
                    "args": ["webhook", "--tls-cert-file=/tls/tls.crt", "--tls-private-key-file=/tls/tls.key", "--port=8443"],
                    "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
                    "readinessProbe": {
                        "httpGet": {"port": 8443, "path": "/readyz", "scheme": "HTTPS"}, "periodSeconds": 1,
                    },
                }],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"},
            "spec": {"selector": {"app": "hook"}, "ports": [{"port": 443, "targetPort": 8443}]},
        }),
    ]);
    web.kubectl(&["wait", "--for=condition=Ready", "pod/hook", "--timeout=60s"]);
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [{
            "name": "deny.lab.fairlead.dev", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Ignore",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
            "clientConfig": {
                "service": {"namespace": namespace, "name": "hook", "path": "/always-deny"},
                "caBundle": ByteString(issuer.pem().into_bytes()),
            },
        }],
    });
    web.apply(&[configuration]);
    // The failure policy lets everything pass if the webhook is not reached, so a denial is its own.
    let denial = wait("denial", || {
        match web.try_kubectl(&["create", "configmap", "probe"]) {
            Err(denial) if denial.contains("deny.lab.fairlead.dev") => Ok(denial),
            other => {
                let _ = web.try_kubectl(&["delete", "configmap", "probe"]);
                Err(format!("{other:?}"))
            }
        }
    });
    web.kubectl(&["delete", "validatingwebhookconfiguration", namespace]);
    assert!(denial.contains("this webhook denies all requests"), "{denial}");
}

#[test]
fn a_cut_cable_stops_packets_and_the_client_measures_the_gap() {
    let (lab, _turn) = lab();
    let web = Web::new(&lab, "cut");
    let target = SocketAddr::from((NODE1.uplink().unwrap().v4, web.node_port()));
    // Only the node's own pod, and the client's own address: no other node's cable is on the way.
    web.kubectl(&[
        "patch",
        "service",
        "web",
        "-p",
        r#"{"spec":{"externalTrafficPolicy":"Local"}}"#,
    ]);
    let client = Place::Client.uplink().unwrap().v4;
    wait("answer that saw the client's address", || {
        let url = format!("http://{target}/clientip");
        let seen = run(&mut lab
            .command(Place::Client, ["curl", "-sS", "-m", "1", &url])
            .unwrap())?;
        if seen.starts_with(&client.to_string()) {
            Ok(())
        } else {
            Err(seen)
        }
    });
    let mut options = ClientOptions::new(target);
    options.hold = 1;
    let running = lab.start_client(Place::Client, &options).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    lab.cut(NODE1).unwrap();
    assert!(
        lab.status()
            .unwrap()
            .machines
            .iter()
            .any(|m| m.name == "node1" && m.cut)
    );
    ping(&lab, Place::LanClient, NODE1).unwrap_err();
    let cut_for = Duration::from_millis(1500);
    std::thread::sleep(cut_for);
    lab.plug(NODE1).unwrap();
    wait("ping over the plugged cable", || {
        ping(&lab, Place::LanClient, NODE1)
    });
    std::thread::sleep(Duration::from_millis(1500));
    let report = running.stop().unwrap();
    let gap = Duration::from_millis(report.longest_gap.ms);
    assert!(
        gap > cut_for && gap < cut_for + Duration::from_secs(6),
        "{report}"
    );
    assert_eq!(report.backends.keys().collect::<Vec<_>>(), ["web1"], "{report}");
    assert!(report.clients.keys().all(|seen| *seen == client), "{report}");
    assert!(report.failed > 0 && report.good > 50, "{report}");
}

#[test]
fn a_capture_shows_who_answers() {
    let (lab, _turn) = lab();
    let address = NODE2.uplink().unwrap().v4;
    let filter = format!("arp and host {address}");
    let at_switch = lab.capture(Place::Switch, &filter).unwrap();
    let nothing = lab.capture(NODE2, "udp port 9").unwrap();
    run(&mut lab
        .command(
            Place::LanClient,
            ["arping", "-c", "1", "-I", "eth0", &address.to_string()],
        )
        .unwrap())
    .unwrap();
    let lines = at_switch.stop().unwrap();
    let reply = format!("Reply {address} is-at {}", NODE2.uplink().unwrap().mac);
    assert!(
        lines.iter().any(|line| line.contains(&reply)),
        "no {reply:?} in {lines:?}"
    );
    assert_eq!(nothing.stop().unwrap(), [""; 0]);
    let error = lab.capture(NODE2, "no such filter").unwrap_err().to_string();
    assert!(
        error.contains("syntax error") || error.contains("can't parse"),
        "{error}"
    );
}

#[test]
fn a_node_loses_power_and_comes_back() {
    let (lab, _turn) = lab();
    let web = Web::new(&lab, "power");
    let boot = || web.kubectl(&["get", "node", "node2", "-o", "jsonpath={.status.nodeInfo.bootID}"]);
    let before = boot();
    let held = lab.machine(NODE2).unwrap();
    let begun = Instant::now();
    lab.power_off(NODE2).unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "took {:?}",
        begun.elapsed()
    );
    assert!(!held.id().is_alive());
    ping(&lab, Place::LanClient, NODE2).unwrap_err();
    assert!(lab.machine(NODE2).is_err());
    lab.power_on(NODE2, &Progress::stderr()).unwrap();
    assert_ne!(
        boot(),
        before,
        "the kubelet did not see that its machine was started anew"
    );
    wait("restarted pod", || {
        let path =
            "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
        let state = web.kubectl(&["get", "pod", "web2", "-o", path]);
        if state == "1 true" { Ok(()) } else { Err(state) }
    });
    let url = format!(
        "http://{}:{}/hostname",
        NODE2.uplink().unwrap().v4,
        web.node_port()
    );
    wait("answer at the node port", || {
        run(&mut lab
            .command(Place::Client, ["curl", "-sS", "-m", "2", &url])
            .unwrap())
    });
}

#[test]
fn a_paused_api_server_is_silent_and_goes_on() {
    let (lab, _turn) = lab();
    let get = || {
        run(&mut lab
            .kubectl(["get", "namespace", "default", "--request-timeout=2s"])
            .unwrap())
    };
    get().unwrap();
    lab.pause_api_server().unwrap();
    let silent = get();
    let status = lab.status();
    lab.resume_api_server().unwrap();
    silent.unwrap_err();
    assert_eq!(status.unwrap().api, "no answer");
    wait("answer of the API server", get);
}

#[test]
fn a_stopped_service_stays_stopped_until_it_is_restarted() {
    let (lab, _turn) = lab();
    let proxy = |lab: &Lab| {
        lab.services(NODE1)
            .unwrap()
            .into_iter()
            .find(|s| s.name == "kube-proxy")
    };
    if proxy(&lab).is_none() {
        eprintln!("this lab has no kube-proxy: nothing to stop");
        return;
    }
    lab.machine(NODE1)
        .unwrap()
        .end_service("kube-proxy", Signal::SIGTERM, Duration::from_secs(10))
        .unwrap();
    assert!(proxy(&lab).is_some_and(|s| !s.is_running()));
    assert!(!lab.status().unwrap().is_healthy());
    lab.restart_service(NODE1, "kube-proxy").unwrap();
    assert!(proxy(&lab).is_some_and(|s| s.is_running()));
    let address = NODE1.uplink().unwrap().v4;
    wait("health of kube-proxy", || {
        let url = format!("http://{address}:10256/healthz");
        run(&mut lab.command(NODE1, ["curl", "-sSf", "-m", "1", &url]).unwrap())
    });
    assert!(lab.logs("node1/kube-proxy").unwrap().lines().count() > 5);
    assert!(
        lab.logs("node1/nothing")
            .unwrap_err()
            .to_string()
            .contains("kubelet")
    );
}

#[test]
fn the_witness_sees_who_has_an_address_and_a_split_switch() {
    let (lab, _turn) = lab();
    let of = |place: Place| {
        let interface = place.uplink().unwrap();
        [IpAddr::from(interface.v4), IpAddr::from(interface.v6)]
    };
    let nobody: IpAddr = "172.30.0.99".parse().unwrap();
    let addresses: Vec<IpAddr> = [of(NODE1), of(NODE2)]
        .concat()
        .into_iter()
        .chain([nobody])
        .collect();
    let (span, limit) = (Duration::from_millis(500), Duration::from_secs(10));
    let witness = Witness::start(&lab, &addresses, Duration::from_millis(20)).unwrap();
    let settled = |place: Place| {
        for address in of(place) {
            let own = |who: &str| who == place.name();
            witness.wait_settled(address, span, limit, own).unwrap();
        }
    };
    settled(NODE1);
    settled(NODE2);
    // With node1 on another switch nobody here has its addresses.
    lab.split(&[NODE1]).unwrap();
    let [v4, v6] = of(NODE1);
    for address in [v4, v6] {
        wait("node1 to be silent", || {
            match witness.history().answering(address) {
                who if who.is_empty() => Ok(()),
                who => Err(format!("{who:?}")),
            }
        });
    }
    settled(NODE2);
    assert!(lab.split(&[NODE2]).is_err(), "it is split already");
    lab.join().unwrap();
    lab.join().unwrap();
    settled(NODE1);
    let history = witness.history();
    assert!(history.ever(nobody).is_empty());
    assert_eq!(history.ever(v6), ["node1".to_owned()].into());
    assert!(ping(&lab, NODE2, NODE1).is_ok());
}

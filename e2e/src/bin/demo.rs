//! The main job, shown: a bare-metal cluster on this machine, Fairlead installed on it by Helm, a Service that gets an
//! external address, a client outside the cluster that curls it, and the announcing node cordoned meanwhile.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use fairlead_e2e::client::ClientOptions;
use fairlead_e2e::product::install::{self, RELEASE, run, tree};
use fairlead_e2e::product::{Cluster, wait_for, wire};
use fairlead_e2e::topology::Place;
use fairlead_e2e::{Lab, Progress, UpOptions};

const SERVICE: &str = "/api/v1/namespaces/default/services/web";

/// Brings up a cluster in network namespaces of this machine, installs Fairlead, and shows what it does
#[derive(Parser)]
struct Args {
    /// Name of the lab to bring up; it stays up afterwards
    #[arg(long, default_value = "demo")]
    name: String,
}

fn main() -> ExitCode {
    match demo(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &Args) -> Result<()> {
    let progress = Progress::stderr();
    let lab = Lab::up(&UpOptions::new(&args.name), &progress).context("bringing the lab up")?;
    let cluster = Cluster::connect(&lab)?;
    progress.step("installing Fairlead with Helm", || -> Result<()> {
        install::install(&lab)?;
        install::wait_ready(&cluster, Duration::from_secs(120))?;
        Ok(())
    })?;
    let manifests = ["pool", "advertisement", "app"].map(|name| tree().join(format!("e2e/demo/{name}.yaml")));
    let address = progress.step(
        "applying a pool, an advertisement and an app with a Service",
        || -> Result<_> {
            for manifest in &manifests {
                run(&mut lab.kubectl(["apply", "-f", &manifest.to_string_lossy()])?)?;
            }
            let address = wait_for(
                "the Service to have an external address",
                Duration::from_secs(30),
                || external_address(&cluster),
            )?;
            wait_for("the web servers to be ready", Duration::from_secs(120), || {
                rolled_out(&cluster)
            })?;
            Ok(address)
        },
    )?;

    let target = format!("{address}:80");
    let answer = wait_for("the first answer", Duration::from_secs(30), || {
        let limit = Duration::from_secs(2);
        wire::curl(&lab, Place::Client, &target, limit).map_err(|error| error.to_string())?
    })?;
    println!("\n$ kubectl get service web");
    print!("{}", run(&mut lab.kubectl(["get", "service", "web"])?)?);
    println!("\n$ curl http://{address}/hostname http://{address}/clientip      # on the outside client");
    println!("{}\n{}", answer.backend, answer.client);
    let own = Place::Client.uplink().context("the client has no address")?.v4;
    ensure!(
        answer.client == own.to_string(),
        "the pod saw {} and not the client's own {own}",
        answer.client
    );
    println!("\nThe pod saw the client's own address.");

    cordon(&lab, address)?;
    let (name, labtool) = (lab.name(), "target/debug/lab");
    println!(
        "
The cluster stays up. To look around:
  {labtool} kubectl --name {name} get addresspools,l2advertisements,nodestates
  {labtool} kubectl --name {name} describe service web
  {labtool} exec --name {name} client -- curl -s http://{address}/hostname
  {labtool} exec --name {name} node1 -- nft list table inet fairlead
  {labtool} capture --name {name} node1 arp
  {labtool} kubectl --name {name} logs -n fairlead-system daemonset/{RELEASE}-speaker
  {labtool} --help
End it with: make demo-down"
    );
    Ok(())
}

/// Cordons the announcing node under load, and tells what the client noticed.
fn cordon(lab: &Lab, address: Ipv4Addr) -> Result<()> {
    let before = one_announcer(lab, address)?;
    println!("\nOn the wire, {before} answers ARP for {address}. Cordoning it, while the client opens a new");
    println!("connection every 20 ms:");
    let client = lab.start_client(
        Place::Client,
        &ClientOptions::new(SocketAddr::from((address, 80))),
    )?;
    std::thread::sleep(Duration::from_secs(2));
    println!("\n$ kubectl cordon {before}");
    print!("{}", run(&mut lab.kubectl(["cordon", &before])?)?);
    let after = wait_for(
        "another node to announce the address",
        Duration::from_secs(20),
        || match one_announcer(lab, address) {
            Ok(node) if node != before => Ok(node),
            Ok(node) => Err(format!("{node} still announces it")),
            Err(error) => Err(error.to_string()),
        },
    )?;
    std::thread::sleep(Duration::from_secs(2));
    let report = client.stop()?;
    print!("{}", run(&mut lab.kubectl(["uncordon", &before])?)?);
    println!("\nannounced before: {before}");
    println!("announced after:  {after}");
    println!("longest gap between good answers: {} ms", report.longest_gap.ms);
    println!("failed requests: {} of {}", report.failed, report.requests);
    println!("({report})");
    if report.failed != 0 {
        bail!("{} requests failed while the address moved", report.failed);
    }
    Ok(())
}

fn one_announcer(lab: &Lab, address: Ipv4Addr) -> Result<String> {
    let mut announcers = wire::announcers(lab, address)?;
    match (announcers.pop(), announcers.is_empty()) {
        (Some(node), true) => Ok(node),
        (None, _) => bail!("nobody answers ARP for {address}"),
        (Some(node), false) => bail!(
            "several nodes answer ARP for {address}: {node}, {}",
            announcers.join(", ")
        ),
    }
}

fn external_address(cluster: &Cluster) -> Result<Ipv4Addr, String> {
    let service = cluster
        .get(SERVICE)
        .map_err(|error| error.to_string())?
        .unwrap_or_default();
    let status = &service["status"];
    let address = status["loadBalancer"]["ingress"][0]["ip"]
        .as_str()
        .and_then(|ip| ip.parse().ok());
    address.ok_or_else(|| status.to_string())
}

fn rolled_out(cluster: &Cluster) -> Result<(), String> {
    let path = "/apis/apps/v1/namespaces/default/deployments/web";
    let deployment = cluster
        .get(path)
        .map_err(|error| error.to_string())?
        .unwrap_or_default();
    let (wanted, ready) = (
        &deployment["spec"]["replicas"],
        &deployment["status"]["readyReplicas"],
    );
    if wanted == ready {
        Ok(())
    } else {
        Err(format!("{ready} of {wanted} ready"))
    }
}

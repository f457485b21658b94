//! `lab`: a real bare-metal Kubernetes cluster on one Linux machine.

use std::{
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use fairlead_e2e::{
    KubeProxy, Lab, Paths, Progress, UpOptions, capture,
    client::{self, ClientArgs},
    components::Components,
    forward,
    images::agnhost_image,
    machine,
    preflight::preflight,
    routers::{self, Nodes},
    topology::Place,
};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

/// A real bare-metal Kubernetes cluster on one Linux machine, of network namespaces.
///
/// A switch, nodes with a real kubelet, containerd and kube-proxy each, a control plane, a router that is the nodes'
/// gateway and a second one, a client behind each router and one on the nodes' own segment. Must be run as root.
#[derive(Parser)]
#[command(name = "lab", after_help = TOPOLOGY)]
struct Arguments {
    /// Which lab.
    #[arg(long, global = true, env = "FAIRLEAD_LAB", default_value = "fairlead")]
    name: String,
    #[command(subcommand)]
    command: Action,
}

const TOPOLOGY: &str = "\
PLACE is one of node1…nodeN, client, client2, lan-client, router, router2, control-plane, switch.

  client  ── 172.31.0.0/24 ── router  ──┬─ switch ─┬─ control-plane   172.30.0.2
  172.31.0.2   fd00:31::/64   172.30.0.1│          ├─ node1 … nodeN   172.30.0.11 …
  client2 ── 172.32.0.0/24 ── router2 ──┘          └─ lan-client      172.30.0.200
  172.32.0.2   fd00:32::/64   172.30.0.3";

#[derive(Subcommand)]
enum Action {
    /// Bring the lab up, or whatever of it is missing or broken.
    Up {
        /// Number of nodes, 1 to 8 [default of a new lab: 3].
        #[arg(long)]
        nodes: Option<u8>,
        /// Who programs Services: nftables, iptables or none [default of a new lab: nftables].
        #[arg(long, value_name = "MODE")]
        kube_proxy: Option<KubeProxy>,
    },
    /// End the lab and leave nothing behind, whatever state it is in.
    Down,
    /// Tell how machines, services, cables and nodes stand; the exit status is 0 if all is well.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run kubectl for this cluster.
    #[command(disable_help_flag = true)]
    Kubectl {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run helm for this cluster.
    #[command(disable_help_flag = true)]
    Helm {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command inside a place.
    Exec {
        /// Where.
        place: Place,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Import a docker archive on every node.
    LoadImage {
        /// The tar file.
        archive: PathBuf,
    },
    /// Pull a place's cable, at the switch.
    Cut {
        /// Whose.
        place: Place,
    },
    /// Plug a place's cable in again.
    Plug {
        /// Whose.
        place: Place,
    },
    /// Let the switch fall into two: these places reach one another, and none of the rest.
    Split {
        /// Which.
        #[arg(required = true)]
        places: Vec<Place>,
    },
    /// Make the switch whole again.
    Join,
    /// Take the power from a place: its cable goes, and every process of it ends at once.
    PowerOff {
        /// Which.
        place: Place,
    },
    /// Power a place on again, and wait until it works.
    PowerOn {
        /// Which.
        place: Place,
    },
    /// Stop a program where it stands: connections to it stay, answers do not come.
    Pause {
        /// What to pause.
        #[arg(value_parser = ["api-server"])]
        what: String,
    },
    /// Let a paused program go on.
    Resume {
        /// What to resume.
        #[arg(value_parser = ["api-server"])]
        what: String,
    },
    /// Start or stop BGP on the routers: FRR (AS 64512) on router, BIRD (AS 64513) on router2. They take every node that
    /// connects with AS 64500; ask them with `lab exec router vtysh` and `lab exec router2 birdc`.
    Routers {
        #[arg(value_parser = ["start", "stop"])]
        what: String,
        /// Watch the sessions with BFD, 100 ms × 3.
        #[arg(long)]
        bfd: bool,
        /// The sessions' password.
        #[arg(long)]
        password: Option<String>,
    },
    /// Print the packets that pass a place's uplink (at the switch: the bridge), until interrupted.
    Capture {
        /// Where.
        place: Place,
        /// Another interface of the place.
        #[arg(long, short)]
        interface: Option<String>,
        /// A filter in tcpdump's language, such as `arp or port 80`.
        #[arg(trailing_var_arg = true, required = true)]
        filter: Vec<String>,
    },
    /// Print a service's log (`node1/kubelet`), or which logs a place has (`node1`).
    Logs {
        /// PLACE or PLACE/SERVICE.
        who: String,
        /// Go on printing what is added.
        #[arg(long, short)]
        follow: bool,
    },
    /// Measure as a client: a new connection every 20 ms; at the end, the longest gap without a good answer.
    Client {
        /// In this place of the lab. By default in the network this command is started in.
        #[arg(long, value_name = "PLACE")]
        at: Option<Place>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Print the path of the administrator's kubeconfig.
    Kubeconfig {
        /// As a line for the shell.
        #[arg(long)]
        export: bool,
    },
    /// Build Kubernetes' programs and the test image, if they are not in the cache yet.
    Build,
    /// Run one of the lab's programs that needs no cluster, such as `helm lint`; it is built if it is not in the cache.
    #[command(disable_help_flag = true)]
    Tool {
        /// helm, kubectl, …
        program: String,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    #[command(name = machine::SUBCOMMAND, hide = true)]
    Machine {
        lab: String,
        place: Place,
        #[arg(long)]
        init: bool,
    },
    #[command(name = forward::SUBCOMMAND, hide = true)]
    Forward {
        lab: String,
        init: i32,
        port: u16,
        #[arg(long)]
        serve: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { name, command }: Arguments) -> Result<ExitCode> {
    let open = || Lab::open(&name);
    let progress = Progress::stderr();
    match command {
        Action::Up { nodes, kube_proxy } => up(
            UpOptions {
                nodes,
                kube_proxy,
                ..UpOptions::new(name)
            },
            &progress,
        )?,
        Action::Down => fairlead_e2e::down(&name, &progress)?,
        Action::Status { json } => return status(&open()?, json),
        Action::Kubectl { arguments } => return become_command(open()?.kubectl(arguments)?),
        Action::Helm { arguments } => return become_command(open()?.helm(arguments)?),
        Action::Exec { place, command } => return become_command(open()?.command(place, command)?),
        Action::LoadImage { archive } => {
            let lab = open()?;
            progress.step(&format!("importing {}", archive.display()), || {
                lab.load_image(&archive)
            })?;
        }
        Action::Cut { place } => open()?.cut(place)?,
        Action::Plug { place } => open()?.plug(place)?,
        Action::Split { places } => open()?.split(&places)?,
        Action::Join => open()?.join()?,
        Action::PowerOff { place } => open()?.power_off(place)?,
        Action::PowerOn { place } => open()?.power_on(place, &progress)?,
        Action::Pause { .. } => open()?.pause_api_server()?,
        Action::Resume { .. } => open()?.resume_api_server()?,
        Action::Routers { what, .. } if what == "stop" => routers::stop_both(&open()?),
        Action::Routers { bfd, password, .. } => {
            let nodes = Nodes {
                bfd,
                password,
                ..Nodes::default()
            };
            progress.step("starting FRR and BIRD", || routers::start_both(&open()?, &nodes))?;
        }
        Action::Capture {
            place,
            interface,
            filter,
        } => {
            let argv = capture::command(place, interface.as_deref(), &filter.join(" "));
            return become_command(open()?.command(place, argv)?);
        }
        Action::Client { at: None, client } => runtime()?.block_on(client::run(&client))?,
        Action::Client {
            at: Some(place),
            client,
        } => measure_at(&open()?, place, &client)?,
        Action::Logs { who, follow } => return logs(&open()?, &who, follow),
        Action::Kubeconfig { export } => {
            let path = open()?.kubeconfig();
            println!(
                "{}{}",
                if export { "export KUBECONFIG=" } else { "" },
                path.display()
            );
        }
        Action::Build => {
            preflight(&progress)?;
            let components = Components::ensure(&progress)?;
            agnhost_image(&components)?;
        }
        Action::Tool { program, arguments } => {
            let mut command = Command::new(Components::ensure(&progress)?.bin(&program));
            command.args(arguments);
            return become_command(command);
        }
        Action::Machine {
            lab,
            place,
            init: false,
        } => machine::launch(&Paths::new(&lab)?, place)?,
        Action::Machine {
            lab,
            place,
            init: true,
        } => machine::run(&Paths::new(&lab)?, place)?,
        Action::Forward {
            lab,
            init,
            port,
            serve: false,
        } => forward::launch(&Paths::new(&lab)?, init, port)?,
        Action::Forward {
            init,
            port,
            serve: true,
            ..
        } => forward::serve(init, port)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Measures in a place of the lab until it is done, or this process is asked to end.
fn measure_at(lab: &Lab, place: Place, arguments: &ClientArgs) -> Result<()> {
    let runtime = runtime()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let running = lab.start_client(place, &arguments.options)?;
    runtime.block_on(async {
        while running.is_running()? {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
        anyhow::Ok(())
    })?;
    let report = running.stop()?;
    if arguments.json {
        eprintln!("{report}");
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

fn up(options: UpOptions, progress: &Progress) -> Result<()> {
    let lab = Lab::up(&options, progress)?;
    let shape = lab.shape();
    let name = lab.name();
    println!(
        "lab {name} is up: {} nodes, kube-proxy {}",
        shape.nodes,
        shape.kube_proxy.name()
    );
    println!("  export KUBECONFIG={}", lab.kubeconfig().display());
    Ok(())
}

fn status(lab: &Lab, json: bool) -> Result<ExitCode> {
    let status = lab.status()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{status}");
    }
    Ok(if status.is_healthy() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn logs(lab: &Lab, who: &str, follow: bool) -> Result<ExitCode> {
    if !who.contains('/') {
        for service in lab.log_names(who.parse()?) {
            println!("{who}/{service}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut command = Command::new(if follow { "tail" } else { "cat" });
    if follow {
        command.args(["-n", "50", "-F"]);
    }
    command.arg(lab.log_path(who)?);
    become_command(command)
}

/// Turns this process into the command, so that its standard streams, signals and exit status are the caller's.
fn become_command(mut command: Command) -> Result<ExitCode> {
    let error = command.exec();
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() == std::io::ErrorKind::NotFound {
        bail!("{program} is not installed");
    }
    Err(error).context(program)
}

//! The inside of a machine: `lab __machine NAME PLACE`, which makes the namespaces and starts the machine's pid 1.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{SigSet, Signal},
    unistd::{sethostname, setsid},
};

use super::{
    mounts,
    protocol::{Reply, Request},
    supervisor::Supervisor,
};
use crate::{
    error::{Doing, Result},
    state::Paths,
    topology::{MAX_NODES, Place},
};

/// The hidden subcommand that becomes a machine.
pub const SUBCOMMAND: &str = "__machine";
/// Argument that makes the subcommand pid 1 of namespaces already made.
pub const AS_INIT: &str = "--init";

/// Makes the namespaces, starts pid 1 in them and prints its pid as seen from the host.
///
/// # Errors
/// When namespaces cannot be made or the program cannot be started again.
pub fn launch(paths: &Paths, place: Place) -> Result<()> {
    // No terminal and no process group in common with whoever asked for the machine.
    setsid().doing("setsid")?;
    let name = place.name();
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    unshare(flags).doing(format!("make namespaces for {name}"))?;
    let log = paths.log(place, "init");
    let log = File::create(&log).doing(format!("create {}", log.display()))?;
    let child = Command::new(paths.program())
        .args([SUBCOMMAND, paths.name(), &name, AS_INIT])
        .stdin(Stdio::null())
        .stdout(log.try_clone().doing("duplicate a file descriptor")?)
        .stderr(log)
        .spawn()
        .doing(format!("start the init of {name}"))?;
    println!("{}", child.id());
    Ok(())
}

/// Pid 1 of a machine: sets it up, then starts, signals and reaps services until it is killed.
///
/// # Errors
/// When the machine cannot be set up. Once it serves it does not return.
pub fn run(paths: &Paths, place: Place) -> Result<()> {
    // Before any thread exists, so that all have it blocked and only `reap` takes it.
    let mut chld = SigSet::empty();
    chld.add(Signal::SIGCHLD);
    chld.thread_block().doing("block SIGCHLD")?;

    let own = paths.machine(place);
    mounts::set_up(place, paths.root(), &own, &hosts_file())?;
    sethostname(place.name()).doing("set host name")?;
    network_settings(place)?;

    let supervisor = Arc::new(Supervisor::new(own.join("logs")));
    let reaper = Arc::clone(&supervisor);
    std::thread::Builder::new()
        .name("reaper".into())
        .spawn(move || reaper.reap())
        .doing("start a thread")?;

    // The socket is made last: that it answers says that the machine is ready.
    let socket = paths.socket(place);
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).doing(format!("bind {}", socket.display()))?;
    for connection in listener.incoming() {
        match connection.map(|stream| exchange(&supervisor, &stream)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => eprintln!("control connection: {error}"),
        }
    }
    Ok(())
}

fn exchange(supervisor: &Supervisor, stream: &UnixStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    if line.is_empty() {
        return Ok(());
    }
    let reply = match serde_json::from_str::<Request>(&line) {
        Ok(request) => supervisor.answer(request),
        Err(error) => Reply::Failed(error.to_string()),
    };
    let mut answer = serde_json::to_vec(&reply)?;
    answer.push(b'\n');
    (&mut &*stream).write_all(&answer)
}

fn hosts_file() -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for place in Place::all(MAX_NODES) {
        if let Some(uplink) = place.uplink() {
            text += &format!(
                "{} {name}\n{} {name}\n",
                uplink.v4,
                uplink.v6,
                name = place.name()
            );
        }
    }
    text
}

/// Settings of this network namespace; `/proc/sys/net` is that of whoever opens it.
fn network_settings(place: Place) -> Result<()> {
    let mut settings = vec![];
    for scope in ["all", "default"] {
        settings.push((format!("ipv4/conf/{scope}/rp_filter"), "0"));
        // No duplicate address detection: it would cost a second or two at every start.
        settings.push((format!("ipv6/conf/{scope}/accept_dad"), "0"));
        settings.push((format!("ipv6/conf/{scope}/accept_ra"), "0"));
        if place.forwards() {
            settings.push((format!("ipv6/conf/{scope}/forwarding"), "1"));
        }
        if place == Place::Switch {
            settings.push((format!("ipv6/conf/{scope}/disable_ipv6"), "1"));
        }
    }
    if place.forwards() {
        settings.push(("ipv4/ip_forward".into(), "1"));
    }
    if place.is_router() {
        // Of several next hops each connection keeps one, by addresses and ports.
        for family in ["ipv4", "ipv6"] {
            settings.push((format!("{family}/fib_multipath_hash_policy"), "1"));
        }
    }
    for (key, value) in settings {
        fs::write(format!("/proc/sys/net/{key}"), value).doing(format!("set net/{key}"))?;
    }
    Ok(())
}

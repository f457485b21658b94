//! The way from the host to the API server: a small process that listens on the host's loopback and dials inside the
//! control plane's network namespace.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    unistd::setsid,
};

use crate::{
    error::{Doing, LabError, Result},
    machine::Machine,
    process::find_marked,
    state::Paths,
    topology::Place,
};

/// The hidden subcommand that becomes the forwarder: `__forward NAME INIT-PID PORT`.
pub const SUBCOMMAND: &str = "__forward";
/// Argument that makes the subcommand the forwarder itself, not its starter.
pub const AS_SERVER: &str = "--serve";

const API_SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 6443);

fn listen_address(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

/// Starts the forwarder, unless the one for this control plane runs.
pub(crate) fn ensure(paths: &Paths, control_plane: &Machine, port: u16) -> Result<()> {
    let (pid, port_text) = (control_plane.id().pid.to_string(), port.to_string());
    let marker = [paths.name(), &pid, &port_text];
    if !find_marked(&paths.program(), SUBCOMMAND, &marker).is_empty() {
        return Ok(());
    }
    // One that leads to a control plane which is no more.
    end(paths)?;
    let mut command = Command::new(paths.program());
    command.arg(SUBCOMMAND).args(marker).current_dir("/");
    crate::net::run(command, "start of the forwarder to the API server")?;
    let (begun, limit) = (Instant::now(), Duration::from_secs(5));
    while let Err(error) = TcpStream::connect(listen_address(port)) {
        if begun.elapsed() > limit {
            let what = format!("the forwarder on {}", listen_address(port));
            let seen = format!(
                "{error}; {}",
                paths.read_log(Place::ControlPlane, "forwarder").trim()
            );
            return Err(LabError::Timeout {
                what,
                after: limit,
                seen,
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Ends the lab's forwarder.
pub(crate) fn end(paths: &Paths) -> Result<()> {
    loop {
        let found = find_marked(&paths.program(), SUBCOMMAND, &[paths.name()]);
        if found.is_empty() {
            return Ok(());
        }
        for process in found {
            process.kill();
            if !process.wait_gone(Duration::from_secs(5)) {
                let what = format!("forwarder {} to end", process.pid);
                return Err(LabError::Timeout {
                    what,
                    after: Duration::from_secs(5),
                    seen: "it runs".into(),
                });
            }
        }
    }
}

/// A port of the host's loopback that nobody has now.
pub(crate) fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(listen_address(0)).doing("find a free port")?;
    Ok(listener.local_addr().doing("find a free port")?.port())
}

/// Starts the forwarder as a process of nobody's, which outlives whoever asked for it.
///
/// # Errors
/// When it cannot be started.
pub fn launch(paths: &Paths, init: i32, port: u16) -> Result<()> {
    setsid().doing("setsid")?;
    let log = paths.log(Place::ControlPlane, "forwarder");
    let log = File::create(&log).doing(format!("create {}", log.display()))?;
    Command::new(paths.program())
        .args([
            SUBCOMMAND,
            paths.name(),
            &init.to_string(),
            &port.to_string(),
            AS_SERVER,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .doing("start the forwarder")?;
    Ok(())
}

/// Forwards for ever.
///
/// # Errors
/// When the port is taken, or the control plane is gone.
pub fn serve(init: i32, port: u16) -> Result<()> {
    let address = listen_address(port);
    let listener = std::net::TcpListener::bind(address).doing(format!("listen on {address}"))?;
    listener.set_nonblocking(true).doing("listen")?;
    // The listening socket stays in the host's namespace; what is dialled from now on is in the control plane's.
    let namespace = format!("/proc/{init}/ns/net");
    let namespace = File::open(&namespace).doing(format!("open {namespace}"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).doing("enter the control plane's network")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing("start a runtime")?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).doing("listen")?;
        loop {
            let Ok((outer, _)) = listener.accept().await else {
                // Most likely out of descriptors: wait for connections to end.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            tokio::spawn(async move {
                let result = forward(outer).await;
                if let Err(error) = result {
                    eprintln!("{error}");
                }
            });
        }
    })
}

async fn forward(mut outer: tokio::net::TcpStream) -> std::io::Result<()> {
    let mut inner = tokio::net::TcpStream::connect(API_SERVER).await?;
    outer.set_nodelay(true)?;
    inner.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut outer, &mut inner).await?;
    Ok(())
}

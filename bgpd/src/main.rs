//! The program `fairlead-bgpd`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use fairlead_bgpd::machine::Times;
use fairlead_bgpd::run::{Settings, run};
use fairlead_bgpd::{DIRECTORY, PARENT_SOCKET, daemon, heartbeat};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The parent of Fairlead's BGP daemon.
///
/// Starts gobgpd, and starts it again when it dies. The speaker of the node says once a second that it is alive; when it
/// has been silent for too long, all routes are withdrawn and the daemon ends, until a speaker is heard again. Asked to end
/// by SIGTERM, it waits for the speaker's last word: whether the routes are withdrawn, or kept for the next daemon.
#[derive(Debug, Parser)]
#[command(name = "fairlead-bgpd", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Directory of the sockets: api.sock of the daemon, parent.sock of this program
    #[arg(long, global = true, default_value = DIRECTORY, value_name = "PATH")]
    directory: PathBuf,
    /// The daemon
    #[arg(long, default_value = "/usr/bin/gobgpd", value_name = "PATH")]
    gobgpd: PathBuf,
    /// How long the speaker may be silent before all routes are withdrawn
    #[arg(long, default_value = "15s", value_parser = seconds, value_name = "TIME")]
    heartbeat_timeout: Duration,
    /// How long, when asked to end, to wait for a speaker that is alive to say how
    #[arg(long, default_value = "20s", value_parser = seconds, value_name = "TIME")]
    end_timeout: Duration,
    /// How long the daemon may answer nothing before it is killed and started again
    #[arg(long, default_value = "30s", value_parser = seconds, value_name = "TIME")]
    answer_timeout: Duration,
    /// Which log lines are written: a level (error, warn, info, debug, trace), or directives; the daemon writes more with
    /// debug and trace
    #[arg(
        long,
        env = "FAIRLEAD_LOG_LEVEL",
        default_value = "info",
        value_name = "FILTER"
    )]
    log_level: String,
    /// How log lines are written
    #[arg(long, env = "FAIRLEAD_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Asks the running parent how it is; succeeds if the daemon runs
    Status,
    /// Succeeds if the running parent answers, whatever it says
    Alive,
}

impl Arguments {
    fn settings(&self) -> Settings {
        let level = self.log_level.to_ascii_lowercase();
        Settings {
            directory: self.directory.clone(),
            program: self.gobgpd.clone(),
            debug: matches!(level.as_str(), "debug" | "trace"),
            json: self.log_format == LogFormat::Json,
            times: Times {
                silence: self.heartbeat_timeout,
                end: self.end_timeout,
            },
            answer: self.answer_timeout,
        }
    }
}

// One thread: the daemon is tied to the thread that has started it, and there is little to do.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(command) = arguments.command {
        let status = heartbeat::status(&arguments.directory.join(PARENT_SOCKET)).await;
        let status = status.context("the parent of the BGP daemon does not answer")?;
        println!("{status}");
        let sound = matches!(command, Command::Alive) || status.starts_with("ok");
        return Ok(if sound {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    init(&arguments);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "the parent of the BGP daemon starts"
    );
    // Before anything takes time: the first process of a container is not ended by a signal that it does not handle.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let settings = arguments.settings();
    daemon::check(&settings.program()).await?;
    run(settings, async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end");
    })
    .await?;
    tracing::info!("the parent of the BGP daemon ends");
    Ok(ExitCode::SUCCESS)
}

/// Starts logging to standard error. A filter that cannot be read is reported there and replaced by `info`.
fn init(arguments: &Arguments) {
    let (filter, problem) = match EnvFilter::try_new(&arguments.log_level) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    if let Some(error) = problem {
        tracing::warn!(filter = arguments.log_level, %error, "cannot read --log-level; using info");
    }
}

/// A time such as `500ms` or `15s`.
fn seconds(text: &str) -> Result<Duration, String> {
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, Duration::from_millis(1)),
        (None, Some(number)) => (number, Duration::from_secs(1)),
        (None, None) => return Err("expected a number followed by ms or s".into()),
    };
    match number.parse::<u32>() {
        Ok(0) => Err("must be more than zero".into()),
        // A day is long enough, and can be added to any time.
        Ok(number) => match unit.checked_mul(number) {
            Some(time) if time <= Duration::from_secs(86_400) => Ok(time),
            _ => Err("must not be more than a day".into()),
        },
        Err(error) => Err(format!("{number:?}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments() {
        Arguments::command().debug_assert();
        let parse =
            |extra: &[&str]| Arguments::try_parse_from(["fairlead-bgpd"].iter().chain(extra).copied());
        let settings = parse(&[]).unwrap().settings();
        assert_eq!(settings.times.silence, Duration::from_secs(15));
        assert!(!settings.debug && !settings.json);
        assert!(parse(&["--log-level=debug"]).unwrap().settings().debug);
        assert!(parse(&["status", "--directory=/x"]).is_ok());
        for bad in [
            "--heartbeat-timeout=0s",
            "--end-timeout=5",
            "--end-timeout=90000s",
        ] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}

//! The test client: opens a new connection every 20 ms, can hold long ones, and reports what an outside user would have seen. All
//! outage figures come from it.
//!
//! It speaks to agnhost `netexec`, which says which pod it is (`/hostname`) and which address it sees (`/clientip`). It runs in the
//! network namespace it is started in.

mod http;
mod report;
mod sample;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

pub use report::{AnswerReport, BrokenReport, FailureKind, Gap, HeldReport, Report};

/// What to ask, how often, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct ClientOptions {
    /// Where to connect: ADDRESS:PORT, [ADDRESS]:PORT for IPv6.
    pub target: SocketAddr,
    /// Time between the starts of two requests.
    #[arg(long, default_value = "20ms", value_parser = parse_duration)]
    pub interval: Duration,
    /// A request that is not answered in this time has failed.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// End after this time; without it, run until SIGINT or SIGTERM.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Beside the requests on new connections, hold this many and make one request after the other on each.
    #[arg(long, default_value_t = 0)]
    pub hold: usize,
    /// Time between two requests on a held connection.
    #[arg(long, default_value = "100ms", value_parser = parse_duration)]
    pub hold_interval: Duration,
    /// A held connection on which an answer takes longer than this counts as broken.
    #[arg(long, default_value = "15s", value_parser = parse_duration)]
    pub hold_timeout: Duration,
    /// Put each single request into the JSON report.
    #[arg(long)]
    pub answers: bool,
}

/// Arguments of `lab client`.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientArgs {
    /// What to do.
    #[command(flatten)]
    pub options: ClientOptions,
    /// Print the report as JSON on standard output; the readable line then goes to standard error.
    #[arg(long)]
    pub json: bool,
}

impl ClientOptions {
    /// The usual: a new connection every 20 ms, 1 s for each, until stopped.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(1),
            duration: None,
            hold: 0,
            hold_interval: Duration::from_millis(100),
            hold_timeout: Duration::from_secs(15),
            answers: false,
        }
    }

    /// The command-line arguments that say the same to `lab client`.
    pub fn to_args(&self) -> Vec<String> {
        let duration = |duration: Duration| format!("{}us", duration.as_micros());
        let mut args = vec![self.target.to_string()];
        args.extend(["--interval".to_owned(), duration(self.interval)]);
        args.extend(["--timeout".to_owned(), duration(self.timeout)]);
        if let Some(limit) = self.duration {
            args.extend(["--duration".to_owned(), duration(limit)]);
        }
        args.extend(["--hold".to_owned(), self.hold.to_string()]);
        args.extend(["--hold-interval".to_owned(), duration(self.hold_interval)]);
        args.extend(["--hold-timeout".to_owned(), duration(self.hold_timeout)]);
        if self.answers {
            args.push("--answers".to_owned());
        }
        args
    }
}

/// A positive duration such as `20ms`, `30s` or `2m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed: SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let duration = Duration::try_from(signed).map_err(|_| "a duration must be positive".to_owned())?;
    if duration.is_zero() {
        Err("a duration must be positive".to_owned())
    } else {
        Ok(duration)
    }
}

/// Asks until the duration is over or `stop` is ready, then waits for the requests under way (each for its own timeout at
/// most) and reports.
pub async fn measure(options: &ClientOptions, stop: impl Future<Output = ()>) -> Report {
    let started_at = Timestamp::now();
    let start = Instant::now();
    let (end_held, held_ends) = watch::channel(false);
    let mut holding = JoinSet::new();
    for number in 0..options.hold {
        holding.spawn(sample::hold(options.clone(), number, start, held_ends.clone()));
    }
    let mut asking = JoinSet::new();
    let mut ticks = interval_at(start, options.interval);
    // After a moment in which this process did not run, the missed requests are made up for: none is left out.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let end = async {
        match options.duration {
            Some(duration) => tokio::time::sleep_until(start + duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end, stop);
    loop {
        tokio::select! {
            biased;
            () = &mut end => break,
            () = &mut stop => break,
            _ = ticks.tick() => {
                asking.spawn(sample::sample(options.target, start, options.timeout));
            }
        }
    }
    let duration = start.elapsed();
    end_held.send_replace(true);
    let (samples, held) = tokio::join!(asking.join_all(), holding.join_all());
    Report::new(
        options.target.to_string(),
        started_at,
        duration,
        samples,
        &held,
        options.answers,
    )
}

/// `lab client`: measures until the duration is over, SIGINT or SIGTERM, and prints the report.
///
/// # Errors
/// Signal handlers cannot be set, or standard output is closed. Failed requests are no error.
pub async fn run(args: &ClientArgs) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let report = measure(&args.options, stop).await;
    if args.json {
        eprintln!("{report}");
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Logs.

use tracing_subscriber::EnvFilter;

use crate::args::{CommonArgs, LogFormat};

/// Starts logging to standard error. A filter that cannot be read is reported there and replaced by `info`.
pub fn init(args: &CommonArgs) {
    let (filter, problem) = match EnvFilter::try_new(&args.log_level) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    if let Some(error) = problem {
        tracing::warn!(filter = args.log_level, %error, "cannot read --log-level; using info");
    }
}

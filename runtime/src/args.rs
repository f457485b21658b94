//! Arguments that all programs share.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use fairlead_core::ownership::ClassPolicy;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Arguments that all programs share.
#[derive(Clone, Debug, Args)]
pub struct CommonArgs {
    /// Address and port that /healthz, /readyz and /metrics are served on; each program has a port of its own by default
    #[arg(long, env = "FAIRLEAD_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,

    /// Which log lines are written: a level (error, warn, info, debug, trace), or directives such as info,kube=debug
    #[arg(
        long,
        env = "FAIRLEAD_LOG_LEVEL",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log_level: String,

    /// How log lines are written
    #[arg(long, env = "FAIRLEAD_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// Namespace that Fairlead is installed in
    #[arg(long, env = "POD_NAMESPACE", default_value = "fairlead-system")]
    pub namespace: String,

    /// ConfigMap, in that namespace, that tells whether the installation is being removed
    #[arg(
        long,
        env = "FAIRLEAD_STATE_CONFIGMAP",
        default_value = "fairlead-state",
        value_name = "NAME"
    )]
    pub state_configmap: String,

    /// Whether Services of type LoadBalancer without a loadBalancerClass are ours
    #[arg(
        long,
        env = "FAIRLEAD_SERVE_CLASSLESS",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "true|false"
    )]
    pub serve_classless: bool,

    /// Whether the annotations of MetalLB (metallb.io/…) are honoured on Services of ours
    #[arg(
        long,
        env = "FAIRLEAD_METALLB_ANNOTATIONS",
        default_value_t = false,
        action = clap::ArgAction::Set,
        value_name = "true|false"
    )]
    pub metallb_annotations: bool,
}

/// The class policy that the arguments ask for.
pub fn class_policy(args: &CommonArgs) -> ClassPolicy {
    ClassPolicy {
        serve_classless: args.serve_classless,
        metallb: args.metallb_annotations,
    }
}

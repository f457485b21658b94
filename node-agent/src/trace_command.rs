//! `fairlead-node-agent trace`: what this node does with one packet, and by which rules.

mod live;
mod route;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use clap::Args;
use fairlead_core::model::{Family, Protocol};
use nix::ifaddrs::getifaddrs;

use crate::nft::netlink::driver::Kernel;
use crate::nft::trace::{Facts, Flow, Origin, Packet, Payload, trace};

/// Which packet.
#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    /// Address that the packet comes from
    #[arg(long, value_name = "ADDRESS")]
    from: String,

    /// Address and port that it goes to, such as 192.0.2.10:80 or [2001:db8::10]:80
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: String,

    /// tcp, udp or sctp
    #[arg(long, default_value = "tcp", value_name = "PROTOCOL")]
    protocol: String,

    /// Interface that it comes in by [default: the one towards its source; none for an address of this node]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

/// Exit codes.
const ARRIVES: i32 = 0;
const DOES_NOT: i32 = 1;
const NO_ANSWER: i32 = 2;

/// Follows the first packet of a flow through the table in the kernel, and prints the walk. Answers with the exit code:
/// 0 if it is forwarded, 1 if it is refused, dropped or none of ours, 2 if that cannot be told.
pub fn run(args: &TraceArgs) -> i32 {
    let (text, code) = match explain(args) {
        Ok((text, arrives)) => (text, if arrives { ARRIVES } else { DOES_NOT }),
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "error: {why}");
            return NO_ANSWER;
        }
    };
    // Nobody who reads no further is told anything.
    let _ = writeln!(std::io::stdout(), "{text}");
    code
}

fn explain(args: &TraceArgs) -> Result<(String, bool), String> {
    let (source, to, protocol) = parse(args)?;
    let own = own_addresses().map_err(|error| format!("cannot list this node's addresses: {error}"))?;
    let origin = match &args.interface {
        Some(name) => {
            nix::net::if_::if_nametoindex(name.as_str())
                .map_err(|_| format!("there is no interface {name}"))?;
            Origin::Arrived(name.as_str().into())
        }
        None if own.contains(&source) => Origin::Node,
        None => {
            let towards = route::interface_towards(source)
                .map_err(|error| format!("cannot ask for the route to {source}: {error}"))?;
            let name = towards
                .ok_or_else(|| format!("no route to {source}: name the interface with --interface"))?;
            Origin::Arrived(name.into())
        }
    };
    let mut kernel = Kernel::open().map_err(|error| error.to_string())?;
    let table = live::read(&mut kernel).map_err(|error| error.to_string())?;
    let packet = Packet {
        source,
        destination: to.ip(),
        payload: Payload::first(protocol, to.port()),
        origin,
        flow: Flow::New,
    };
    let remembered = kernel
        .remembered(Family::of(source))
        .map_err(|error| error.to_string())?
        .into_iter()
        .map(|(remembered, _)| remembered)
        .find(|r| r.client == source && Some(r.destination) == packet.target());
    let facts = Facts {
        own,
        remembered: remembered.map(|remembered| remembered.endpoint),
    };
    let trace = trace(&table, &packet, &facts);
    let from = match &packet.origin {
        Origin::Arrived(name) => format!("{source}, which comes in by {name}"),
        Origin::Node => format!("{source}, this node"),
    };
    let mut lines = vec![format!("{} to {to} from {from}:", protocol.as_str())];
    lines.extend(trace.steps.iter().map(|step| format!("  {step}")));
    lines.push(trace.outcome.to_string());
    Ok((lines.join("\n"), trace.outcome.arrives()))
}

fn parse(args: &TraceArgs) -> Result<(IpAddr, SocketAddr, Protocol), String> {
    let source: IpAddr = args
        .from
        .parse()
        .map_err(|_| format!("--from {} is not an address", args.from))?;
    let to: SocketAddr = args
        .to
        .parse()
        .map_err(|_| format!("--to {} is not an address with a port", args.to))?;
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.as_str() == args.protocol)
        .ok_or_else(|| format!("--protocol {} is none of tcp, udp and sctp", args.protocol))?;
    if Family::of(source) != Family::of(to.ip()) {
        return Err(format!("{source} and {} are not of one family", to.ip()));
    }
    Ok((source, to, protocol))
}

fn own_addresses() -> nix::Result<Vec<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let of4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        of4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|address| IpAddr::from(address.ip()))
        })
    });
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(from: &str, to: &str, protocol: &str) -> TraceArgs {
        TraceArgs {
            from: from.into(),
            to: to.into(),
            protocol: protocol.into(),
            interface: None,
        }
    }

    #[test]
    fn arguments_that_make_no_packet() {
        assert!(parse(&args("198.51.100.2", "192.0.2.10:80", "udp")).is_ok());
        assert!(parse(&args("fd00::2", "[2001:db8::10]:80", "sctp")).is_ok());
        for (from, to, protocol) in [
            ("client", "192.0.2.10:80", "tcp"),
            ("198.51.100.2", "192.0.2.10", "tcp"),
            ("198.51.100.2", "192.0.2.10:80", "icmp"),
            ("198.51.100.2", "[2001:db8::10]:80", "tcp"),
        ] {
            let error = parse(&args(from, to, protocol)).unwrap_err();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}

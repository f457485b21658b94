//! Where and what to ask.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use fairlead_core::announce::ProbeTarget;
use fairlead_core::model::{Family, ServiceKey};

/// Where to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A port at an address of this node. The question never leaves it: it is asked from that same address.
    Node(SocketAddr),
    /// A port of whatever host.
    Host(String, u16),
    /// The node agent's Unix socket.
    Agent(PathBuf),
}

/// Where and what to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where.
    pub place: Place,
    /// The path of the URL.
    pub path: String,
    /// The Service that must be answered for; `None` for the service proxy.
    pub service: Option<ServiceKey>,
}

/// How the service proxy is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyHealth {
    /// At this port of the node's InternalIP, `/healthz`.
    Port(u16),
    /// At this URL, of whatever host.
    Url(HealthUrl),
}

/// A URL of plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthUrl {
    host: String,
    port: u16,
    path: String,
}

impl FromStr for HealthUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: http::Uri = text
            .parse()
            .map_err(|error: http::uri::InvalidUri| error.to_string())?;
        if url.scheme_str() != Some("http") {
            return Err("must begin with http://".into());
        }
        let host = url.host().unwrap_or_default();
        if host.is_empty() {
            return Err("names no host".into());
        }
        Ok(Self {
            host: host.to_owned(),
            port: url.port_u16().unwrap_or(80),
            path: url
                .path_and_query()
                .map_or_else(|| "/".into(), ToString::to_string),
        })
    }
}

impl Question {
    /// The question that a target stands for. `agent` is the node agent's socket.
    pub fn of(target: &ProbeTarget, proxy: &ProxyHealth, agent: &Path) -> Self {
        let healthz = |place, service| Self {
            place,
            path: "/healthz".into(),
            service,
        };
        match (target, proxy) {
            (
                ProbeTarget::Service {
                    service,
                    address,
                    port,
                },
                _,
            ) => healthz(
                Place::Node(SocketAddr::new(*address, *port)),
                Some(service.clone()),
            ),
            (ProbeTarget::Agent { service, family }, _) => {
                let family = match family {
                    Family::V4 => "ipv4",
                    Family::V6 => "ipv6",
                };
                Self {
                    place: Place::Agent(agent.to_owned()),
                    path: format!("/healthz/{}/{}/{family}", service.namespace, service.name),
                    service: Some(service.clone()),
                }
            }
            (ProbeTarget::Proxy { address }, ProxyHealth::Port(port)) => {
                healthz(Place::Node(SocketAddr::new(*address, *port)), None)
            }
            (ProbeTarget::Proxy { .. }, ProxyHealth::Url(url)) => Self {
                place: Place::Host(url.host.clone(), url.port),
                path: url.path.clone(),
                service: None,
            },
        }
    }

    /// The request in bytes.
    pub(super) fn request(&self) -> String {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: fairlead-speaker/{}\r\nAccept: */*\r\n\r\n",
            self.path,
            self.host(),
            env!("CARGO_PKG_VERSION"),
        )
    }

    fn host(&self) -> String {
        match &self.place {
            Place::Node(address) => address.to_string(),
            Place::Host(host, port) => format!("{host}:{port}"),
            Place::Agent(_) => "node-agent".into(),
        }
    }

    /// What kind of target it is, in one word.
    pub fn kind(&self) -> &'static str {
        match (&self.place, &self.service) {
            (Place::Agent(_), _) => "agent",
            (_, Some(_)) => "service",
            (_, None) => "proxy",
        }
    }
}

/// As a URL.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let service = ServiceKey::new("default", "web");
        let port = ProbeTarget::Service {
            service: service.clone(),
            address: "192.0.2.11".parse().unwrap(),
            port: 31000,
        };
        let agent = ProbeTarget::Agent {
            service,
            family: Family::V6,
        };
        let proxy = ProbeTarget::Proxy {
            address: "2001:db8::1".parse().unwrap(),
        };
        let custom = |text: &str| ProxyHealth::Url(text.parse().unwrap());
        let asked = |target, health: &ProxyHealth| Question::of(target, health, Path::new("/s")).to_string();
        let port_10256 = ProxyHealth::Port(10256);
        assert_eq!(asked(&port, &port_10256), "http://192.0.2.11:31000/healthz");
        assert_eq!(
            asked(&agent, &port_10256),
            "http://node-agent/healthz/default/web/ipv6"
        );
        assert_eq!(asked(&proxy, &port_10256), "http://[2001:db8::1]:10256/healthz");
        for (text, expected) in [
            (
                "http://127.0.0.1:9879/healthz?brief=1",
                "http://127.0.0.1:9879/healthz?brief=1",
            ),
            ("http://[::1]:9879", "http://[::1]:9879/"),
            ("http://localhost/x", "http://localhost:80/x"),
        ] {
            assert_eq!(asked(&proxy, &custom(text)), expected);
        }
        for bad in ["https://x/", "x", "/healthz", "http://", "http://a b/"] {
            assert!(bad.parse::<HealthUrl>().is_err(), "{bad}");
        }
    }
}

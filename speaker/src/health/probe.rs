//! One HTTP probe.

use std::error::Error;
use std::time::Duration;

use fairlead_core::announce::ProbeTarget;
use fairlead_core::model::ServiceKey;
use reqwest::{Client, StatusCode, redirect};
use serde::Deserialize;

/// More than this is not read of an answer.
const BODY_LIMIT: usize = 16 << 10;
/// A connection is used for so many probes; then a new one must be accepted, as a client's would have to be.
const PROBES_PER_CONNECTION: u32 = 10;

/// Where and what to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The URL; plain HTTP.
    pub url: String,
    /// The Service that a health-check node port must answer for; `None` for the service proxy.
    pub service: Option<ServiceKey>,
}

/// How the service proxy is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyHealth {
    /// At this port of the node's InternalIP, `/healthz`.
    Port(u16),
    /// At this URL, of whatever host.
    Url(String),
}

impl Question {
    /// The question that a target stands for.
    pub fn of(target: &ProbeTarget, proxy: &ProxyHealth) -> Self {
        let at = |address: &std::net::IpAddr, port: u16| {
            format!("http://{}/healthz", std::net::SocketAddr::new(*address, port))
        };
        match (target, proxy) {
            (
                ProbeTarget::Service {
                    service,
                    address,
                    port,
                },
                _,
            ) => Self {
                url: at(address, *port),
                service: Some(service.clone()),
            },
            (ProbeTarget::Proxy { address }, ProxyHealth::Port(port)) => Self {
                url: at(address, *port),
                service: None,
            },
            (ProbeTarget::Proxy { .. }, ProxyHealth::Url(url)) => Self {
                url: url.clone(),
                service: None,
            },
        }
    }
}

/// Probes one target over a kept connection.
pub struct Prober {
    question: Question,
    timeout: Duration,
    connection: Option<(Client, u32)>,
}

impl Prober {
    /// A prober without a connection yet.
    pub fn new(question: Question, timeout: Duration) -> Self {
        Self {
            question,
            timeout,
            connection: None,
        }
    }

    /// Asks once, within the timeout.
    ///
    /// # Errors
    /// One sentence that says why this node must not be trusted with traffic.
    pub async fn probe(&mut self) -> Result<(), String> {
        let (client, used) = match self.connection.take() {
            Some((client, used)) if used < PROBES_PER_CONNECTION => (client, used),
            _ => (fresh_client()?, 0),
        };
        let outcome = match tokio::time::timeout(self.timeout, ask(&client, &self.question)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} ms", self.timeout.as_millis())),
        };
        if outcome.is_ok() {
            self.connection = Some((client, used + 1));
        }
        outcome
    }
}

/// A client of its own has a connection of its own.
fn fresh_client() -> Result<Client, String> {
    Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .http1_only()
        .pool_max_idle_per_host(1)
        .user_agent(concat!("fairlead-speaker/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| format!("cannot make an HTTP client: {error}"))
}

async fn ask(client: &Client, question: &Question) -> Result<(), String> {
    let mut response = client
        .get(&question.url)
        .send()
        .await
        .map_err(|error| describe(&error))?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error))? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(format!(
                "HTTP {}: the answer is longer than {BODY_LIMIT} bytes",
                status.as_u16()
            ));
        }
        body.extend_from_slice(&chunk);
    }
    judge(question, status, &body)
}

/// The body of a health-check node port, as far as it is of interest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceHealth {
    service: Option<ServiceKey>,
    local_endpoints: Option<i64>,
}

fn judge(question: &Question, status: StatusCode, body: &[u8]) -> Result<(), String> {
    let code = status.as_u16();
    let health = serde_json::from_slice::<ServiceHealth>(body).ok();
    if status.is_redirection() {
        return Err(format!("HTTP {code}: a redirect is no answer"));
    }
    if status != StatusCode::OK {
        return Err(match health.and_then(|health| health.local_endpoints) {
            Some(0) => format!("HTTP {code}: no local endpoints"),
            _ => format!("HTTP {code}"),
        });
    }
    let Some(expected) = &question.service else {
        return Ok(());
    };
    if body.is_empty() {
        return Ok(());
    }
    let Some(health) = health else {
        return Err(format!(
            "HTTP {code}: the answer is not the JSON of a health-check node port"
        ));
    };
    match health.service {
        Some(service) if service != *expected => {
            return Err(format!("HTTP {code}: the answer is for Service {service}"));
        }
        _ => {}
    }
    match health.local_endpoints {
        Some(count) if count <= 0 => Err(format!("HTTP {code}: but no local endpoints")),
        _ => Ok(()),
    }
}

/// The innermost cause in plain words; reqwest's own sentence repeats the URL.
fn describe(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".into(),
        Some(std::io::ErrorKind::ConnectionReset) => "connection reset".into(),
        Some(std::io::ErrorKind::UnexpectedEof) => "connection closed".into(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Question {
        Question {
            url: String::new(),
            service: Some(ServiceKey::new("default", "web")),
        }
    }

    #[test]
    fn verdicts_on_answers() {
        let proxy = Question {
            service: None,
            ..local()
        };
        let good = r#"{"service":{"namespace":"default","name":"web"},"localEndpoints":1,"serviceProxyHealthy":true}"#;
        let lie = r#"{"service":{"namespace":"default","name":"web"},"localEndpoints":0}"#;
        let other = r#"{"service":{"namespace":"default","name":"db"},"localEndpoints":1}"#;
        let table: &[(&Question, u16, &str, Result<(), &str>)] = &[
            (&local(), 200, good, Ok(())),
            (&local(), 200, "", Ok(())),
            (&local(), 200, r#"{"status":"fine"}"#, Ok(())),
            (&local(), 200, lie, Err("HTTP 200: but no local endpoints")),
            (
                &local(),
                200,
                other,
                Err("HTTP 200: the answer is for Service default/db"),
            ),
            (
                &local(),
                200,
                "<html>",
                Err("HTTP 200: the answer is not the JSON of a health-check node port"),
            ),
            (&local(), 503, lie, Err("HTTP 503: no local endpoints")),
            (&local(), 503, "oops", Err("HTTP 503")),
            (&local(), 204, "", Err("HTTP 204")),
            (&local(), 302, "", Err("HTTP 302: a redirect is no answer")),
            (&proxy, 200, "anything", Ok(())),
            (&proxy, 503, r#"{"healthy":false}"#, Err("HTTP 503")),
        ];
        for (question, status, body, expected) in table {
            let outcome = judge(question, StatusCode::from_u16(*status).unwrap(), body.as_bytes());
            assert_eq!(
                outcome.as_ref().copied().map_err(String::as_str),
                *expected,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn urls() {
        let service = ProbeTarget::Service {
            service: ServiceKey::new("default", "web"),
            address: "192.0.2.11".parse().unwrap(),
            port: 31000,
        };
        let proxy = ProbeTarget::Proxy {
            address: "2001:db8::1".parse().unwrap(),
        };
        let custom = ProxyHealth::Url("http://127.0.0.1:9879/healthz".into());
        let url = |target, health| Question::of(target, health).url;
        assert_eq!(url(&service, &custom), "http://192.0.2.11:31000/healthz");
        assert_eq!(
            url(&proxy, &ProxyHealth::Port(10256)),
            "http://[2001:db8::1]:10256/healthz"
        );
        assert_eq!(url(&proxy, &custom), "http://127.0.0.1:9879/healthz");
    }
}

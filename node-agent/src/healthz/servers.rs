//! The open ports.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::routing::any;
use fairlead_core::model::{Family, ServiceKey};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::answer::{self, Answer};
use super::facts::Facts;

/// For which Service a port answers; `None` for the proxy itself.
type Of = Option<(ServiceKey, Family)>;

/// The open ports and those that could not be opened.
#[derive(Debug)]
pub struct Servers {
    facts: watch::Receiver<Facts>,
    open: BTreeMap<SocketAddr, (Of, JoinHandle<()>)>,
    failing: BTreeMap<SocketAddr, String>,
}

impl Servers {
    /// None yet. The answers are made of what `facts` holds when they are given.
    pub fn new(facts: watch::Receiver<Facts>) -> Self {
        Self {
            facts,
            open: BTreeMap::new(),
            failing: BTreeMap::new(),
        }
    }

    /// Number of open ports.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Number of ports that could not be opened.
    pub fn failing(&self) -> usize {
        self.failing.len()
    }

    /// Closes what is not wanted, opens what is. What cannot be opened is left for the next time.
    pub async fn become_those(&mut self, wanted: &BTreeMap<SocketAddr, Of>) {
        let useless = |(at, (of, task)): (&SocketAddr, &(Of, JoinHandle<()>))| {
            (task.is_finished() || wanted.get(at) != Some(of)).then_some(*at)
        };
        let useless: Vec<SocketAddr> = self.open.iter().filter_map(useless).collect();
        for at in useless {
            if let Some((_, task)) = self.open.remove(&at) {
                // The port is free when the task has ended, not before.
                task.abort();
                let _ = task.await;
            }
        }
        self.failing.retain(|at, _| wanted.contains_key(at));
        for (at, of) in wanted {
            if self.open.contains_key(at) {
                continue;
            }
            match listen(*at).await {
                Ok(listener) => {
                    if self.failing.remove(at).is_some() {
                        info!("listening on {at} ({}) at last", shown(of));
                    }
                    let task = tokio::spawn(serve(listener, of.clone(), self.facts.clone()));
                    self.open.insert(*at, (of.clone(), task));
                }
                Err(error) => {
                    let error = error.to_string();
                    if self.failing.get(at) != Some(&error) {
                        warn!(
                            "cannot listen on {at} ({}): {error}; trying again. Is kube-proxy still running on this node?",
                            shown(of)
                        );
                    }
                    self.failing.insert(*at, error);
                }
            }
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (_, task) in self.open.values() {
            task.abort();
        }
    }
}

fn shown(of: &Of) -> String {
    match of {
        Some((service, _)) => format!("the health-check node port of {service}"),
        None => "healthz of the service proxy".to_owned(),
    }
}

/// Listens there; for both families where the address leaves it open, and for IPv4 where there is no IPv6.
async fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(at).await {
        Err(error) if at.ip().is_unspecified() && no_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())).await
        }
        outcome => outcome,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    number.is_some_and(|number| [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL].contains(&number))
}

async fn serve(listener: TcpListener, of: Of, facts: watch::Receiver<Facts>) {
    let router = match of {
        // As with kube-proxy, the path makes no difference.
        Some(of) => Router::new().fallback(move |State(facts): State<watch::Receiver<Facts>>| async move {
            answer::service(&facts.borrow(), &of, Instant::now())
        }),
        None => Router::new()
            .route("/healthz", any(|state| proxy(state, answer::healthz)))
            .route("/livez", any(|state| proxy(state, answer::livez))),
    };
    if let Err(error) = axum::serve(listener, router.with_state(facts)).await {
        warn!(%error, "a health server ended");
    }
}

async fn proxy(
    State(facts): State<watch::Receiver<Facts>>,
    answer: fn(&Facts, (Instant, Timestamp)) -> Answer,
) -> Answer {
    answer(&facts.borrow(), (Instant::now(), Timestamp::now()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(at: SocketAddr, path: &str) -> String {
        let mut stream = match TcpStream::connect(at).await {
            Ok(stream) => stream,
            Err(error) => return error.kind().to_string(),
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// An address of this machine that nobody listens on.
    async fn free() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
    }

    fn of(name: &str) -> Of {
        Some((ServiceKey::new("default", name), Family::V4))
    }

    #[tokio::test]
    async fn ports_come_and_go_and_change_hands() {
        let mut facts = Facts::starting(Instant::now());
        facts.endpoints.insert(of("web").unwrap(), 1);
        facts.planned = true;
        let (_sender, facts) = watch::channel(facts);
        let mut servers = Servers::new(facts);
        let (service, proxy) = (free().await, free().await);
        servers
            .become_those(&BTreeMap::from([(service, of("web")), (proxy, None)]))
            .await;
        assert_eq!((servers.open(), servers.failing()), (2, 0));
        for (at, path, expected) in [
            (service, "/healthz", "HTTP/1.1 200 OK"),
            (service, "/whatever", "HTTP/1.1 200 OK"),
            (proxy, "/healthz", "HTTP/1.1 200 OK"),
            (proxy, "/livez", "HTTP/1.1 200 OK"),
            (proxy, "/", "HTTP/1.1 404 Not Found"),
        ] {
            let answer = ask(at, path).await;
            assert!(answer.starts_with(expected), "{path}: {answer}");
        }
        // The number was given to another Service, which has no endpoint here.
        servers
            .become_those(&BTreeMap::from([(service, of("other"))]))
            .await;
        let answer = ask(service, "/").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("\"name\": \"other\""), "{answer}");
        assert_eq!(ask(proxy, "/healthz").await, "connection refused");
        servers.become_those(&BTreeMap::new()).await;
        assert_eq!(ask(service, "/").await, "connection refused");
    }

    #[tokio::test]
    async fn a_taken_port_is_tried_again_and_disturbs_no_other() {
        let (_sender, facts) = watch::channel(Facts::starting(Instant::now()));
        let mut servers = Servers::new(facts);
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = taken.local_addr().unwrap();
        let wanted = BTreeMap::from([(at, None), (free().await, of("web"))]);
        servers.become_those(&wanted).await;
        assert_eq!((servers.open(), servers.failing()), (1, 1));
        drop(taken);
        servers.become_those(&wanted).await;
        assert_eq!((servers.open(), servers.failing()), (2, 0));
    }
}

//! The node agent's answers for single Services, in the words of a health-check node port, on a Unix socket of their
//! own. They stand in where the API gives a Service no such port.

use std::collections::BTreeMap;
use std::path::Path;

use axum::Router;
use axum::extract::{self, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use fairlead_core::model::{Family, ServiceKey};
use serde::Serialize;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::LinkError;
use super::server::{accept, bind};

/// Name of the socket, which is beside that of the link ([`super::SOCKET`]).
pub const HEALTH_SOCKET: &str = "health.sock";

/// Ready endpoints on this node of the Services that the kernel serves, by Service and family.
pub type LocalEndpoints = BTreeMap<(ServiceKey, Family), usize>;

/// Waits until something is known, then serves `GET /healthz/<namespace>/<name>/<ipv4|ipv6>` for ever: 200 if there are endpoints, 503 if there are none or
/// the Service is not known, with the JSON and the header fields of kube-proxy's health-check node ports. Before that
/// nobody listens: an agent that has just started knows nothing of what its predecessor left in the kernel.
///
/// # Errors
/// Only when the socket cannot be made.
pub async fn serve_health(
    path: &Path,
    mut endpoints: watch::Receiver<Option<LocalEndpoints>>,
) -> Result<(), LinkError> {
    if endpoints.wait_for(Option::is_some).await.is_err() {
        return Err(LinkError::Closed); // we are ending ourselves
    }
    let listener = bind(path).map_err(|source| LinkError::Bind {
        path: path.display().to_string(),
        source,
    })?;
    let router = Router::new()
        .route("/healthz/{namespace}/{name}/{family}", get(answer))
        .with_state(endpoints);
    axum::serve(OwnUser(listener), router).await?;
    Err(LinkError::Closed)
}

/// Accepts processes of our own user and of root only.
struct OwnUser(UnixListener);

impl Listener for OwnUser {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            let stream = accept(&self.0).await;
            if let Ok(peer) = stream.peer_addr() {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// What kube-proxy says on a health-check node port.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    service: ServiceKey,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

async fn answer(
    State(endpoints): State<watch::Receiver<Option<LocalEndpoints>>>,
    extract::Path((namespace, name, family)): extract::Path<(String, String, String)>,
) -> Response {
    let family = match family.as_str() {
        "ipv4" => Family::V4,
        "ipv6" => Family::V6,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let key = (ServiceKey::new(namespace, name), family);
    let count = match &*endpoints.borrow() {
        Some(endpoints) => endpoints.get(&key).copied().unwrap_or(0),
        None => 0,
    };
    let status = match count {
        0 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let answer = Answer {
        service: key.0,
        local_endpoints: count,
        service_proxy_healthy: true,
    };
    let fields = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (
            HeaderName::from_static("x-load-balancing-endpoint-weight"),
            count.to_string(),
        ),
    ];
    match serde_json::to_string(&answer) {
        Ok(body) => (status, fields, body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

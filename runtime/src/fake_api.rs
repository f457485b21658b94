//! An API server for tests, over HTTP: it has Leases of one namespace, with versions and conflicts. Its watches show
//! nothing, and its answers can be held back or be failures.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/ns/leases";

/// The server; it runs as long as the test's runtime.
#[derive(Clone)]
pub struct FakeApi {
    url: String,
    inner: Arc<Mutex<Inner>>,
    /// Answers need it for reading.
    gate: Arc<RwLock<()>>,
}

#[derive(Default)]
struct Inner {
    leases: BTreeMap<String, Value>,
    version: u64,
    lists: u64,
    failures: u32,
}

impl FakeApi {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            inner: Arc::default(),
            gate: Arc::default(),
        };
        let router = Router::new().fallback(answer).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        api
    }

    pub fn client(&self) -> Client {
        Client::try_from(Config::new(self.url.parse().unwrap())).unwrap()
    }

    /// Somebody writes a Lease.
    pub fn put(&self, name: &str, holder: &str) {
        let lease = json!({ "metadata": { "name": name }, "spec": { "holderIdentity": holder } });
        self.with(|inner| inner.store(lease));
    }

    /// Somebody deletes a Lease.
    pub fn delete(&self, name: &str) {
        self.with(|inner| inner.leases.remove(name));
    }

    pub fn get(&self, name: &str) -> Option<Value> {
        self.with(|inner| inner.leases.get(name).cloned())
    }

    /// How many lists were made, answered or not.
    pub fn lists(&self) -> u64 {
        self.with(|inner| inner.lists)
    }

    pub async fn wait_lists(&self, count: u64) {
        crate::fake_api::wait_until("lists", || self.lists() >= count).await;
    }

    /// Requests are done and not answered while this is held.
    pub async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate).write_owned().await
    }

    /// The next requests fail.
    pub fn fail(&self, count: u32) {
        self.with(|inner| inner.failures = count);
    }

    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Waits for a condition.
pub async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert!(waited.is_ok(), "{what}: not within 10 s");
}

impl Inner {
    fn store(&mut self, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["namespace"] = json!("ns");
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = lease["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.leases.insert(name, lease.clone());
        lease
    }

    fn done(&mut self, method: &Method, name: &str, body: &[u8]) -> (StatusCode, Value) {
        if self.failures > 0 {
            self.failures -= 1;
            return status(StatusCode::FORBIDDEN, "Forbidden");
        }
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        let known = self.leases.get(name).cloned();
        match (method, known) {
            (&Method::GET, _) if name.is_empty() => {
                self.lists += 1;
                let items: Vec<&Value> = self.leases.values().collect();
                let metadata = json!({ "resourceVersion": self.version.to_string() });
                (StatusCode::OK, json!({ "metadata": metadata, "items": items }))
            }
            (&Method::POST, _)
                if self
                    .leases
                    .contains_key(sent["metadata"]["name"].as_str().unwrap_or_default()) =>
            {
                status(StatusCode::CONFLICT, "AlreadyExists")
            }
            (&Method::POST, _) => (StatusCode::CREATED, self.store(sent)),
            (_, None) => status(StatusCode::NOT_FOUND, "NotFound"),
            (&Method::GET, Some(lease)) => (StatusCode::OK, lease),
            (_, Some(lease))
                if sent["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"] =>
            {
                status(StatusCode::CONFLICT, "Conflict")
            }
            (_, Some(_)) => (StatusCode::OK, self.store(sent)),
        }
    }
}

fn status(code: StatusCode, reason: &str) -> (StatusCode, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "reason": reason,
        "message": reason,
    });
    (code, status)
}

async fn answer(State(api): State<FakeApi>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    if query.contains("watch=true") {
        return Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>()).into_response();
    }
    let path = parts.uri.path();
    assert!(path.starts_with(LEASES), "{path}");
    let name = path[LEASES.len()..].trim_start_matches('/').to_owned();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let (code, value) = api.with(|inner| inner.done(&parts.method, &name, &body));
    let _open = api.gate.read().await;
    let json = [(header::CONTENT_TYPE, "application/json")];
    (code, json, value.to_string()).into_response()
}

//! The calls.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tower::service_fn;

use crate::Error;
use crate::api::go_bgp_service_client::GoBgpServiceClient;
use crate::api::{self, watch_event_response::Event};

/// For how long a call may take. A daemon that is there answers all of them within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many paths are sent at once.
const BATCH: usize = 500;

/// A daemon that is there and speaks the API of version 4. Clones use the same connection.
#[derive(Clone, Debug)]
pub struct Daemon {
    client: GoBgpServiceClient<Channel>,
}

/// What becomes of the sessions, from [`Daemon::watch`]. It ends with the daemon.
#[derive(Debug)]
pub struct Events(Streaming<api::WatchEventResponse>);

impl Events {
    /// The next session whose state is not what it was, or `None` for an event of another kind.
    ///
    /// # Errors
    /// [`Error::Gone`] when the connection has ended.
    pub async fn next(&mut self) -> Result<Option<api::Peer>, Error> {
        match self.0.message().await {
            Ok(Some(response)) => Ok(response.event.and_then(|Event::Peer(event)| event.peer)),
            Ok(None) => Err(Error::of(
                "WatchEvent",
                Status::unavailable("the events have ended"),
            )),
            Err(status) => Err(Error::of("WatchEvent", status)),
        }
    }
}

async fn all<T>(call: &'static str, mut stream: Streaming<T>) -> Result<Vec<T>, Error> {
    let mut items = vec![];
    while let Some(item) = stream.message().await.map_err(|status| Error::of(call, status))? {
        items.push(item);
    }
    Ok(items)
}

/// One call that answers with one message.
macro_rules! call {
    ($daemon:ident, $name:literal, $method:ident, $request:expr) => {{
        let mut request = tonic::Request::new($request);
        request.set_timeout(PATIENCE);
        $daemon
            .client
            .$method(request)
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| Error::of($name, status))
    }};
}

impl Daemon {
    /// Connects to the daemon that listens at this Unix socket, and asks whether it speaks the API.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when nobody listens there, [`Error::TooOld`] when it is GoBGP 3 or older.
    pub async fn connect(path: &Path) -> Result<Self, Error> {
        let socket = path.to_owned();
        let connector = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://gobgpd")
            .connect_with_connector(connector)
            .await
            .map_err(|source| Error::Unreachable {
                path: path.to_owned(),
                source,
            })?;
        let mut daemon = Self {
            client: GoBgpServiceClient::new(channel),
        };
        daemon.global().await?;
        Ok(daemon)
    }

    /// Makes the daemon a router.
    ///
    /// # Errors
    /// When it is one already, refuses the values or went away.
    pub async fn start(&mut self, global: api::Global) -> Result<(), Error> {
        let global = Some(global);
        call!(self, "StartBgp", start_bgp, api::StartBgpRequest { global })?;
        Ok(())
    }

    /// What it was started with, or `None` before.
    ///
    /// # Errors
    /// When it is too old or went away.
    pub async fn global(&mut self) -> Result<Option<api::Global>, Error> {
        let answer = call!(self, "GetBgp", get_bgp, api::GetBgpRequest {})?;
        Ok(answer.global.filter(|global| global.asn != 0))
    }

    /// Ends all sessions and forgets everything, with a CEASE to each peer; but to those that have graceful restart
    /// none if `keep` says that they are to keep our routes.
    ///
    /// # Errors
    /// When it refuses or went away.
    pub async fn stop(&mut self, keep: bool) -> Result<(), Error> {
        let request = api::StopBgpRequest {
            allow_graceful_restart: keep,
        };
        call!(self, "StopBgp", stop_bgp, request)?;
        Ok(())
    }

    /// From now on, every change of a session; first all as they are.
    ///
    /// # Errors
    /// When it refuses or went away.
    pub async fn watch(&mut self) -> Result<Events, Error> {
        let request = api::WatchEventRequest {
            peer: Some(api::watch_event_request::Peer {}),
        };
        let stream = self.client.watch_event(request).await;
        stream
            .map(|stream| Events(stream.into_inner()))
            .map_err(|status| Error::of("WatchEvent", status))
    }

    /// Adds a session.
    ///
    /// # Errors
    /// When there is one to this address already, or the daemon refuses the values or went away.
    pub async fn add_peer(&mut self, peer: api::Peer) -> Result<(), Error> {
        call!(
            self,
            "AddPeer",
            add_peer,
            api::AddPeerRequest { peer: Some(peer) }
        )?;
        Ok(())
    }

    /// Changes a session. The daemon ends it if that is needed.
    ///
    /// # Errors
    /// When there is no such session, or the daemon refuses the values or went away.
    pub async fn update_peer(&mut self, peer: api::Peer) -> Result<(), Error> {
        let request = api::UpdatePeerRequest {
            peer: Some(peer),
            do_soft_reset_in: false,
        };
        call!(self, "UpdatePeer", update_peer, request)?;
        Ok(())
    }

    /// Ends the session with the peer at this address (of an unnumbered one: the one that was found, with the
    /// interface) and forgets it.
    ///
    /// # Errors
    /// When there is no such session or the daemon went away.
    pub async fn delete_peer(&mut self, address: &str) -> Result<(), Error> {
        let request = api::DeletePeerRequest {
            address: address.to_owned(),
        };
        call!(self, "DeletePeer", delete_peer, request)?;
        Ok(())
    }

    /// All sessions. How many routes were sent is counted only if `advertised` says so: it costs a walk over all routes.
    ///
    /// # Errors
    /// When the daemon went away.
    pub async fn peers(&mut self, advertised: bool) -> Result<Vec<api::Peer>, Error> {
        let request = api::ListPeerRequest {
            address: String::new(),
            enable_advertised: advertised,
        };
        let answers = all("ListPeer", call!(self, "ListPeer", list_peer, request)?).await?;
        Ok(answers.into_iter().filter_map(|answer| answer.peer).collect())
    }

    /// Ends a session for good with an administrative shutdown and this text (RFC 9003).
    ///
    /// # Errors
    /// When there is no such session or the daemon went away.
    pub async fn shut_down_peer(&mut self, address: &str, text: &str) -> Result<(), Error> {
        let request = api::ShutdownPeerRequest {
            address: address.to_owned(),
            communication: text.to_owned(),
        };
        call!(self, "ShutdownPeer", shutdown_peer, request)?;
        Ok(())
    }

    /// Sends all routes of a session again, through the policies as they are now, without ending it. An empty address
    /// means all sessions.
    ///
    /// # Errors
    /// When there is no such session or the daemon went away.
    pub async fn resend(&mut self, address: &str) -> Result<(), Error> {
        let request = api::ResetPeerRequest {
            address: address.to_owned(),
            communication: String::new(),
            soft: true,
            direction: api::reset_peer_request::Direction::Out as i32,
        };
        call!(self, "ResetPeer", reset_peer, request)?;
        Ok(())
    }

    /// Adds a path to the global table, or puts it in place of the one of the same prefix.
    ///
    /// # Errors
    /// When the daemon refuses the values or went away.
    pub async fn add_path(&mut self, path: api::Path) -> Result<(), Error> {
        let request = api::AddPathRequest {
            table_type: api::TableType::Global as i32,
            path: Some(path),
        };
        call!(self, "AddPath", add_path, request)?;
        Ok(())
    }

    /// The same for many at once. A path with `is_withdraw` is taken away.
    ///
    /// # Errors
    /// When the daemon refuses one of them or went away.
    pub async fn add_paths(&mut self, paths: Vec<api::Path>) -> Result<(), Error> {
        let mut paths = paths.into_iter();
        let mut batches = vec![];
        loop {
            let batch: Vec<api::Path> = paths.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            batches.push(api::AddPathStreamRequest {
                table_type: api::TableType::Global as i32,
                paths: batch,
            });
        }
        let mut request = tonic::Request::new(tokio_stream::iter(batches));
        request.set_timeout(PATIENCE);
        let answer = self.client.add_path_stream(request).await;
        answer
            .map(drop)
            .map_err(|status| Error::of("AddPathStream", status))
    }

    /// Takes a path out of the global table. That it is not there is no error.
    ///
    /// # Errors
    /// When the daemon refuses the values or went away.
    pub async fn delete_path(&mut self, path: api::Path) -> Result<(), Error> {
        let request = api::DeletePathRequest {
            table_type: api::TableType::Global as i32,
            family: path.family,
            path: Some(path),
            uuid: vec![],
        };
        call!(self, "DeletePath", delete_path, request)?;
        Ok(())
    }

    /// Takes all paths of a family out of the global table.
    ///
    /// # Errors
    /// When the daemon went away.
    pub async fn delete_all_paths(&mut self, family: api::Family) -> Result<(), Error> {
        let request = api::DeletePathRequest {
            table_type: api::TableType::Global as i32,
            family: Some(family),
            path: None,
            uuid: vec![],
        };
        call!(self, "DeletePath", delete_path, request)?;
        Ok(())
    }

    /// The paths of the global table.
    ///
    /// # Errors
    /// When the daemon went away.
    pub async fn paths(&mut self, family: api::Family) -> Result<Vec<api::Path>, Error> {
        self.table(api::TableType::Global, "", family).await
    }

    /// The paths that were sent to the peer at this address.
    ///
    /// # Errors
    /// When there is no such session or the daemon went away.
    pub async fn sent_paths(&mut self, address: &str, family: api::Family) -> Result<Vec<api::Path>, Error> {
        self.table(api::TableType::AdjOut, address, family).await
    }

    async fn table(
        &mut self,
        table: api::TableType,
        name: &str,
        family: api::Family,
    ) -> Result<Vec<api::Path>, Error> {
        let request = api::ListPathRequest {
            table_type: table as i32,
            name: name.to_owned(),
            family: Some(family),
            batch_size: BATCH as u64,
        };
        let answers = all("ListPath", call!(self, "ListPath", list_path, request)?).await?;
        let destinations = answers.into_iter().filter_map(|answer| answer.destination);
        Ok(destinations.flat_map(|destination| destination.paths).collect())
    }

    /// Makes a set to match against, or puts these members in place of those of the one of this name.
    ///
    /// # Errors
    /// When the daemon refuses the values or went away.
    pub async fn set_defined_set(&mut self, set: api::DefinedSet) -> Result<(), Error> {
        let request = api::AddDefinedSetRequest {
            defined_set: Some(set),
            replace: true,
        };
        call!(self, "AddDefinedSet", add_defined_set, request)?;
        Ok(())
    }

    /// Forgets a set.
    ///
    /// # Errors
    /// When a statement uses it, it is not there, or the daemon went away.
    pub async fn delete_defined_set(&mut self, kind: api::DefinedType, name: &str) -> Result<(), Error> {
        let request = api::DeleteDefinedSetRequest {
            defined_set: Some(api::DefinedSet {
                defined_type: kind as i32,
                name: name.to_owned(),
                list: vec![],
            }),
            all: true,
        };
        call!(self, "DeleteDefinedSet", delete_defined_set, request)?;
        Ok(())
    }

    /// All sets of a kind.
    ///
    /// # Errors
    /// When the daemon went away.
    pub async fn defined_sets(&mut self, kind: api::DefinedType) -> Result<Vec<api::DefinedSet>, Error> {
        let request = api::ListDefinedSetRequest {
            defined_type: kind as i32,
            name: String::new(),
        };
        let stream = call!(self, "ListDefinedSet", list_defined_set, request)?;
        let answers = all("ListDefinedSet", stream).await?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| answer.defined_set)
            .collect())
    }

    /// Adds a statement to those that are known, or its conditions and actions to the one of this name.
    ///
    /// # Errors
    /// When the daemon refuses the values or went away.
    pub async fn add_statement(&mut self, statement: api::Statement) -> Result<(), Error> {
        let statement = Some(statement);
        call!(
            self,
            "AddStatement",
            add_statement,
            api::AddStatementRequest { statement }
        )?;
        Ok(())
    }

    /// Forgets a statement.
    ///
    /// # Errors
    /// When a policy uses it, it is not there, or the daemon went away.
    pub async fn delete_statement(&mut self, name: &str) -> Result<(), Error> {
        let request = api::DeleteStatementRequest {
            statement: Some(api::Statement {
                name: name.to_owned(),
                ..api::Statement::default()
            }),
            all: true,
        };
        call!(self, "DeleteStatement", delete_statement, request)?;
        Ok(())
    }

    /// All statements.
    ///
    /// # Errors
    /// When the daemon went away.
    pub async fn statements(&mut self) -> Result<Vec<api::Statement>, Error> {
        let request = api::ListStatementRequest::default();
        let answers = all(
            "ListStatement",
            call!(self, "ListStatement", list_statement, request)?,
        )
        .await?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| answer.statement)
            .collect())
    }

    /// Makes a policy of these statements, or adds them at the end of the one of this name.
    ///
    /// # Errors
    /// When the daemon refuses the values or went away.
    pub async fn add_policy(&mut self, policy: api::Policy) -> Result<(), Error> {
        let request = api::AddPolicyRequest {
            policy: Some(policy),
            refer_existing_statements: false,
        };
        call!(self, "AddPolicy", add_policy, request)?;
        Ok(())
    }

    /// Takes these statements out of the policy of this name and forgets them; with `all`, the policy itself.
    ///
    /// # Errors
    /// When it is in use, it is not there, or the daemon went away.
    pub async fn delete_policy(&mut self, policy: api::Policy, all: bool) -> Result<(), Error> {
        let request = api::DeletePolicyRequest {
            policy: Some(policy),
            preserve_statements: false,
            all,
        };
        call!(self, "DeletePolicy", delete_policy, request)?;
        Ok(())
    }

    /// All policies.
    ///
    /// # Errors
    /// When the daemon went away.
    pub async fn policies(&mut self) -> Result<Vec<api::Policy>, Error> {
        let request = api::ListPolicyRequest::default();
        let answers = all("ListPolicy", call!(self, "ListPolicy", list_policy, request)?).await?;
        Ok(answers.into_iter().filter_map(|answer| answer.policy).collect())
    }

    /// What is done with routes of one direction, in place of what was.
    ///
    /// # Errors
    /// When the daemon refuses the values or went away.
    pub async fn assign(&mut self, assignment: api::PolicyAssignment) -> Result<(), Error> {
        let request = api::SetPolicyAssignmentRequest {
            assignment: Some(assignment),
        };
        call!(self, "SetPolicyAssignment", set_policy_assignment, request)?;
        Ok(())
    }

    /// What is done with routes of one direction, for all sessions.
    ///
    /// # Errors
    /// When the daemon went away.
    pub async fn assignments(
        &mut self,
        direction: api::PolicyDirection,
    ) -> Result<Vec<api::PolicyAssignment>, Error> {
        let request = api::ListPolicyAssignmentRequest {
            name: "global".to_owned(),
            direction: direction as i32,
        };
        let stream = call!(self, "ListPolicyAssignment", list_policy_assignment, request)?;
        let answers = all("ListPolicyAssignment", stream).await?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| answer.assignment)
            .collect())
    }
}

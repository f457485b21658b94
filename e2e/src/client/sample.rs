//! One request on a connection of its own, and long-held connections.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::http::{Connection, kind};
use super::report::{Answer, FailureKind, Held, Sample};

/// Time between two requests on a long-held connection.
const HOLD_INTERVAL: Duration = Duration::from_millis(100);

/// Opens a connection, asks which pod answers and which address it sees, and closes it.
pub(super) async fn sample(target: SocketAddr, start: Instant, limit: Duration) -> Sample {
    let began = Instant::now();
    let outcome = timeout(limit, ask(target))
        .await
        .unwrap_or(Err(FailureKind::Timeout));
    Sample {
        began: began - start,
        took: began.elapsed(),
        outcome,
    }
}

async fn ask(target: SocketAddr) -> Result<Answer, FailureKind> {
    let mut connection = connect(target).await?;
    // From here on the connection was open: whoever ends it now cut it.
    let cut = |kind| match kind {
        FailureKind::Reset | FailureKind::Closed => FailureKind::Cut,
        other => other,
    };
    let backend = hostname(&mut connection).await.map_err(cut)?;
    let seen = connection.get("/clientip").await.map_err(cut)?;
    let seen: SocketAddr = seen.trim().parse().map_err(|_| FailureKind::Http)?;
    Ok(Answer {
        backend,
        client: plain(seen.ip()),
    })
}

async fn connect(target: SocketAddr) -> Result<Connection, FailureKind> {
    TcpStream::connect(target)
        .await
        .map(Connection::new)
        .map_err(kind)
}

async fn hostname(connection: &mut Connection) -> Result<String, FailureKind> {
    let name = connection.get("/hostname").await?;
    // Any web server answers something; a host name is one word.
    let one_word = !name.is_empty() && !name.contains(char::is_whitespace);
    if one_word {
        Ok(name)
    } else {
        Err(FailureKind::Http)
    }
}

/// A server that listens for both families writes an IPv4 address as `::ffff:a.b.c.d`.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Opens a connection and asks on it every 100 ms, until it breaks or `stop` becomes true. A connection is given up as broken when
/// an answer takes longer than `limit`; if the end comes before that, an answer that is late by then is waited for as long as
/// `grace`.
pub(super) async fn hold(
    target: SocketAddr,
    start: Instant,
    limit: Duration,
    grace: Duration,
    mut stop: watch::Receiver<bool>,
) -> Held {
    let mut held = Held::default();
    let mut connection = match timeout(limit, connect(target))
        .await
        .unwrap_or(Err(FailureKind::Timeout))
    {
        Ok(connection) => connection,
        Err(kind) => {
            held.broke = Some((start.elapsed(), kind));
            return held;
        }
    };
    let mut ticks = interval_at(Instant::now(), HOLD_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return held,
        }
        let asked = Instant::now();
        let answer = tokio::select! {
            answer = timeout(limit, hostname(&mut connection)) => answer,
            () = ended(&mut stop, grace) => return Held { broke: Some((start.elapsed(), FailureKind::Timeout)), ..held },
        };
        match answer.unwrap_or(Err(FailureKind::Timeout)) {
            Ok(backend) => {
                held.good += 1;
                held.slowest = held.slowest.max(asked.elapsed());
                held.backend = Some(backend);
            }
            Err(kind) => {
                held.broke = Some((start.elapsed(), kind));
                return held;
            }
        }
    }
}

/// Returns when `grace` has passed since `stop` became true.
async fn ended(stop: &mut watch::Receiver<bool>, grace: Duration) {
    // An error means that the sender is gone: the end, too.
    let _ = stop.wait_for(|stop| *stop).await;
    tokio::time::sleep(grace).await;
}

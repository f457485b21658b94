//! One request on a connection of its own, and long-held connections.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::ClientOptions;
use super::http::{Connection, kind};
use super::report::{Answer, FailureKind, Held, Sample};

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

/// Opens a connection and asks on it again and again, until it breaks or `stop` becomes true. It is given up as broken
/// when an answer takes longer than the time-out of held connections; if the end comes before that, an answer that is
/// late by then is waited for as long as for one on a new connection.
pub(super) async fn hold(
    options: ClientOptions,
    number: usize,
    start: Instant,
    mut stop: watch::Receiver<bool>,
) -> Held {
    let (limit, grace) = (options.hold_timeout, options.timeout);
    let mut held = Held::default();
    let mut connection = match timeout(limit, connect(options.target))
        .await
        .unwrap_or(Err(FailureKind::Timeout))
    {
        Ok(connection) => connection,
        Err(kind) => {
            held.broke = Some((start.elapsed(), kind));
            return held;
        }
    };
    // Not all at the same moment.
    let lag = options.hold_interval.mul_f64(number as f64 / options.hold as f64);
    let mut ticks = interval_at(Instant::now() + lag, options.hold_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in 0.. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return held,
        }
        let asked = Instant::now();
        let told = &mut held;
        let answer = tokio::select! {
            answer = timeout(limit, exchange(&mut connection, told, number, turn)) => answer,
            () = ended(&mut stop, grace) => Ok(Err(FailureKind::Timeout)),
        };
        match answer.unwrap_or(Err(FailureKind::Timeout)) {
            Ok(()) => {
                held.good += 1;
                held.slowest = held.slowest.max(asked.elapsed());
            }
            Err(kind) => {
                held.broke = Some((start.elapsed(), kind));
                return held;
            }
        }
    }
    held
}

/// One request on a held connection: in turn who answers, which client address it sees, and data that must come back.
/// All must be as before.
async fn exchange(
    connection: &mut Connection,
    held: &mut Held,
    number: usize,
    turn: u64,
) -> Result<(), FailureKind> {
    let same = match turn % 3 {
        0 => {
            let name = hostname(connection).await?;
            *held.backend.get_or_insert_with(|| name.clone()) == name
        }
        1 => {
            let seen = connection.get("/clientip").await?;
            let seen: SocketAddr = seen.trim().parse().map_err(|_| FailureKind::Http)?;
            *held.client.get_or_insert(seen) == seen
        }
        _ => {
            let data = format!("{number}-{turn}-").repeat(50);
            connection.get(&format!("/echo?msg={data}")).await? == data
        }
    };
    if same { Ok(()) } else { Err(FailureKind::Altered) }
}

/// Returns when `grace` has passed since `stop` became true.
async fn ended(stop: &mut watch::Receiver<bool>, grace: Duration) {
    // An error means that the sender is gone: the end, too.
    let _ = stop.wait_for(|stop| *stop).await;
    tokio::time::sleep(grace).await;
}

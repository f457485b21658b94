//! One HTTP probe.

use std::pin::pin;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use fairlead_core::model::ServiceKey;

use super::answer::{Answer, BODY_LIMIT, RAW_LIMIT, parse};
use super::dial::{Stream, describe, dial, is_idle};
use super::lateness::Lateness;
use super::question::{Place, Question};

/// A connection is used for so many probes; then a new one must be accepted, as a client's would have to be.
const PROBES_PER_CONNECTION: u32 = 10;

/// Probes one target over a kept connection.
pub struct Prober {
    question: Question,
    request: String,
    connection: Option<Kept>,
    away: bool,
}

/// A connection and the number of its probes.
type Kept = (Box<dyn Stream>, u32);

/// How far a probe has come.
#[derive(Clone, Copy)]
enum Stage {
    Connecting,
    Asked,
    Answering,
}

/// Why there was no answer.
enum Failure {
    /// There was no connection, or it ended before the first byte of one.
    Unheard(String),
    Wrong(String),
}

impl Prober {
    /// A prober without a connection yet.
    pub fn new(question: Question) -> Self {
        Self {
            request: question.request(),
            question,
            connection: None,
            away: false,
        }
    }

    /// Did the last probe merely find that the node agent is not there? What it has programmed works on, and for how
    /// long that is trusted is not a matter of probes.
    pub fn agent_is_away(&self) -> bool {
        self.away
    }

    /// Asks once, within the timeout. While this node is short of CPU it is longer: see [`Lateness`].
    ///
    /// # Errors
    /// One sentence that says why this node must not be trusted with traffic.
    pub async fn probe(&mut self, timeout: Duration, lateness: &Lateness) -> Result<(), String> {
        let started = Instant::now();
        let deadline = started + lateness.stretch(timeout, started);
        let mut stage = Stage::Connecting;
        self.away = false;
        {
            let mut asking = pin!(self.ask(&mut stage));
            if let Ok(outcome) = timeout_at(deadline, &mut asking).await {
                return outcome;
            }
            // An answer may have come while this very process did not run.
            if let Some(later) = lateness.grace(started, deadline, timeout, Instant::now())
                && let Ok(outcome) = timeout_at(later, asking).await
            {
                return outcome;
            }
        }
        let within = format!("within {} ms", timeout.as_millis());
        Err(match stage {
            Stage::Connecting => format!("no connection {within}"),
            Stage::Asked => format!("no answer {within}"),
            Stage::Answering => format!("the answer was not complete {within}"),
        })
    }

    async fn ask(&mut self, stage: &mut Stage) -> Result<(), String> {
        // Kept again only after a good answer.
        let kept = self.connection.take();
        if let Some((mut stream, used)) = kept
            && is_idle(&mut stream)
        {
            match exchange(&mut stream, self.request.as_bytes(), stage).await {
                Ok(answer) => return self.conclude(stream, used + 1, &answer),
                Err(Failure::Wrong(sentence)) => return Err(sentence),
                // It may have ended between two probes, for good reason. A new one tells.
                Err(Failure::Unheard(_)) => {}
            }
        }
        *stage = Stage::Connecting;
        let outcome = match dial(&self.question.place).await {
            Err(sentence) => Err(Failure::Unheard(sentence)),
            Ok(mut stream) => exchange(&mut stream, self.request.as_bytes(), stage)
                .await
                .map(|answer| (stream, answer)),
        };
        match outcome {
            Ok((stream, answer)) => self.conclude(stream, 1, &answer),
            Err(Failure::Wrong(sentence)) => Err(sentence),
            Err(Failure::Unheard(sentence)) => {
                self.away = matches!(self.question.place, Place::Agent(_));
                Err(sentence)
            }
        }
    }

    fn conclude(&mut self, stream: Box<dyn Stream>, used: u32, answer: &Answer) -> Result<(), String> {
        judge(&self.question, answer)?;
        // Dialling the agent costs next to nothing, and this way it keeps no memory for each Service.
        let keeps = !matches!(self.question.place, Place::Agent(_));
        if keeps && answer.reusable && used < PROBES_PER_CONNECTION {
            self.connection = Some((stream, used));
        }
        Ok(())
    }
}

async fn exchange(
    stream: &mut Box<dyn Stream>,
    request: &[u8],
    stage: &mut Stage,
) -> Result<Answer, Failure> {
    stream
        .write_all(request)
        .await
        .map_err(|error| Failure::Unheard(describe(&error)))?;
    *stage = Stage::Asked;
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let length = match stream.read_buf(&mut bytes).await {
            Ok(0) if bytes.is_empty() => {
                return Err(Failure::Unheard("connection closed without an answer".into()));
            }
            Ok(length) => length,
            Err(error) if bytes.is_empty() => return Err(Failure::Unheard(describe(&error))),
            Err(error) => return Err(Failure::Wrong(describe(&error))),
        };
        *stage = Stage::Answering;
        if let Some(answer) = parse(&bytes, length == 0).map_err(Failure::Wrong)? {
            return Ok(answer);
        }
        if bytes.len() > RAW_LIMIT {
            let sentence = format!("the answer is longer than {BODY_LIMIT} bytes");
            return Err(Failure::Wrong(sentence));
        }
    }
}

/// The body of a health-check node port, as far as it is of interest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceHealth {
    service: Option<ServiceKey>,
    local_endpoints: Option<i64>,
    service_proxy_healthy: Option<bool>,
}

fn judge(question: &Question, answer: &Answer) -> Result<(), String> {
    let code = answer.status;
    let health = || serde_json::from_slice::<ServiceHealth>(&answer.body).ok();
    if (300..400).contains(&code) {
        return Err(format!("HTTP {code}: a redirect is no answer"));
    }
    if code != 200 {
        return Err(match health() {
            Some(health) if health.local_endpoints == Some(0) => format!("HTTP {code}: no local endpoints"),
            Some(health) if health.service_proxy_healthy == Some(false) => {
                format!("HTTP {code}: the service proxy is not healthy")
            }
            _ => format!("HTTP {code}"),
        });
    }
    let Some(expected) = &question.service else {
        return Ok(());
    };
    if answer.body.is_empty() {
        return Ok(());
    }
    let Some(health) = health() else {
        return Err(format!(
            "HTTP {code}: the answer is not the JSON of a health-check node port"
        ));
    };
    match (health.service, health.local_endpoints) {
        (Some(service), _) if service != *expected => {
            Err(format!("HTTP {code}: the answer is for Service {service}"))
        }
        (_, Some(count)) if count <= 0 => Err(format!("HTTP {code}: but no local endpoints")),
        _ if health.service_proxy_healthy == Some(false) => {
            Err(format!("HTTP {code}: but the service proxy is not healthy"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_on_answers() {
        let local = Question {
            place: Place::Host("localhost".into(), 80),
            path: "/healthz".into(),
            service: Some(ServiceKey::new("default", "web")),
        };
        let proxy = Question {
            service: None,
            ..local.clone()
        };
        let good = r#"{"service":{"namespace":"default","name":"web"},"localEndpoints":1,"serviceProxyHealthy":true}"#;
        let lie = r#"{"service":{"namespace":"default","name":"web"},"localEndpoints":0}"#;
        let other = r#"{"service":{"namespace":"default","name":"db"},"localEndpoints":1}"#;
        let sick = r#"{"localEndpoints":1,"serviceProxyHealthy":false}"#;
        let table: &[(&Question, u16, &str, Result<(), &str>)] = &[
            (&local, 200, good, Ok(())),
            (&local, 200, "", Ok(())),
            (&local, 200, r#"{"status":"fine"}"#, Ok(())),
            (&local, 200, lie, Err("HTTP 200: but no local endpoints")),
            (
                &local,
                200,
                other,
                Err("HTTP 200: the answer is for Service default/db"),
            ),
            (
                &local,
                200,
                sick,
                Err("HTTP 200: but the service proxy is not healthy"),
            ),
            (
                &local,
                200,
                "<html>",
                Err("HTTP 200: the answer is not the JSON of a health-check node port"),
            ),
            (&local, 503, lie, Err("HTTP 503: no local endpoints")),
            (
                &local,
                503,
                sick,
                Err("HTTP 503: the service proxy is not healthy"),
            ),
            (&local, 503, "oops", Err("HTTP 503")),
            (&local, 204, "", Err("HTTP 204")),
            (&local, 302, "", Err("HTTP 302: a redirect is no answer")),
            (&proxy, 200, "anything", Ok(())),
            (&proxy, 503, r#"{"healthy":false}"#, Err("HTTP 503")),
        ];
        for (question, status, body, expected) in table {
            let answer = Answer {
                status: *status,
                body: body.as_bytes().to_vec(),
                reusable: true,
            };
            let outcome = judge(question, &answer);
            assert_eq!(
                outcome.as_ref().copied().map_err(String::as_str),
                *expected,
                "{status} {body}"
            );
        }
    }
}

//! The answers, byte for byte as kube-proxy gives them where programs read them.

use std::fmt::Write;
use std::time::Instant;

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fairlead_core::model::{Family, ServiceKey};
use jiff::Timestamp;

use super::facts::Facts;

/// Status and body, and the number of endpoints where it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 503.
    pub healthy: bool,
    /// JSON.
    pub body: String,
    /// For the field `X-Load-Balancing-Endpoint-Weight`.
    pub weight: Option<usize>,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = match self.healthy {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        let weight = HeaderName::from_static("x-load-balancing-endpoint-weight");
        let fields = [
            (header::CONTENT_TYPE, "application/json"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        let weight = self.weight.map(|count| [(weight, count.to_string())]);
        match weight {
            Some(weight) => (status, fields, weight, self.body).into_response(),
            None => (status, fields, self.body).into_response(),
        }
    }
}

/// On a health-check node port, whatever is asked for. Whether the node is leaving makes no difference here.
pub fn service(facts: &Facts, (key, family): &(ServiceKey, Family), now: Instant) -> Answer {
    let count = facts.endpoints.get(&(key.clone(), *family)).copied().unwrap_or(0);
    let proxy = facts.healthy(now);
    let ServiceKey { namespace, name } = key;
    Answer {
        healthy: count > 0 && proxy,
        body: format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\
             \"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {proxy}\n}}"
        ),
        weight: Some(count),
    }
}

/// `/healthz`: may new connections be sent to this node? Not before a plan is in the kernel, and not once the node is
/// leaving.
pub fn healthz(facts: &Facts, now: (Instant, Timestamp)) -> Answer {
    let healthy = facts.healthy(now.0) && facts.eligible && facts.planned;
    proxy(facts, now, healthy, Some(facts.eligible))
}

/// `/livez`: does the service proxy work?
pub fn livez(facts: &Facts, now: (Instant, Timestamp)) -> Answer {
    proxy(facts, now, facts.healthy(now.0), None)
}

fn proxy(facts: &Facts, now: (Instant, Timestamp), healthy: bool, eligible: Option<bool>) -> Answer {
    // While all is well the time is the present one: kube-proxy too says so, although nothing may have changed for long.
    let updated = if healthy { now.1 } else { facts.last.0 };
    let mut body = format!("{{\"lastUpdated\":\"{updated}\",\"currentTime\":\"{}\"", now.1);
    if let Some(eligible) = eligible {
        let _ = write!(body, ",\"nodeEligible\":{eligible}");
    }
    let works = facts.healthy(now.0);
    let families: Vec<String> = facts
        .families
        .iter()
        .map(|family| {
            let updated = if works { now.1 } else { facts.last.0 };
            format!("\"{family}\":{{\"lastUpdated\":\"{updated}\",\"healthy\":{works}}}")
        })
        .collect();
    let _ = write!(
        body,
        ",\"healthy\":{healthy},\"status\":{{{}}}}}",
        families.join(",")
    );
    Answer {
        healthy,
        body,
        weight: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::healthz::facts::LATE;

    fn facts(count: usize) -> (Facts, (ServiceKey, Family), (Instant, Timestamp)) {
        let now = Instant::now();
        let of = (ServiceKey::new("default", "web"), Family::V4);
        let mut facts = Facts::starting(now);
        facts.endpoints.insert(of.clone(), count);
        facts.planned = true;
        facts.waiting = None;
        facts.families = BTreeSet::from([Family::V4, Family::V6]);
        (facts, of, (now, Timestamp::from_second(86_400).unwrap()))
    }

    #[test]
    fn a_health_check_node_port_says_what_kube_proxy_says() {
        let (facts, of, (now, _)) = facts(2);
        let answer = service(&facts, &of, now);
        let expected = "{
\t\"service\": {
\t\t\"namespace\": \"default\",
\t\t\"name\": \"web\"
\t},
\t\"localEndpoints\": 2,
\t\"serviceProxyHealthy\": true
}";
        assert_eq!(answer.body, expected);
        assert_eq!((answer.healthy, answer.weight), (true, Some(2)));
        let response = answer.into_response();
        let field = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(field("content-type"), "application/json");
        assert_eq!(field("x-content-type-options"), "nosniff");
        assert_eq!(field("x-load-balancing-endpoint-weight"), "2");
    }

    #[test]
    fn the_verdicts() {
        for (count, late, leaving, planned, expected) in [
            // (health-check node port, healthz, livez)
            (1, false, false, true, (true, true, true)),
            (0, false, false, true, (false, true, true)),
            (1, false, true, true, (true, false, true)),
            (1, true, false, true, (false, false, false)),
            (0, false, false, false, (false, false, true)),
        ] {
            let (mut facts, of, now) = facts(count);
            facts.eligible = !leaving;
            facts.planned = planned;
            facts.waiting = late.then(|| now.0 - LATE);
            let verdicts = (
                service(&facts, &of, now.0).healthy,
                healthz(&facts, now).healthy,
                livez(&facts, now).healthy,
            );
            assert_eq!(verdicts, expected, "{count} {late} {leaving} {planned}");
        }
    }

    #[test]
    fn the_proxy_tells_times_and_families() {
        let (mut facts, _, now) = facts(0);
        let read = |answer: Answer| -> serde_json::Value { serde_json::from_str(&answer.body).unwrap() };
        assert_eq!(
            read(healthz(&facts, now)),
            serde_json::json!({
                "lastUpdated": "1970-01-02T00:00:00Z", "currentTime": "1970-01-02T00:00:00Z",
                "nodeEligible": true, "healthy": true,
                "status": {
                    "IPv4": {"lastUpdated": "1970-01-02T00:00:00Z", "healthy": true},
                    "IPv6": {"lastUpdated": "1970-01-02T00:00:00Z", "healthy": true},
                },
            })
        );
        facts.eligible = false;
        facts.families.remove(&Family::V6);
        let leaving = read(healthz(&facts, now));
        assert_eq!(
            (&leaving["nodeEligible"], &leaving["healthy"]),
            (&false.into(), &false.into())
        );
        assert_eq!(leaving["lastUpdated"], "1970-01-01T00:00:00Z");
        let lives = read(livez(&facts, now));
        assert_eq!(lives.get("nodeEligible"), None);
        assert_eq!(lives["status"]["IPv4"]["healthy"], true);
    }
}

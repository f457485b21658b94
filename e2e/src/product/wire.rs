//! What the wire says, whatever our own objects say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::error::Result;
use crate::lab::Lab;
use crate::topology::Place;

/// Asks by ARP who has an address, from a place on the nodes' segment, and listens for a second; answers with every MAC
/// address that replied.
///
/// # Errors
/// When `arping` cannot be run there.
pub fn arp_answers(lab: &Lab, from: Place, address: Ipv4Addr) -> Result<BTreeSet<String>> {
    let address = address.to_string();
    // -b: every request is a broadcast, so that all are asked. It would end after -c replies, so that many are allowed.
    let output = lab.exec(
        from,
        ["arping", "-b", "-c", "99", "-w", "1", "-I", "eth0", &address],
    )?;
    Ok(replies(&String::from_utf8_lossy(&output.stdout)))
}

/// The MAC addresses in arping's replies, in lower case.
fn replies(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.contains("reply from"))
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_lowercase()))
        .collect()
}

/// The places that answer ARP for an address; a MAC that is no place's stands as it is.
///
/// # Errors
/// As [`arp_answers`].
pub fn announcers(lab: &Lab, address: Ipv4Addr) -> Result<Vec<String>> {
    let names: BTreeMap<String, String> = lab
        .places()
        .into_iter()
        .flat_map(|p| p.interfaces().into_iter().map(move |i| (i.mac, p.name())))
        .collect();
    let answers = arp_answers(lab, Place::LanClient, address)?;
    Ok(answers
        .into_iter()
        .map(|mac| names.get(&mac).cloned().unwrap_or(mac))
        .collect())
}

/// One HTTP answer of the test server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The pod that answered.
    pub backend: String,
    /// The client address that it saw.
    pub client: String,
}

/// `curl`s the test server from a place; `Err` holds what curl said.
///
/// # Errors
/// When curl cannot be run there; its failure is the inner error.
pub fn curl(
    lab: &Lab,
    from: Place,
    target: &str,
    limit: Duration,
) -> Result<std::result::Result<Answer, String>> {
    let limit = limit.as_secs_f64().to_string();
    let (host, client) = (
        format!("http://{target}/hostname"),
        format!("http://{target}/clientip"),
    );
    let output = lab.exec(from, ["curl", "-sS", "-m", &limit, "-w", "\n", &host, &client])?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = stdout.lines().filter(|line| !line.is_empty()).collect();
    Ok(match (output.status.success(), lines.as_slice()) {
        (true, [backend, client]) => {
            let client = client.rsplit_once(':').map_or(*client, |(address, _)| address);
            Ok(Answer {
                backend: (*backend).to_owned(),
                client: client.to_owned(),
            })
        }
        _ => Err(format!(
            "{} {stdout}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_replies_of_arping() {
        let text = "ARPING 192.0.2.1 from 192.0.2.200 eth0\n\
                    Unicast reply from 192.0.2.1 [02:FA:17:EA:30:0B]  0.671ms\n\
                    Unicast reply from 192.0.2.1 [02:FA:17:EA:30:0C]  0.701ms\n\
                    Unicast reply from 192.0.2.1 [02:FA:17:EA:30:0B]  0.671ms\n\
                    Sent 4 probes (4 broadcast(s))\nReceived 3 response(s)\n";
        let macs: Vec<String> = replies(text).into_iter().collect();
        assert_eq!(macs, ["02:fa:17:ea:30:0b", "02:fa:17:ea:30:0c"]);
        assert!(replies("Sent 2 probes\nReceived 0 response(s)\n").is_empty());
    }
}

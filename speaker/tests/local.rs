//! Probes stay on the node, on a real wire with another machine at its end. Needs root and iproute2.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "other tests use the rest")]
mod netns;

use std::net::SocketAddr;
use std::time::Duration;

use fairlead_speaker::health::{Lateness, Place, Prober, Question};
use netns::Wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn question(address: &str) -> Question {
    Question {
        place: Place::Node(address.parse().unwrap()),
        path: "/healthz".into(),
        service: None,
    }
}

async fn serve(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    });
}

/// Frames that the speaker's namespace has sent, ARP and neighbour discovery included.
fn sent(wire: &Wire) -> u64 {
    let count = |device| {
        let text = wire.speaker_ip(&format!("-s -j link show dev {device}"));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    };
    count("eth0") + count("eth1")
}

#[test]
fn no_probe_leaves_the_node() {
    let wire = Wire::new();
    wire.speaker_ip("link set lo up");
    wire.speaker_ip("route add default via 192.0.2.2");
    for (side, last) in [("speaker", 1), ("peer", 2)] {
        let address = format!("addr add fd00::{last}/64 dev eth0 nodad");
        match side {
            "speaker" => wire.speaker_ip(&address),
            _ => wire.peer_ip(&address),
        };
    }
    // Second addresses of the same subnets, which the kernel takes for no source by itself.
    wire.speaker_ip("addr add 192.0.2.3/24 dev eth0");
    wire.speaker_ip("addr add fd00::3/64 dev eth0 nodad");
    // The peer would answer, if it were asked.
    let (ready, wait) = std::sync::mpsc::channel();
    let (end, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    let peer = wire.on_peer(async move || {
        serve("192.0.2.2:80".parse().unwrap()).await;
        serve("[fd00::2]:80".parse().unwrap()).await;
        ready.send(()).unwrap();
        let _ = ended.recv().await;
    });
    wait.recv().unwrap();
    let probe = async |address: &str| {
        let mut prober = Prober::new(question(address));
        prober.probe(Duration::from_secs(2), &Lateness::default()).await
    };
    // What the kernel says of itself when an interface comes up.
    let quiet = |wire: &Wire| {
        let mut before = sent(wire);
        for _ in 0..40 {
            std::thread::sleep(Duration::from_millis(500));
            let now = sent(wire);
            if now == before {
                return now;
            }
            before = now;
        }
        panic!("the speaker's kernel never falls silent");
    };
    let before = quiet(&wire);
    let outcomes = wire
        .on_speaker(async move || {
            let own = ["192.0.2.1:80", "[fd00::1]:80", "192.0.2.3:80", "[fd00::3]:80"];
            let mut outcomes = Vec::new();
            for address in own {
                serve(address.parse().unwrap()).await;
                outcomes.push(probe(address).await);
            }
            for address in [
                "192.0.2.2:80",
                "198.51.100.77:80",
                "203.0.113.1:80",
                "[fd00::2]:80",
            ] {
                outcomes.push(probe(address).await);
            }
            // keepalived and others have this set.
            std::fs::write("/proc/sys/net/ipv4/ip_nonlocal_bind", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
            for address in ["192.0.2.2:80", "[fd00::2]:80", "203.0.113.1:80", own[2], own[3]] {
                outcomes.push(probe(address).await);
            }
            outcomes
        })
        .join()
        .unwrap();
    let strange = |address: &str| Err(format!("{address} is not an address of this node"));
    let expected = [
        Ok(()),
        Ok(()),
        Ok(()),
        Ok(()),
        strange("192.0.2.2"),
        strange("198.51.100.77"),
        strange("203.0.113.1"),
        strange("fd00::2"),
        strange("192.0.2.2"),
        strange("fd00::2"),
        strange("203.0.113.1"),
        Ok(()),
        Ok(()),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(sent(&wire), before, "frames went out");
    drop(end);
    peer.join().unwrap();
}

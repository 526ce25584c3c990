//! Fleets behind DNS names: resolved, followed, and kept when the name server fails.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Running, Stub, settings};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use crate::common;

const A: u16 = 1;
const SRV: u16 = 33;

/// The records of a name server.
#[derive(Debug, Clone)]
enum Zone {
    /// Nothing under any name.
    Nothing,
    /// Every query fails (SERVFAIL).
    Broken,
    /// These addresses under every name.
    Hosts(Vec<Ipv4Addr>),
    /// Priority, port and address of each target under the first name; the address under other
    /// names, where queries for an unspecified one fail.
    Services(Vec<Target>),
}

type Target = (u16, u16, Ipv4Addr);

/// A name server on a free port of the loopback interface.
struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NameServer {
    async fn start(zone: Zone, ttl: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let address = socket.local_addr().expect("bound");
        let (zone, asked) = (Arc::new(Mutex::new(zone)), Arc::new(AtomicUsize::new(0)));
        let (known, count) = (Arc::clone(&zone), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                let zone = known.lock().expect("not poisoned").clone();
                let (kind, answer) = reply(&packet[..length], &zone, ttl);
                // A missing IPv6 address is not cached without an SOA record.
                count.fetch_add(usize::from(kind == A), Relaxed);
                drop(socket.send_to(&answer, from).await);
            }
        });
        Self { address, zone, asked, task }
    }

    fn set(&self, zone: Zone) {
        *self.zone.lock().expect("not poisoned") = zone;
    }

    /// Waits for `count` more queries for addresses.
    async fn looks(&self, count: usize) {
        let before = self.asked.load(Relaxed);
        let asked = async {
            while self.asked.load(Relaxed) < before + count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), asked).await.expect("it goes on asking");
    }
}

/// The record type of a query, and the answer.
fn reply(query: &[u8], zone: &Zone, ttl: u32) -> (u16, Vec<u8>) {
    let name_end = 12 + query[12..].iter().position(|byte| *byte == 0).expect("a name") + 1;
    let kind = u16::from_be_bytes([query[name_end], query[name_end + 1]]);
    let first_label = String::from_utf8_lossy(&query[13..13 + usize::from(query[12])]).into_owned();
    let records: Vec<Vec<u8>> = match zone {
        Zone::Hosts(hosts) if kind == A => {
            hosts.iter().map(|host| host.octets().to_vec()).collect()
        }
        Zone::Services(all) if kind == SRV => {
            let target = |(number, (priority, port, _)): (usize, &Target)| {
                let mut data = Vec::new();
                for part in [*priority, 0, *port] {
                    data.extend(part.to_be_bytes());
                }
                let digit = u8::try_from(number).expect("few") + b'0';
                data.extend([2, b't', digit, 4, b't', b'e', b's', b't', 0]);
                data
            };
            all.iter().enumerate().map(target).collect()
        }
        Zone::Services(all) if kind == A => {
            let number: usize = first_label[1..].parse().expect("a target");
            vec![all[number].2.octets().to_vec()]
        }
        Zone::Nothing | Zone::Broken | Zone::Hosts(_) | Zone::Services(_) => Vec::new(),
    };
    let is_broken = records.iter().any(|data| data[..] == Ipv4Addr::UNSPECIFIED.octets());
    let code = match zone {
        Zone::Nothing => 3,
        Zone::Broken => 2,
        Zone::Services(_) if is_broken => 2,
        Zone::Hosts(_) | Zone::Services(_) => 0,
    };
    let records = if is_broken { Vec::new() } else { records };
    let count = u8::try_from(records.len()).expect("few");
    let mut answer = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
    answer.extend(&query[12..name_end + 4]);
    for data in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
        answer.extend(data);
    }
    (kind, answer)
}

const ONE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Two workers on the same port of two addresses.
async fn pair() -> (Stub, Stub) {
    let first = TcpListener::bind((ONE, 0)).await.expect("bound");
    let port = first.local_addr().expect("bound").port();
    let second = TcpListener::bind((TWO, port)).await.expect("free there too");
    let named = |name: &'static str| move |_: &common::Seen| common::Act::ok(name);
    (Stub::on(first, named("one")), Stub::on(second, named("two")))
}

fn behind(server: &NameServer, worker: String) -> Running {
    let mut settings = settings(&[]);
    settings.worker = vec![worker];
    settings.dns_server = Some(server.address);
    settings.slow_start = Some(Duration::ZERO);
    Running::start_unready(&settings)
}

fn names(fleet: &serde_json::Value) -> Vec<String> {
    let all = fleet["endpoints"].as_array().cloned().unwrap_or_default();
    let ready = all.iter().filter(|one| one["state"] == "available");
    ready.map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn endpoints_come_and_go_with_the_name_and_those_that_stay_keep_their_counters() {
    let (one, two) = pair().await;
    let server = NameServer::start(Zone::Hosts(vec![ONE]), 0).await;
    let port = one.address.port();
    let balancer = behind(&server, format!("dns:fleet.test:{port}"));
    let (first, second) = (one.address.to_string(), two.address.to_string());
    balancer.until(|fleet| names(fleet) == [first.clone()]).await;
    for _ in 0..5 {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "one");
    }
    server.set(Zone::Hosts(vec![TWO, ONE]));
    let both = |fleet: &serde_json::Value| names(fleet) == [first.clone(), second.clone()];
    let fleet = balancer.until(both).await;
    assert_eq!(fleet["endpoints"][0]["succeeded"], 5);
    server.set(Zone::Hosts(vec![TWO]));
    balancer.until(|fleet| names(fleet) == [second.clone()]).await;
    for _ in 0..5 {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "two");
    }
    server.set(Zone::Nothing);
    balancer.until(|fleet| names(fleet).is_empty()).await;
}

#[tokio::test]
async fn a_name_server_that_fails_empties_nothing() {
    let (one, _two) = pair().await;
    let server = NameServer::start(Zone::Hosts(vec![ONE]), 0).await;
    let balancer = behind(&server, format!("dns:fleet.test:{}", one.address.port()));
    balancer.until(|fleet| names(fleet).len() == 1).await;
    server.set(Zone::Broken);
    server.looks(3).await;
    assert_eq!(balancer.post("/predict", "", "x").await.body, "one");
}

#[tokio::test]
async fn a_name_server_that_fails_at_the_start_holds_up_no_other_worker() {
    let (one, two) = pair().await;
    let server = NameServer::start(Zone::Broken, 0).await;
    let mut settings = settings(&[two.address]);
    settings.worker.push(format!("dns:fleet.test:{}", one.address.port()));
    settings.dns_server = Some(server.address);
    let balancer = Running::start(settings).await;
    assert_eq!(balancer.post("/predict", "", "x").await.body, "two");
    server.set(Zone::Hosts(vec![ONE]));
    balancer.until(|fleet| names(fleet).len() == 2).await;
}

#[tokio::test]
async fn an_answer_is_believed_for_its_time_to_live() {
    let (one, _two) = pair().await;
    let server = NameServer::start(Zone::Hosts(vec![ONE]), 4).await;
    let balancer = behind(&server, format!("dns:fleet.test:{}", one.address.port()));
    balancer.until(|fleet| names(fleet).len() == 1).await;
    let before = server.asked.load(Relaxed);
    for _ in 0..20 {
        balancer.reload.notify_one();
        balancer.fleet().await;
    }
    let after = server.asked.load(Relaxed);
    // One more query, in case the time to live has expired meanwhile.
    assert!(after <= before + 1, "{before} {after}");
}

#[tokio::test]
async fn services_are_the_targets_of_the_best_priority() {
    let (one, two) = pair().await;
    let port = one.address.port();
    let zone = Zone::Services(vec![(10, port, ONE), (20, port, TWO)]);
    let server = NameServer::start(zone, 0).await;
    let balancer = behind(&server, "dns+srv:_http._tcp.fleet.test".to_owned());
    balancer.until(|fleet| names(fleet) == [one.address.to_string()]).await;
    server.set(Zone::Services(vec![(20, port, TWO), (20, port, ONE)]));
    let both = [one.address.to_string(), two.address.to_string()];
    balancer.until(|fleet| names(fleet) == both).await;
}

#[tokio::test]
async fn a_target_that_is_not_resolved_holds_up_no_other_and_keeps_its_addresses() {
    let (one, two) = pair().await;
    let port = one.address.port();
    let broken = Ipv4Addr::UNSPECIFIED;
    let zone = |addresses: &[Ipv4Addr]| {
        Zone::Services(addresses.iter().map(|address| (10, port, *address)).collect())
    };
    let server = NameServer::start(zone(&[ONE, broken]), 0).await;
    let balancer = behind(&server, "dns+srv:_http._tcp.fleet.test".to_owned());
    balancer.until(|fleet| names(fleet) == [one.address.to_string()]).await;
    server.set(zone(&[broken, TWO]));
    let both = [one.address.to_string(), two.address.to_string()];
    balancer.until(|fleet| names(fleet) == both).await;
    // An address that is missing from all answers is dropped after some looks; this one is not.
    server.looks(24).await;
    assert_eq!(names(&balancer.fleet().await), both);
    // The others are removed as usual, although none of the remaining ones can be resolved.
    server.set(zone(&[broken]));
    balancer.until(|fleet| names(fleet) == [one.address.to_string()]).await;
}

//! A layout as the commands that build it. Pure, so that `--dry-run` shows exactly what `up` runs.
//!
//! Devices are made inside their namespaces, so nothing ever appears among the machine's own
//! devices, and removing a namespace removes its devices.

use std::fmt;
use std::path::Path;

use rspec::Property;

use super::layout::{self, Bridge, Layout, Node, Port, Relay};
use super::site::Impairment;

/// One command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) program: &'static str,
    pub(crate) args: Vec<String>,
    /// What is lost if this fails because the kernel lacks it; `None` if a failure is an error.
    pub(crate) property: Option<String>,
    /// What is done instead in that case, and what is lost nevertheless.
    pub(crate) otherwise: Option<Otherwise>,
    /// Whether it keeps running after it has reported that it is ready.
    pub(crate) goes_on: bool,
}

/// The fallback of a step that the kernel cannot do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Otherwise {
    pub(crate) steps: Vec<Step>,
    pub(crate) property: Option<String>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program)?;
        for arg in &self.args {
            if arg.contains([' ', '$', '>', '"']) {
                write!(f, " '{arg}'")?;
            } else {
                write!(f, " {arg}")?;
            }
        }
        Ok(())
    }
}

/// Least burst of a token bucket, so that it can pass what the kernel hands over as one packet.
const MIN_BURST_BYTES: u64 = 16 * 1024;
/// A token bucket refills at timer ticks (250 Hz), so it must hold what passes in one.
const TICKS_PER_SECOND: u64 = 250;

/// Everything that builds the slice, in order; `client` is this program.
pub(crate) fn build(layout: &Layout, client: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    for node in &layout.nodes {
        let space = layout::namespace(&layout.slice, &node.name);
        steps.push(ip(&["netns", "add", &space]));
        steps.push(ip(&["-n", &space, "link", "set", "lo", "up"]));
        if node.ports.len() > 1 {
            steps.push(forward(&space));
        }
    }
    for number in 0..layout.links.len() {
        steps.extend(link(layout, number));
        if let Some(relay) = layout.relay(number) {
            steps.extend(unsplit(layout, number));
            steps.push(delay(&relay, client));
        }
    }
    for node in &layout.nodes {
        let space = layout::namespace(&layout.slice, &node.name);
        for port in &node.ports {
            steps.extend(address(&space, port));
            steps.extend(shape(&space, node, port, far_end(layout, node, port)));
        }
        steps.extend(routes(&layout.slice, node));
    }
    steps
}

/// The devices of a link: a pair, or a bridge and a pair from each end to it; a relay goes between.
fn link(layout: &Layout, number: usize) -> Vec<Step> {
    let ends: Vec<Device> = layout.links[number]
        .ends
        .iter()
        .map(|&end| {
            let node = &layout.nodes[end.node];
            (layout::namespace(&layout.slice, &node.name), layout.port(end).device.clone())
        })
        .collect();
    let relay = layout.relay(number);
    let Some(Bridge { namespace: space, device: bridge }) = layout.bridge(number) else {
        return match relay {
            None => vec![pair(&ends[0], &ends[1])],
            Some(relay) => apart(&ends, &relay),
        };
    };
    let is_held = |place: usize| {
        relay.iter().flat_map(|relay| &relay.holds).any(|hold| hold.near == layout::near(place))
    };
    let mut steps = vec![
        ip(&["netns", "add", &space]),
        ip(&["-n", &space, "link", "add", "name", bridge, "type", "bridge"]),
        ip(&["-n", &space, "link", "set", bridge, "up"]),
    ];
    for (place, end) in ends.iter().enumerate() {
        let near = (space.clone(), layout::near(place));
        steps.push(pair(end, &near));
        steps.push(up(&near));
        let mut port = near;
        if is_held(place) {
            let late = (space.clone(), layout::behind(place));
            port = (space.clone(), format!("slot{place}"));
            steps.extend([pair(&late, &port), up(&late), up(&port)]);
        }
        steps.push(ip(&["-n", &space, "link", "set", &port.1, "master", bridge]));
    }
    steps
}

/// The ends of a link, each paired with a device of the relay between them.
fn apart(ends: &[Device], relay: &Relay) -> Vec<Step> {
    let space = &relay.namespace;
    let mut steps = vec![ip(&["netns", "add", space])];
    for (place, end) in ends.iter().enumerate() {
        let near = (space.clone(), layout::near(place));
        steps.extend([pair(end, &near), up(&near)]);
    }
    steps
}

/// Makes the nodes of a link send packets no longer than those on a wire: a relay cannot send
/// longer ones.
fn unsplit(layout: &Layout, number: usize) -> Vec<Step> {
    let of_end = |end: &layout::End| {
        let space = layout::namespace(&layout.slice, &layout.nodes[end.node].name);
        whole(&space, &layout.port(*end).device)
    };
    layout.links[number].ends.iter().map(of_end).collect()
}

/// Starts the relay of a link. `setsid` keeps it from ending with the terminal.
pub(crate) fn delay(relay: &Relay, client: &Path) -> Step {
    let mut args =
        ["netns", "exec", &relay.namespace, "setsid", "--fork"].map(str::to_owned).to_vec();
    args.extend([client.display().to_string(), "slice".to_owned(), "delay".to_owned()]);
    args.extend(relay.holds.iter().map(ToString::to_string));
    Step { args, goes_on: true, ..ip(&[]) }
}

/// The namespace of a device, and its name there.
type Device = (String, String);

fn pair((a, device_a): &Device, (b, device_b): &Device) -> Step {
    let peer = ["type", "veth", "peer", "name", device_b, "netns", b];
    let mut args = vec!["link", "add", "name", device_a, "netns", a];
    args.extend(peer);
    ip(&args)
}

fn up((space, device): &Device) -> Step {
    ip(&["-n", space, "link", "set", device, "up"])
}

/// Takes a device down.
pub(crate) fn cut(space: &str, device: &str) -> Step {
    ip(&["-n", space, "link", "set", device, "down"])
}

/// Brings a device up again, with the routes that the node lost along with it.
pub(crate) fn heal(slice: &str, space: &str, device: &str, node: Option<&Node>) -> Vec<Step> {
    let mut steps = vec![ip(&["-n", space, "link", "set", device, "up"])];
    steps.extend(node.into_iter().flat_map(|node| routes(slice, node)));
    steps
}

fn ip(args: &[&str]) -> Step {
    step("ip", args)
}

fn step(program: &'static str, args: &[&str]) -> Step {
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    Step { program, args, property: None, otherwise: None, goes_on: false }
}

fn forward(space: &str) -> Step {
    ip(&["netns", "exec", space, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
}

fn address(space: &str, port: &Port) -> [Step; 2] {
    let address = format!("{}/{}", port.ip.address, port.ip.prefix);
    [
        ip(&["-n", space, "address", "add", &address, "dev", &port.device]),
        ip(&["-n", space, "link", "set", &port.device, "up"]),
    ]
}

fn routes(slice: &str, node: &Node) -> Vec<Step> {
    let space = layout::namespace(slice, &node.name);
    let step = |route: &layout::Route| {
        ip(&["-n", &space, "route", "replace", &route.to, "via", &route.via.to_string()])
    };
    node.routes.iter().map(step).collect()
}

/// The device that receives what a port sends, if its link has two ends.
fn far_end(layout: &Layout, node: &Node, port: &Port) -> Option<Device> {
    let is_here = |end: &layout::End| {
        layout.nodes[end.node].name == node.name && layout.port(*end).device == port.device
    };
    let link = layout.links.iter().find(|link| link.ends.iter().any(is_here))?;
    let [one, other] = link.ends.as_slice() else { return None };
    let far = if is_here(one) { other } else { one };
    let name = &layout.nodes[far.node].name;
    Some((layout::namespace(&layout.slice, name), layout.port(*far).device.clone()))
}

/// Drops a random share of the packets that arrive at a device, as if they were lost on the way to
/// it. If they were dropped where they are sent, the sender's own kernel would notice. Packets are
/// those on the wire: without a limit, TCP hands over up to 64 KiB as one.
fn lose(space: &str, device: &str, share: f64) -> [Step; 2] {
    [whole(space, device), drops("-A", space, device, share)]
}

/// Makes a device hand over no packets longer than those on the wire.
fn whole(space: &str, device: &str) -> Step {
    ip(&["-n", space, "link", "set", "dev", device, "gso_max_segs", "1"])
}

/// Stops dropping that share of packets.
pub(crate) fn keep(space: &str, device: &str, share: f64) -> Step {
    drops("-D", space, device, share)
}

/// Adds or removes the rule that drops packets.
fn drops(verb: &str, space: &str, device: &str, share: f64) -> Step {
    let share = format!("{share:.9}");
    let mut args = vec!["netns", "exec", space, "iptables", "-w", "-t", "raw", verb, "PREROUTING"];
    args.extend(["-i", device, "-m", "statistic", "--mode", "random", "--probability", &share]);
    args.extend(["-j", "DROP"]);
    ip(&args)
}

/// Impairs what a port sends and receives, beyond what the request specifies.
pub(crate) fn impair(space: &str, node: &Node, port: &Port, wanted: &Impairment) -> Vec<Step> {
    let device = port.device.as_str();
    let mut steps = Vec::new();
    if wanted.loss > 0.0 {
        steps.extend(lose(space, device, wanted.loss));
    }
    // A root of its own replaces any other; it is always there, so it can always be removed.
    steps.push(step("tc", &["-n", space, "qdisc", "replace", "dev", device, "root", "pfifo"]));
    steps.push(step("tc", &["-n", space, "qdisc", "del", "dev", device, "root"]));
    let own = port.kernel_shaping().unwrap_or_default();
    let capacity = wanted.capacity_kbps.or(own.capacity);
    let shaping = Shaping::new(space, node, port, &Property { capacity, ..own });
    // What this kernel lacks for the request was reported when the slice was built, and the
    // fallbacks from then still apply.
    let known = |step| Step { otherwise: Some(Otherwise::default()), ..step };
    let is_own = wanted.capacity_kbps.is_none();
    steps.extend(shaping.limit.map(|step| if is_own { known(step) } else { step }));
    steps.extend(shaping.disturb.map(known));
    steps
}

/// Shapes what a port sends as the request specifies; it arrives at `far`.
fn shape(space: &str, node: &Node, port: &Port, far: Option<Device>) -> Vec<Step> {
    let Some(property) = &port.kernel_shaping() else { return Vec::new() };
    let Shaping { limit, disturb } = Shaping::new(space, node, port, property);
    let otherwise = far
        .and_then(|(space, device)| without_netem(property, &space, &device, &place(node, port)));
    let disturb = disturb.map(|step| Step { otherwise, ..step });
    limit.into_iter().chain(disturb).collect()
}

/// A port, named as in the request.
fn place(node: &Node, port: &Port) -> String {
    format!("{} of node {}", port.interface, node.name)
}

/// What the kernel does to what a port sends, one below the other.
struct Shaping {
    /// A token bucket.
    limit: Option<Step>,
    /// Delay and loss.
    disturb: Option<Step>,
}

impl Shaping {
    /// Both, from the root of a device that has none.
    fn new(space: &str, node: &Node, port: &Port, property: &Property) -> Self {
        let start = ["-n", space, "qdisc", "add", "dev", &port.device];
        let limit = property.capacity.map(|kbps| {
            let rate = format!("{kbps}kbit");
            let burst = (kbps * 1000 / 8 / TICKS_PER_SECOND).max(MIN_BURST_BYTES).to_string();
            let bucket = ["tbf", "rate", &rate, "burst", &burst, "latency", "50ms"];
            let args = [&start[..], &["root", "handle", "1:"], &bucket].concat();
            let property = Some(format!("capacity {rate} on {}", place(node, port)));
            Step { property, ..step("tc", &args) }
        });
        let parent: &[&str] = if limit.is_some() { &["parent", "1:1"] } else { &["root"] };
        let disturb = netem(property).map(|Netem { args, name }| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let netem = ["handle", "10:", "netem", "limit", "10000"];
            let args = [&start[..], parent, &netem, &args].concat();
            let property = Some(format!("{name} on {}", place(node, port)));
            Step { property, ..step("tc", &args) }
        });
        Self { limit, disturb }
    }
}

/// The fallback of a kernel without netem: it can still lose packets, but not delay them.
fn without_netem(property: &Property, space: &str, device: &str, place: &str) -> Option<Otherwise> {
    let share = property.packet_loss.filter(|share| *share > 0.0)?;
    let latency = property.latency.filter(|latency| !latency.is_zero());
    Some(Otherwise {
        steps: lose(space, device, share).to_vec(),
        property: latency.map(|latency| format!("latency {latency:?} on {place}")),
    })
}

/// What netem does to packets.
struct Netem {
    args: Vec<String>,
    name: String,
}

/// Delay and loss, if there are any.
fn netem(property: &Property) -> Option<Netem> {
    let mut args = Vec::new();
    let mut names = Vec::new();
    if let Some(latency) = property.latency.filter(|latency| !latency.is_zero()) {
        args.extend(["delay".to_owned(), format!("{}us", latency.as_micros())]);
        names.push(format!("latency {latency:?}"));
    }
    if let Some(share) = property.packet_loss.filter(|&share| share > 0.0) {
        let percent = format!("{}%", share * 100.0);
        names.push(format!("loss {percent}"));
        args.extend(["loss".to_owned(), percent]);
    }
    (!args.is_empty()).then(|| Netem { args, name: names.join(" and ") })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rspec::{REPOSITORY, Star};

    use super::*;

    fn lines(star: &Star) -> Vec<String> {
        let layout = Layout::new("s", &star.request().expect("valid")).expect("fits");
        build(&layout, Path::new("client")).iter().map(Step::to_string).collect()
    }

    fn star(capacity: Option<u64>, latency: Option<Duration>) -> Star {
        let repository = REPOSITORY.to_owned();
        Star { workers: 1, capacity, latency, packet_loss: None, repository }
    }

    #[test]
    fn a_slice_without_properties_needs_no_tc() {
        let lines = lines(&star(None, None));
        assert!(lines.iter().all(|line| line.starts_with("ip ")), "{lines:?}");
        assert_eq!(lines[0], "ip netns add fleet.s.balancer");
        let pair = "ip link add name eth0 netns fleet.s.server1 type veth peer name eth0 netns fleet.s.balancer";
        assert!(lines.iter().any(|line| line == pair), "{lines:#?}");
        let route = "ip -n fleet.s.client route replace default via 10.10.2.1";
        assert_eq!(lines.last().map(String::as_str), Some(route));
    }

    #[test]
    fn a_lan_is_built_around_a_bridge() {
        let node =
            |i: usize| format!("<node client_id='n{i}'><interface client_id='i{i}'/></node>");
        let end = |i: usize| format!("<interface_ref client_id='i{i}'/>");
        let ends = [0, 1, 2].map(end).concat();
        let nodes = [0, 1, 2].map(node).concat();
        let text = format!(
            "<rspec xmlns='http://www.geni.net/resources/rspec/3' type='request'>{nodes}<link client_id='lan'>{ends}</link></rspec>"
        );
        let rspec = rspec::Rspec::parse(&text).expect("valid");
        let layout = Layout::new("s", &rspec).expect("fits");
        let lines: Vec<String> =
            build(&layout, Path::new("client")).iter().map(Step::to_string).collect();
        for expected in [
            "ip netns add fleet.s..lan0",
            "ip -n fleet.s..lan0 link add name br0 type bridge",
            "ip link add name eth0 netns fleet.s.n2 type veth peer name port2 netns fleet.s..lan0",
            "ip -n fleet.s..lan0 link set port2 master br0",
            "ip -n fleet.s.n2 address add 10.10.1.3/24 dev eth0",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}\n{lines:#?}");
        }
    }

    #[test]
    fn capacity_and_latency_stack_on_each_end() {
        let lines = lines(&star(Some(1_000_000), Some(Duration::from_millis(1))));
        let shaped: Vec<_> = lines.iter().filter(|line| line.starts_with("tc")).collect();
        assert_eq!(shaped.len(), 8);
        assert_eq!(
            shaped[0],
            "tc -n fleet.s.balancer qdisc add dev eth0 root handle 1: tbf rate 1000000kbit burst 500000 latency 50ms"
        );
        assert_eq!(
            shaped[1],
            "tc -n fleet.s.balancer qdisc add dev eth0 parent 1:1 handle 10: netem limit 10000 delay 1000us"
        );
    }

    #[test]
    fn loss_needs_no_netem_and_happens_where_packets_arrive() {
        let star = Star { packet_loss: Some(0.1), ..star(None, Some(Duration::from_millis(1))) };
        let layout = Layout::new("s", &star.request().expect("valid")).expect("fits");
        let steps = build(&layout, Path::new("client"));
        let netem = steps.iter().find(|step| step.program == "tc").expect("one");
        let otherwise = netem.otherwise.as_ref().expect("loss");
        let lines: Vec<String> = otherwise.steps.iter().map(Step::to_string).collect();
        assert_eq!(
            lines,
            [
                "ip -n fleet.s.server1 link set dev eth0 gso_max_segs 1",
                "ip netns exec fleet.s.server1 iptables -w -t raw -A PREROUTING -i eth0 -m statistic \
                 --mode random --probability 0.100000000 -j DROP",
            ],
            "the balancer's first port leads to server1"
        );
        assert!(otherwise.property.as_ref().is_some_and(|it| it.starts_with("latency 1ms on")));
    }

    /// The commands that impair the client's end of the link between it and the balancer.
    fn impaired(star: &Star, wanted: &Impairment) -> Vec<Step> {
        let layout = Layout::new("s", &star.request().expect("valid")).expect("fits");
        let client = layout.node("client").expect("there");
        impair("fleet.s.client", client, &client.ports[0], wanted)
    }

    #[test]
    fn a_link_with_another_capacity_keeps_the_latency_and_loss_of_its_request() {
        let star =
            Star { packet_loss: Some(0.1), ..star(Some(8000), Some(Duration::from_millis(20))) };
        let wanted = |capacity_kbps| Impairment { loss: 0.0, capacity_kbps };
        let delay = "tc -n fleet.s.client qdisc add dev eth0 parent 1:1 handle 10: netem limit 10000 \
                     delay 20000us loss 10%";
        for (capacity, rate) in
            [(Some(1000), "1000kbit burst 16384"), (None, "8000kbit burst 16384")]
        {
            let steps = impaired(&star, &wanted(capacity));
            let lines: Vec<String> = steps.iter().map(Step::to_string).collect();
            let bucket = format!(
                "tc -n fleet.s.client qdisc add dev eth0 root handle 1: tbf rate {rate} latency 50ms"
            );
            assert_eq!(
                lines,
                [
                    "tc -n fleet.s.client qdisc replace dev eth0 root pfifo",
                    "tc -n fleet.s.client qdisc del dev eth0 root",
                    &bucket,
                    delay,
                ]
            );
            // That the kernel lacks something was reported when the slice was built. It is an error
            // only for a capacity that the experiment itself asks for.
            assert_eq!(steps[2].otherwise.is_none(), capacity.is_some());
            assert_eq!(steps[3].otherwise, Some(Otherwise::default()));
        }
        let lossy = impaired(&star, &Impairment { loss: 0.3, capacity_kbps: None });
        assert!(lossy[1].to_string().contains("--probability 0.300000000"), "{}", lossy[1]);
        assert_eq!(lossy.len(), 6);
    }

    #[test]
    fn latency_alone_is_the_root() {
        let lines = lines(&star(None, Some(Duration::from_micros(1500))));
        let shaped = lines.iter().find(|line| line.starts_with("tc")).expect("one");
        assert!(
            shaped.contains("dev eth0 root handle 10: netem limit 10000 delay 1500us"),
            "{shaped}"
        );
    }
}

//! RSpec requests as testbeds, their portals and their tutorials write them: each becomes a slice,
//! or is refused with the offending line.

use std::fs;
use std::process::Command;

use crate::CLIENT;

/// An RSpec request around `body`.
fn request(body: &str) -> String {
    let spaces = [
        "xmlns='http://www.geni.net/resources/rspec/3'",
        "xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'",
        "xmlns:emulab='http://www.protogeni.net/resources/rspec/ext/emulab/1'",
        "xmlns:jacks='http://www.protogeni.net/resources/rspec/ext/jacks/1'",
        "xmlns:stitch='http://hpn.east.isi.edu/rspec/ext/stitch/0.1/'",
        "xsi:schemaLocation='http://www.geni.net/resources/rspec/3 request.xsd'",
    ];
    format!(
        "<?xml version='1.0'?>\n<rspec type='request' {}>\n{body}\n</rspec>\n",
        spaces.join(" ")
    )
}

/// Nodes with one interface each, and no other settings.
fn nodes(names: &[&str]) -> String {
    let node = |name: &&str| {
        format!(
            "<node client_id='{name}' exclusive='false'><interface client_id='{name}:if0'/></node>\n"
        )
    };
    names.iter().map(node).collect()
}

/// Interface references of a link between these nodes.
fn ends(names: &[&str]) -> String {
    let end = |name: &&str| format!("<interface_ref client_id='{name}:if0'/>");
    names.iter().map(end).collect()
}

/// Runs `slice up --dry-run` and returns the commands, or the reason for a refusal.
fn dry_run(text: &str, flags: &[&str]) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("slice.rspec");
    fs::write(&file, text).expect("written");
    let up = ["slice", "up", "--dry-run", "--name", "s", "--rspec"];
    let output = Command::new(CLIENT).args(up).arg(file).args(flags).output().expect("it runs");
    let (stdout, stderr) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    if output.status.success() { Ok(String::from_utf8_lossy(&stdout).into()) } else { Err(stderr) }
}

#[track_caller]
fn is_built(text: &str, expected: &[&str]) {
    let commands = dry_run(text, &[]).expect("it can be built");
    for line in expected {
        assert!(commands.lines().any(|it| it == *line), "{line}\n{commands}");
    }
}

#[test]
fn a_lan_of_four_without_addresses_is_a_bridge_with_a_network_of_its_own() {
    let names = ["a", "b", "c", "d"];
    let lan = format!("{}<link client_id='lan0'>{}</link>", nodes(&names), ends(&names));
    is_built(
        &request(&lan),
        &[
            "ip -n fleet.s..lan0 link add name br0 type bridge",
            "ip -n fleet.s..lan0 link set port3 master br0",
            "ip -n fleet.s.d address add 10.10.1.4/24 dev eth0",
        ],
    );
}

#[test]
fn lans_that_share_a_router_are_reached_through_it() {
    let router = "<node client_id='r'><interface client_id='r:if0'><ip address='192.168.1.1' \
                  netmask='255.255.255.0' type='ipv4'/></interface><interface client_id='r:if1'/></node>";
    let lans = format!(
        "{router}{}<link client_id='lan0'>{}</link><link client_id='lan1'>{}\
         <interface_ref client_id='r:if1'/><link_type name='lan'/></link>",
        nodes(&["a", "b", "c", "d"]),
        ends(&["r", "a", "b"]),
        ends(&["c", "d"])
    );
    is_built(
        &request(&lans),
        &[
            "ip -n fleet.s.a address add 192.168.1.2/24 dev eth0",
            "ip -n fleet.s.r address add 10.10.1.3/24 dev eth1",
            "ip -n fleet.s.a route replace 10.10.1.0/24 via 192.168.1.1",
            "ip -n fleet.s.c route replace 192.168.1.0/24 via 10.10.1.3",
        ],
    );
}

#[test]
fn what_an_editor_left_empty_is_chosen_as_testbeds_do() {
    let body = "<node client_id='a' component_manager_id='' exclusive=''><sliver_type name=''>\
                <disk_image name=''/></sliver_type><hardware_type name=''/><interface client_id='a:if0'>\
                <ip address='10.1.1.1' netmask='' type=''/></interface></node>\
                <node client_id='b'><interface client_id='b:if0'><ip address='' type=''/></interface></node>\
                <link client_id='l'><interface_ref client_id='a:if0'/><interface_ref client_id='b:if0'/>\
                <property source_id='a:if0' dest_id='b:if0' capacity='' latency='' packet_loss=''/></link>";
    is_built(
        &request(body),
        &[
            "ip -n fleet.s.a address add 10.1.1.1/24 dev eth0",
            "ip -n fleet.s.b address add 10.1.1.2/24 dev eth0",
        ],
    );
}

#[test]
fn what_a_portal_exports_is_built_like_what_it_was_given() {
    let body = "<!-- exported --><jacks:site id='Site 1'/>\
                <node client_id='a' sliver_id='urn:publicid:IDN+x+sliver+1' component_id='urn:x' \
                component_name='pc1' component_manager_id='urn:publicid:IDN+x+authority+cm' exclusive='true'>\
                <jacks:icon url='x.svg'/><jacks:nomac/><location country='US' latitude='1' longitude='2'/>\
                <sliver_type name='raw-pc'><disk_image name='urn:x+image+UBUNTU' os='Linux' version='22'/>\
                </sliver_type><emulab:vnode name='pcvm1'/><services><login authentication='ssh-keys' \
                hostname='h' port='22' username='u'/><install url='x' install_path='/'/>\
                <execute shell='sh' command='true'/></services><interface client_id='a:if0' \
                sliver_id='urn:2' component_id='urn:eth1' mac_address='02aa'><ip address='10.3.1.1' \
                netmask='255.255.0.0' type='ipv4'/></interface></node>\
                <node client_id='b' sliver_id='urn:3'><emulab:routable_control_ip/><interface \
                client_id='b:if0'/></node>\
                <link client_id='l' sliver_id='urn:4' vlantag='257'><jacks:site id='Site 1'/>\
                <component_manager name='urn:x'/><interface_ref client_id='a:if0' sliver_id='urn:2' \
                component_id='urn:eth1'/><interface_ref client_id='b:if0'/><emulab:vlan_tagging \
                enabled='true'/></link>";
    is_built(&request(body), &["ip -n fleet.s.b address add 10.3.0.1/16 dev eth0"]);
}

#[test]
fn links_that_testbeds_stitch_or_steer_are_links() {
    let body = format!(
        "{}<link client_id='l'><component_manager name='urn:one'/><component_manager name='urn:two'/>{}\
         <property source_id='a:if0' dest_id='b:if0' capacity='20000'/>\
         <property source_id='b:if0' dest_id='a:if0' capacity='20000'/><link_type name='vlan'/>\
         <emulab:openflow_controller url='tcp:1.2.3.4:6633'/><emulab:link_attribute key='nomac_learning' \
         value='yep'/></link><stitch:stitching><stitch:path id='l'/></stitch:stitching>",
        nodes(&["a", "b"]),
        ends(&["a", "b"])
    );
    is_built(
        &request(&body),
        &[
            "tc -n fleet.s.a qdisc add dev eth0 root handle 1: tbf rate 20000kbit burst 16384 latency 50ms",
        ],
    );
}

#[test]
fn nodes_alone_and_images_by_their_address_are_nodes() {
    let body = "<node client_id='alone'/><node client_id='exo'><sliver_type name='XOSmall'>\
                <disk_image name='http://x/image.xml' version='0'/></sliver_type></node>\
                <node client_id='url'><sliver_type name='XOMedium'><disk_image url='http://x/i.xml' \
                version='0'/></sliver_type></node>";
    is_built(&request(body), &["ip netns add fleet.s.alone", "ip netns add fleet.s.url"]);
}

#[test]
fn a_request_may_name_its_elements_with_a_prefix() {
    let body =
        request(&format!("{}<link client_id='l'>{}</link>", nodes(&["a", "b"]), ends(&["a", "b"])));
    let prefixed =
        ["rspec", "node", "link", "interface_ref", "interface"].iter().fold(body, |text, it| {
            let text = text.replace(&format!("<{it} "), &format!("<r:{it} "));
            text.replace(&format!("</{it}>"), &format!("</r:{it}>"))
        });
    let prefixed = prefixed.replace("xmlns='", "xmlns:r='");
    is_built(
        &prefixed,
        &["ip link add name eth0 netns fleet.s.a type veth peer name eth0 netns fleet.s.b"],
    );
}

#[test]
fn what_cannot_be_built_is_refused_by_its_line_and_its_reason() {
    let pair = nodes(&["a", "b"]);
    let both = ends(&["a", "b"]);
    for (body, expected) in [
        (
            format!("{pair}<link client_id='l'>{}</link>", ends(&["a"])),
            "line 5: <link>: `l` joins 1 interface(s)",
        ),
        (
            format!(
                "{pair}<link client_id='l'>{both}<property source_id='a:if0' dest_id='c:if0'/></link>"
            ),
            "line 5: <property>: there is no interface `c:if0`",
        ),
        (
            format!("{pair}<link client_id='l'>{both}</link>\n<link client_id='m'>{both}</link>"),
            "line 6: <link>: `m` takes interface `a:if0`, which `l` has",
        ),
        (
            "<node client_id='a' clientid='b'/>".to_owned(),
            "line 3: <node>: attribute `clientid` is unknown",
        ),
        (
            "<node client_id='a'><sliver_type name='x'><disk_image/></sliver_type></node>"
                .to_owned(),
            "line 3: <disk_image>: attribute `name` is missing",
        ),
    ] {
        let refused = dry_run(&request(&body), &[]).expect_err(expected);
        assert!(refused.contains(expected), "{expected}\n{refused}");
    }
}

#[test]
fn emulated_latency_puts_a_program_between_the_ends_of_a_link() {
    let delayed = |names: &[&str]| {
        let property = "<property source_id='a:if0' dest_id='b:if0' latency='5'/>";
        request(&format!("{}<link client_id='l'>{}{property}</link>", nodes(names), ends(names)))
    };
    let commands = dry_run(&delayed(&["a", "b"]), &["--emulate-latency"]).expect("it can be built");
    assert!(!commands.contains("netem"), "{commands}");
    for line in [
        "ip link add name eth0 netns fleet.s.a type veth peer name port0 netns fleet.s..delay0",
        "ip link add name eth0 netns fleet.s.b type veth peer name port1 netns fleet.s..delay0",
        "ip -n fleet.s.b link set dev eth0 gso_max_segs 1",
    ] {
        assert!(commands.lines().any(|it| it == line), "{line}\n{commands}");
    }
    let relay = commands.lines().find(|line| line.contains("slice delay")).expect("a program");
    assert!(relay.starts_with("ip netns exec fleet.s..delay0 setsid --fork "), "{relay}");
    assert!(relay.ends_with(" port0:port1:5000us:0us"), "{relay}");

    let commands = dry_run(&delayed(&["a", "b", "c"]), &["--emulate-latency"]).expect("a LAN");
    for line in [
        "ip link add name late0 netns fleet.s..lan0 type veth peer name slot0 netns fleet.s..lan0",
        "ip -n fleet.s..lan0 link set slot0 master br0",
        "ip -n fleet.s..lan0 link set port1 master br0",
    ] {
        assert!(commands.lines().any(|it| it == line), "{line}\n{commands}");
    }
    assert!(commands.contains("slice delay port0:late0:5000us:0us"), "{commands}");
    let plain = dry_run(&delayed(&["a", "b"]), &[]).expect("it can be built");
    assert!(plain.contains("netem") && !plain.contains("slice delay"), "{plain}");
}

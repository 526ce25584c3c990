//! What a request may say, and how a wrong one is refused.

use std::net::SocketAddr;
use std::time::Duration;

use rspec::{REPOSITORY, Rspec, RspecError, Star, WORKER_PORT, image_class};

const HEAD: &str = r#"<rspec xmlns="http://www.geni.net/resources/rspec/3" type="request">"#;

/// A request whose body starts in line 2.
fn request(body: &str) -> String {
    format!("{HEAD}\n{body}\n</rspec>\n")
}

fn refusal(body: &str) -> String {
    Rspec::parse(&request(body)).expect_err("must be refused").to_string()
}

const PAIR: &str = r#"<node client_id="balancer"><interface client_id="b"><ip address="10.0.0.2" netmask="255.255.255.0"/></interface></node>
<node client_id="server1"><interface client_id="s"><ip address="10.0.0.1" netmask="255.255.255.0"/></interface></node>"#;

#[test]
fn a_link_carries_its_properties_in_both_directions() {
    let rspec = Rspec::parse(&request(&format!(
        "{PAIR}<link client_id='l'><interface_ref client_id='b'/><interface_ref client_id='s'/>
         <property source_id='b' dest_id='s' capacity='100000' latency='1.5' packet_loss='0.01'/></link>"
    )))
    .expect("valid");
    let property = rspec.links[0].property_from("b").expect("named");
    assert_eq!(property.capacity, Some(100_000));
    assert_eq!(property.latency, Some(Duration::from_micros(1500)));
    assert_eq!(property.packet_loss, Some(0.01));
    assert_eq!(rspec.links[0].property_from("s"), None);
}

#[test]
fn prefixes_and_foreign_elements_do_not_matter() {
    let text = r#"<?xml version="1.0"?>
<!-- a comment --><r:rspec xmlns:r="http://www.geni.net/resources/rspec/3" xmlns:j="urn:j" type="request" j:seen="yes">
<j:site>text <j:deep/> and more</j:site>
<r:node client_id="a &amp; b" exclusive="false"><j:icon url="x"/></r:node></r:rspec>"#;
    let rspec = Rspec::parse(text).expect("valid");
    assert_eq!(rspec.nodes[0].client_id, "a & b");
    assert_eq!(rspec.nodes[0].exclusive, Some(false));
}

#[test]
fn a_dangling_reference_names_its_line_and_element() {
    let text = format!(
        "{PAIR}\n<link client_id='l'>\n<interface_ref client_id='b'/>\n<interface_ref client_id='gone'/>\n</link>"
    );
    assert_eq!(refusal(&text), "line 6: <interface_ref>: there is no interface `gone`");
}

#[test]
fn ids_and_addresses_are_taken_once() {
    let cases = [
        (
            "<node client_id='a'/>\n<node client_id='a'/>",
            "line 3: <node>: `a` is already taken by line 2",
        ),
        (
            "<node client_id='a'><interface client_id='i'/>\n<interface client_id='i'/></node>",
            "line 3: <interface>: `i` is already taken by line 2",
        ),
        (
            "<node client_id='a'><interface client_id='i'><ip address='10.0.0.1'/></interface>\n<interface client_id='j'><ip address='10.0.0.1'/></interface></node>",
            "line 3: <ip>: `10.0.0.1` is already taken by line 2",
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(refusal(body), expected);
    }
}

#[test]
fn what_is_misspelt_is_refused_where_it_stands() {
    let cases = [
        ("\n<nod client_id='a'/>", "line 3: <nod> has no place in <rspec>"),
        ("<node/>", "line 2: <node>: attribute `client_id` is missing"),
        ("<node client_id=' '/>", "line 2: <node>: attribute `client_id` is empty"),
        ("<node client_id='a' exclusve='true'/>", "attribute `exclusve` is unknown"),
        ("<node client_id='a' exclusive='maybe'/>", "`exclusive` is neither true nor false: maybe"),
        ("<node client_id='a'>hello</node>", "line 2: text `hello` has no place in <node>"),
        (
            "<node client_id='a'><interface client_id='i'><ip address='10.0.0'/></interface></node>",
            "line 2: <ip>: attribute `address` is not an IPv4 address: `10.0.0`",
        ),
        (
            "<node client_id='a'><interface client_id='i'><ip address='10.0.0.1' netmask='255.0.255.0'/></interface></node>",
            "attribute `netmask` is no netmask: 255.0.255.0",
        ),
        (
            "<node client_id='a'><services><execute shell='sh'/></services></node>",
            "line 2: <execute>: attribute `command` is missing",
        ),
        ("<node client_id='a'>\n</nod>", "line 3: not well-formed XML"),
        ("<node client_id='a'>", "not well-formed XML"),
        ("<node client_id='&#1;'/>", "line 2: not well-formed XML"),
        ("<node client_id='a' client_id='b'/>", "line 2: not well-formed XML"),
    ];
    for (body, expected) in cases {
        let found = refusal(body);
        assert!(found.contains(expected), "{body}\n  said: {found}\n  not:  {expected}");
    }
}

#[test]
fn an_address_that_no_host_can_have_is_refused_with_the_reason() {
    for (address, netmask, why) in [
        ("10.0.0.0", "255.255.255.0", "that of the network and of no host"),
        ("10.0.0.255", "255.255.255.0", "that of all hosts of the network"),
        ("127.0.0.1", "255.255.255.0", "a host's own and leaves it on no link"),
        ("224.0.0.1", "255.255.255.0", "that of a group of hosts"),
        ("0.0.0.1", "255.255.255.0", "reserved"),
        ("250.0.0.1", "255.255.255.0", "reserved"),
        ("10.0.0.1", "0.0.0.0", "in no network: its netmask is empty"),
    ] {
        let found = refusal(&format!(
            "<node client_id='a'><interface client_id='i'>\n<ip address='{address}' netmask='{netmask}'/></interface></node>"
        ));
        let expected = format!("line 3: <ip>: attribute `address` `{address}` is {why}");
        assert_eq!(found, expected);
    }
    // Two hosts and nothing else: each address belongs to one.
    let pair = |i: u8| {
        let ip = format!("<ip address='10.0.0.{i}' netmask='255.255.255.254'/>");
        format!("<node client_id='n{i}'><interface client_id='i{i}'>{ip}</interface></node>")
    };
    let ends = "<interface_ref client_id='i0'/><interface_ref client_id='i1'/>";
    let text = format!("{}{}<link client_id='l'>{ends}</link>", pair(0), pair(1));
    Rspec::parse(&request(&text)).expect("valid");
}

#[test]
fn a_link_that_cannot_exist_is_refused() {
    let link = |inner: &str| refusal(&format!("{PAIR}\n<link client_id='l'>{inner}</link>"));
    let twice = "<node client_id='a'><interface client_id='i'/><interface client_id='j'/></node>";
    let ends = "<interface_ref client_id='i'/><interface_ref client_id='j'/>";
    assert_eq!(
        refusal(&format!("{twice}\n<link client_id='l'>{ends}</link>")),
        "line 3: <link>: `l` joins node `a` to itself"
    );
    assert_eq!(
        link("<interface_ref client_id='b'/>"),
        "line 4: <link>: `l` joins 1 interface(s); it takes two"
    );
    let ends = "<interface_ref client_id='b'/><interface_ref client_id='s'/>";
    for (property, expected) in [
        ("source_id='b' dest_id='x'", "line 4: <property>: there is no interface `x`"),
        ("source_id='b' dest_id='s' capacity='fast'", "must be a whole number of kilobits"),
        ("source_id='b' dest_id='s' latency='-1'", "must be milliseconds, 0 to 3600000, not `-1`"),
        ("source_id='b' dest_id='s' latency='NaN'", "must be milliseconds"),
        ("source_id='b' dest_id='s' packet_loss='2'", "must be a share, 0 to 1, not `2`"),
    ] {
        let found = link(&format!("{ends}<property {property}/>"));
        assert!(found.contains(expected), "{found}");
    }
    let twice = refusal(&format!(
        "{PAIR}\n<link client_id='l'>{ends}</link><link client_id='m'>{ends}</link>"
    ));
    assert_eq!(twice, "line 4: <link>: `m` takes interface `b`, which `l` has");
    let apart = PAIR.replace("10.0.0.2", "10.0.9.2");
    let apart = refusal(&format!("{apart}\n<link client_id='l'>{ends}</link>"));
    assert!(apart.contains("10.0.9.2/24 and 10.0.0.1/24, which are different networks"), "{apart}");
}

#[test]
fn empty_attributes_say_nothing_and_what_a_portal_adds_does_no_harm() {
    let text = request(
        "<node client_id='a' sliver_id='urn:1' exclusive='' component_manager_id=''>\
         <sliver_type name=''/><hardware_type name=''/>\
         <interface client_id='i' sliver_id='urn:2' mac_address='02:00:00:00:00:01'>\
         <ip address='10.10.1.1' netmask='' type=''/></interface></node>\
         <node client_id='b'><interface client_id='j'><ip address='' netmask='' type='ipv4'/>\
         </interface></node>\
         <link client_id='l' sliver_id='urn:3' vlantag='7'>\
         <interface_ref client_id='i' sliver_id='urn:2' component_id='urn:4'/>\
         <interface_ref client_id='j'/><link_type name=''/>\
         <property source_id='i' dest_id='j' capacity='' latency='' packet_loss=''/></link>",
    );
    let rspec = Rspec::parse(&text).expect("valid");
    let (a, b) = (&rspec.nodes[0], &rspec.nodes[1]);
    assert_eq!((a.exclusive, &a.sliver_type, &a.hardware_type), (None, &None, &None));
    assert_eq!(a.interfaces[0].ip.map(|ip| ip.prefix), Some(24));
    assert_eq!(b.interfaces[0].ip, None);
    assert_eq!((rspec.links[0].properties[0].capacity, &rspec.links[0].link_type), (None, &None));
    let whole = rspec.with_addresses().expect("there is room");
    let address = whole.nodes[1].interfaces[0].ip.map(|ip| ip.address.to_string());
    assert_eq!(address.as_deref(), Some("10.10.1.2"));
}

#[test]
fn workers_without_addresses_get_the_ones_that_the_slice_gives_them() {
    let star = Star {
        workers: 2,
        capacity: None,
        latency: None,
        packet_loss: None,
        repository: REPOSITORY.to_owned(),
    };
    let mut rspec = star.request().expect("valid");
    let interfaces = rspec.nodes.iter_mut().flat_map(|node| &mut node.interfaces);
    interfaces.for_each(|interface| interface.ip = None);
    let workers = rspec.workers(WORKER_PORT).expect("workers");
    let whole = rspec.with_addresses().expect("there is room");
    assert_eq!(workers, whole.workers(WORKER_PORT).expect("workers"));
}

#[test]
fn only_a_request_is_read() {
    for (text, expected) in [
        ("", "line 1: not well-formed XML: there is no element"),
        ("<html/>", "line 1: <html>: not an RSpec v3 request: the root element must be <rspec>"),
        ("<rspec type='request'/>", "its namespace must be http://www.geni.net/resources/rspec/3"),
        (
            "<rspec xmlns='http://www.geni.net/resources/rspec/3' type='manifest'/>",
            "its type is `manifest`, not `request`",
        ),
        ("<!DOCTYPE r [<!ENTITY a 'b'>]><r>&a;</r>", "a document type is not allowed"),
        ("<a/><b/>", "a second root element"),
    ] {
        let found = Rspec::parse(text).expect_err("must be refused").to_string();
        assert!(found.contains(expected), "{text}: {found}");
    }
    let deep = "<a>".repeat(100_000);
    assert!(matches!(Rspec::parse(&deep), Err(RspecError::Syntax { .. })));
}

#[test]
fn workers_come_in_numeric_order_with_their_address_towards_the_balancer() {
    let star = Star {
        workers: 12,
        capacity: None,
        latency: None,
        packet_loss: None,
        repository: REPOSITORY.to_owned(),
    };
    let mut rspec = star.request().expect("valid");
    rspec.nodes.reverse();
    let workers = rspec.workers(WORKER_PORT).expect("workers");
    let names: Vec<_> = workers.iter().map(|worker| worker.name.clone()).collect();
    assert_eq!(names, (1..=12).map(|i| format!("server{i}")).collect::<Vec<_>>());
    let expected: SocketAddr = "10.10.10.1:8501".parse().expect("address");
    assert_eq!(workers[9].address, expected);
}

#[test]
fn a_slice_without_its_roles_says_which_is_missing() {
    let without = |name: &str| {
        let mut rspec = image_class(REPOSITORY);
        rspec.nodes.retain(|node| !node.client_id.starts_with(name));
        rspec.workers(WORKER_PORT).expect_err("refused").to_string()
    };
    assert_eq!(without("balancer"), "the slice cannot serve: it has no node `balancer`");
    assert_eq!(without("server"), "the slice cannot serve: it has no node `server1`");
    let mut rspec = image_class(REPOSITORY);
    rspec.links.remove(1);
    let error = rspec.workers(WORKER_PORT).expect_err("refused").to_string();
    assert_eq!(error, "the slice cannot serve: node `server2` has no link to `balancer`");
}

#[test]
fn the_original_slice_is_reproduced_address_by_address() {
    let rspec = image_class(REPOSITORY);
    let addresses: Vec<_> = rspec
        .nodes
        .iter()
        .flat_map(|node| node.interfaces.iter().map(move |interface| (node, interface)))
        .map(|(node, interface)| {
            let ip = interface.ip.expect("every interface has one");
            format!("{} {} {}", node.client_id, interface.client_id, ip.address)
        })
        .collect();
    assert_eq!(
        addresses,
        [
            "balancer interface-1 10.10.1.2",
            "balancer interface-3 10.10.2.2",
            "balancer interface-5 10.10.3.2",
            "balancer interface-7 10.10.4.2",
            "balancer interface-8 10.10.5.1",
            "server1 interface-0 10.10.1.1",
            "server2 interface-2 10.10.2.1",
            "server3 interface-4 10.10.3.1",
            "server4 interface-6 10.10.4.1",
            "client interface-9 10.10.5.2",
        ]
    );
    let links: Vec<_> = rspec.links.iter().map(|link| link.interfaces.join("+")).collect();
    assert_eq!(
        links,
        [
            "interface-0+interface-1",
            "interface-2+interface-3",
            "interface-4+interface-5",
            "interface-6+interface-7",
            "interface-9+interface-8",
        ]
    );
}

#[test]
fn ten_thousand_workers_are_the_most() {
    let star = |workers| Star {
        workers,
        capacity: Some(100_000),
        latency: Some(Duration::from_millis(1)),
        packet_loss: None,
        repository: REPOSITORY.to_owned(),
    };
    assert_eq!(star(10_000).request().expect("fits").links.len(), 10_001);
    assert!(star(0).request().is_err());
    assert!(star(10_001).request().is_err());
}

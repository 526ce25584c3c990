//! Everything that can be written is read back unchanged, and equal values have one spelling.

use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use rspec::{Execute, Install, Interface, Ip, Link, Node, Property, Rspec, Services};

/// Attribute text with every character that is special in XML.
fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9&<>\"'=/ \t\n\r\u{e9}\u{1f600}-]{0,12}[a-z]"
}

fn node(index: usize, interfaces: usize) -> impl Strategy<Value = Node> {
    let services = (vec((text(), text()), 0..2), vec((text(), text()), 0..3));
    let machine =
        (option::of(text()), option::of((text(), option::of(text()))), option::of(text()));
    (text(), any::<bool>(), option::of(any::<bool>()), machine, services).prop_map(
        move |(name, routable, exclusive, (manager, sliver, hardware), (install, execute))| Node {
            client_id: format!("{index} {name}"),
            component_manager_id: manager,
            exclusive,
            sliver_type: sliver.as_ref().map(|(kind, _)| kind.clone()),
            disk_image: sliver.and_then(|(_, image)| image),
            hardware_type: hardware,
            routable_control_ip: routable,
            interfaces: (0..interfaces).map(|i| interface(index, i)).collect(),
            services: Services {
                install: install
                    .into_iter()
                    .map(|(url, install_path)| Install { url, install_path })
                    .collect(),
                execute: execute
                    .into_iter()
                    .map(|(shell, command)| Execute { shell, command })
                    .collect(),
            },
        },
    )
}

/// Interface `i` of every node lies in network `10.0.i.0/24`.
fn interface(node: usize, i: usize) -> Interface {
    let octet = |n: usize| u8::try_from(n).expect("small");
    let address = Ipv4Addr::new(10, 0, octet(i), octet(node + 1));
    Interface { client_id: format!("{node}:{i}"), ip: Some(Ip { address, prefix: 24 }) }
}

type Traits = (Option<u64>, Option<u64>, Option<f64>);

fn link(i: usize, nodes: usize, name: &str, traits: Option<Traits>) -> Link {
    let interfaces: Vec<String> = (0..nodes).map(|node| format!("{node}:{i}")).collect();
    let property = traits.map(|(capacity, micros, packet_loss)| Property {
        source_id: interfaces[0].clone(),
        dest_id: interfaces[1].clone(),
        capacity,
        latency: micros.map(Duration::from_micros),
        packet_loss,
    });
    Link {
        client_id: format!("{i} {name}"),
        interfaces,
        properties: property.into_iter().collect(),
        link_type: Some(name.to_owned()),
        component_managers: vec![name.to_owned()],
    }
}

prop_compose! {
    fn rspec()(nodes in 2..6_usize, links in 0..4_usize)(
        nodes in (0..nodes).map(|index| node(index, links)).collect::<Vec<_>>(),
        links in vec((text(), option::of((
            option::of(1..10_000_000_u64),
            option::of(0..3_600_000_000_u64),
            option::of(0.0..=1.0),
        ))), links),
    ) -> Rspec {
        let count = nodes.len();
        let links = links.into_iter().enumerate();
        Rspec { nodes, links: links.map(|(i, (name, traits))| link(i, count, &name, traits)).collect() }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(rspec in rspec()) {
        let text = rspec.to_xml();
        let read = Rspec::parse(&text);
        prop_assert_eq!(read.as_ref(), Ok(&rspec), "{}", text);
        prop_assert_eq!(read.expect("just compared").to_xml(), text);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _refused = Rspec::parse(&text);
    }

    #[test]
    fn a_cut_or_damaged_request_never_panics(rspec in rspec(), at in any::<prop::sample::Index>(), byte in any::<char>()) {
        let text = rspec.to_xml();
        let mut chars: Vec<char> = text.chars().collect();
        let index = at.index(chars.len());
        chars[index] = byte;
        let _either = Rspec::parse(&chars.iter().collect::<String>());
        // Without its final line feed the text is still whole.
        chars.truncate(index.min(chars.len() - 2));
        prop_assert!(Rspec::parse(&chars.iter().collect::<String>()).is_err());
    }
}

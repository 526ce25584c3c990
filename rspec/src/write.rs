//! Writes a request as XML text, always the same bytes for the same value.
//!
//! Two spaces of indent, attributes in the order of the schema, a line feed at the end. Line breaks
//! inside attributes are written as references, because XML would read them back as spaces.

use std::fmt::Write;
use std::time::Duration;

use crate::model::{Interface, Link, Node, Property, Rspec, Services};
use crate::xml::{EMULAB, RSPEC};

impl Rspec {
    /// The request as a file.
    pub fn to_xml(&self) -> String {
        let mut out = Writer { text: String::new(), depth: 0 };
        out.text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let location = format!("{RSPEC} {RSPEC}/request.xsd");
        let root = [
            ("xmlns", Some(RSPEC)),
            ("xmlns:emulab", Some(EMULAB)),
            ("xmlns:xsi", Some("http://www.w3.org/2001/XMLSchema-instance")),
            ("xsi:schemaLocation", Some(location.as_str())),
            ("type", Some("request")),
        ];
        out.element("rspec", &root, |out| {
            self.nodes.iter().for_each(|node| out.node(node));
            self.links.iter().for_each(|link| out.link(link));
        });
        out.text
    }
}

type Attribute<'a> = (&'a str, Option<&'a str>);

struct Writer {
    text: String,
    depth: usize,
}

impl Writer {
    fn open(&mut self, name: &str, attributes: &[Attribute<'_>]) {
        for _ in 0..self.depth {
            self.text.push_str("  ");
        }
        self.text.push('<');
        self.text.push_str(name);
        for (key, value) in attributes {
            if let Some(value) = value {
                self.text.push(' ');
                self.text.push_str(key);
                self.text.push_str("=\"");
                escape(value, &mut self.text);
                self.text.push('"');
            }
        }
    }

    fn empty(&mut self, name: &str, attributes: &[Attribute<'_>]) {
        self.open(name, attributes);
        self.text.push_str("/>\n");
    }

    fn element(&mut self, name: &str, attributes: &[Attribute<'_>], body: impl FnOnce(&mut Self)) {
        self.open(name, attributes);
        self.text.push_str(">\n");
        self.depth += 1;
        body(self);
        self.depth -= 1;
        for _ in 0..self.depth {
            self.text.push_str("  ");
        }
        writeln!(self.text, "</{name}>").expect("a string takes every write");
    }

    fn node(&mut self, node: &Node) {
        let attributes = [
            ("client_id", Some(node.client_id.as_str())),
            ("component_manager_id", node.component_manager_id.as_deref()),
            ("exclusive", node.exclusive.map(|yes| if yes { "true" } else { "false" })),
        ];
        self.element("node", &attributes, |out| {
            out.machine(node);
            out.services(&node.services);
            node.interfaces.iter().for_each(|interface| out.interface(interface));
            if node.routable_control_ip {
                out.empty("emulab:routable_control_ip", &[]);
            }
        });
    }

    fn machine(&mut self, node: &Node) {
        if let Some(kind) = &node.sliver_type {
            let name = [("name", Some(kind.as_str()))];
            match &node.disk_image {
                None => self.empty("sliver_type", &name),
                Some(image) => self.element("sliver_type", &name, |out| {
                    out.empty("disk_image", &[("name", Some(image))]);
                }),
            }
        }
        if let Some(kind) = &node.hardware_type {
            self.empty("hardware_type", &[("name", Some(kind))]);
        }
    }

    fn services(&mut self, services: &Services) {
        if services.install.is_empty() && services.execute.is_empty() {
            return;
        }
        self.element("services", &[], |out| {
            for install in &services.install {
                let path = ("install_path", Some(install.install_path.as_str()));
                out.empty("install", &[("url", Some(&install.url)), path]);
            }
            for execute in &services.execute {
                let command = ("command", Some(execute.command.as_str()));
                out.empty("execute", &[("shell", Some(&execute.shell)), command]);
            }
        });
    }

    fn interface(&mut self, interface: &Interface) {
        let id = [("client_id", Some(interface.client_id.as_str()))];
        let Some(ip) = interface.ip else { return self.empty("interface", &id) };
        let (address, netmask) = (ip.address.to_string(), ip.netmask().to_string());
        self.element("interface", &id, |out| {
            let netmask = ("netmask", Some(netmask.as_str()));
            out.empty("ip", &[("address", Some(&address)), netmask, ("type", Some("ipv4"))]);
        });
    }

    fn link(&mut self, link: &Link) {
        self.element("link", &[("client_id", Some(link.client_id.as_str()))], |out| {
            for manager in &link.component_managers {
                out.empty("component_manager", &[("name", Some(manager))]);
            }
            for interface in &link.interfaces {
                out.empty("interface_ref", &[("client_id", Some(interface))]);
            }
            link.properties.iter().for_each(|property| out.property(property));
            if let Some(kind) = &link.link_type {
                out.empty("link_type", &[("name", Some(kind))]);
            }
        });
    }

    fn property(&mut self, property: &Property) {
        let capacity = property.capacity.map(|kbps| kbps.to_string());
        let latency = property.latency.map(milliseconds);
        let loss = property.packet_loss.map(|share| share.to_string());
        let attributes = [
            ("source_id", Some(property.source_id.as_str())),
            ("dest_id", Some(property.dest_id.as_str())),
            ("capacity", capacity.as_deref()),
            ("latency", latency.as_deref()),
            ("packet_loss", loss.as_deref()),
        ];
        self.empty("property", &attributes);
    }
}

/// Milliseconds to the microsecond, without trailing zeros.
fn milliseconds(latency: Duration) -> String {
    let micros = latency.as_micros();
    let text = format!("{}.{:03}", micros / 1000, micros % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            other => out.push(other),
        }
    }
}

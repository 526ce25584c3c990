//! Turns the tree of elements into a request, element by element as in the schema.
//!
//! One function per element. Elements without meaning for a slice are checked for their place and
//! dropped; misspelt ones are refused rather than ignored.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::RspecError;
use crate::model::{Execute, Install, Interface, Ip, Link, Node, Property, Rspec, Services};
use crate::references::References;
use crate::xml::{self, Element, Space};

/// Longest delay of a link: an hour, more than light to the Moon and back, which keeps arithmetic
/// far from overflow.
const MAX_LATENCY_MS: f64 = 3_600_000.0;
/// The attribute that a portal adds when it exports the request of an existing slice.
const EXPORTED: &str = "sliver_id";

impl Rspec {
    /// Reads a request and checks it.
    ///
    /// ```
    /// let rspec = rspec::Rspec::parse(&rspec::image_class(rspec::REPOSITORY).to_xml())?;
    /// assert_eq!(rspec.nodes.len(), 6);
    /// # Ok::<(), rspec::RspecError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, RspecError> {
        let root = xml::read(text)?;
        root_is_request(&root)?;
        root.allow(&["type", "generated", "generated_by", "expires"])?;
        let mut rspec = Self::default();
        let mut references = References::default();
        for child in &root.children {
            match (child.space, child.name.as_str()) {
                (Space::Rspec, "node") => rspec.nodes.push(node(child, &mut references)?),
                (Space::Rspec, "link") => rspec.links.push(link(child, &mut references)?),
                (Space::Rspec, _) => return Err(root.misplaced(child)),
                (Space::Emulab | Space::Other, _) => {}
            }
        }
        references.check(&rspec)?;
        Ok(rspec)
    }

    /// Checks a request that was put together in code. Line numbers in errors are those of
    /// [`Rspec::to_xml`].
    pub fn check(&self) -> Result<(), RspecError> {
        Self::parse(&self.to_xml()).map(drop)
    }
}

fn root_is_request(root: &Element) -> Result<(), RspecError> {
    let problem = if root.name != "rspec" {
        "the root element must be <rspec>".to_owned()
    } else if root.space != Space::Rspec {
        format!("its namespace must be {}", xml::RSPEC)
    } else {
        match root.optional("type") {
            Some("request") => return Ok(()),
            Some(other) => format!("its type is `{other}`, not `request`"),
            None => "attribute `type` is missing".to_owned(),
        }
    };
    Err(RspecError::NotARequest { line: root.line, element: root.name.clone(), problem })
}

fn node(element: &Element, references: &mut References) -> Result<Node, RspecError> {
    element.allow(&[
        "client_id",
        "component_manager_id",
        "component_id",
        "component_name",
        "exclusive",
        "colocate",
        EXPORTED,
    ])?;
    let mut node = Node {
        client_id: element.required("client_id")?.to_owned(),
        component_manager_id: element.said("component_manager_id").map(str::to_owned),
        exclusive: element.said("exclusive").map(|text| boolean(element, text)).transpose()?,
        ..Node::default()
    };
    references.node(element, &node.client_id)?;
    for child in &element.children {
        match (child.space, child.name.as_str()) {
            (Space::Rspec, "interface") => node.interfaces.push(interface(child, references)?),
            (Space::Rspec, "services") => services(child, &mut node.services)?,
            (Space::Rspec, "sliver_type") => {
                node.sliver_type = named(child)?.or(node.sliver_type);
                node.disk_image = disk_image(child)?.or(node.disk_image);
            }
            (Space::Rspec, "hardware_type") => {
                node.hardware_type = named(child)?.or(node.hardware_type);
            }
            (Space::Emulab, "routable_control_ip") => node.routable_control_ip = true,
            (Space::Rspec, "location" | "relation") | (Space::Emulab | Space::Other, _) => {}
            (Space::Rspec, _) => return Err(element.misplaced(child)),
        }
    }
    Ok(node)
}

fn disk_image(sliver: &Element) -> Result<Option<String>, RspecError> {
    let mut image = None;
    for child in sliver.children.iter().filter(|child| child.space == Space::Rspec) {
        if child.name != "disk_image" {
            return Err(sliver.misplaced(child));
        }
        // Some testbeds take the address of an image instead of its name.
        let has_address = child.optional("name").is_none() && child.said("url").is_some();
        image = if has_address { image } else { named(child)?.or(image) };
    }
    Ok(image)
}

/// The `name` that an element must have; `None` if it is empty.
fn named(element: &Element) -> Result<Option<String>, RspecError> {
    match element.optional("name") {
        None => Err(element.attribute_error("name", "is missing")),
        Some(_) => Ok(element.said("name").map(str::to_owned)),
    }
}

fn interface(element: &Element, references: &mut References) -> Result<Interface, RspecError> {
    element.allow(&["client_id", "component_id", EXPORTED, "mac_address"])?;
    let client_id = element.required("client_id")?.to_owned();
    references.interface(element, &client_id)?;
    let mut interface = Interface { client_id, ip: None };
    for child in element.children.iter().filter(|child| child.space == Space::Rspec) {
        if child.name != "ip" || interface.ip.is_some() {
            return Err(element.misplaced(child));
        }
        if let Some(ip) = ip(child)? {
            references.address(child, ip)?;
            interface.ip = Some(ip);
        }
    }
    Ok(interface)
}

/// An address, if there is one: an empty one leaves the choice to the testbed.
fn ip(element: &Element) -> Result<Option<Ip>, RspecError> {
    element.allow(&["address", "netmask", "type"])?;
    if let Some(other) = element.said("type").filter(|kind| !kind.eq_ignore_ascii_case("ipv4")) {
        return Err(element.attribute_error("type", format!("is `{other}`; only ipv4 is known")));
    }
    let Some(text) = element.optional("address").map(str::trim) else {
        return Err(element.attribute_error("address", "is missing"));
    };
    if text.is_empty() {
        return Ok(None);
    }
    let address = address(element, "address", text)?;
    let prefix = match element.said("netmask") {
        None => 24,
        Some(text) => Ip::prefix_of(self::address(element, "netmask", text)?)
            .ok_or_else(|| element.attribute_error("netmask", format!("is no netmask: {text}")))?,
    };
    let ip = Ip { address, prefix };
    match ip.is_no_host() {
        None => Ok(Some(ip)),
        Some(why) => Err(element.attribute_error("address", format!("`{text}` is {why}"))),
    }
}

fn address(element: &Element, attribute: &str, text: &str) -> Result<Ipv4Addr, RspecError> {
    text.parse().map_err(|_| {
        element.attribute_error(attribute, format!("is not an IPv4 address: `{text}`"))
    })
}

fn services(element: &Element, services: &mut Services) -> Result<(), RspecError> {
    for child in element.children.iter().filter(|child| child.space == Space::Rspec) {
        let text = |attribute| child.required(attribute).map(str::to_owned);
        match child.name.as_str() {
            "install" => {
                child.allow(&["url", "install_path"])?;
                let install = Install { url: text("url")?, install_path: text("install_path")? };
                services.install.push(install);
            }
            "execute" => {
                child.allow(&["shell", "command"])?;
                let execute = Execute { shell: text("shell")?, command: text("command")? };
                services.execute.push(execute);
            }
            "login" => {}
            _ => return Err(element.misplaced(child)),
        }
    }
    Ok(())
}

fn link(element: &Element, references: &mut References) -> Result<Link, RspecError> {
    element.allow(&["client_id", EXPORTED, "vlantag"])?;
    let mut link = Link { client_id: element.required("client_id")?.to_owned(), ..Link::default() };
    references.link(element, &link.client_id)?;
    for child in element.children.iter().filter(|child| child.space == Space::Rspec) {
        match child.name.as_str() {
            "interface_ref" => {
                child.allow(&["client_id", "component_id", EXPORTED])?;
                let end = child.required("client_id")?;
                references.end(child, end);
                link.interfaces.push(end.to_owned());
            }
            "property" => {
                let property = property(child)?;
                references.end(child, &property.source_id);
                references.end(child, &property.dest_id);
                link.properties.push(property);
            }
            "link_type" => link.link_type = named(child)?.or(link.link_type),
            "component_manager" => link.component_managers.extend(named(child)?),
            "component_hop" => {}
            _ => return Err(element.misplaced(child)),
        }
    }
    Ok(link)
}

fn property(element: &Element) -> Result<Property, RspecError> {
    element.allow(&["source_id", "dest_id", "capacity", "latency", "packet_loss"])?;
    let latency = number(element, "latency", MAX_LATENCY_MS, "milliseconds")?;
    Ok(Property {
        source_id: element.required("source_id")?.to_owned(),
        dest_id: element.required("dest_id")?.to_owned(),
        capacity: capacity(element)?,
        latency: latency.map(|ms| Duration::from_micros(microseconds(ms))),
        packet_loss: number(element, "packet_loss", 1.0, "a share")?,
    })
}

fn capacity(element: &Element) -> Result<Option<u64>, RspecError> {
    let Some(text) = element.said("capacity") else { return Ok(None) };
    match text.parse() {
        Ok(kbps) if kbps > 0 => Ok(Some(kbps)),
        _ => {
            let problem = format!("must be a whole number of kilobits per second, not `{text}`");
            Err(element.attribute_error("capacity", problem))
        }
    }
}

fn number(
    element: &Element,
    attribute: &str,
    most: f64,
    unit: &str,
) -> Result<Option<f64>, RspecError> {
    let Some(text) = element.said(attribute) else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(value) if (0.0..=most).contains(&value) => Ok(Some(value.abs())),
        _ => {
            let problem = format!("must be {unit}, 0 to {most}, not `{text}`");
            Err(element.attribute_error(attribute, problem))
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the caller bounds the value to 0..=MAX_LATENCY_MS"
)]
fn microseconds(ms: f64) -> u64 {
    (ms * 1000.0).round() as u64
}

fn boolean(element: &Element, text: &str) -> Result<bool, RspecError> {
    match text.trim() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => {
            Err(element.attribute_error("exclusive", format!("is neither true nor false: {other}")))
        }
    }
}

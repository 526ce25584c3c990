//! A slice as a picture: nodes with their roles, links with their addresses and the shaping of
//! their traffic. Pure; the same request gives the same picture.
//!
//! Nodes are placed on a circle, and a node that is linked to most of the others in its middle, so
//! that the star of this project looks like one. A LAN is a bar between its ends.

use std::f64::consts::TAU;
use std::fmt::Write;

use plot::escape;
use rspec::{Property, Role};

use super::layout::{Layout, Link, Node};

/// Half the size of a node's box.
const BOX: Coordinates = Coordinates { x: 62.0, y: 22.0 };
/// Length of the circle per node on it.
const ROOM: f64 = 190.0;
const MARGIN: f64 = 110.0;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Coordinates {
    x: f64,
    y: f64,
}

impl Coordinates {
    /// The point at a share of the way from here to there.
    fn towards(self, there: Self, share: f64) -> Self {
        Self { x: self.x + (there.x - self.x) * share, y: self.y + (there.y - self.y) * share }
    }
}

/// The slice as an SVG picture.
pub(super) fn svg(layout: &Layout) -> String {
    let (places, side) = places(layout);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side:.0} {side:.0}\" \
         width=\"{side:.0}\" height=\"{side:.0}\" role=\"img\" aria-label=\"slice {0}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" text-anchor=\"middle\" \
         fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{1:.0}\" y=\"24\" font-size=\"15\" font-weight=\"bold\">slice {0}</text>\n",
        escape(&layout.slice),
        side / 2.0
    );
    for link in &layout.links {
        draw_link(&mut svg, layout, link, &places);
    }
    for (node, place) in layout.nodes.iter().zip(&places) {
        draw_node(&mut svg, node, *place);
    }
    svg.push_str("</svg>\n");
    svg
}

/// The positions of the nodes, and the width of the picture.
fn places(layout: &Layout) -> (Vec<Coordinates>, f64) {
    let count = layout.nodes.len();
    let hub = hub(layout);
    let around = count - usize::from(hub.is_some());
    let radius = (ROOM * around as f64 / TAU).max(ROOM);
    let side = 2.0 * (radius + MARGIN);
    let middle = Coordinates { x: side / 2.0, y: side / 2.0 };
    let mut next = 0;
    let mut place = |node: usize| {
        if hub == Some(node) {
            return middle;
        }
        // The first one is on the left, where diagrams of services have their clients.
        let angle = TAU * (f64::from(next) / around.max(1) as f64 + 0.5);
        next += 1;
        Coordinates { x: middle.x + radius * angle.cos(), y: middle.y + radius * angle.sin() }
    };
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|node| layout.nodes[*node].role != Some(Role::Client));
    let mut places = vec![middle; count];
    for node in order {
        places[node] = place(node);
    }
    (places, side)
}

/// The node with links to most of the others, if there is one.
fn hub(layout: &Layout) -> Option<usize> {
    let neighbours = |node: usize| {
        let of_node = layout.links.iter().filter(|link| link.ends.iter().any(|e| e.node == node));
        of_node.map(|link| link.ends.len() - 1).sum::<usize>()
    };
    let hub = (0..layout.nodes.len()).max_by_key(|node| (neighbours(*node), usize::MAX - node))?;
    let others = layout.nodes.len() - 1;
    // There is no middle where every node sees all others, as in a LAN.
    let is_star = neighbours(hub) * 2 > others && layout.links.iter().all(|it| it.ends.len() == 2);
    (is_star && others > 1).then_some(hub)
}

fn draw_node(svg: &mut String, node: &Node, at: Coordinates) {
    let (role, colour) = match node.role {
        Some(Role::Balancer) => ("balancer".to_owned(), "#fbe3d6"),
        Some(Role::Worker(number)) => (format!("worker {number}"), "#dcefe6"),
        Some(Role::Client) => ("client".to_owned(), "#dcebf5"),
        None => (String::new(), "#eee"),
    };
    let Coordinates { x, y } = at;
    push(
        svg,
        format_args!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{}\" height=\"{}\" rx=\"6\" fill=\"{colour}\" \
             stroke=\"#222\"/>\n<text x=\"{x:.1}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>\n",
            x - BOX.x,
            y - BOX.y,
            2.0 * BOX.x,
            2.0 * BOX.y,
            if role.is_empty() { y + 4.0 } else { y - 3.0 },
            escape(&node.name)
        ),
    );
    if !role.is_empty() {
        text(svg, Coordinates { x, y: y + 13.0 }, "#555", &role);
    }
}

fn draw_link(svg: &mut String, layout: &Layout, link: &Link, places: &[Coordinates]) {
    let ends: Vec<Coordinates> = link.ends.iter().map(|end| places[end.node]).collect();
    let count = ends.len().max(1) as f64;
    let middle = Coordinates {
        x: ends.iter().map(|end| end.x).sum::<f64>() / count,
        y: ends.iter().map(|end| end.y).sum::<f64>() / count,
    };
    for (end, place) in link.ends.iter().zip(&ends) {
        push(
            svg,
            format_args!(
                "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"#777\"/>\n",
                place.x, place.y, middle.x, middle.y
            ),
        );
        let ip = layout.port(*end).ip;
        let at = place.towards(middle, 0.55);
        text(
            svg,
            Coordinates { y: at.y - 4.0, ..at },
            "#222",
            &format!("{}/{}", ip.address, ip.prefix),
        );
    }
    if ends.len() > 2 {
        push(
            svg,
            format_args!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"80\" height=\"8\" fill=\"#777\"/>\n",
                middle.x - 40.0,
                middle.y - 4.0
            ),
        );
    }
    let suffered = suffered(layout, link);
    text(svg, Coordinates { y: middle.y + 20.0, ..middle }, "#0072b2", &link.name);
    if !suffered.is_empty() {
        text(svg, Coordinates { y: middle.y + 34.0, ..middle }, "#555", &suffered);
    }
}

/// How traffic is shaped, stated once if it is the same in all directions.
fn suffered(layout: &Layout, link: &Link) -> String {
    let of_end = |end: &super::layout::End| {
        layout.port(*end).shaping.as_ref().map(property).unwrap_or_default()
    };
    let mut all: Vec<String> = link.ends.iter().map(of_end).collect();
    all.dedup();
    all.retain(|text| !text.is_empty());
    all.join(" | ")
}

fn property(property: &Property) -> String {
    let capacity = property.capacity.map(|kbps| match kbps {
        0..1000 => format!("{kbps} kbit/s"),
        _ => format!("{} Mbit/s", kbps as f64 / 1e3),
    });
    let latency = property.latency.filter(|time| !time.is_zero());
    let latency = latency.map(|time| humantime::format_duration(time).to_string());
    let loss = property.packet_loss.filter(|share| *share > 0.0);
    let loss = loss.map(|share| format!("{} % loss", share * 100.0));
    let all: Vec<String> = capacity.into_iter().chain(latency).chain(loss).collect();
    all.join(", ")
}

fn text(svg: &mut String, at: Coordinates, colour: &str, content: &str) {
    push(
        svg,
        format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\" fill=\"{colour}\">{}</text>\n",
            at.x,
            at.y,
            escape(content)
        ),
    );
}

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("a string takes any text");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rspec::{REPOSITORY, Star, image_class};

    use super::{Layout, places, svg};

    #[test]
    fn the_original_slice_is_a_star_with_the_balancer_in_its_middle() {
        let layout = Layout::new("mine", &image_class(REPOSITORY)).unwrap();
        let (places, side) = places(&layout);
        let hub = layout.nodes.iter().position(|node| node.name == "balancer").unwrap();
        assert!((places[hub].x - side / 2.0).abs() < 1e-9);
        let client = layout.nodes.iter().position(|node| node.name == "client").unwrap();
        assert!(places.iter().all(|place| places[client].x <= place.x), "it stands at the left");
        let svg = svg(&layout);
        for part in ["slice mine", "worker 1", "server4", "10.10.4.1/24", "link-0"] {
            assert!(svg.contains(part), "{part}");
        }
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn what_traffic_suffers_is_said_once_where_it_is_the_same_both_ways() {
        let star = Star {
            workers: 1,
            capacity: Some(100_000),
            latency: Some(Duration::from_millis(5)),
            packet_loss: Some(0.01),
            repository: REPOSITORY.to_owned(),
        };
        let layout = Layout::new("a", &star.request().unwrap()).unwrap();
        let svg = svg(&layout);
        assert_eq!(svg.matches("100 Mbit/s, 5ms, 1 % loss").count(), layout.links.len(), "{svg}");
    }
}

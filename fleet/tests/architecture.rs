//! What may depend on what, as `ARCHITECTURE.md` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A crate, and others.
type Row = (&'static str, &'static [&'static str]);

/// Crates of this workspace that each may name, in the order from the bottom to the top.
const MAY_NAME: [Row; 11] = [
    ("version", &[]),
    ("wire", &[]),
    ("rspec", &[]),
    ("plot", &[]),
    ("engine", &[]),
    ("message", &["wire"]),
    ("fleet", &["message", "wire"]),
    ("manual", &[]),
    ("worker", &["engine", "manual", "message", "plot", "wire"]),
    ("balancer", &["fleet", "manual", "message", "rspec", "wire"]),
    ("client", &["fleet", "manual", "plot", "rspec", "wire"]),
];

/// What must not be behind a crate, however far.
const NEVER: [Row; 2] = [
    ("fleet", &["hyper", "hyper-util", "http-body", "tracing", "rustls", "hickory-resolver"]),
    ("client", &["balancer", "worker", "hickory-resolver", "minijinja"]),
];

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    fs::read_to_string(root.join(path)).expect("it is there")
}

/// The names under a heading of a manifest.
fn named(manifest: &str, heading: &str) -> BTreeSet<String> {
    let lines = manifest.lines().skip_while(|line| *line != heading).skip(1);
    let entries = lines.take_while(|line| !line.starts_with('['));
    entries.filter_map(|line| line.split(['.', ' ', '=']).next()).map(str::to_owned).collect()
}

#[test]
fn a_crate_names_only_those_below_it() {
    for (name, may) in MAY_NAME {
        let dependencies = named(&read(&format!("{name}/Cargo.toml")), "[dependencies]");
        for (other, _) in MAY_NAME {
            let is_wrong = dependencies.contains(other) && !may.contains(&other);
            assert!(!is_wrong, "{name} depends on {other}");
        }
    }
    let members = read("Cargo.toml");
    let members = members.lines().find(|line| line.starts_with("members")).expect("a list");
    let members: BTreeSet<&str> = members.split('"').skip(1).step_by(2).collect();
    let known = members.iter().filter(|member| !member.contains('/'));
    assert!(
        known.eq(MAY_NAME.map(|(name, _)| name).iter().collect::<BTreeSet<_>>()),
        "{members:?}"
    );
}

#[test]
fn the_table_of_the_architecture_says_what_is_held_here() {
    let document = read("ARCHITECTURE.md");
    let quoted =
        |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let table: Vec<_> = rows
        .filter_map(|row| {
            let (name, cells) = row.split_once("` | ")?;
            Some((name, quoted(cells.rsplit(" | ").next()?)))
        })
        .collect();
    assert_eq!(table.len(), MAY_NAME.len(), "{table:?}");
    for ((name, may), (listed, mut told)) in MAY_NAME.into_iter().zip(table) {
        told.retain(|other| MAY_NAME.iter().any(|(name, _)| name == other));
        let may: BTreeSet<String> = may.iter().map(|other| (*other).to_owned()).collect();
        assert_eq!((listed, told), (name, may), "the row of {name} in ARCHITECTURE.md");
    }
}

#[test]
fn what_only_the_balancer_needs_is_behind_no_other_crate() {
    let lock = read("Cargo.lock");
    let mut behind: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let mut quoted = package.split('"').skip(1).step_by(2);
        let Some(name) = quoted.next() else { continue };
        let (_, list) = package.split_once("dependencies = [").unwrap_or_default();
        let list = list.split('"').skip(1).step_by(2);
        behind.entry(name).or_default().extend(list.filter_map(|one| one.split(' ').next()));
    }
    for (name, never) in NEVER {
        let (mut seen, mut next) = (BTreeSet::new(), vec![name]);
        while let Some(one) = next.pop() {
            if seen.insert(one) {
                next.extend(behind.get(one).into_iter().flatten());
            }
        }
        assert!(seen.len() > 10, "{name} is in the lock file");
        for one in never {
            assert!(!seen.contains(one), "{one} is behind {name}");
        }
    }
}

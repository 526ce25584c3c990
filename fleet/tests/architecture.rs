//! Which crates and modules may depend on which, as `ARCHITECTURE.md` states.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A crate, and a list of others.
type Row = (&'static str, &'static [&'static str]);

/// Crates of this workspace that each of them may depend on, in order from bottom to top.
const MAY_NAME: [Row; 12] = [
    ("version", &[]),
    ("wire", &[]),
    ("rspec", &[]),
    ("plot", &[]),
    ("engine", &[]),
    ("answer", &[]),
    ("message", &["wire"]),
    ("fleet", &["message", "wire"]),
    ("manual", &[]),
    ("worker", &["engine", "manual", "message", "plot", "wire"]),
    ("balancer", &["answer", "fleet", "manual", "message", "rspec", "wire"]),
    ("client", &["answer", "fleet", "manual", "plot", "rspec", "wire"]),
];

/// Crates in which the modules of one folder have no circular dependencies.
const NO_CIRCLES: [&str; 6] = ["answer", "balancer", "fleet", "message", "rspec", "wire"];

/// Crates that a crate must not depend on, not even indirectly.
const NEVER: [Row; 2] = [
    ("fleet", &["hyper", "hyper-util", "http-body", "tracing", "rustls", "hickory-resolver"]),
    ("client", &["balancer", "worker", "hickory-resolver", "minijinja"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("it is there")
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

/// The path of a module in its crate, from the outermost folder to its own name.
type Module = Vec<String>;

/// The code of each module below a folder, without comments and tests.
fn modules(folder: &Path, inside: &[String], found: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path: PathBuf = entry.expect("an entry").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        let mut module = inside.to_vec();
        if stem != "mod" {
            module.push(stem.clone());
        }
        if path.is_dir() {
            modules(&path, &module, found);
        } else if !["lib", "main", "histories"].contains(&&*stem) && !stem.ends_with("tests") {
            let text = fs::read_to_string(&path).expect("code");
            let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
            let code = code.filter(|line| !line.trim_start().starts_with("//"));
            found.insert(module, code.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The paths after `crate::` and `super::` in the code of a module, from the root of the crate.
fn named_paths(module: &[String], code: &str) -> Vec<Module> {
    let is_part = |letter: char| letter.is_alphanumeric() || "_:".contains(letter);
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        if code[..at].ends_with(is_part) {
            continue;
        }
        let end = code[at..].find(|letter| !is_part(letter)).map_or(code.len(), |end| at + end);
        let (path, rest) = code[at..end].split_at(code[at..end].find("::").expect("it begins so"));
        let mut rest = rest.trim_start_matches("::");
        let mut base = if path == "crate" { &[][..] } else { &module[..module.len() - 1] };
        while let Some(further) = rest.strip_prefix("super::") {
            (base, rest) = (&base[..base.len() - 1], further);
        }
        let list = code[end..].strip_prefix('{').and_then(|list| list.split('}').next());
        for name in list.unwrap_or("").split(',') {
            let names = [rest, name.trim()].concat();
            let names = names.split("::").map(str::to_owned).filter(|name| !name.is_empty());
            paths.push(base.iter().cloned().chain(names).collect());
        }
    }
    paths
}

/// For each module of a folder, the others of that folder that it names.
type Uses<'a> = BTreeMap<&'a str, BTreeSet<String>>;

#[test]
fn no_modules_of_one_folder_lean_on_each_other_in_a_circle() {
    for name in NO_CIRCLES {
        let mut all = BTreeMap::new();
        modules(&root().join(name).join("src"), &[], &mut all);
        let mut below: BTreeMap<&[String], Uses<'_>> = BTreeMap::new();
        for (module, code) in &all {
            for path in named_paths(module, code) {
                let shared = module.iter().zip(&path).take_while(|(one, other)| one == other);
                let depth = shared.count();
                let is_module = |path: &[String]| all.keys().any(|known| known.starts_with(path));
                if depth < module.len().min(path.len()) && is_module(&path[..=depth]) {
                    let folder = below.entry(&module[..depth]).or_default();
                    folder.entry(&*module[depth]).or_default().insert(path[depth].clone());
                }
            }
        }
        assert!(below.contains_key(&[][..]) || all.len() < 8, "{name} names its modules");
        for (folder, mut left) in below {
            while !left.is_empty() {
                let ends = |names: &BTreeSet<String>| {
                    !names.iter().any(|name| left.contains_key(name.as_str()))
                };
                let lowest = left.iter().find(|(_, names)| ends(names)).map(|(name, _)| *name);
                let Some(lowest) = lowest else {
                    panic!("a circle in {name}/{folder:?}: {left:?}")
                };
                left.remove(lowest);
            }
        }
    }
}

//! Sets the program's version and embeds the files of the page: each uncompressed and as gzip,
//! under a path that changes with their content, so that browsers may keep them for good; and with
//! the digest that allows a page to embed it.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

fn main() -> Result<(), Box<dyn Error>> {
    version::emit()?;
    pack()
}

fn pack() -> Result<(), Box<dyn Error>> {
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates");
    let mut cargo = std::io::stdout();
    writeln!(cargo, "cargo::rerun-if-changed={}", templates.display())?;
    writeln!(cargo, "cargo::rerun-if-changed=build.rs")?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&templates)?.map(|file| Ok(file?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    let mut entries = String::new();
    let mut all = Edition::default();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or("a name that is text")?;
        let Some(kind) = kind(&path) else { continue };
        let plain = without_comments(&fs::read_to_string(&path)?);
        let shown = out.join(name);
        fs::write(&shown, &plain)?;
        let packed = out.join(format!("{name}.gz"));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain.as_bytes())?;
        fs::write(&packed, encoder.finish()?)?;
        let mut own = Edition::default();
        own.add(plain.as_bytes());
        let digest = BASE64_STANDARD.encode(Sha256::digest(plain.as_bytes()));
        all.add(name.as_bytes());
        all.add(plain.as_bytes());
        std::fmt::Write::write_fmt(
            &mut entries,
            format_args!(
                "    Asset {{ name: {name:?}, kind: {kind:?}, digest: \"sha256-{digest}\", tag: \"W/\\\"{:016x}\\\"\", plain: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\")), packed: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.gz\")) }},\n",
                own.0
            ),
        )?;
    }
    let text = format!(
        "const EDITION: &str = \"{:016x}\";\nstatic ASSETS: &[Asset] = &[\n{entries}];\n",
        all.0
    );
    fs::write(out.join("assets.rs"), text)?;
    Ok(())
}

/// The text without what is only for its developers: comment lines, and the types in scripts, which
/// are in comments that begin with `/**`. No text of the page looks like either.
fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut code = String::with_capacity(text.len());
    while let Some(start) = rest.find("/**") {
        code.push_str(&rest[..start]);
        let end = rest[start..].find("*/").map_or(rest.len(), |end| start + end + 2);
        rest = rest[end..].trim_start_matches(' ');
    }
    code.push_str(rest);
    let lines = code.lines().filter(|line| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with("//")
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The media type of a file for browsers; `None` for files that only the program reads.
fn kind(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "css" => Some("text/css; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}

/// FNV-1a: sufficient to tell one edition of a file from the next.
struct Edition(u64);

impl Default for Edition {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Edition {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

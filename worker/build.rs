//! Embeds the version in the program.

fn main() -> std::io::Result<()> {
    version::emit()
}

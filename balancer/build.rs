//! Tells the program which version it is.

fn main() -> std::io::Result<()> {
    version::emit()
}

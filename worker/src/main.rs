//! Maps the result of the library to an exit code.

fn main() {}

//! Where results are printed: a reader that has enough of them (`| head`) is no failure.
//!
//! What is printed after that goes nowhere, so that files are written and the exit status is right.

use std::io::{self, Write};

/// Takes everything, and passes it on while there is a reader.
#[derive(Debug)]
pub struct UntilClosed<W> {
    inner: W,
    is_closed: bool,
}

impl<W: Write> UntilClosed<W> {
    /// Passes on to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, is_closed: false }
    }

    /// `instead` of an error that says that the reader is gone.
    fn forgive<T>(&mut self, result: io::Result<T>, instead: T) -> io::Result<T> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(instead)
            }
            other => other,
        }
    }
}

impl<W: Write> Write for UntilClosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed {
            return Ok(bytes.len());
        }
        let written = self.inner.write(bytes);
        self.forgive(written, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_closed {
            return Ok(());
        }
        let flushed = self.inner.flush();
        self.forgive(flushed, ())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use super::UntilClosed;

    /// A writer that takes one write and is closed after it.
    struct Once(bool);

    impl Write for Once {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error() {
        let mut out = UntilClosed::new(Once(false));
        for _ in 0..3 {
            writeln!(out, "a line").unwrap();
        }
        out.flush().unwrap();
    }
}

//! What commands print for people and for other programs.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
};

/// Prints a line, or a table, to standard output. `weir … list | head`: a reader that has seen
/// enough is no failure. Errors: any other of writing.
pub fn print(text: impl Display) -> anyhow::Result<()> {
    Ok(print_to(&mut io::stdout().lock(), text)?)
}

fn print_to(out: &mut impl Write, text: impl Display) -> io::Result<()> {
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_no_failure_and_a_full_disk_is_one() {
        assert!(print_to(&mut Broken(ErrorKind::BrokenPipe), "x").is_ok());
        assert!(print_to(&mut Broken(ErrorKind::StorageFull), "x").is_err());
    }
}

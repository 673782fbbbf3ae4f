//! The engine child that this crate's tests start; Cargo builds examples along with tests.

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [command, dir] if command == weir_usage::engine::CHILD_COMMAND => {
            weir_usage::engine::child_main(Path::new(dir))
        }
        _ => ExitCode::FAILURE,
    }
}

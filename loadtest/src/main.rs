//! `loadtest`

fn main() -> std::process::ExitCode {
    weir_loadtest::main()
}

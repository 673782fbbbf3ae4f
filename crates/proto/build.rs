//! Compiles `proto/` into Rust types and into the descriptor set that REST and OpenAPI read.

use std::{env, error::Error, fs, path::PathBuf};

const ROOT: &str = "../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_imports(true).include_source_info(true);
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("{ROOT}/weir/billing/v2"))? {
        files.push(format!("weir/billing/v2/{}", entry?.file_name().to_string_lossy()));
    }
    files.sort();
    compiler.open_files(files)?;

    // Encoded by protox: prost's own descriptor types would drop the routes and permissions,
    // which are extensions.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let mut prost = tonic_prost_build::Config::new();
    prost.enable_type_names();
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_well_known_types(false)
        .compile_fds_with_config(compiler.file_descriptor_set(), prost)?;
    Ok(())
}

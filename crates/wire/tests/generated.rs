//! Compares the committed code with what `proto/` generates today. With `HERALD_GENERATE=1` it writes the code anew:
//! `HERALD_GENERATE=1 cargo test -p herald-wire --test generated`.

#![allow(clippy::unwrap_used)] // helpers of a test

use std::fs;
use std::path::{Path, PathBuf};

const FILES: [&str; 2] = ["herald/bus/v1/envelope.proto", "herald/registry/v1/registry.proto"];

fn generate(into: &Path) {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut compiler = protox::Compiler::new([&proto]).unwrap();
    compiler.include_source_info(true).include_imports(true).open_files(FILES).unwrap();
    let with_comments = compiler.file_descriptor_set();
    tonic_prost_build::configure()
        .bytes(".herald.bus.v1")
        .emit_rerun_if_changed(false)
        .out_dir(into)
        .compile_fds(with_comments)
        .unwrap();
    // comments are for people who read the code; reflection needs only the shapes
    let mut compiler = protox::Compiler::new([&proto]).unwrap();
    compiler.include_source_info(false).include_imports(true).open_files(FILES).unwrap();
    fs::write(into.join("descriptors.bin"), compiler.encode_file_descriptor_set()).unwrap();
}

fn files(of: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> =
        fs::read_dir(of).unwrap().map(|entry| entry.unwrap().file_name().into()).collect();
    names.sort();
    names
}

#[test]
fn committed_code_is_what_proto_generates() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    if std::env::var_os("HERALD_GENERATE").is_some() {
        fs::create_dir_all(&committed).unwrap();
        generate(&committed);
    }
    let fresh = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("generated");
    fs::create_dir_all(&fresh).unwrap();
    generate(&fresh);
    assert_eq!(files(&committed), files(&fresh));
    for name in files(&fresh) {
        let same = fs::read(committed.join(&name)).unwrap() == fs::read(fresh.join(&name)).unwrap();
        assert!(
            same,
            "{} is stale: run HERALD_GENERATE=1 cargo test -p herald-wire --test generated",
            name.display()
        );
    }
}

//! The core compiles and links without std. No other target is at hand, so a static library with its own panic handler
//! stands in for one.

use std::process::{Command, Output};

fn build(features: &[&str]) -> Output {
    let root = super::root();
    Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(root.join("core/nostd-proof/Cargo.toml"))
        .arg("--target-dir")
        .arg(root.join("target/nostd-proof"))
        .args(features)
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo can be run")
}

#[test]
fn the_core_links_without_std_and_the_proof_fails_when_std_slips_in() {
    let alone = build(&[]);
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
    let slipped = build(&["--features", "slip"]);
    let errors = String::from_utf8_lossy(&slipped.stderr);
    assert!(!slipped.status.success(), "std in a dependency went unnoticed");
    assert!(errors.contains("E0152"), "the build failed for another reason:\n{errors}");
}

//! Tells both programs which commit it was built from: `REFRAIN_COMMIT` where a packager sets it, else what Git says.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=REFRAIN_COMMIT");
    let given = std::env::var("REFRAIN_COMMIT").ok().filter(|commit| !commit.is_empty());
    if let Some(commit) = given.or_else(|| git(&["rev-parse", "--short=12", "HEAD"])) {
        println!("cargo:rustc-env=REFRAIN_COMMIT={commit}");
    }
    // Grows with every commit; where it is missing, as in a source archive, there is nothing to follow.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    } else {
        println!("cargo:rerun-if-changed=../build.rs");
    }
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_string())
}

//! `refrain`: daemon, hook and operator's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(refrain::cli::run())
}

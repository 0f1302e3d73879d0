//! `refrain-sim`: seeded runs of the world. See `INTERFACE.md` for the commands and exit codes.

fn main() {
    std::process::exit(refrain_sim::cli::main());
}

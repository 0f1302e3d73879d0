//! `refrain-sim`: seeded runs of the world. See `INTERFACE.md` for the commands and exit codes.

// A world makes and drops millions of small values: a sweep spends a tenth less with this allocator than with libc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    std::process::exit(refrain_sim::cli::main());
}

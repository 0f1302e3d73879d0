//! Refrain's daemon and command line: the adapters that carry out what `refrain-core` orders.

pub mod cli;
pub mod config;
pub mod driver;
pub mod git;
pub mod hook_wire;
pub mod http;
pub mod journal;
pub mod log;
mod patience;
pub mod status;

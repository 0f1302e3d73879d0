//! The state machines of Refrain, without IO.
//!
//! `handle(now, input) -> effects`: inputs are facts, effects are orders, and an answer from outside is done, refused
//! or unknown. Time is an argument, chance is seeded at construction, maps are ordered, nothing blocks and nothing is
//! logged, so the same inputs give the same effects: in production, in the simulator, and when an incident is replayed.
//! `#![no_std]` makes most of that a compile fact; see `core/nostd-proof`.
#![no_std]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod aggregator;
mod audit;
pub mod config;
pub mod consumer;
pub mod ids;
pub mod journal;
pub mod monitor;
pub mod mutant;
pub mod names;
mod partition;
pub mod placement;
pub mod port;
pub mod producer;
pub mod progress;
pub mod record;
pub mod refdb;
pub mod rng;
mod session;
pub mod settings;
pub mod site;
pub mod table;
pub mod time;

//! A seeded world for `refrain-core`: one thread, virtual time, everything that can break, and promises checked after
//! every event. The same seed gives the same run, byte for byte.

pub mod cli;
pub mod client;
pub mod clock;
pub mod coverage;
pub mod dice;
pub mod fault;
pub mod homes;
pub mod invariants;
pub mod journal;
pub mod log;
pub mod naive;
pub mod net;
pub mod observed;
pub mod oids;
pub mod operator;
pub mod page;
pub mod queue;
pub mod repo;
pub mod run;
pub mod scenario;
pub mod site;
pub mod story;
pub mod swarm;
pub mod sweep;
pub mod trace;
pub mod walk;
pub mod workload;
pub mod world;

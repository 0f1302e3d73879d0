//! Tests of the real `refrain` binary with the real `git`: pushes, refusals, kills, and what is left afterwards.

mod behind;
mod checker;
mod client;
mod demo;
mod http;
mod kill;
mod oracle;
#[cfg(debug_assertions)]
mod points;
mod pushes;
mod rebuild;
mod serve;
mod settings;
#[cfg(debug_assertions)]
mod torture;
#[cfg(debug_assertions)]
mod torturer;
mod upkeep;
mod world;

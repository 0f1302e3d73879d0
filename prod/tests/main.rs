//! Tests of the real `refrain` binary with the real `git`: pushes, refusals, kills, and what is left afterwards.

mod behind;
mod checker;
mod client;
mod demo;
mod hooks;
mod http;
mod kill;
mod mistakes;
mod operator;
#[cfg(debug_assertions)]
mod points;
mod pushes;
mod rebuild;
mod records;
mod serve;
mod settings;
mod upkeep;
mod world;

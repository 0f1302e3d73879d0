//! Tests of the real `refrain` binary with the real `git`: pushes, refusals, kills, and what is left afterwards.

#[cfg(debug_assertions)]
mod aggregate;
mod behind;
mod checker;
mod client;
mod damaged;
mod demo;
#[cfg(debug_assertions)]
mod disks;
#[cfg(debug_assertions)]
mod faulty;
mod hooks;
mod http;
mod large;
mod mistakes;
mod operator;
mod oracle;
#[cfg(debug_assertions)]
mod points;
mod processes;
mod pushes;
mod rebuild;
mod records;
mod repacking;
#[cfg(debug_assertions)]
mod replicated;
mod serve;
mod settings;
#[cfg(debug_assertions)]
mod stop;
mod torture;
mod torturer;
#[cfg(debug_assertions)]
mod unknown;
mod upkeep;
mod world;

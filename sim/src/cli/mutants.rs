//! `refrain-sim mutants`: every known bug in turn, until an invariant catches it.

use clap::Args;
use refrain_core::mutant::Mutant;
use serde_json::json;

use super::progress::Progress;
use super::{jobs_of, mutant_of};
use crate::homes;
use crate::sweep::{Range, sweep};

#[derive(Args)]
pub(super) struct Mutants {
    /// Seeds each, at most.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// These only.
    #[arg(long, value_name = "MUTANT")]
    only: Vec<String>,
    /// Threads; as many as there are cores.
    #[arg(long)]
    jobs: Option<usize>,
}

/// How many seeds a bug must survive without what it takes: twice what it took with it, from, to.
const NEEDLESS_SEEDS: (u64, u64) = (20, 200);

impl Mutants {
    pub(super) fn run(self, json: bool) -> Result<i32, String> {
        let chosen = self.chosen()?;
        if self.seeds == 0 {
            eprintln!("nothing ran: no seed to try");
            return Ok(super::NOTHING_RAN);
        }
        let progress = Progress::new(json, "not caught as they should be");
        let mut wrong = 0;
        for (at, mutant) in chosen.iter().enumerate() {
            let range = Range { from: 0, to: self.seeds, within: None, jobs: jobs_of(self.jobs), until_caught: true };
            let home = homes::home(*mutant);
            progress.begin(format!("{}/{} {}", at + 1, chosen.len(), mutant.name()), Some(range.to));
            let summary = sweep(&home, range, Some(*mutant), &|_| progress.ran());
            let caught = summary.failures.first();
            let by = caught.map(|report| report.outcome.word().to_string());
            let seed = caught.map(|report| report.seed.text.clone());
            // Threads run ahead of the seed that was caught; it is the seeds up to it that were needed.
            let tried = caught.map_or(summary.runs, |report| report.seed.value as u64 + 1);
            let needs = homes::needs(*mutant);
            let needless = caught.is_some() && !needs.is_empty() && {
                let range = Range { to: (2 * tried).clamp(NEEDLESS_SEEDS.0, NEEDLESS_SEEDS.1), ..range };
                let mut home = home;
                home.without.extend(needs.iter().map(|need| (*need).to_string()));
                progress.begin(
                    format!("{}/{} {} without {}", at + 1, chosen.len(), mutant.name(), needs.join(", ")),
                    Some(range.to),
                );
                !sweep(&home, range, Some(*mutant), &|_| progress.ran()).failures.is_empty()
            };
            if caught.is_none() || needless {
                wrong += 1;
                progress.bad();
            }
            if json {
                let needs = json!({"off": needs, "caught": needless});
                println!(
                    "{}",
                    json!({"mutant": mutant.name(), "caught_by": by, "seed": seed, "seeds": tried, "without": needs})
                );
                continue;
            }
            let needed = match (needs, needless) {
                ([], _) => String::new(),
                (needs, false) => format!("; survives without {}", needs.join(", ")),
                (needs, true) => {
                    format!("; caught without {} as well, which should be what it takes", needs.join(", "))
                }
            };
            progress.aside(|| match (by, seed) {
                (Some(by), Some(seed)) => {
                    println!("{} caught by {by} after {tried} seeds (seed {seed}){needed}", mutant.name());
                }
                _ => println!("{} survived {tried} seeds", mutant.name()),
            });
        }
        Ok(if wrong == 0 { 0 } else { 105 })
    }

    fn chosen(&self) -> Result<Vec<Mutant>, String> {
        if self.only.is_empty() {
            return Ok(Mutant::ALL.to_vec());
        }
        let mut chosen = Vec::new();
        for name in &self.only {
            chosen.extend(mutant_of(Some(name))?);
        }
        Ok(chosen)
    }
}

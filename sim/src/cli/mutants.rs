//! `refrain-sim mutants`: every known bug in turn, until an invariant catches it.

use clap::Args;
use refrain_core::mutant::Mutant;
use serde_json::json;

use super::progress::Progress;
use super::{NOTHING_RAN, SURVIVED, command, jobs_of, mutant_of, place, say};
use crate::homes;
use crate::run::Report;
use crate::scenario::Scenario;
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
            return Ok(NOTHING_RAN);
        }
        let progress = Progress::new(json, "amiss");
        let mut wrong = 0;
        for (at, mutant) in chosen.iter().enumerate() {
            let found = self.look_for(*mutant, &format!("{}/{} {}", at + 1, chosen.len(), mutant.name()), &progress);
            if found.is_wrong() {
                wrong += 1;
                progress.bad();
            }
            progress.aside(|| if json { say(found.json()) } else { found.print() });
        }
        Ok(if wrong == 0 { 0 } else { SURVIVED })
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

    /// In its home; where it takes something, once more without that.
    fn look_for(&self, mutant: Mutant, what: &str, progress: &Progress) -> Found {
        let range = Range { from: 0, to: self.seeds, within: None, jobs: jobs_of(self.jobs), until_caught: true };
        let (home, needs) = (homes::home(mutant), homes::needs(mutant));
        progress.begin(what, Some(range.to));
        let mut summary = sweep(&home, range, Some(mutant), &|_| progress.ran());
        let caught = (!summary.failures.is_empty()).then(|| summary.failures.swap_remove(0));
        // Threads run ahead of the seed that was caught; it is the seeds up to it that were needed.
        let tried = caught.as_ref().map_or(summary.runs, |report| report.seed.value as u64 + 1);
        let mut found = Found { mutant, home, caught, tried, needs, needless: None };
        if found.caught.is_some() && !needs.is_empty() {
            let range = Range { to: (2 * tried).clamp(NEEDLESS_SEEDS.0, NEEDLESS_SEEDS.1), ..range };
            let mut home = found.home.clone();
            home.without.extend(needs.iter().map(|need| (*need).to_string()));
            progress.begin(format!("{what} without {}", needs.join(", ")), Some(range.to));
            let mut summary = sweep(&home, range, Some(mutant), &|_| progress.ran());
            found.needless = (!summary.failures.is_empty()).then(|| summary.failures.swap_remove(0));
        }
        found
    }
}

/// What came of looking for one of them.
struct Found {
    mutant: Mutant,
    home: Scenario,
    /// The first seed that shows it.
    caught: Option<Report>,
    tried: u64,
    needs: &'static [&'static str],
    /// The first seed that shows it without what it takes: there should be none.
    needless: Option<Report>,
}

impl Found {
    fn is_wrong(&self) -> bool {
        self.caught.is_none() || self.needless.is_some()
    }

    /// Homes are files, or built in, as they stand; so this shows again what was caught there.
    fn repeat(&self) -> Option<String> {
        self.caught.as_ref().map(|report| command(&self.home, &report.seed, Some(self.mutant)))
    }

    fn json(&self) -> serde_json::Value {
        let word = |report: &Option<Report>| report.as_ref().map(|report| report.outcome.word().to_string());
        let seed = |report: &Option<Report>| report.as_ref().map(|report| report.seed.text.clone());
        let without = json!({
            "off": self.needs, "caught": self.needless.is_some(),
            "caught_by": word(&self.needless), "seed": seed(&self.needless),
        });
        json!({
            "mutant": self.mutant.name(), "caught_by": word(&self.caught), "seed": seed(&self.caught),
            "seeds": self.tried, "without": without, "home": place(&self.home), "command": self.repeat(),
        })
    }

    fn print(&self) {
        let (name, tried, place) = (self.mutant.name(), self.tried, place(&self.home));
        let (Some(caught), Some(repeat)) = (&self.caught, self.repeat()) else {
            say(format_args!("{name} survived {tried} seeds\n  home: {place}"));
            return;
        };
        let needs = self.needs.join(", ");
        let needed = match &self.needless {
            _ if needs.is_empty() => String::new(),
            None => format!("; survives without {needs}"),
            Some(_) => format!("; caught without {needs} as well, which should be what it takes"),
        };
        let (by, seed) = (caught.outcome.word(), &caught.seed.text);
        say(format_args!("{name} caught by {by} after {tried} seeds (seed {seed}){needed}"));
        say(format_args!("  home: {place} · {repeat}"));
        if let Some(report) = &self.needless {
            let (by, seed) = (report.outcome.word(), &report.seed.text);
            // No file says this, so no command repeats it.
            say(format_args!("  home: {place} without {needs} · seed {seed}, caught by {by}"));
        }
    }
}

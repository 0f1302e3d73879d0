//! Every refusal begins with one of the words that people and scripts rely on, and says more than the word.
//!
//! Catches texts that were written where they are sent, beside the list of words.

use refrain_core::port::Answer;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "refused-in-words";

/// As `INTERFACE.md` lists them.
const WORDS: [&str; 8] = [
    "stale:",
    "read only:",
    "name conflict:",
    "undecided:",
    "denied:",
    "too large:",
    "atomic push failed:",
    "unavailable:",
];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RefusedInWords;

impl Invariant for RefusedInWords {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "every refusal begins with one of the words that pushers rely on, and gives a reason"
    }

    fn presumes_durability(&self) -> bool {
        false
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        let Event::Answered { push } = event else { return Vec::new() };
        let at = &seen.pushes[*push];
        let said = |text: &str| WORDS.iter().any(|word| text.strip_prefix(word).is_some_and(|why| why.trim() != ""));
        let wordless = at.answers.iter().flatten().filter_map(|answer| match answer {
            Answer::No(text) if !said(text) => Some(text),
            _ => None,
        });
        wordless.map(|text| broken(NAME, format!("push {} at {} was refused with {text:?}", at.id, at.site))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn a_refusal_without_a_word_or_without_a_reason_is_found() {
        for (text, found) in [("stale: fetch", 0), ("stale", 1), ("unavailable: ", 1), ("went wrong: again", 1)] {
            let mut world = World::opened(&["ams"]);
            let answered = world.answer("ams", false, &[update("a", absent(), value(1))], &[false]);
            world.seen.pushes[0].answers = Some(vec![Answer::No(text.to_string())]);
            assert_eq!(run(&mut RefusedInWords, &world, &[answered]).len(), found, "{text}");
        }
    }
}

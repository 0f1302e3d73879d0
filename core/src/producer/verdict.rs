//! What a verdict on a record of this daemon means for its open pushes and appends.

use alloc::collections::BTreeSet;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::ack::Owed;
use super::{Outcome, Producer, Stage, Voice, Want, words};
use crate::ids::{Digest, Offset, PushId, Seq};
use crate::mutant::Mutant;
use crate::port::{Answer, ClientEffect, Now, Out};
use crate::refdb::{Judgement, Verdict, Void};

impl Producer {
    /// Whether a record of this daemon's pair that counted is none of its own: the machine was reverted or copied while
    /// it ran, and the other one speaks as the same instance.
    fn is_anothers(&self, voice: &Voice, seq: Seq, line: Digest) -> bool {
        let differs = self.appends.get(&seq).is_some_and(|append| append.line != line);
        (seq > voice.seq || differs) && !self.config.mutants.on(Mutant::CopiedInstance)
    }

    /// The fold judged a record of this daemon's pair. If it was admitted, everything of ours with a lower sequence
    /// that has not appeared is void for ever; and so is all of ours once the pair's force has ended.
    /// `unshown` are earlier records that updates judged unchanged wait for.
    pub(crate) fn judged(
        &mut self,
        now: Now,
        out: &mut Out,
        voice: &Voice,
        (offset, seq, line): (Offset, Seq, Digest),
        verdict: &Verdict,
        unshown: BTreeSet<Offset>,
    ) {
        if verdict.is_admitted() && self.is_anothers(voice, seq, line) {
            self.impersonated = true;
            return;
        }
        if let Verdict::Void(Void::NotAMember) = verdict {
            return self.put_off(now, seq);
        }
        let counts = !matches!(verdict, Verdict::Void(Void::OldSequence));
        let mut seq_of_job = seq;
        if self.config.mutants.on(Mutant::FirstVerdictWins) {
            seq_of_job = self.appends.keys().next().copied().unwrap_or(seq);
        }
        let append = if counts { self.appends.remove(&seq_of_job) } else { None };
        // A barrier that nobody remembers any more says as much of the earlier ones as a push.
        let resolves = verdict.is_admitted() || matches!(verdict, Verdict::Void(Void::NotInForce));
        if let Some(id) = append.and_then(|append| append.job) {
            self.decided(now, out, id, offset, verdict, unshown);
        }
        if resolves {
            let dead: Vec<Seq> = self.appends.range(..seq).map(|(seq, _)| *seq).collect();
            for seq in dead {
                if let Some(id) = self.appends.remove(&seq).and_then(|append| append.job) {
                    self.again(now, out, id, words::LOST);
                }
            }
        }
        if !self.appends.values().any(|append| append.outcome == Outcome::Unknown) {
            self.barrier = None;
        }
    }

    /// A record of ours met a membership that this site is not in. That spends no number: where a copy of the
    /// membership came late the next may bring the site back, and the same record, appended twice by the log, counts
    /// then. So it is as good as unknown. An eviction that is one ends the pair's force, and the fence answers.
    fn put_off(&mut self, now: Now, seq: Seq) {
        match self.appends.get_mut(&seq) {
            Some(append) if append.job.is_some() => append.outcome = Outcome::Unknown,
            // Nobody waits for it, and a later one says as much.
            _ => drop(self.appends.remove(&seq)),
        }
        if self.appends.values().any(|append| append.outcome == Outcome::Unknown) {
            self.arm_barrier(now);
        }
    }

    fn decided(
        &mut self,
        now: Now,
        out: &mut Out,
        id: PushId,
        offset: Offset,
        verdict: &Verdict,
        unshown: BTreeSet<Offset>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.stage = Stage::Waiting;
        let Want::Push(push) = &mut job.want else {
            let outcome = match verdict {
                Verdict::Counted => Ok((self.partition, offset)),
                Verdict::Void(void) => Err(words::order_void(void)),
                Verdict::Push(_) => Err(words::LOST.to_string()),
            };
            if !job.answered {
                out.client(ClientEffect::Ordered { id, outcome });
            }
            self.jobs.remove(&id);
            return;
        };
        if job.answered && !self.config.mutants.on(Mutant::AnsweredPushKept) {
            // Nobody waits to hear of it, so nobody would notice that an acknowledgement never comes.
            self.jobs.remove(&id);
            return;
        }
        let batch = core::mem::take(&mut push.batch);
        push.judged.extend(batch.iter().map(|(place, _)| *place));
        push.earlier.extend(batch.iter().filter_map(|(_, update)| update.new));
        if self.config.mutants.on(Mutant::PackAtQuarantine)
            && let Some(repo) = &job.repo
        {
            self.leftovers.entry(repo.clone()).or_default().extend(batch.iter().filter_map(|(_, update)| update.new));
        }
        match verdict {
            Verdict::Push(judgements) => {
                let changed = judgements.iter().any(|it| matches!(it, Judgement::Accepted { .. }));
                let unchanged = judgements.contains(&Judgement::Unchanged);
                push.accepted.insert(offset, Owed { changed, unchanged });
                push.showing.insert(offset);
                push.showing.extend(unshown);
                for ((place, update), judgement) in batch.iter().zip(judgements) {
                    push.answers[*place] = Some(match judgement {
                        Judgement::Accepted { .. } | Judgement::Unchanged => Answer::Ok,
                        Judgement::Rejected(why) => Answer::No(words::rejection(&update.name, why, now.wall_ms)),
                    });
                }
            }
            Verdict::Void(_) | Verdict::Counted => {
                for (place, _) in &batch {
                    push.answers[*place] = Some(Answer::No(words::LOST.to_string()));
                }
            }
        }
        if !push.rest.is_empty() {
            // The next record's pack may stop at what this one brought, now that it is judged.
            job.stage = Stage::Checking;
        }
    }
}

//! From a client's wish to a record: fast refusals, the pack, the batches of a push that no record holds whole.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::staging::Staging;
use super::{Job, Producer, PushJob, Stage, Want, words};
use crate::config::RECENT_REFS_MAX;
use crate::consumer::Consumer;
use crate::ids::{Offset, Oid, PushId};
use crate::mutant::Mutant;
use crate::names::{RefName, RepoName};
use crate::port::{Answer, ClientEffect, GitEffect, JournalEffect, Now, Order, Out, Owner, Prepared, Spool, Wish};
use crate::record::{
    Body, CHUNKS_MAX, HAVES_MAX, HEADER_BYTES_MAX, Have, PACK_BYTES_MAX, Push, Record, RepoCreated, RepoDeleted,
    UPDATES_MAX, Update,
};
use crate::refdb::{Fold, Judgement, boundary_names};
use crate::table::{Cache, TableKey};

/// An update, with its place in the client's push.
type Placed = (usize, Update);

/// Bytes of a header left for everything but the updates, the 43 KiB of the most chunks among them.
const HEADER_RESERVE: usize = 140 * 1024;

impl Producer {
    /// A push arrives, its objects in this site's store.
    pub(crate) fn push(&mut self, now: Now, out: &mut Out, id: PushId, repo: RepoName, atomic: bool, wishes: &[Wish]) {
        let mut answers: Vec<Option<Answer>> = Vec::new();
        let mut rest = Vec::new();
        let seen = !self.config.mutants.on(Mutant::NamedTwiceAppended);
        let twice = if seen { named_twice(wishes) } else { BTreeSet::new() };
        for (place, wish) in wishes.iter().enumerate() {
            match parse_wish(wish, &twice) {
                Ok(update) => {
                    answers.push(None);
                    rest.push((place, update));
                }
                Err(why) => answers.push(Some(Answer::No(why))),
            }
        }
        let refusal = self.refusal(wishes.len());
        if atomic && rest.len() < wishes.len() {
            let culprit = answers.iter().position(Option::is_some).expect("one was refused");
            let name = &wishes[culprit].name;
            let what = if twice.contains(name.as_str()) { "named twice" } else { "bad name" };
            let why = Answer::No(alloc::format!("atomic push failed: {name} was refused ({what})"));
            answers.iter_mut().filter(|answer| answer.is_none()).for_each(|answer| *answer = Some(why.clone()));
            rest.clear();
        }
        // Deletions first, as they are judged, so that a split push judges alike.
        rest.sort_by_key(|(_, update)| update.new.is_some());
        let push = PushJob {
            atomic,
            answers,
            rest,
            batch: Vec::new(),
            showing: BTreeSet::new(),
            judged: BTreeSet::new(),
            accepted: BTreeMap::new(),
            remote: Vec::new(),
            earlier: Vec::new(),
        };
        let nothing_left = push.rest.is_empty();
        let deadline = now.at + self.config.push_timeout;
        let job = Job {
            repo: Some(repo),
            want: Want::Push(push),
            deadline,
            answered: false,
            reading: false,
            stage: Stage::Checking,
        };
        self.jobs.insert(id, job);
        if let Some(why) = refusal {
            self.fail(out, id, &why);
        } else if nothing_left {
            self.fail(out, id, words::LOST);
        }
    }

    fn refusal(&self, updates: usize) -> Option<String> {
        if !self.in_force {
            return Some(words::STARTING.to_string());
        }
        if self.jobs.len() >= self.config.limits.pushes {
            return Some(words::TOO_MANY.to_string());
        }
        let max = self.config.updates_max;
        (updates > max).then(|| words::too_large(&alloc::format!("{updates} updates, {max} are allowed")))
    }

    /// An operator's order arrives.
    pub(crate) fn order(&mut self, now: Now, out: &mut Out, id: PushId, order: Order) {
        if let Some(why) = self.refusal(0) {
            out.client(ClientEffect::Ordered { id, outcome: Err(why) });
            return;
        }
        let repo = order.repo().cloned();
        let deadline = now.at + self.config.push_timeout;
        self.jobs.insert(
            id,
            Job { repo, want: Want::Order(order), deadline, answered: false, reading: false, stage: Stage::Checking },
        );
    }

    /// Jobs that have to be checked.
    pub(crate) fn checking(&self) -> Vec<PushId> {
        let due = self.jobs.iter().filter(|(_, job)| matches!(job.stage, Stage::Checking) && !job.reading);
        due.map(|(id, _)| *id).collect()
    }

    /// The entries that a job asked for are in the cache.
    pub(crate) fn table_read(&mut self, id: PushId) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.reading = false;
        }
    }

    /// Table entries that checking waits for.
    pub(crate) fn wanted(&self, fold: &Fold, cache: &Cache) -> BTreeSet<TableKey> {
        let checking = self.jobs.values().filter(|job| matches!(job.stage, Stage::Checking));
        checking.flat_map(|job| self.keys(fold, cache, job)).collect()
    }

    /// No more than the next record needs: at most 564 KiB (the header but for [`HEADER_RESERVE`]) / 284 bytes (the
    /// least that [`fits`] counts for a name of 32 components) = 2,033 updates x 62 keys = 126,000, and those of the
    /// boundary.
    fn keys(&self, fold: &Fold, cache: &Cache, job: &Job) -> BTreeSet<TableKey> {
        let Some(repo) = &job.repo else { return BTreeSet::new() };
        let mut keys = BTreeSet::from([TableKey::Repo(repo.clone())]);
        if let (Want::Push(push), true) = (&job.want, cache.has(&keys))
            && let Some(entry) = cache.repo(repo)
        {
            let (asked, max) = (&push.rest, self.config.record_updates_max);
            let push = push_of(push.atomic, &asked[..fits(asked, max)], Vec::new(), fold.control().next);
            let header = self.header(Some(repo.clone()), Some(entry.incarnation));
            let record = Record { header, body: Body::Push(push), pack: Arc::from([]) };
            keys.extend(fold.needs(cache, &record));
            let life = entry.incarnation;
            keys.extend(boundary_names(entry).into_iter().map(|name| TableKey::Ref(life, name)));
        }
        keys
    }

    /// Checks a job against the fold's table, asking for entries first if need be.
    pub(crate) fn check(
        &mut self,
        now: Now,
        out: &mut Out,
        fold: &Fold,
        cache: &mut Cache,
        consumer: &Consumer,
        id: PushId,
    ) {
        // A push of which nothing is left for this record goes on with what would be in the next.
        while let Some(job) = self.jobs.get(&id).filter(|job| matches!(job.stage, Stage::Checking)) {
            let missing = cache.missing(&self.keys(fold, cache, job));
            if !missing.is_empty() {
                cache.read_started(&missing);
                self.jobs.get_mut(&id).expect("it is being checked").reading = true;
                let op = out.ask(Owner::PushTable(self.partition, id));
                return out.journal(JournalEffect::ReadTable { op, partition: self.partition, keys: missing });
            }
            match &job.want {
                Want::Push(_) => self.check_push(now, out, fold, cache, consumer, id),
                Want::Order(_) => self.check_order(out, fold, cache, id),
            }
        }
    }

    fn check_push(&mut self, now: Now, out: &mut Out, fold: &Fold, cache: &Cache, consumer: &Consumer, id: PushId) {
        let chunk_bytes = self.chunk_bytes();
        let job = self.jobs.get_mut(&id).expect("it is being checked");
        let repo = job.repo.clone().expect("a push has a repository");
        let Want::Push(push) = &mut job.want else { return };
        let Some(entry) = cache.repo(&repo) else { return self.fail(out, id, &words::no_repo()) };
        let fit = fits(&push.rest, self.config.record_updates_max);
        if push.atomic && fit < push.rest.len() {
            let why = alloc::format!("an atomic push of {} updates, {fit} fit in one record", push.rest.len());
            return self.fail(out, id, &words::too_large(&why));
        }
        let later = push.rest.split_off(fit);
        let asked = core::mem::replace(&mut push.rest, later);
        // What the fold would refuse now is refused at once: nothing is appended, so nothing can come of it.
        let preview = fold.preview(cache, entry, &push_of(push.atomic, &asked, Vec::new(), fold.control().next));
        let mut kept = Vec::new();
        let mut behind = false;
        for ((place, update), judgement) in asked.into_iter().zip(preview) {
            let rejected = matches!(judgement, Judgement::Rejected(_));
            if rejected && consumer.hides(&repo, &update.name, update.old) {
                // What the client saw is what is shown here; the fold is ahead of it.
                push.answers[place] = Some(Answer::No(words::REPLICATING.to_string()));
            } else if let Judgement::Rejected(why) = judgement {
                push.answers[place] = Some(Answer::No(words::rejection(&update.name, &why, now.wall_ms)));
            } else if consumer.is_behind(&repo, &update.name) {
                behind = true;
                push.answers[place] = Some(Answer::No(words::BEHIND.to_string()));
            } else {
                kept.push((place, update));
            }
        }
        if behind && push.atomic {
            kept.clear();
            push.answers.iter_mut().for_each(|answer| *answer = Some(Answer::No(words::BEHIND.to_string())));
        }
        if kept.is_empty() {
            if push.rest.is_empty() {
                job.stage = Stage::Waiting;
            }
            return;
        }
        push.batch = kept;
        job.stage = Stage::Preparing { incarnation: entry.incarnation, base: fold.control().next };
        let mut offered = offered(cache, entry, &push.batch);
        let name = &push.batch[0].1.name;
        let mut wrongly: Vec<Oid> = Vec::new();
        if self.config.mutants.on(Mutant::SplitCutEarly) {
            wrongly.extend(&push.earlier);
        }
        wrongly.extend(self.leftovers.get(&repo).into_iter().flatten());
        offered.extend(wrongly.into_iter().map(|value| Have { name: name.clone(), value, since: None }));
        offered.truncate(HAVES_MAX);
        let inline_max = self.config.inline_max.min(PACK_BYTES_MAX as u64);
        let pack_max = self.config.pack_max.min(CHUNKS_MAX as u64 * chunk_bytes).max(inline_max);
        let updates = push.batch.iter().map(|(_, update)| (update.old, update.new)).collect();
        let op = out.ask(Owner::Prepare(self.partition, id));
        let spool = Spool::Push(id);
        out.git(GitEffect::Prepare { op, repo, updates, offered, inline_max, pack_max, spool });
    }

    /// The answer to [`GitEffect::Prepare`].
    pub(crate) fn prepared(&mut self, now: Now, out: &mut Out, id: PushId, outcome: Prepared) {
        let drop_spool = matches!(outcome, Prepared::Spooled { .. });
        let job = self.jobs.get_mut(&id).filter(|job| matches!(job.stage, Stage::Preparing { .. }));
        let Some(Job { stage: Stage::Preparing { incarnation, base }, want: Want::Push(push), repo, deadline, .. }) =
            job
        else {
            // Its client gave up while the pack was cut.
            if drop_spool {
                out.git(GitEffect::DropSpool { spool: Spool::Push(id) });
            }
            return;
        };
        let (incarnation, base, repo) = (*incarnation, *base, repo.clone());
        let mut state = |forced: Vec<bool>, used| {
            for ((_, update), forced) in push.batch.iter_mut().zip(forced) {
                update.forced = forced;
            }
            push_of(push.atomic, &push.batch, used, base)
        };
        match outcome {
            Prepared::Pack { pack, used, forced } => {
                let body = Body::Push(state(forced, used));
                let header = self.header(repo, Some(incarnation));
                let record = Arc::new(Record { header, body, pack });
                self.jobs.get_mut(&id).expect("found above").stage = Stage::Appending { record };
                self.queue.push_back(id);
            }
            Prepared::Spooled { bytes, sum, used, forced } => {
                let push = state(forced, used);
                *deadline = now.at + self.config.push_timeout;
                let header = self.header(repo, Some(incarnation));
                let staging = Staging::new(header, push, bytes, sum, self.chunk_bytes());
                self.jobs.get_mut(&id).expect("found above").stage = Stage::Staging(Box::new(staging));
                self.stage_next(out);
            }
            Prepared::TooLarge { bytes } => {
                let why = alloc::format!("the pack has at least {bytes} bytes, more than this site takes");
                self.fail(out, id, &words::too_large_pack(&why));
            }
            Prepared::Missing(oid) => {
                self.fail(out, id, &alloc::format!("unavailable: object {oid} is not at this site; push again"));
            }
            Prepared::Failed(why) => {
                self.fail(out, id, &alloc::format!("unavailable: this site cannot read the repository: {why}"));
            }
        }
    }

    fn check_order(&mut self, out: &mut Out, fold: &Fold, cache: &Cache, id: PushId) {
        let job = self.jobs.get_mut(&id).expect("it is being checked");
        let Want::Order(order) = &job.want else { return };
        let entry = job.repo.as_ref().and_then(|repo| cache.repo(repo));
        let life = entry.map(|entry| entry.incarnation);
        let body = match order {
            Order::CreateRepo { head, visibility, .. } => {
                Body::RepoCreated(RepoCreated { head: head.clone(), visibility: *visibility })
            }
            Order::ConfigureRepo { wish, .. } => Body::RepoConfigured(wish.clone()),
            Order::DeleteRepo { .. } => Body::RepoDeleted(RepoDeleted {}),
            Order::ChangeMember { site, state, author, reason } => {
                let members = &fold.control().members;
                let mut table = members.table.clone();
                table.insert(site.clone(), *state);
                Body::SiteChanged(crate::record::SiteChanged {
                    version: members.version + 1,
                    members: table,
                    ended: Default::default(),
                    author: author.clone(),
                    reason: reason.clone(),
                })
            }
        };
        let creates = matches!(body, Body::RepoCreated(_));
        if job.repo.is_some() && creates == entry.is_some() {
            let why = if creates { "the repository exists" } else { "there is no such repository" };
            return self.fail(out, id, why);
        }
        let repo = job.repo.clone();
        let header = self.header(repo, life.filter(|_| !creates));
        let record = Arc::new(Record { header, body, pack: Arc::from([]) });
        self.jobs.get_mut(&id).expect("found above").stage = Stage::Appending { record };
        self.queue.push_back(id);
    }
}

impl Order {
    /// The repository, unless it is about a member.
    pub(crate) fn repo(&self) -> Option<&RepoName> {
        match self {
            Order::CreateRepo { repo, .. } | Order::ConfigureRepo { repo, .. } | Order::DeleteRepo { repo } => {
                Some(repo)
            }
            Order::ChangeMember { .. } => None,
        }
    }
}

/// How many of `updates` the next record may hold, at least 1. An atomic push goes whole or not at all.
fn fits(updates: &[Placed], max: usize) -> usize {
    // An update is its name (a quote is escaped to two bytes), two ids of 40 digits and some 60 bytes of JSON.
    let cost = |update: &Update| 2 * update.name.as_str().len() + 150;
    let mut bytes = HEADER_RESERVE;
    let fits = updates.iter().take(max.clamp(1, UPDATES_MAX)).take_while(|(_, update)| {
        bytes += cost(update);
        bytes <= HEADER_BYTES_MAX
    });
    fits.count()
}

/// Where the walk may stop: values that the fold holds, never what the store happens to contain.
fn offered(cache: &Cache, entry: &crate::table::RepoEntry, batch: &[(usize, Update)]) -> Vec<Have> {
    let mut names = boundary_names(entry);
    names.extend(batch.iter().take(RECENT_REFS_MAX).map(|(_, update)| update.name.clone()));
    names.sort_unstable();
    names.dedup();
    let have = |name: RefName| {
        let held = cache.reference(entry.incarnation, &name)?;
        Some(Have { name, value: held.value, since: Some(held.since) })
    };
    names.into_iter().filter_map(have).collect()
}

/// A push as the log will see it.
fn push_of(atomic: bool, batch: &[(usize, Update)], haves: Vec<Have>, base: Offset) -> Push {
    Push { atomic, updates: batch.iter().map(|(_, update)| update.clone()).collect(), haves, base, pack: None }
}

/// What the client asked for, as the codec knows it.
fn parse_wish(wish: &Wish, twice: &BTreeSet<&str>) -> Result<Update, String> {
    let name = RefName::parse(&wish.name).map_err(|why| words::bad_name(why.0))?;
    if twice.contains(wish.name.as_str()) {
        return Err(words::named_twice());
    }
    Ok(Update { name, old: wish.old, new: wish.new, forced: false })
}

/// Names that a push gives more than once. No record may hold such a push: it would be void for everybody, and its
/// client would never hear why.
fn named_twice(wishes: &[Wish]) -> BTreeSet<&str> {
    let mut seen = BTreeSet::new();
    wishes.iter().map(|wish| wish.name.as_str()).filter(|name| !seen.insert(*name)).collect()
}

const _: () = assert!(2 * RECENT_REFS_MAX < crate::record::HAVES_MAX);

//! One client of the torture: pushes of every kind, over paths and HTTP, retried by fetch and rebase, each answer
//! noted.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Client, Pushed};
use crate::oracle::{Attempt, Book, Told, saw, told, word};
use crate::world::{SITES, text};

/// How long one push may take to get through, kills included.
const RETRY_FOR: Duration = Duration::from_secs(240);
/// Refs of one large push.
const BULK: usize = 220;

/// Enough chance for a test: a SplitMix64 whose seed is printed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// A ref as a push wishes it: the commit's or tag's id, or nothing for a deletion.
type Wish = (String, Option<String>);

static ATOMIC: AtomicUsize = AtomicUsize::new(0);

pub struct Torturer<'a> {
    pub number: usize,
    pub repo: String,
    pub client: Client,
    /// A second working copy, which pushes in between.
    pub other: Client,
    pub dice: Dice,
    pub book: &'a Mutex<Book>,
    /// Names made so far.
    pub made: usize,
}

impl Torturer<'_> {
    /// One push of some kind, until it is through or refused for good.
    pub fn one(&mut self) {
        self.made += 1;
        match self.dice.roll(20) {
            0..=7 => self.contend(),
            8..=9 => self.amend_under_lease(),
            10..=11 => self.atomic(),
            12 => self.tag(),
            13..=14 => self.change_places(),
            15 => self.bulk(),
            16..=17 => self.stale(),
            _ => self.shared_names(),
        }
    }

    fn remote(&mut self) -> String {
        let site = SITES[self.dice.roll(3) as usize];
        if self.dice.roll(2) == 0 { site.to_string() } else { format!("{site}-http") }
    }

    /// Pushes `wishes` and notes what each came to.
    fn push(&mut self, remote: &str, options: &[&str], wishes: &[Wish]) -> Pushed {
        let refspecs: Vec<String> =
            wishes.iter().map(|(name, value)| format!("{}:{name}", value.as_deref().unwrap_or_default())).collect();
        let args: Vec<&str> = options.iter().copied().chain(refspecs.iter().map(String::as_str)).collect();
        let pushed = self.client.push(remote, &args);
        let atomic = options.contains(&"--atomic").then(|| ATOMIC.fetch_add(1, Ordering::Relaxed));
        self.note(&pushed, wishes, atomic);
        pushed
    }

    fn note(&self, pushed: &Pushed, wishes: &[Wish], atomic: Option<usize>) {
        let mut book = self.book.lock().expect("no client panics while it holds the book");
        book.pushes += 1;
        for (name, value) in wishes {
            let line = pushed.lines.iter().find(|line| line.name == *name);
            book.attempts.push(Attempt {
                client: self.number,
                repo: self.repo.clone(),
                name: name.clone(),
                value: value.clone(),
                told: told(line),
                saw: line.and_then(saw),
                // What this site showed already was not sent again, and so is no part of this push.
                atomic: atomic.filter(|_| line.is_none_or(|line| line.flag != '=')),
            });
        }
        if !pushed.ok {
            *book.words.entry(word(pushed)).or_default() += 1;
        }
    }

    /// Tries a push that does not depend on what others do, at one site after the other, until it is through.
    fn insist(&mut self, options: &[&str], wishes: &[Wish]) {
        let until = Instant::now() + RETRY_FOR;
        loop {
            let remote = self.remote();
            let pushed = self.push(&remote, options, wishes);
            let absent = pushed.stderr.contains("remote ref does not exist");
            let deletes = wishes.iter().all(|(_, value)| value.is_none());
            if pushed.ok || (absent && deletes) {
                return;
            }
            self.wait(until, &pushed);
        }
    }

    fn wait(&mut self, until: Instant, pushed: &Pushed) {
        assert!(Instant::now() < until, "client {} does not get through: {pushed:?}", self.number);
        std::thread::sleep(Duration::from_millis(20 + self.dice.roll(80)));
    }

    /// Stands on what a site shows of `name`, or on the base.
    fn check_out(&mut self, name: &str) {
        let remote = self.remote();
        let there = self.client.git(&["fetch", "-q", &remote, name]).status.success();
        self.client.run(&["checkout", "-q", "--detach", if there { "FETCH_HEAD" } else { "base" }]);
    }

    fn commit(&mut self) -> String {
        // A file each: what a lagging site showed as the base must not make a conflict later.
        let (number, made) = (self.number, self.made);
        self.client.commit(&format!("{number}-{made}"), &format!("{made} by {number}"))
    }

    /// Main, with everybody: fetch and rebase until it is through.
    fn contend(&mut self) {
        let name = "refs/heads/main";
        self.check_out(name);
        self.commit();
        let until = Instant::now() + RETRY_FOR;
        loop {
            let remote = self.remote();
            let commit = self.client.run(&["rev-parse", "HEAD"]);
            let pushed = self.push(&remote, &[], &[(name.into(), Some(commit))]);
            if pushed.ok {
                return;
            }
            self.wait(until, &pushed);
            if self.client.git(&["fetch", "-q", &remote, name]).status.success() {
                self.client.run(&["rebase", "-q", "FETCH_HEAD"]);
            }
        }
    }

    /// This client's own branch, rewritten under a lease.
    fn amend_under_lease(&mut self) {
        let name = format!("refs/heads/own{}", self.number);
        let until = Instant::now() + RETRY_FOR;
        self.check_out(&name);
        let mut commit = self.commit();
        if self.dice.roll(2) == 0 && self.client.git(&["rev-parse", "-q", "--verify", "HEAD~2"]).status.success() {
            let message = format!("{} again", self.made);
            self.client.run(&["reset", "-q", "--soft", "HEAD~2"]);
            self.client.run(&["commit", "-q", "--allow-empty", "-m", &message]);
            commit = self.client.run(&["rev-parse", "HEAD"]);
        }
        loop {
            let remote = self.remote();
            // The lease is what this site shows, which may lag behind what this client has done.
            let shown = self.client.git(&["ls-remote", &remote, &name]);
            let shown = text(&shown.stdout);
            let shown = shown.split_whitespace().next().unwrap_or_default().to_string();
            let lease = format!("--force-with-lease={name}:{shown}");
            let pushed = self.push(&remote, &[&lease], &[(name.clone(), Some(commit.clone()))]);
            if pushed.ok {
                return;
            }
            self.wait(until, &pushed);
        }
    }

    /// Main, the own branch and a new one, all or none.
    fn atomic(&mut self) {
        let main = "refs/heads/main".to_string();
        let topic = format!("refs/heads/t{}/{}", self.number, self.made);
        self.check_out(&main);
        self.commit();
        let until = Instant::now() + RETRY_FOR;
        loop {
            let remote = self.remote();
            let commit = self.client.run(&["rev-parse", "HEAD"]);
            let wishes = [(main.clone(), Some(commit.clone())), (topic.clone(), Some(commit))];
            let pushed = self.push(&remote, &["--atomic"], &wishes);
            if pushed.ok {
                return;
            }
            self.wait(until, &pushed);
            if self.client.git(&["fetch", "-q", &remote, &main]).status.success() {
                self.client.run(&["rebase", "-q", "FETCH_HEAD"]);
            }
            // The same name with another commit would be no fast-forward, had the first try been decided after all.
            if self.client.run(&["rev-parse", "HEAD"]) != *wishes[0].1.as_ref().expect("a commit") {
                return;
            }
        }
    }

    fn tag(&mut self) {
        let tag = format!("v{}.{}", self.number, self.made);
        self.client.run(&["tag", "-a", "-m", &tag, &tag, "base"]);
        let value = self.client.run(&["rev-parse", &tag]);
        let name = format!("refs/tags/{tag}");
        self.insist(&[], &[(name.clone(), Some(value))]);
        if self.dice.roll(2) == 0 {
            self.insist(&[], &[(name, None)]);
        }
    }

    /// A branch makes way for one below it, and comes back.
    fn change_places(&mut self) {
        let (above, below) = (format!("refs/heads/d{}", self.number), format!("refs/heads/d{}/below", self.number));
        self.check_out("refs/heads/main");
        let commit = self.commit();
        let atomic: &[&str] = if self.dice.roll(2) == 0 { &["--atomic"] } else { &[] };
        let until = Instant::now() + RETRY_FOR;
        loop {
            let remote = self.remote();
            let shown = text(&self.client.git(&["ls-remote", &remote, &format!("{above}*"), &below]).stdout);
            let has = |name: &str| shown.lines().any(|line| line.ends_with(&format!("\t{name}")));
            let new = Some(commit.clone());
            let wishes = match (has(&above), has(&below)) {
                (true, _) => vec![(above.clone(), None), (below.clone(), new)],
                (_, true) => vec![(below.clone(), None), (above.clone(), new)],
                _ => vec![(above.clone(), new)],
            };
            let pushed = self.push(&remote, atomic, &wishes);
            if pushed.ok {
                return;
            }
            self.wait(until, &pushed);
        }
    }

    /// Hundreds of refs in one push, and out again in another.
    fn bulk(&mut self) {
        let value = self.client.run(&["rev-parse", "base"]);
        let name = |n: usize| format!("refs/heads/bulk{}/{}/{n}", self.number, self.made);
        let come: Vec<Wish> = (0..BULK).map(|n| (name(n), Some(value.clone()))).collect();
        let go: Vec<Wish> = (0..BULK).map(|n| (name(n), None)).collect();
        let atomic: &[&str] = if self.dice.roll(2) == 0 { &["--atomic"] } else { &[] };
        self.insist(atomic, &come);
        // A site that lags shows some of them only, and Git gives up at the first that it does not see.
        let until = Instant::now() + RETRY_FOR;
        loop {
            let remote = self.remote();
            let shown = text(&self.client.git(&["ls-remote", &remote]).stdout);
            let shown: std::collections::BTreeSet<&str> =
                shown.lines().filter_map(|line| line.split('\t').nth(1)).collect();
            let seen: Vec<Wish> = go.iter().filter(|(name, _)| shown.contains(name.as_str())).cloned().collect();
            let pushed = if seen.is_empty() { None } else { Some(self.push(&remote, &[], &seen)) };
            match pushed {
                Some(pushed) if pushed.ok && seen.len() == BULK => return,
                Some(pushed) => self.wait(until, &pushed),
                // None are left, or none came yet; which of the two does not matter here.
                None => return,
            }
        }
    }

    /// The other working copy pushes after this one has seen the refs and before it sends: only the server can see it.
    fn stale(&mut self) {
        let name = format!("refs/heads/s{}/{}", self.number, self.made);
        let base = self.client.run(&["rev-parse", "base"]);
        self.insist(&[], &[(name.clone(), Some(base))]);
        self.client.run(&["checkout", "-q", "--detach", "base"]);
        let mine = self.commit();
        self.other.run(&["checkout", "-q", "--detach", "base"]);
        let theirs = self.other.commit(&format!("o{}-{}", self.number, self.made), "in between");
        let (here, there) = (self.remote(), self.remote());
        let between = self.other.push_line(&there, &format!("HEAD:{name}"));
        // Whether it got through is seen in the log; without it the push is simply not stale.
        self.client.before_sending(&between.replace("|| exit 1", "|| true"));
        let forced: &[&str] = if self.dice.roll(2) == 0 { &["--force"] } else { &[] };
        let pushed = self.push(&here, forced, &[(name.clone(), Some(mine))]);
        let mut book = self.book.lock().expect("no client panics while it holds the book");
        book.attempts.push(Attempt {
            client: self.number,
            repo: self.repo.clone(),
            name,
            value: Some(theirs),
            told: Told::Unknown,
            saw: None,
            atomic: None,
        });
        drop(book);
        drop(pushed);
    }

    /// Names that all clients create, move by force and delete, whatever the others do.
    fn shared_names(&mut self) {
        let name = format!("refs/heads/shared/{}", self.dice.roll(3));
        self.client.run(&["checkout", "-q", "--detach", "base"]);
        let commit = self.commit();
        for _ in 0..3 {
            let remote = self.remote();
            let value = (self.dice.roll(3) > 0).then(|| commit.clone());
            let pushed = self.push(&remote, &["--force"], &[(name.clone(), value)]);
            if !pushed.ok {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

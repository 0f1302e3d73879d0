//! SIGKILL under load: real clients push to different sites at once, retry by fetch and rebase, and remember every
//! answer, while the daemon dies again and again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::checker::{Acked, clean, nothing_acknowledged_is_missing, one_chain, settled};
use crate::client::Client;
use crate::world::{SITES, World};

const CLIENTS: usize = 5;
/// How long one commit may take to get through, kills included.
const RETRY_FOR: Duration = Duration::from_secs(180);

/// Enough chance for a test: a SplitMix64 whose seed is printed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

struct Pusher<'a> {
    number: usize,
    client: Client,
    dice: Dice,
    acked: &'a Mutex<Vec<Acked>>,
    refusals: &'a Mutex<std::collections::BTreeMap<String, usize>>,
}

impl Pusher<'_> {
    /// Commits on top of what a site shows, pushes to any site, and rebases until it is through.
    fn one(&mut self, count: usize) {
        let name = if self.dice.roll(3) == 0 { format!("own{}", self.number) } else { "main".into() };
        let full = format!("refs/heads/{name}");
        let site = SITES[self.dice.roll(3) as usize];
        if self.client.git(&["fetch", "-q", site, &full]).status.success() {
            self.client.run(&["checkout", "-q", "--detach", "FETCH_HEAD"]);
        } else {
            self.client.run(&["checkout", "-q", "--detach", "base"]);
        }
        // A file each: what a lagging site showed as the base must not make a conflict later.
        self.client.commit(&format!("{}-{count}", self.number), &format!("{count} by {}", self.number));
        let until = Instant::now() + RETRY_FOR;
        loop {
            let site = SITES[self.dice.roll(3) as usize];
            let commit = self.client.run(&["rev-parse", "HEAD"]);
            let pushed = self.client.push(site, &[&format!("HEAD:{full}")]);
            if pushed.ok {
                let push = Acked { client: self.number, name: full, value: Some(commit) };
                self.acked.lock().expect("no panic").push(push);
                return;
            }
            self.remember(&pushed);
            assert!(Instant::now() < until, "client {} does not get through: {pushed:?}", self.number);
            std::thread::sleep(Duration::from_millis(20 + self.dice.roll(60)));
            if self.client.git(&["fetch", "-q", site, &full]).status.success() {
                self.client.run(&["rebase", "-q", "FETCH_HEAD"]);
            }
        }
    }

    fn remember(&self, pushed: &crate::client::Pushed) {
        let line = pushed.lines.iter().find(|line| line.flag == '!');
        assert!(line.is_some() || !pushed.stderr.is_empty(), "git failed without a word");
        // Without a line Git did not reach the daemon's HTTP, or was cut off.
        let word = line.map_or("no answer", |line| line.reason.split(':').next().unwrap_or_default());
        *self.refusals.lock().expect("no panic").entry(word.to_string()).or_default() += 1;
    }
}

fn kills() -> usize {
    std::env::var("REFRAIN_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// Kills, restarts, and now and then does an operator's housekeeping meanwhile.
fn kill_again_and_again(world: &World, dice: &mut Dice) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..kills() {
        let begun = Instant::now();
        let mut daemon = world.spawn();
        if dice.roll(5) == 0 {
            // Killed while it starts, most likely.
            std::thread::sleep(Duration::from_millis(dice.roll(400)));
        } else {
            daemon.wait_ready(SITES.len());
            slowest = slowest.max(begun.elapsed());
            let site = SITES[dice.roll(3) as usize];
            match dice.roll(6) {
                0 => drop(world.git_at(site, "r", &["pack-refs", "--all"])),
                1 => drop(world.git_at(site, "r", &["gc", "-q"])),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(50 + dice.roll(1_200)));
        }
        daemon.kill();
    }
    slowest
}

#[test]
fn nothing_acknowledged_is_lost_however_often_the_daemon_is_killed() {
    let seed = std::env::var("REFRAIN_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("REFRAIN_TEST_SEED={seed} REFRAIN_TEST_KILLS={}", kills());
    let mut dice = Dice(seed);
    let world = World::with_http();
    let first = world.serve();
    world.create("r");
    let base = world.client("base", "r");
    base.commit("base", "base");
    base.push("ams", &["main"]).expect_ok();
    settled(&world, "r");
    first.kill();

    let (acked, refusals, stop) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
    let slowest = std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let who = format!("client{number}");
            let by_http = number % 2 == 1;
            let client = if by_http { world.http_client(&who, "r") } else { world.client(&who, "r") };
            client.run(&["fetch", "-q", &base.dir.display().to_string(), "main:base"]);
            let dice = Dice(seed ^ (number as u64 + 1));
            let mut pusher = Pusher { number, client, dice, acked: &acked, refusals: &refusals };
            let stop = &stop;
            scope.spawn(move || {
                for count in 0.. {
                    pusher.one(count);
                    // Whoever got through leaves room, or clients on a slow way would starve.
                    std::thread::sleep(Duration::from_millis(100 + pusher.dice.roll(400)));
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let slowest = kill_again_and_again(&world, &mut dice);
        // The clients end once each got its last commit through.
        let last = world.serve();
        stop.store(true, Ordering::Relaxed);
        (slowest, last)
    });
    let (slowest, last) = slowest;
    let acked = acked.into_inner().expect("no panic");
    let history = settled(&world, "r");
    one_chain(&history);
    nothing_acknowledged_is_missing(&world, "r", &history, &acked);
    assert_eq!(last.terminate(), 0);
    clean(&world, "r");
    let refusals = refusals.into_inner().expect("no panic");
    println!(
        "{} kills, {} pushes acknowledged, slowest start {slowest:?}, refusals {refusals:?}",
        kills(),
        acked.len()
    );
}

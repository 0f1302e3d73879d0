//! The torture: many clients push in every way to every site while the daemon is killed again and again and operators
//! keep house; afterwards everything that was ever said to a client is held against the log and all sites.
//!
//! With the 41 kills of `points.rs` there are more than a hundred in every run. `REFRAIN_TEST_KILLS` and
//! `REFRAIN_TEST_CLIENTS` make it longer and wider, `REFRAIN_TEST_SEED` repeats the dice.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::checker::settled;
use crate::oracle::{Book, nothing_lies_about, published_once};
use crate::torturer::{Dice, Torturer};
use crate::world::{SITES, World};

const REPOS: [&str; 2] = ["r", "group/s"];

fn number(key: &str, otherwise: u64) -> u64 {
    std::env::var(key).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Kills and restarts; now and then while it starts, now and then between two steps of a push.
fn kill_again_and_again(world: &World, dice: &mut Dice, kills: u64) -> Duration {
    let mut slowest = Duration::ZERO;
    let order = world.path("die");
    for _ in 0..kills {
        let begun = Instant::now();
        let mut daemon = world.spawn();
        match dice.roll(6) {
            // While it starts, most likely.
            0 => std::thread::sleep(Duration::from_millis(dice.roll(400))),
            1 => {
                daemon.wait_ready(SITES.len());
                let at = POINTS[dice.roll(POINTS.len() as u64) as usize];
                std::fs::write(&order, format!("{at}:{}", 1 + dice.roll(6))).expect("written");
                // Under load it is passed soon; if not, it is killed as any other.
                daemon.exited(Duration::from_secs(2));
                std::fs::remove_file(&order).expect("removed");
            }
            _ => {
                daemon.wait_ready(SITES.len());
                slowest = slowest.max(begun.elapsed());
                let short = dice.roll(4) > 0;
                std::thread::sleep(Duration::from_millis(30 + dice.roll(if short { 300 } else { 1_200 })));
            }
        }
        daemon.kill();
    }
    slowest
}

const POINTS: [&str; 12] = [
    "after-prepare",
    "before-append",
    "after-append",
    "after-verdict",
    "after-ingest",
    "before-proof",
    "before-set-refs",
    "after-set-refs",
    "before-reply",
    "after-flush",
    "after-commit",
    "after-report",
];

/// What an operator does at a site meanwhile, and what nobody should.
fn keep_house(world: &World, dice: &mut Dice) {
    let (site, repo) = (SITES[dice.roll(3) as usize], REPOS[dice.roll(2) as usize]);
    let main = "refs/heads/main";
    let args: &[&str] = match dice.roll(8) {
        0 => &["gc", "-q"],
        1 | 2 => &["pack-refs", "--all"],
        3 => &["repack", "-Adq"],
        4 => &["update-ref", main, "refs/heads/main~1"],
        5 => &["update-ref", "-d", "refs/heads/shared/1"],
        6 => &["update-ref", "refs/heads/stranger", main],
        _ => &["prune-packed", "-q"],
    };
    // A lock that somebody else holds, or a ref that is not there: that is life.
    let _ = world.git_at(site, repo, args);
    std::thread::sleep(Duration::from_millis(300 + dice.roll(1_200)));
}

#[test]
fn whatever_clients_were_told_is_true_at_every_site_however_often_the_daemon_is_killed() {
    let seed = number("REFRAIN_TEST_SEED", u64::from(std::process::id()));
    let (kills, clients) = (number("REFRAIN_TEST_KILLS", 60), number("REFRAIN_TEST_CLIENTS", 6) as usize);
    println!("REFRAIN_TEST_SEED={seed} REFRAIN_TEST_KILLS={kills} REFRAIN_TEST_CLIENTS={clients}");
    let mut dice = Dice(seed);
    let mut world = World::with_http();
    let order = world.path("die");
    world.set_env("REFRAIN_TEST_DIE", order.to_str().expect("UTF-8"));
    let first = world.serve();
    for repo in REPOS {
        world.create(repo);
        let base = world.client(&format!("base-{}", repo.replace('/', "-")), repo);
        base.commit("base", "base");
        base.push("ams", &["main"]).expect_ok();
        settled(&world, repo);
    }
    first.kill();
    let (book, stop) = (Mutex::<Book>::default(), AtomicBool::new(false));
    let begun = Instant::now();
    let (slowest, last) = run(&world, &mut dice, seed, (kills, clients), &book, &stop);
    let took = begun.elapsed();
    let book = book.into_inner().expect("no client panicked");
    for repo in REPOS {
        let history = book.judge(&world, repo);
        published_once(&world, repo, &history);
    }
    assert_eq!(last.terminate(), 0);
    nothing_lies_about(&world, &REPOS);
    println!(
        "{kills} kills in {took:.0?}, {} pushes of {} refs, slowest start {slowest:?}, refusals {:?}",
        book.pushes,
        book.attempts.len(),
        book.words
    );
}

fn run(
    world: &World,
    dice: &mut Dice,
    seed: u64,
    (kills, clients): (u64, usize),
    book: &Mutex<Book>,
    stop: &AtomicBool,
) -> (Duration, crate::world::Daemon) {
    let torturers: Vec<Torturer> = (0..clients).map(|number| torturer(world, book, seed, number)).collect();
    std::thread::scope(|scope| {
        for mut torturer in torturers {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    torturer.one();
                    // Whoever got through leaves room, or clients on a slow way would starve.
                    std::thread::sleep(Duration::from_millis(50 + torturer.dice.roll(250)));
                }
            });
        }
        let mut house = Dice(seed ^ 0xa11ce);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                keep_house(world, &mut house);
            }
        });
        let slowest = kill_again_and_again(world, dice, kills);
        let last = world.serve();
        // The clients end once each got its last push through.
        stop.store(true, Ordering::Relaxed);
        (slowest, last)
    })
}

fn torturer<'a>(world: &World, book: &'a Mutex<Book>, seed: u64, number: usize) -> Torturer<'a> {
    let repo = REPOS[number % REPOS.len()];
    let base = world.path("clients").join(format!("base-{}", repo.replace('/', "-")));
    let fetch = ["fetch", "-q", base.to_str().expect("UTF-8"), "main:base"];
    let client = world.both_ways_client(&format!("client{number}"), repo);
    let other = world.both_ways_client(&format!("other{number}"), repo);
    client.run(&fetch);
    other.run(&fetch);
    let dice = Dice(seed ^ (number as u64 + 1));
    Torturer { number, repo: repo.into(), client, other, dice, book, made: 0 }
}

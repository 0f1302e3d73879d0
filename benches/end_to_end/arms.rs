//! Three ways to have one push at three places.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::setup::{GROUP, client, copy, git, run};

/// How long a push may take to be seen at another place.
const PATIENCE: Duration = Duration::from_secs(60);
/// A daemon's work for a push goes on after its answer: flush, journal, report. Its time is read after this.
const SETTLE: Duration = Duration::from_millis(150);

/// One push, measured.
pub struct Pushed {
    /// From the start of `git push` to its end.
    pub ack: Duration,
    /// From its end until the ref shows at each other place; nothing where there is none.
    pub visible: Vec<Duration>,
    /// User and system time of all processes that had to do with it.
    pub cpu: Duration,
}

/// One way.
pub struct Arm {
    work: PathBuf,
    /// The same repository at the other places.
    others: Vec<PathBuf>,
    daemon: Option<Daemon>,
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It is ours, and has nothing to finish.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Arm {
    /// `git push` to a bare repository: nothing is replicated.
    pub fn plain(dir: &Path, seed: &Path) -> Result<Arm> {
        let repo = dir.join("plain.git");
        copy(seed, &repo)?;
        Ok(Arm { work: client(dir, "plain", &repo)?, others: Vec::new(), daemon: None })
    }

    /// A post-receive hook that pushes on to two mirrors, at once, before the pusher hears of it.
    pub fn fan_out(dir: &Path, seed: &Path) -> Result<Arm> {
        let repo = dir.join("fan.git");
        copy(seed, &repo)?;
        let others: Vec<PathBuf> = ["mirror1.git", "mirror2.git"].iter().map(|name| dir.join(name)).collect();
        others.iter().try_for_each(|other| copy(seed, other))?;
        let push = |other: &Path| format!("  git push -q '{}' \"$new:$ref\" &\n", other.display());
        let pushes: String = others.iter().map(|other| push(other)).collect();
        let hook = repo.join("hooks/post-receive");
        std::fs::write(&hook, format!("#!/bin/sh\nwhile read old new ref; do\n{pushes}  wait\ndone\n"))?;
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))?;
        Ok(Arm { work: client(dir, "fan", &repo)?, others, daemon: None })
    }

    /// Three sites of one daemon.
    pub fn refrain(dir: &Path, seed: &Path) -> Result<Arm> {
        let places = ["ams", "sfo", "syd"].map(|site| dir.join(site));
        let mut config = format!("[log]\nkind = \"embedded\"\ndir = {:?}\n", dir.join("log"));
        for place in &places {
            let name = place.file_name().context("a place has a name")?;
            let (repos, state) = (place.join("repos"), place.join("state"));
            config += &format!("[[site]]\nname = {name:?}\nrepos = {repos:?}\nstate = {state:?}\n");
        }
        let file = dir.join("refrain.toml");
        std::fs::write(&file, config)?;
        let me = std::env::current_exe()?;
        let mut serve = std::process::Command::new(&me);
        serve.arg("serve").arg("--config").arg(&file).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut daemon = Daemon(serve.spawn()?);
        let lines = BufReader::new(daemon.0.stdout.take().context("it is piped")?).lines();
        for line in lines.take(places.len()) {
            line.context("the daemon ended before it was ready")?;
        }
        let create = ["repo", "create", "demo", "--config"];
        let created = std::process::Command::new(&me).args(create).arg(&file).stdout(Stdio::null()).status()?;
        anyhow::ensure!(created.success(), "the repository was not created");
        let repos: Vec<PathBuf> = places.iter().map(|place| place.join("repos/demo.git")).collect();
        fill(seed, &repos)?;
        Ok(Arm { work: client(dir, "refrain", &repos[0])?, others: repos[1..].to_vec(), daemon: Some(daemon) })
    }

    /// Makes a commit and pushes it.
    pub fn push(&mut self, round: usize) -> Result<Pushed> {
        std::fs::write(self.work.join("file.txt"), format!("line {round}\n"))?;
        run(&self.work, &["commit", "-q", "-a", "-m", "a line"])?;
        let wanted = text(&run(&self.work, &["rev-parse", "HEAD"])?.stdout);
        let (children, own) = (children_time()?, self.daemon_time()?);
        let given_up = Arc::new(AtomicBool::new(false));
        let watchers: Vec<_> = self.others.iter().map(|other| watch(other, &wanted, &given_up)).collect();
        let begun = Instant::now();
        let output = git(&self.work).args(["push", "-q", "origin", "HEAD:refs/heads/main"]).output()?;
        let ended = Instant::now();
        given_up.store(!output.status.success(), Ordering::Relaxed);
        let seen: Vec<Option<Instant>> =
            watchers.into_iter().map(|watcher| watcher.join().expect("a watcher does not panic")).collect();
        if !output.status.success() {
            bail!("a push failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        if self.daemon.is_some() {
            std::thread::sleep(SETTLE);
        }
        let cpu = (children_time()? - children) + (self.daemon_time()? - own);
        let visible: Option<Vec<Duration>> =
            seen.into_iter().map(|at| Some(at?.saturating_duration_since(ended))).collect();
        let visible = visible.context("a push did not show at another place in time")?;
        Ok(Pushed { ack: ended - begun, visible, cpu })
    }

    fn daemon_time(&self) -> Result<Duration> {
        let Some(Daemon(child)) = &self.daemon else { return Ok(Duration::ZERO) };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
        let (_, rest) = stat.rsplit_once(')').context("/proc has another form")?;
        let field = |at: usize| rest.split_whitespace().nth(at).and_then(|text| text.parse::<u64>().ok());
        // utime and stime are the 14th and 15th of all fields, in hundredths of a second; two lie before `rest`.
        let ticks = field(11).zip(field(12)).context("/proc has another form")?;
        Ok(Duration::from_millis((ticks.0 + ticks.1) * 10))
    }
}

/// Pushes all of the seed's refs through the first site, a group at once. By patterns: the time that `git push` takes
/// to match single names grows with the square of their number.
fn fill(seed: &Path, repos: &[PathBuf]) -> Result<()> {
    let names = text(&run(seed, &["for-each-ref", "--format=%(refname)"])?.stdout);
    let names: Vec<&str> = names.lines().collect();
    let first = repos[0].display().to_string();
    run(seed, &["push", "-q", &first, "refs/heads/main"])?;
    for group in 0..names.len().div_ceil(GROUP) {
        run(seed, &["push", "-q", &first, &format!("refs/heads/g{group}/*:refs/heads/g{group}/*")])?;
    }
    let begun = Instant::now();
    for repo in repos {
        while text(&run(repo, &["for-each-ref", "--format=x", "refs/heads"])?.stdout).lines().count() < names.len() {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "{} does not get all refs", repo.display());
            std::thread::sleep(Duration::from_millis(100));
        }
        // Both others have them packed, so have these.
        run(repo, &["pack-refs", "--all"])?;
    }
    Ok(())
}

/// When `repo` shows main at `wanted`.
fn watch(repo: &Path, wanted: &str, given_up: &Arc<AtomicBool>) -> std::thread::JoinHandle<Option<Instant>> {
    let (file, wanted, given_up) = (repo.join("refs/heads/main"), wanted.to_string(), given_up.clone());
    std::thread::spawn(move || {
        let begun = Instant::now();
        while !given_up.load(Ordering::Relaxed) && begun.elapsed() < PATIENCE {
            if std::fs::read_to_string(&file).is_ok_and(|text| text.trim() == wanted) {
                return Some(Instant::now());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        None
    })
}

/// Of every process that was started here and has ended.
fn children_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').context("/proc has another form")?;
    let field = |at: usize| rest.split_whitespace().nth(at).and_then(|text| text.parse::<u64>().ok());
    // cutime and cstime, the 16th and 17th.
    let ticks = field(13).zip(field(14)).context("/proc has another form")?;
    Ok(Duration::from_millis((ticks.0 + ticks.1) * 10))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_string()
}

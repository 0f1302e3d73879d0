//! Git's own programs, for packs that are too big for memory: a clean environment, modest limits, and a watch.
//!
//! Promises that a child that stands still is ended, and that one whose daemon died ends by itself: it says how far it
//! is all the time, into a pipe that nobody reads any more. What a child writes goes straight to files.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Progress;
use super::command::{Reads, command_in};

/// A child that neither says nor writes anything for so long is ended. Git speaks each second while it works; a disk
/// may keep it from that for a while.
const SILENT_MAX: Duration = Duration::from_secs(120);
/// How often a child is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Why an operation ended that was told to.
pub(super) const GIVEN_UP: &str = "given up, since nobody waits for it any more";
/// How much of the end of what it said is kept, for a message.
const SAID_MAX: usize = 2 << 10;
/// Children at once in this process; one more waits until another ends, which each does.
const CHILDREN_MAX: usize = 4;
/// Blobs above 4 MiB are streamed and never deltified; windows and caches stay small, and one thread is enough beside
/// those who serve. Nothing is flushed here: `Disks::flush` does it for all.
const LIMITS: [&str; 8] = [
    "core.bigFileThreshold=4m",
    "core.deltaBaseCacheLimit=16m",
    "core.packedGitLimit=64m",
    "core.packedGitWindowSize=1m",
    "core.fsync=none",
    "pack.windowMemory=16m",
    "pack.deltaCacheSize=16m",
    "pack.writeReverseIndex=false",
];

/// `git` in the repository at `git_dir`, with nothing of this machine's configuration.
pub(super) fn git(git_dir: &Path) -> Command {
    let mut git = command_in(git_dir, &Reads::Nothing);
    for limit in LIMITS {
        git.args(["-c", limit]);
    }
    git
}

static CHILDREN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// A place among the children that run; given back when dropped.
struct Place;

impl Place {
    /// Waits for one. Whoever waits for `progress` waits on: those before it get on, or are ended.
    fn wait(progress: &Progress) -> Result<Place> {
        let mut running = CHILDREN.0.lock().expect("no thread panics while it counts");
        while *running >= CHILDREN_MAX {
            if progress.is_stopped() {
                bail!("{GIVEN_UP}");
            }
            progress.more();
            running = CHILDREN.1.wait_timeout(running, LOOK_EVERY).expect("no thread panics while it counts").0;
        }
        *running += 1;
        Ok(Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *CHILDREN.0.lock().expect("no thread panics while it counts") -= 1;
        CHILDREN.1.notify_one();
    }
}

/// How a watched child ended.
pub(super) enum Ended {
    /// By itself; with the end of what it said.
    Exited(ExitStatus, String),
    /// Its output grew above the limit, to so many bytes.
    TooLong(u64),
}

/// Runs `command` to its end. `output`: the file that it writes, and how long that may become; what comes after the
/// last look is noticed by the caller.
pub(super) fn watch(
    command: Command,
    input: Stdio,
    output: Option<(&File, u64)>,
    progress: &Progress,
) -> Result<Ended> {
    watch_closely(command, input, output, progress, SILENT_MAX)
}

fn watch_closely(
    mut command: Command,
    input: Stdio,
    output: Option<(&File, u64)>,
    progress: &Progress,
    silent_max: Duration,
) -> Result<Ended> {
    let _place = Place::wait(progress)?;
    let stdout = match output {
        Some((file, _)) => Stdio::from(file.try_clone()?),
        None => Stdio::null(),
    };
    command.stdin(input).stdout(stdout).stderr(Stdio::piped());
    let mut child = command.spawn().context("git could not be started; is it installed?")?;
    let mut stderr = child.stderr.take().expect("it is piped");
    let (tell, heard) = mpsc::sync_channel::<Vec<u8>>(4);
    let listener = std::thread::spawn(move || {
        let mut buffer = [0; 1 << 10];
        while let Ok(read @ 1..) = stderr.read(&mut buffer) {
            if tell.send(buffer[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    let watched = listen(&heard, output, progress, silent_max);
    if !matches!(watched, Ok(Heard::Closed(_))) {
        // It may have ended this very moment.
        let _ = child.kill();
    }
    drop(heard);
    let status = child.wait().context("git cannot be waited for")?;
    let _ = listener.join();
    Ok(match watched? {
        Heard::Closed(said) => Ended::Exited(status, said),
        Heard::TooLong(bytes) => Ended::TooLong(bytes),
    })
}

enum Heard {
    Closed(String),
    TooLong(u64),
}

fn listen(
    heard: &mpsc::Receiver<Vec<u8>>,
    output: Option<(&File, u64)>,
    progress: &Progress,
    silent_max: Duration,
) -> Result<Heard> {
    let (mut said, mut last, mut length) = (Vec::new(), Instant::now(), 0);
    loop {
        let mut moved = match heard.recv_timeout(LOOK_EVERY) {
            Ok(words) => {
                said.extend_from_slice(&words);
                let from = said.len().saturating_sub(SAID_MAX);
                said.drain(..from);
                true
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(Heard::Closed(last_words(&said))),
            Err(RecvTimeoutError::Timeout) => false,
        };
        if let Some((file, max)) = output {
            let now = file.metadata()?.len();
            moved |= now != length;
            length = now;
            if length > max {
                return Ok(Heard::TooLong(length));
            }
        }
        if moved {
            last = Instant::now();
            progress.more();
        }
        if progress.is_stopped() {
            bail!("{GIVEN_UP}");
        }
        if last.elapsed() > silent_max {
            bail!("git stood still for {silent_max:?} and was ended; is the disk at its limit?");
        }
    }
}

/// The lines that are no progress.
fn last_words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.filter(|line| !line.contains("% (") && !line.contains(", done")).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Writes its process id to `file`, then goes on as `script` says.
    fn shell(file: &Path, script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("echo $$ > '{0}.new'; mv '{0}.new' '{0}'; {script}", file.display()));
        shell
    }

    fn lives(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie has ended, whoever should have waited for it.
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    }

    fn pid_in(file: &Path) -> String {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match std::fs::read_to_string(file) {
                Ok(pid) => return pid.trim().to_owned(),
                Err(why) => assert!(Instant::now() < until, "{why}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_child_that_stands_still_is_ended_and_one_that_speaks_or_writes_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        let output = File::create(dir.path().join("output")).expect("created");
        let run = |script: &str| {
            let silent = Duration::from_millis(600);
            watch_closely(shell(&file, script), Stdio::null(), Some((&output, 1 << 20)), &Progress::default(), silent)
        };
        let why = run("exec sleep 300").err().expect("it says nothing").to_string();
        assert!(why.contains("stood still"), "{why}");
        assert!(!lives(&pid_in(&file)));
        for speaks in ["echo x >&2", "echo x"] {
            let script = format!("for n in 1 2 3 4 5 6 7 8 9 10; do {speaks}; sleep 0.1; done");
            assert!(matches!(run(&script), Ok(Ended::Exited(status, _)) if status.success()), "{speaks}");
        }
    }

    #[test]
    fn a_child_is_ended_that_nobody_waits_for_or_that_writes_too_much() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        let output = File::create(dir.path().join("output")).expect("created");
        let endless = || shell(&file, "while :; do echo x; echo x >&2; done");
        let ended = watch(endless(), Stdio::null(), Some((&output, 1_000)), &Progress::default());
        assert!(matches!(ended, Ok(Ended::TooLong(1_001..))));
        assert!(!lives(&pid_in(&file)));
        let progress = Progress::default();
        progress.stop();
        let why = watch(endless(), Stdio::null(), None, &progress).err().expect("stopped").to_string();
        assert_eq!(why, GIVEN_UP);
        assert!(!lives(&pid_in(&file)));
    }

    /// A daemon's part in the next test, in a process of its own.
    #[test]
    #[ignore = "the other half of the test that follows"]
    fn watches_until_it_is_killed() {
        let file = PathBuf::from(std::env::var_os("REFRAIN_TEST_PID").expect("set by the test that follows"));
        let talker = shell(&file, "while :; do echo 'Counting objects: 1' >&2; sleep 0.1; done");
        drop(watch(talker, Stdio::null(), None, &Progress::default()));
    }

    #[test]
    fn a_child_whose_daemon_was_killed_ends_by_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        let mut daemon = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "git::child::tests::watches_until_it_is_killed"])
            .env("REFRAIN_TEST_PID", &file)
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let pid = pid_in(&file);
        assert!(lives(&pid));
        daemon.kill().expect("it runs");
        daemon.wait().expect("it is our child");
        let until = Instant::now() + Duration::from_secs(30);
        while lives(&pid) {
            assert!(Instant::now() < until, "process {pid} is left");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

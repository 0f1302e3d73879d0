//! A directory with three sites and one log, and the daemon that runs them. Children are ended by their own id, and
//! every wait is bounded.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use refrain::log::{LogRecord, OfflineLog, TOPICS};
use refrain_core::names::RepoName;
use refrain_core::placement::Map;

use crate::client::Client;

pub const SITES: [&str; 3] = ["ams", "sfo", "syd"];
/// For what takes milliseconds on an idle machine: the machine may be busy.
pub const SOON: Duration = Duration::from_secs(60);
/// What the interface promises of SIGTERM.
const STOPPED_WITHIN: Duration = Duration::from_secs(15);

pub struct World {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
    /// Of each site's HTTP, if it has one.
    ports: Vec<u16>,
}

impl World {
    pub fn new() -> World {
        World::configured("")
    }

    /// `push` are lines of the `[push]` table.
    pub fn configured(push: &str) -> World {
        World::write(push, Vec::new())
    }

    /// Every site has HTTP, on ports that stay the same over restarts.
    pub fn with_http() -> World {
        let held: Vec<TcpListener> = SITES.map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).into();
        let ports = held.iter().map(|held| held.local_addr().expect("bound").port()).collect();
        World::write("", ports)
    }

    fn write(push: &str, ports: Vec<u16>) -> World {
        let dir = tempfile::Builder::new().prefix("rf-").tempdir().expect("a temporary directory");
        let world = World { dir, env: Vec::new(), ports };
        let mut text =
            format!("[log]\nkind = \"embedded\"\ndir = {:?}\npartitions = 2\n[push]\n{push}\n", world.path("log"));
        for (at, site) in SITES.iter().enumerate() {
            let (repos, state) = (world.repos(site), world.state(site));
            text += &format!("[[site]]\nname = {site:?}\nrepos = {repos:?}\nstate = {state:?}\n");
            if let Some(port) = world.ports.get(at) {
                text += &format!("http = \"127.0.0.1:{port}\"\n");
            }
        }
        std::fs::write(world.config(), text).expect("the configuration is written");
        world
    }

    /// A site's HTTP address.
    pub fn addr(&self, site: &str) -> String {
        let at = SITES.iter().position(|known| *known == site).expect("a site");
        format!("127.0.0.1:{}", self.ports[at])
    }

    pub fn url(&self, site: &str, name: &str) -> String {
        format!("http://{}/{name}.git", self.addr(site))
    }

    /// What the daemon finds in its environment from now on.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.env.retain(|(known, _)| known != key);
        self.env.push((key.into(), value.into()));
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub fn config(&self) -> PathBuf {
        self.path("refrain.toml")
    }

    /// Puts `to` where the configuration first says `from`.
    pub fn edit(&self, from: &str, to: &str) {
        let before = std::fs::read_to_string(self.config()).expect("readable");
        assert!(before.contains(from), "{before}");
        std::fs::write(self.config(), before.replacen(from, to, 1)).expect("written");
    }

    pub fn log_dir(&self) -> PathBuf {
        self.path("log")
    }

    pub fn repos(&self, site: &str) -> PathBuf {
        self.path(site).join("repos")
    }

    pub fn state(&self, site: &str) -> PathBuf {
        self.path(site).join("state")
    }

    pub fn repo(&self, site: &str, name: &str) -> PathBuf {
        self.repos(site).join(format!("{name}.git"))
    }

    /// The binary with the world's configuration.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        hermetic(&mut command, self.dir.path());
        command.args(args).arg("--config").arg(self.config());
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs a command that ends by itself.
    pub fn refrain(&self, args: &[&str]) -> Output {
        bounded(self.command(args))
    }

    /// A daemon that is ready at every site.
    pub fn serve(&self) -> Daemon {
        let mut daemon = self.spawn();
        daemon.wait_ready(SITES.len());
        daemon
    }

    pub fn spawn(&self) -> Daemon {
        let log = std::fs::File::options().create(true).append(true).open(self.path("daemon.txt")).expect("a log file");
        let mut command = self.command(&["serve"]);
        command.env("REFRAIN_LOG", std::env::var("REFRAIN_LOG").unwrap_or_else(|_| "info".into()));
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().expect("the daemon starts");
        let stdout = child.stdout.take().expect("it is piped");
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Whoever listened may be gone.
                let _ = tell.send(line);
            }
        });
        Daemon { child, lines, messages: self.path("daemon.txt") }
    }

    pub fn create(&self, name: &str) {
        let created = self.refrain(&["repo", "create", name]);
        assert!(created.status.success(), "{}", text(&created.stderr));
    }

    /// A working copy with a remote a site, for the repository `name`.
    pub fn client(&self, who: &str, name: &str) -> Client {
        let remotes = SITES.map(|site| (site.to_string(), self.repo(site, name).display().to_string()));
        Client::new(&self.path("clients").join(who), &remotes)
    }

    /// A working copy whose remotes are reached by HTTP.
    pub fn http_client(&self, who: &str, name: &str) -> Client {
        let remotes = SITES.map(|site| (site.to_string(), self.url(site, name)));
        Client::new(&self.path("clients").join(who), &remotes)
    }

    /// A working copy that reaches `ams` and so on by their paths, and `ams-http` and so on by HTTP.
    pub fn both_ways_client(&self, who: &str, name: &str) -> Client {
        let paths = SITES.map(|site| (site.to_string(), self.repo(site, name).display().to_string()));
        let urls = SITES.map(|site| (format!("{site}-http"), self.url(site, name)));
        Client::new(&self.path("clients").join(who), &[paths, urls].concat())
    }

    /// Git inside a site's repository, as its operator would run it.
    pub fn git_at(&self, site: &str, name: &str, args: &[&str]) -> Output {
        let mut git = Command::new("git");
        hermetic(&mut git, self.dir.path());
        bounded_ref(git.arg("--git-dir").arg(self.repo(site, name)).args(args))
    }

    /// All refs of a site's repository that clients see, as Git itself lists them.
    pub fn refs(&self, site: &str, name: &str) -> Vec<(String, String)> {
        let listed = self.git_at(site, name, &["for-each-ref", "--format=%(objectname) %(refname)"]);
        assert!(listed.status.success(), "{}", text(&listed.stderr));
        let lines = text(&listed.stdout);
        let pairs = lines.lines().filter_map(|line| line.split_once(' '));
        let shown = pairs.filter(|(_, name)| !name.starts_with("refs/refrain/"));
        shown.map(|(oid, name)| (name.to_string(), oid.to_string())).collect()
    }

    /// All records of a topic in the partition that `repo` lives in, or in the topic's only one.
    pub fn records(&self, topic: &str, repo: &str) -> Vec<LogRecord> {
        let log = OfflineLog::open(&self.log_dir()).expect("the log opens");
        let name = RepoName::parse(repo).expect("a repository name");
        let partition = match TOPICS.iter().find(|(known, _)| *known == topic) {
            Some((_, true)) => Map::default().partition_of(&name, log.partitions()).0,
            _ => 0,
        };
        let scan = log.scan(topic, partition, 0).expect("the log opens");
        scan.collect::<Result<_, _>>().expect("the log reads")
    }

    pub fn messages(&self) -> String {
        std::fs::read_to_string(self.path("daemon.txt")).unwrap_or_default()
    }
}

/// The program under test; another build of it by `REFRAIN_TEST_BIN`.
pub fn binary() -> PathBuf {
    std::env::var_os("REFRAIN_TEST_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_refrain").into()).into()
}

/// A running `refrain serve`; killed when dropped.
pub struct Daemon {
    child: Child,
    lines: mpsc::Receiver<String>,
    messages: PathBuf,
}

impl Daemon {
    /// Waits for `ready` lines of so many sites and returns them.
    pub fn wait_ready(&mut self, sites: usize) -> Vec<String> {
        let until = Instant::now() + SOON;
        let mut ready: Vec<String> = Vec::new();
        while ready.len() < sites {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with("ready ") => ready.push(line),
                Ok(_) => {}
                Err(_) => panic!("the daemon is not ready; it said:\n{}", tail(&self.messages)),
            }
        }
        ready
    }

    pub fn kill(mut self) {
        self.end();
    }

    /// SIGTERM; gives the exit code, which comes within the time that the interface promises.
    pub fn terminate(mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the daemon runs");
        let status = self.exited(STOPPED_WITHIN);
        let status = status.unwrap_or_else(|| panic!("the daemon does not end; it said:\n{}", tail(&self.messages)));
        status.code().expect("no signal ended it")
    }

    /// How it ended, if it does in time.
    pub fn exited(&mut self, within: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return Some(status);
            }
            if Instant::now() > until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// Nothing of the machine's or the user's configuration reaches the child.
pub fn hermetic(command: &mut Command, home: &Path) {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_NAME", "tester")
        .env("GIT_AUTHOR_EMAIL", "tester@example.com")
        .env("GIT_COMMITTER_NAME", "tester")
        .env("GIT_COMMITTER_EMAIL", "tester@example.com");
}

pub fn bounded(mut command: Command) -> Output {
    bounded_ref(&mut command)
}

/// Runs a child to its end; one that takes too long is killed with its whole process group.
pub fn bounded_ref(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().expect("the child starts");
    let pid = rustix::process::Pid::from_child(&child);
    let (tell, ended) = mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    match ended.recv_timeout(SOON) {
        Ok(output) => output.expect("the child can be waited for"),
        Err(_) => {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            panic!("{command:?} takes longer than {SOON:?}");
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns as soon as `done` says so.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < until, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

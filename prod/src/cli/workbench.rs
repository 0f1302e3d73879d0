//! Git clients for the demo: working copies driven by the real `git`, cut off from the user's own configuration.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Where the clients live.
pub(super) struct Bench {
    dir: PathBuf,
}

/// One working copy.
pub(super) struct Client {
    name: String,
    dir: PathBuf,
    home: PathBuf,
}

/// A push that came back.
pub(super) struct Pushed {
    /// The reason in Git's `[remote rejected]` line; none if it went through.
    pub reason: Option<String>,
    pub took: Duration,
    pub at: Instant,
}

impl Bench {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { dir: dir.to_path_buf() })
    }

    /// A clone of `url`.
    pub(super) fn client(&self, name: &str, url: &Path) -> Result<Client> {
        let client = Client { name: name.to_string(), dir: self.dir.join(name), home: self.dir.clone() };
        let clone = client.git(&self.dir, &["clone", "-q", &url.display().to_string(), name])?;
        expect(&clone, "git clone")?;
        Ok(client)
    }

    /// Two pushes of which each has seen the remote's refs before either sends anything: Git runs `pre-push` just
    /// between the two, so each waits there for the other.
    pub(super) fn race(&self, one: &Client, other: &Client, refspec: &str) -> Result<(Pushed, Pushed)> {
        for (me, them) in [(one, other), (other, one)] {
            let hook = me.dir.join(".git/hooks/pre-push");
            let (mine, theirs) =
                (self.dir.join(&me.name).join(".git/here"), self.dir.join(&them.name).join(".git/here"));
            let script = format!(
                "#!/bin/sh\n: > '{}'\nn=0\n\
                 while [ ! -e '{}' ] && [ $n -lt 500 ]; do n=$((n+1)); sleep 0.01; done\n\
                 exit 0\n",
                mine.display(),
                theirs.display()
            );
            std::fs::write(&hook, script)?;
            std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        let pushed = std::thread::scope(|scope| {
            let first = scope.spawn(|| one.push(&[refspec]));
            let second = other.push(&[refspec]);
            (first.join().expect("a push does not panic"), second)
        });
        for client in [one, other] {
            std::fs::remove_file(client.dir.join(".git/hooks/pre-push"))?;
        }
        Ok((pushed.0?, pushed.1?))
    }
}

impl Client {
    fn git(&self, dir: &Path, args: &[&str]) -> Result<Output> {
        Command::new("git")
            .current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(["-c", "user.name=demo", "-c", "user.email=demo@example.com", "-c", "init.defaultBranch=main"])
            .args(["-c", "advice.detachedHead=false", "-c", "safe.directory=*"])
            .args(args)
            .output()
            .context("cannot run git")
    }

    /// Any command that has to work.
    pub(super) fn run(&self, args: &[&str]) -> Result<()> {
        let output = self.git(&self.dir, args)?;
        expect(&output, &format!("git {}", args.join(" ")))
    }

    /// A commit that appends a line to a file.
    pub(super) fn commit(&self, line: &str, message: &str) -> Result<()> {
        let file = self.dir.join(format!("{}.txt", self.name));
        let mut text = std::fs::read_to_string(&file).unwrap_or_default();
        text.push_str(line);
        text.push('\n');
        std::fs::write(&file, text)?;
        self.run(&["add", "."])?;
        self.run(&["commit", "-q", "-m", message])
    }

    /// A push to origin.
    pub(super) fn push(&self, args: &[&str]) -> Result<Pushed> {
        let mut all = vec!["push", "--porcelain", "origin"];
        all.extend_from_slice(args);
        let begun = Instant::now();
        let output = self.git(&self.dir, &all)?;
        let took = begun.elapsed();
        let at = Instant::now();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let refused = text.lines().find(|line| line.starts_with('!'));
        let reason = match refused {
            Some(line) => Some(reason_in(line)),
            None if output.status.success() => None,
            None => bail!("git push failed: {}", String::from_utf8_lossy(&output.stderr).trim()),
        };
        Ok(Pushed { reason, took, at })
    }
}

/// `!<tab>from:to<tab>[remote rejected] (reason)`.
fn reason_in(line: &str) -> String {
    let last = line.rsplit('\t').next().unwrap_or(line);
    let inner = last.split_once('(').map_or(last, |(_, rest)| rest.strip_suffix(')').unwrap_or(rest));
    inner.to_string()
}

fn expect(output: &Output, what: &str) -> Result<()> {
    if !output.status.success() {
        bail!("{what} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

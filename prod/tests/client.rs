//! A Git client: a working copy driven by the real `git`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::world::{bounded_ref, hermetic, text};

pub struct Client {
    pub dir: PathBuf,
    home: PathBuf,
}

/// What Git said about one ref of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub flag: char,
    pub name: String,
    /// What stands in the brackets after `[remote rejected]`, or the summary.
    pub reason: String,
    /// All that Git says behind the refs: `1a2b3c4..5d6e7f8`, `[new branch]`, `[remote rejected] (…)`.
    pub summary: String,
}

#[derive(Debug, Clone)]
pub struct Pushed {
    pub ok: bool,
    pub lines: Vec<Line>,
    pub stderr: String,
}

impl Pushed {
    /// The reason that `name` was refused with; `None` if it went through.
    pub fn refusal(&self, name: &str) -> Option<&str> {
        let line = self.lines.iter().find(|line| line.name == name);
        let line = line.unwrap_or_else(|| panic!("git says nothing about {name}: {self:?}"));
        (line.flag == '!').then_some(line.reason.as_str())
    }

    #[track_caller]
    pub fn expect_ok(&self) {
        assert!(self.ok, "{self:?}");
    }

    #[track_caller]
    pub fn expect_refused(&self, name: &str, begins: &str) {
        assert!(!self.ok, "{self:?}");
        assert!(self.refusal(name).is_some_and(|reason| reason.starts_with(begins)), "{begins} is not in {self:?}");
    }
}

impl Client {
    pub fn new(dir: &Path, remotes: &[(String, String)]) -> Client {
        std::fs::create_dir_all(dir).expect("a directory");
        let client = Client { dir: dir.to_path_buf(), home: dir.to_path_buf() };
        client.run(&["init", "-q", "-b", "main"]);
        client.run(&["config", "gc.auto", "0"]);
        for (name, url) in remotes {
            client.run(&["remote", "add", name, url]);
        }
        client
    }

    pub fn git(&self, args: &[&str]) -> Output {
        self.git_with(&[], args)
    }

    pub fn git_with(&self, env: &[(&str, &str)], args: &[&str]) -> Output {
        let mut git = Command::new("git");
        hermetic(&mut git, &self.home);
        bounded_ref(git.current_dir(&self.dir).envs(env.iter().copied()).args(args))
    }

    /// A command that has to work; gives its output.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.git(args);
        assert!(output.status.success(), "git {args:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_string()
    }

    /// Appends a line to a file, commits, and gives the commit's id.
    pub fn commit(&self, file: &str, line: &str) -> String {
        let path = self.dir.join(file);
        let mut all = std::fs::read_to_string(&path).unwrap_or_default();
        all += line;
        all += "\n";
        std::fs::write(&path, all).expect("the file is written");
        self.run(&["add", file]);
        self.run(&["commit", "-q", "-m", line]);
        self.run(&["rev-parse", "HEAD"])
    }

    /// `args` are options and refspecs.
    pub fn push(&self, remote: &str, args: &[&str]) -> Pushed {
        let (options, refspecs): (Vec<&str>, Vec<&str>) = args.iter().partition(|arg| arg.starts_with('-'));
        let mut all = vec!["push", "--porcelain"];
        all.extend(options);
        all.push(remote);
        all.extend(refspecs);
        let output = self.git(&all);
        let lines = text(&output.stdout).lines().filter_map(line_of).collect();
        Pushed { ok: output.status.success(), lines, stderr: text(&output.stderr) }
    }

    /// Runs `script` in the next push, after Git has seen the remote's refs and before it sends anything.
    pub fn before_sending(&self, script: &str) {
        let hook = self.dir.join(".git/hooks/pre-push");
        std::fs::create_dir_all(self.dir.join(".git/hooks")).expect("a directory");
        std::fs::write(&hook, format!("#!/bin/sh\nrm \"$0\"\n{script}\n")).expect("a hook");
        std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a hook");
    }

    /// A shell line that pushes from here, for another client's [`Client::before_sending`].
    pub fn push_line(&self, remote: &str, refspec: &str) -> String {
        let (dir, home, path) = (self.dir.display(), self.home.display(), std::env::var("PATH").unwrap_or_default());
        format!("env -i PATH='{path}' HOME='{home}' git -C '{dir}' push -q {remote} {refspec} >&2 || exit 1")
    }
}

/// `<flag>\t<from>:<to>\t<summary>`.
fn line_of(line: &str) -> Option<Line> {
    let mut parts = line.splitn(3, '\t');
    let (flag, refs, summary) = (parts.next()?, parts.next()?, parts.next()?);
    let reason = summary.split_once('(').map_or(summary, |(_, rest)| rest.strip_suffix(')').unwrap_or(rest));
    let (name, reason, summary) = (refs.rsplit(':').next()?.into(), reason.into(), summary.into());
    Some(Line { flag: flag.chars().next()?, name, reason, summary })
}

//! Starting `git`: the one place where its environment is made.
//!
//! Promises that nothing of this process's environment reaches it, `GIT_DIR` and `GIT_CONFIG_COUNT` among it, but the
//! search path; and that it speaks English and shows objects as they are.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Whose configuration `git` reads, beside the repository's own.
pub(crate) enum Reads<'a> {
    /// Nobody's: what is done must not hang on the machine.
    Nothing,
    /// The machine's, as for those whom it serves, and that of whoever has this home.
    Machines { home: &'a OsStr },
}

/// `git`, without arguments. Who owns a repository is not looked at: all of them are named by us.
pub(crate) fn command(reads: &Reads<'_>) -> Command {
    let mut git = Command::new("git");
    git.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    git.env("LC_ALL", "C").env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_TERMINAL_PROMPT", "0");
    match reads {
        Reads::Nothing => git.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nonexistent"),
        Reads::Machines { home } => git.env("HOME", home),
    };
    git.args(["-c", "safe.directory=*"]);
    git
}

/// The same in the repository at `git_dir`.
pub(crate) fn command_in(git_dir: &Path, reads: &Reads<'_>) -> Command {
    let mut git = command(reads);
    git.arg("--git-dir").arg(git_dir).current_dir("/");
    git
}

//! What the hook says: to Git in pkt-lines, to the daemon in one line of JSON each way.
//!
//! Promises that every command Git hands over gets an answer, whatever happens to the daemon, and that the answer never
//! claims more than is known. Reads only bounded amounts. Decides nothing about pushes. No async runtime: the hook
//! must start in a millisecond.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Ref updates that one push may have at this hook; a site's own limit may be lower.
pub const UPDATES_MAX: usize = 10_000;
/// A reason's length, so that `ng <ref> <reason>` fits a pkt-line many times over and a terminal.
pub const REASON_MAX: usize = 900;
/// The daemon's answer: 10,000 updates with a ref name and a reason each stay below it.
pub const REPLY_BYTES_MAX: u64 = 16 << 20;

const ZERO: &str = "0000000000000000000000000000000000000000";

/// One ref update as the pusher asked for it; `None` is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookUpdate {
    #[serde(rename = "ref")]
    pub name: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// Hook to daemon: one push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRequest {
    /// Canonical path of the repository.
    pub repo_path: String,
    pub atomic: bool,
    pub updates: Vec<HookUpdate>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Who pushes, as the environment says; for messages only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pusher: Option<String>,
}

/// What became of one ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookResult {
    #[serde(rename = "ref")]
    pub name: String,
    pub ok: bool,
    pub reason: Option<String>,
}

/// Daemon to hook: the answer, and lines for the pusher's terminal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HookReply {
    pub results: Vec<HookResult>,
    #[serde(default)]
    pub remote: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum TalkError {
    /// The daemon was not reached: nothing has changed.
    NotSent(String),
    /// It may have got the push.
    Lost(String),
}

const NOT_RUNNING: &str = "unavailable: the refrain daemon of this site is not running; nothing was changed, try again";
const NO_ANSWER: &str = "undecided: the daemon stopped before it answered; fetch to see whether your push was applied";

/// A command line as Git sent it.
struct Command {
    name: Vec<u8>,
    /// `None`: what the line says cannot be handed on.
    update: Option<HookUpdate>,
}

/// The hook's whole life: reads Git's commands from standard input, asks the daemon, reports. Returns the exit code.
pub fn run_proc_receive(socket: &Path) -> i32 {
    let (stdin, stdout) = (io::stdin().lock(), io::stdout().lock());
    let talk = |mut request: HookRequest| {
        request.repo_path = repo_path().map_err(TalkError::NotSent)?;
        request.pusher = ["REMOTE_USER", "GIT_COMMITTER_EMAIL", "USER"].iter().find_map(|k| std::env::var(k).ok());
        talk_over(socket, &request)
    };
    let mut remote = Vec::new();
    let result = proc_receive_with(stdin, stdout, talk, &mut remote);
    for line in remote {
        eprintln!("{line}");
    }
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("refrain: the hook could not talk to git: {error}");
            1
        }
    }
}

/// receive-pack runs its hooks in the repository with `GIT_DIR` set, usually to `.`.
fn repo_path() -> Result<String, String> {
    let dir = std::env::var_os("GIT_DIR").unwrap_or_else(|| ".".into());
    let path = std::fs::canonicalize(&dir).map_err(|e| format!("the repository's path is not known: {e}"))?;
    path.into_os_string().into_string().map_err(|p| format!("the repository's path {p:?} is not UTF-8"))
}

fn talk_over(socket: &Path, request: &HookRequest) -> Result<HookReply, TalkError> {
    let stream = UnixStream::connect(socket).map_err(|e| TalkError::NotSent(e.to_string()))?;
    let mut line = serde_json::to_vec(request).map_err(|e| TalkError::NotSent(e.to_string()))?;
    line.push(b'\n');
    // A line that was cut off before its newline is no request, but whether it was cut cannot be known here.
    (&stream).write_all(&line).map_err(|e| TalkError::Lost(e.to_string()))?;
    let mut reply = Vec::new();
    let mut reader = BufReader::new(&stream).take(REPLY_BYTES_MAX);
    reader.read_until(b'\n', &mut reply).map_err(|e| TalkError::Lost(e.to_string()))?;
    if reply.last() != Some(&b'\n') {
        return Err(TalkError::Lost("the answer was cut off".into()));
    }
    serde_json::from_slice(&reply).map_err(|e| TalkError::Lost(format!("the answer is not one: {e}")))
}

/// The protocol between `r` (from Git) and `w` (to Git); `talk` asks the daemon. Lines for the pusher go to standard
/// error. The request's `repo_path` and `pusher` are `talk`'s to fill in.
pub fn proc_receive<R: Read, W: Write>(
    r: R,
    w: W,
    talk: impl FnOnce(HookRequest) -> Result<HookReply, TalkError>,
) -> io::Result<()> {
    let mut remote = Vec::new();
    let result = proc_receive_with(r, w, talk, &mut remote);
    remote.iter().for_each(|line| eprintln!("{line}"));
    result
}

fn proc_receive_with<R: Read, W: Write>(
    mut r: R,
    mut w: W,
    talk: impl FnOnce(HookRequest) -> Result<HookReply, TalkError>,
    remote: &mut Vec<String>,
) -> io::Result<()> {
    let offered = greet(&mut r, &mut w)?;
    let (commands, too_many) = read_commands(&mut r)?;
    let options = if offered.push_options { read_options(&mut r)? } else { Vec::new() };
    let mut reasons: Vec<Option<String>> = commands.iter().map(|c| c.update.is_none().then(unreadable)).collect();
    if too_many {
        let text = format!("too large: a push has at most {UPDATES_MAX} ref updates; push fewer refs at a time");
        reasons.fill(Some(text));
    } else if offered.atomic && reasons.iter().any(Option::is_some) {
        let text = "atomic push failed: another ref of this push has a name that is not UTF-8";
        reasons.iter_mut().filter(|r| r.is_none()).for_each(|r| *r = Some(text.into()));
    }
    let asked: Vec<usize> = (0..commands.len()).filter(|i| reasons[*i].is_none()).collect();
    if !asked.is_empty() {
        let updates = asked.iter().filter_map(|i| commands[*i].update.clone()).collect();
        let request = HookRequest { repo_path: String::new(), atomic: offered.atomic, updates, options, pusher: None };
        let answer = talk(request);
        let results = answer.as_ref().map_or(&[][..], |reply| &reply.results);
        let by_name: HashMap<&str, &HookResult> = results.iter().map(|r| (r.name.as_str(), r)).collect();
        for index in asked {
            let name = commands[index].update.as_ref().map_or("", |u| u.name.as_str());
            reasons[index] = reason_for(&answer, by_name.get(name).copied());
        }
        if let Ok(reply) = answer {
            *remote = reply.remote;
        }
    }
    for (command, reason) in commands.iter().zip(&reasons) {
        report(&mut w, &command.name, reason.as_deref())?;
    }
    w.write_all(b"0000")?;
    w.flush()
}

fn unreadable() -> String {
    "denied: a ref name must be UTF-8, and object ids SHA-1".into()
}

/// `None`: ok.
fn reason_for(answer: &Result<HookReply, TalkError>, result: Option<&HookResult>) -> Option<String> {
    match answer {
        Ok(_) => match result {
            Some(result) if result.ok => None,
            Some(result) => Some(result.reason.clone().unwrap_or_else(|| "denied: no reason was given".into())),
            // The daemon answered but not for this ref: what it did is not known.
            None => Some(NO_ANSWER.into()),
        },
        Err(TalkError::NotSent(_)) => Some(NOT_RUNNING.into()),
        Err(TalkError::Lost(_)) => Some(NO_ANSWER.into()),
    }
}

struct Offered {
    atomic: bool,
    push_options: bool,
}

/// Version and capabilities: Git's first, then ours, which are those it offered and we know.
fn greet(r: &mut impl Read, w: &mut impl Write) -> io::Result<Offered> {
    let mut offered = Offered { atomic: false, push_options: false };
    let mut version = false;
    while let Some(line) = read_packet(r)? {
        let mut parts = line.splitn(2, |b| *b == 0);
        version |= parts.next().is_some_and(|p| p.trim_ascii() == b"version=1");
        for capability in parts.next().unwrap_or_default().split(|b| b.is_ascii_whitespace()) {
            offered.atomic |= capability == b"atomic";
            offered.push_options |= capability == b"push-options";
        }
    }
    if !version {
        return Err(bad("git does not speak version 1 of the proc-receive protocol"));
    }
    let mut line = b"version=1\0".to_vec();
    line.extend_from_slice(match (offered.atomic, offered.push_options) {
        (true, true) => b"atomic push-options",
        (true, false) => b"atomic",
        (false, true) => b"push-options",
        (false, false) => b"",
    });
    write_packet(w, &line)?;
    w.write_all(b"0000")?;
    w.flush()?;
    Ok(offered)
}

/// All commands; of those beyond the limit only the names are kept, for the answer.
fn read_commands(r: &mut impl Read) -> io::Result<(Vec<Command>, bool)> {
    let mut commands = Vec::new();
    while let Some(line) = read_packet(r)? {
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let name = line.get(82..).filter(|name| !name.is_empty()).ok_or_else(|| bad("git sent a broken command"))?;
        let update = (commands.len() < UPDATES_MAX).then(|| parse_command(line)).flatten();
        commands.push(Command { name: name.to_vec(), update });
    }
    let too_many = commands.len() > UPDATES_MAX;
    Ok((commands, too_many))
}

fn parse_command(line: &[u8]) -> Option<HookUpdate> {
    let text = std::str::from_utf8(line).ok()?;
    let (old, rest) = text.split_once(' ')?;
    let (new, name) = rest.split_once(' ')?;
    let oid = |hex: &str| (hex != ZERO).then(|| hex.to_owned());
    let valid = |hex: &str| hex.len() == 40 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (valid(old) && valid(new)).then(|| HookUpdate { name: name.to_owned(), old: oid(old), new: oid(new) })
}

fn read_options(r: &mut impl Read) -> io::Result<Vec<String>> {
    let mut options = Vec::new();
    while let Some(line) = read_packet(r)? {
        if options.len() < 1_000 {
            options.push(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
        }
    }
    Ok(options)
}

fn report(w: &mut impl Write, name: &[u8], reason: Option<&str>) -> io::Result<()> {
    let mut line = if reason.is_none() { b"ok ".to_vec() } else { b"ng ".to_vec() };
    line.extend_from_slice(name);
    if let Some(reason) = reason {
        line.push(b' ');
        line.extend_from_slice(clean_reason(reason).as_bytes());
    }
    write_packet(w, &line)
}

/// One line, not too long: a newline would be read by Git as the next report.
fn clean_reason(reason: &str) -> String {
    let mut clean: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.len() > REASON_MAX {
        let end = (0..=REASON_MAX).rev().find(|at| clean.is_char_boundary(*at)).unwrap_or(0);
        clean.truncate(end);
    }
    clean
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// One pkt-line; `None` is a flush. At most 65,516 bytes by its very form.
fn read_packet(r: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 4];
    r.read_exact(&mut head)?;
    let digits = std::str::from_utf8(&head).map_err(|_| bad("a pkt-line's length is not hexadecimal"))?;
    match usize::from_str_radix(digits, 16).map_err(|_| bad("a pkt-line's length is not hexadecimal"))? {
        0 => Ok(None),
        length @ 4..=65_520 => {
            let mut line = vec![0; length - 4];
            r.read_exact(&mut line)?;
            Ok(Some(line))
        }
        _ => Err(bad("a pkt-line's length is out of range")),
    }
}

fn write_packet(w: &mut impl Write, line: &[u8]) -> io::Result<()> {
    if line.len() > 65_516 {
        return Err(bad("a report line does not fit a pkt-line"));
    }
    write!(w, "{:04x}", line.len() + 4)?;
    w.write_all(line)
}

#[cfg(test)]
#[path = "hook_wire_tests.rs"]
mod tests;

//! What the hook says: to Git in pkt-lines, to the daemon in one line of JSON each way.
//!
//! Promises that every command Git hands over gets an answer, whatever happens to the daemon, and that the answer never
//! claims more than is known. Reads only bounded amounts, and waits for a daemon only as long as that shows that it
//! lives. Decides nothing about pushes. No async runtime: the hook must start in a millisecond.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

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

/// What the daemon sends in one line: the answer, or that it could not read the question.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Reply(HookReply),
    Refused { refused: String },
}

/// Why there is no answer, in words for the pusher.
#[derive(Debug, PartialEq, Eq)]
enum TalkError {
    /// The daemon did not get the push: nothing has changed.
    NotSent(String),
    /// It cannot take the push.
    TooLarge,
    /// It may have got the push.
    Lost(String),
}

/// How often the daemon says, with an empty line, that a push is still under way.
pub const BEAT_EVERY: Duration = Duration::from_secs(10);
/// A daemon that says nothing for so long is waited for no more: six beats, since the machine may be busy. How long a
/// push may take is the daemon's `push.timeout`.
const SILENT_MAX: Duration = Duration::from_secs(60);

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
        talk_over(socket, &request, SILENT_MAX)
    };
    let mut remote = Vec::new();
    let result = proc_receive(stdin, stdout, talk, &mut remote);
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

fn talk_over(socket: &Path, request: &HookRequest, silent_max: Duration) -> Result<HookReply, TalkError> {
    let not_sent = |why: io::Error| TalkError::NotSent(not_reached(socket, &why));
    let lost = |why: io::Error| match why.kind() {
        // Both are what a time-out of a socket is called.
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            TalkError::Lost(format!("the daemon has said nothing for {} s", silent_max.as_secs_f64()))
        }
        _ => TalkError::Lost(format!("the connection to the daemon broke off ({why})")),
    };
    let mut line = serde_json::to_vec(request).map_err(|why| not_sent(why.into()))?;
    line.push(b'\n');
    if line.len() as u64 > REPLY_BYTES_MAX {
        return Err(TalkError::TooLarge);
    }
    let stream = connect(socket, silent_max).map_err(not_sent)?;
    let bounded = stream.set_read_timeout(Some(silent_max)).and_then(|()| stream.set_write_timeout(Some(silent_max)));
    bounded.map_err(not_sent)?;
    // A line that was cut off before its newline is no request, but whether it was cut cannot be known here.
    (&stream).write_all(&line).map_err(lost)?;
    let mut reader = BufReader::new(&stream).take(REPLY_BYTES_MAX);
    let mut reply = Vec::new();
    // Empty lines are beats.
    while reply.trim_ascii().is_empty() {
        reply.clear();
        reader.read_until(b'\n', &mut reply).map_err(lost)?;
        if reply.last() != Some(&b'\n') {
            return Err(TalkError::Lost("the daemon stopped before it answered".into()));
        }
    }
    match serde_json::from_slice(&reply) {
        Ok(Line::Reply(reply)) => Ok(reply),
        Ok(Line::Refused { refused }) => Err(TalkError::NotSent(format!(
            "the daemon of this site and its hook do not understand each other ({refused}); nothing was changed; have \
             the daemon's operator run `refrain hooks install`"
        ))),
        Err(why) => Err(TalkError::Lost(format!("the daemon's answer cannot be read ({why})"))),
    }
}

/// In a thread of its own: a daemon that hangs accepts nobody, and once enough wait there the system has us wait too.
pub(crate) fn connect(socket: &Path, within: Duration) -> io::Result<UnixStream> {
    let (tell, connected) = mpsc::channel();
    let path = socket.to_path_buf();
    std::thread::spawn(move || tell.send(UnixStream::connect(path)));
    connected.recv_timeout(within).unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Why nobody was reached at `socket`, and what to do.
fn not_reached(socket: &Path, why: &io::Error) -> String {
    let at = socket.display();
    match why.kind() {
        ErrorKind::PermissionDenied => format!(
            "this user may not talk to the refrain daemon of this site ({at}: {why}); nothing was changed; push as the \
             daemon's user, or have its operator open the socket to your group"
        ),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!("the refrain daemon of this site is not running ({at}: {why}); nothing was changed, try again")
        }
        _ => format!("the refrain daemon of this site was not reached ({at}: {why}); nothing was changed, try again"),
    }
}

/// The protocol between `r` (from Git) and `w` (to Git); `talk` asks the daemon. Lines for the pusher are added to
/// `remote`. The request's `repo_path` is `talk`'s to fill in.
fn proc_receive<R: Read, W: Write>(
    mut r: R,
    mut w: W,
    talk: impl FnOnce(HookRequest) -> Result<HookReply, TalkError>,
    remote: &mut Vec<String>,
) -> io::Result<()> {
    let atomic = greet(&mut r, &mut w)?;
    let (commands, too_many) = read_commands(&mut r)?;
    let mut reasons: Vec<Option<String>> = commands.iter().map(|c| c.update.is_none().then(unreadable)).collect();
    if too_many {
        let text = format!("too large: a push has at most {UPDATES_MAX} ref updates; push fewer refs at a time");
        reasons.fill(Some(text));
    } else if atomic && reasons.iter().any(Option::is_some) {
        let text = "atomic push failed: another ref of this push has a name that is not UTF-8";
        reasons.iter_mut().filter(|r| r.is_none()).for_each(|r| *r = Some(text.into()));
    }
    let asked: Vec<usize> = (0..commands.len()).filter(|i| reasons[*i].is_none()).collect();
    if !asked.is_empty() {
        let updates = asked.iter().filter_map(|i| commands[*i].update.clone()).collect();
        let answer = talk(HookRequest { repo_path: String::new(), atomic, updates });
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
    let undecided = |why: &str| format!("undecided: {why}; fetch to see whether your push was applied");
    match answer {
        Ok(_) => match result {
            Some(result) if result.ok => None,
            Some(result) => Some(result.reason.clone().unwrap_or_else(|| "denied: no reason was given".into())),
            None => Some(undecided("the daemon's answer leaves this ref out")),
        },
        Err(TalkError::NotSent(why)) => Some(format!("unavailable: {why}")),
        Err(TalkError::TooLarge) => {
            Some("too large: the names of this push's refs have more than 16 MiB; push fewer refs at a time".into())
        }
        Err(TalkError::Lost(why)) => Some(undecided(why)),
    }
}

/// Version and capabilities: Git's first, then ours. Says whether the push is atomic. Push options are not taken: what
/// nobody reads must not look as if it were heard.
fn greet(r: &mut impl Read, w: &mut impl Write) -> io::Result<bool> {
    let mut atomic = false;
    let mut version = false;
    while let Some(line) = read_packet(r)? {
        let mut parts = line.splitn(2, |b| *b == 0);
        version |= parts.next().is_some_and(|p| p.trim_ascii() == b"version=1");
        let mut capabilities = parts.next().unwrap_or_default().split(|b| b.is_ascii_whitespace());
        atomic |= capabilities.any(|capability| capability == b"atomic");
    }
    if !version {
        return Err(bad("git does not speak version 1 of the proc-receive protocol"));
    }
    let ours: &[u8] = if atomic { b"version=1\0atomic" } else { b"version=1\0" };
    write_packet(w, ours)?;
    w.write_all(b"0000")?;
    w.flush()?;
    Ok(atomic)
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

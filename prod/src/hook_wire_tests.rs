//! The hook against bytes in memory, against a socket, and against real git.

use super::*;

const A: &str = "1111111111111111111111111111111111111111";
const B: &str = "2222222222222222222222222222222222222222";

fn packet(line: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_packet(&mut bytes, line).expect("fits");
    bytes
}

/// What Git sends: capabilities and commands.
fn from_git(capabilities: &str, commands: &[&[u8]]) -> Vec<u8> {
    let mut bytes = packet(format!("version=1\0{capabilities}").as_bytes());
    bytes.extend_from_slice(b"0000");
    commands.iter().for_each(|c| bytes.extend(packet(c)));
    bytes.extend_from_slice(b"0000");
    bytes
}

fn lines(mut bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    while !bytes.is_empty() {
        let line = read_packet(&mut bytes).expect("well-formed");
        lines.push(line.map_or("flush".into(), |l| String::from_utf8_lossy(&l).into_owned()));
    }
    lines
}

fn run(input: &[u8], talk: impl FnOnce(HookRequest) -> Result<HookReply, TalkError>) -> Vec<String> {
    let mut out = Vec::new();
    proc_receive(input, &mut out, talk, &mut Vec::new()).expect("protocol");
    lines(&out)
}

fn ok(name: &str) -> HookResult {
    HookResult { name: name.into(), ok: true, reason: None }
}

#[test]
fn commands_reach_the_daemon_and_its_answers_reach_git() {
    let create = format!("{ZERO} {A} refs/heads/a");
    let delete = format!("{A} {ZERO} refs/heads/b");
    let input = from_git("push-options atomic", &[create.as_bytes(), delete.as_bytes()]);
    let out = run(&input, |request| {
        assert!(request.atomic);
        let update = |name: &str, old: Option<&str>, new: Option<&str>| HookUpdate {
            name: name.into(),
            old: old.map(Into::into),
            new: new.map(Into::into),
        };
        assert_eq!(request.updates, [update("refs/heads/a", None, Some(A)), update("refs/heads/b", Some(A), None)]);
        let no = HookResult { name: "refs/heads/b".into(), ok: false, reason: Some("stale: two\nlines".into()) };
        Ok(HookReply { results: vec![no, ok("refs/heads/a")], remote: vec![] })
    });
    let expected = ["version=1\0atomic", "flush", "ok refs/heads/a", "ng refs/heads/b stale: two lines", "flush"];
    assert_eq!(out, expected);
}

#[test]
fn a_daemon_that_is_not_there_and_one_that_goes_away_are_told_apart() {
    let command = format!("{A} {B} refs/heads/a");
    let input = from_git("", &[command.as_bytes()]);
    let out = run(&input, |_| Err(TalkError::NotSent("nobody is there".into())));
    assert_eq!(out[2], "ng refs/heads/a unavailable: nobody is there");
    let undecided = |why: &str| format!("ng refs/heads/a undecided: {why}; fetch to see whether your push was applied");
    let out = run(&input, |_| Err(TalkError::Lost("it went away".into())));
    assert_eq!(out[2], undecided("it went away"));
    let out = run(&input, |_| Ok(HookReply::default()));
    assert_eq!(out[2], undecided("the daemon's answer leaves this ref out"));
    let out = run(&input, |_| Err(TalkError::TooLarge));
    assert!(out[2].starts_with("ng refs/heads/a too large:"), "{out:?}");
}

#[test]
fn a_name_that_is_not_utf8_is_denied_and_spoils_an_atomic_push() {
    let bad = [format!("{ZERO} {A} refs/heads/").as_bytes(), b"\xff"].concat();
    let good = format!("{ZERO} {A} refs/heads/a");
    let input = from_git("", &[&bad, good.as_bytes()]);
    let out = run(&input, |request| {
        assert_eq!(request.updates.len(), 1);
        Ok(HookReply { results: vec![ok("refs/heads/a")], remote: vec![] })
    });
    assert!(out[2].contains("denied:") && out[3] == "ok refs/heads/a", "{out:?}");
    let input = from_git("atomic", &[&bad, good.as_bytes()]);
    let out = run(&input, |_| panic!("nothing to ask"));
    assert!(out[3].starts_with("ng refs/heads/a atomic push failed:"), "{out:?}");
}

#[test]
fn too_many_updates_are_refused_without_asking() {
    let commands: Vec<String> = (0..=UPDATES_MAX).map(|n| format!("{ZERO} {A} refs/heads/{n}")).collect();
    let commands: Vec<&[u8]> = commands.iter().map(|c| c.as_bytes()).collect();
    let out = run(&from_git("", &commands), |_| panic!("nothing to ask"));
    assert_eq!(out.len(), UPDATES_MAX + 4);
    assert!(out[2..UPDATES_MAX + 3].iter().all(|line| line.contains("too large:")));
}

#[test]
fn long_reasons_are_cut_at_a_character() {
    let cut = clean_reason(&"ä".repeat(1_000));
    assert_eq!(cut.len(), REASON_MAX);
    assert!(cut.chars().all(|c| c == 'ä'));
}

#[test]
fn broken_input_is_an_error_not_a_panic() {
    let whole = from_git("atomic", &[format!("{ZERO} {A} refs/heads/a").as_bytes()]);
    for cut in 0..whole.len() {
        let asked = |_| Ok(HookReply { results: vec![ok("refs/heads/a")], remote: vec![] });
        assert!(proc_receive(&whole[..cut], Vec::new(), asked, &mut Vec::new()).is_err(), "cut at {cut}");
    }
    for garbage in [&b"zzzz"[..], b"0001", b"ffff", b"000cversion=", b"000eversion=2\n0000"] {
        assert!(proc_receive(garbage, Vec::new(), |_| Ok(HookReply::default()), &mut Vec::new()).is_err());
    }
}

const SOON: Duration = Duration::from_secs(30);

fn request() -> HookRequest {
    let name = "refs/heads/a".to_string();
    let updates = vec![HookUpdate { name, old: None, new: Some(A.into()) }];
    HookRequest { repo_path: "/r".into(), atomic: false, updates }
}

/// A daemon that reads a request and then sends `lines`, waiting `between` before each. It hangs up when told to.
fn daemon(path: &Path, lines: &'static [&'static str], between: Duration) -> (mpsc::Sender<()>, Server) {
    let listener = std::os::unix::net::UnixListener::bind(path).expect("bind");
    let (hang_up, told) = mpsc::channel();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("line");
        for line in lines {
            std::thread::sleep(between);
            // A hook that gave up listens no more.
            let _ = (&stream).write_all(line.as_bytes());
        }
        let _ = told.recv();
        line
    });
    (hang_up, server)
}

type Server = std::thread::JoinHandle<String>;

#[test]
fn a_daemon_that_hangs_up_is_lost_and_one_that_beats_is_waited_for() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("gone");
    drop(daemon(&path, &[], Duration::ZERO).0);
    let lost = talk_over(&path, &request(), SOON);
    assert_eq!(lost, Err(TalkError::Lost("the daemon stopped before it answered".into())));
    let path = dir.path().join("slow");
    let answer = "{\"results\":[{\"ref\":\"refs/heads/a\",\"ok\":true,\"reason\":null}]}\n";
    // Longer in all than it may be silent.
    let beats: &[&str] = Box::leak(Box::new(["\n", "\n", "\n", "\n", "\n", answer]));
    let (hang_up, server) = daemon(&path, beats, Duration::from_millis(200));
    let reply = talk_over(&path, &request(), Duration::from_millis(900)).expect("answer");
    assert_eq!(reply.results, [ok("refs/heads/a")]);
    drop(hang_up);
    assert!(server.join().expect("server").contains("\"repo_path\":\"/r\""));
}

#[test]
fn a_daemon_that_is_silent_is_undecided_and_one_that_takes_nobody_unavailable() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("silent");
    let (_hang_up, _server) = daemon(&path, &[], Duration::ZERO);
    let lost = talk_over(&path, &request(), Duration::from_millis(100));
    assert_eq!(lost, Err(TalkError::Lost("the daemon has said nothing for 0.1 s".into())));
    let path = dir.path().join("stopped");
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    // Until the system takes no more.
    let mut waiting = Vec::new();
    while let Ok(stream) = connect(&path, Duration::from_millis(300)) {
        waiting.push(stream);
        assert!(waiting.len() < 100_000, "there is no end to it");
    }
    let Err(TalkError::NotSent(why)) = talk_over(&path, &request(), Duration::from_millis(100)) else {
        panic!("nothing can have been sent");
    };
    assert!(why.contains("was not reached") && why.contains("timed out"), "{why}");
}

#[test]
fn why_nobody_was_reached_is_said_with_what_to_do() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("s");
    let Err(TalkError::NotSent(why)) = talk_over(&path, &request(), SOON) else { panic!("nobody is there") };
    assert!(why.contains("is not running") && why.contains(path.to_str().expect("UTF-8")), "{why}");
    assert!(why.ends_with("nothing was changed, try again"), "{why}");
    let denied = not_reached(&path, &ErrorKind::PermissionDenied.into());
    assert!(denied.contains("permission denied") && denied.contains("push as the daemon's user"), "{denied}");
}

#[test]
fn a_request_that_the_daemon_cannot_read_changed_nothing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("s");
    let (_hang_up, _server) = daemon(&path, &["{\"refused\":\"no such thing\"}\n"], Duration::ZERO);
    let Err(TalkError::NotSent(why)) = talk_over(&path, &request(), SOON) else { panic!("it was refused") };
    assert!(why.contains("no such thing") && why.contains("nothing was changed"), "{why}");
    let mut huge = request();
    huge.updates[0].name = "x".repeat(REPLY_BYTES_MAX as usize);
    assert_eq!(talk_over(&path, &huge, SOON), Err(TalkError::TooLarge));
}

//! The hook against bytes in memory, against a socket, and against real git.

use super::*;

const A: &str = "1111111111111111111111111111111111111111";
const B: &str = "2222222222222222222222222222222222222222";

fn packet(line: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_packet(&mut bytes, line).expect("fits");
    bytes
}

/// What Git sends: capabilities, commands, perhaps options.
fn from_git(capabilities: &str, commands: &[&[u8]], options: Option<&[&str]>) -> Vec<u8> {
    let mut bytes = packet(format!("version=1\0{capabilities}").as_bytes());
    bytes.extend_from_slice(b"0000");
    commands.iter().for_each(|c| bytes.extend(packet(c)));
    bytes.extend_from_slice(b"0000");
    if let Some(options) = options {
        options.iter().for_each(|o| bytes.extend(packet(o.as_bytes())));
        bytes.extend_from_slice(b"0000");
    }
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
    proc_receive(input, &mut out, talk).expect("protocol");
    lines(&out)
}

fn ok(name: &str) -> HookResult {
    HookResult { name: name.into(), ok: true, reason: None }
}

#[test]
fn commands_reach_the_daemon_and_its_answers_reach_git() {
    let create = format!("{ZERO} {A} refs/heads/a");
    let delete = format!("{A} {ZERO} refs/heads/b");
    let input = from_git("push-options atomic", &[create.as_bytes(), delete.as_bytes()], Some(&["x=1"]));
    let out = run(&input, |request| {
        assert!(request.atomic);
        assert_eq!(request.options, ["x=1"]);
        let update = |name: &str, old: Option<&str>, new: Option<&str>| HookUpdate {
            name: name.into(),
            old: old.map(Into::into),
            new: new.map(Into::into),
        };
        assert_eq!(request.updates, [update("refs/heads/a", None, Some(A)), update("refs/heads/b", Some(A), None)]);
        let no = HookResult { name: "refs/heads/b".into(), ok: false, reason: Some("stale: two\nlines".into()) };
        Ok(HookReply { results: vec![no, ok("refs/heads/a")], remote: vec![] })
    });
    let expected =
        ["version=1\0atomic push-options", "flush", "ok refs/heads/a", "ng refs/heads/b stale: two lines", "flush"];
    assert_eq!(out, expected);
}

#[test]
fn a_daemon_that_is_not_there_and_one_that_goes_away_are_told_apart() {
    let command = format!("{A} {B} refs/heads/a");
    let input = from_git("", &[command.as_bytes()], None);
    let out = run(&input, |_| Err(TalkError::NotSent("refused".into())));
    assert_eq!(out[2], format!("ng refs/heads/a {NOT_RUNNING}"));
    let out = run(&input, |_| Err(TalkError::Lost("reset".into())));
    assert_eq!(out[2], format!("ng refs/heads/a {NO_ANSWER}"));
    let out = run(&input, |_| Ok(HookReply::default()));
    assert_eq!(out[2], format!("ng refs/heads/a {NO_ANSWER}"));
}

#[test]
fn a_name_that_is_not_utf8_is_denied_and_spoils_an_atomic_push() {
    let bad = [format!("{ZERO} {A} refs/heads/").as_bytes(), b"\xff"].concat();
    let good = format!("{ZERO} {A} refs/heads/a");
    let input = from_git("", &[&bad, good.as_bytes()], None);
    let out = run(&input, |request| {
        assert_eq!(request.updates.len(), 1);
        Ok(HookReply { results: vec![ok("refs/heads/a")], remote: vec![] })
    });
    assert!(out[2].contains("denied:") && out[3] == "ok refs/heads/a", "{out:?}");
    let input = from_git("atomic", &[&bad, good.as_bytes()], None);
    let out = run(&input, |_| panic!("nothing to ask"));
    assert!(out[3].starts_with("ng refs/heads/a atomic push failed:"), "{out:?}");
}

#[test]
fn too_many_updates_are_refused_without_asking() {
    let commands: Vec<String> = (0..=UPDATES_MAX).map(|n| format!("{ZERO} {A} refs/heads/{n}")).collect();
    let commands: Vec<&[u8]> = commands.iter().map(|c| c.as_bytes()).collect();
    let out = run(&from_git("", &commands, None), |_| panic!("nothing to ask"));
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
    let whole = from_git("atomic", &[format!("{ZERO} {A} refs/heads/a").as_bytes()], None);
    for cut in 0..whole.len() {
        let asked = |_| Ok(HookReply { results: vec![ok("refs/heads/a")], remote: vec![] });
        assert!(proc_receive(&whole[..cut], Vec::new(), asked).is_err(), "cut at {cut}");
    }
    for garbage in [&b"zzzz"[..], b"0001", b"ffff", b"000cversion=", b"000eversion=2\n0000"] {
        assert!(proc_receive(garbage, Vec::new(), |_| Ok(HookReply::default())).is_err());
    }
}

#[test]
fn over_a_socket_a_closed_connection_is_lost_and_an_absent_one_not_sent() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("s");
    let request = HookRequest { repo_path: "/r".into(), atomic: false, updates: vec![], options: vec![], pusher: None };
    assert!(matches!(talk_over(&path, &request), Err(TalkError::NotSent(_))));
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let server = std::thread::spawn(move || {
        let (first, _) = listener.accept().expect("accept");
        let mut line = String::new();
        BufReader::new(&first).read_line(&mut line).expect("line");
        drop(first);
        let (second, _) = listener.accept().expect("accept");
        BufReader::new(&second).read_line(&mut line).expect("line");
        (&second).write_all(b"{\"results\":[{\"ref\":\"refs/heads/a\",\"ok\":true,\"reason\":null}]}\n").expect("send");
        line
    });
    assert!(matches!(talk_over(&path, &request), Err(TalkError::Lost(_))));
    let reply = talk_over(&path, &request).expect("answer");
    assert_eq!(reply.results, [ok("refs/heads/a")]);
    assert!(server.join().expect("server").contains("\"repo_path\":\"/r\""));
}

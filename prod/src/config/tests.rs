//! The configuration file: what parses, what is refused, and how the refusal reads.

use super::*;

const GOOD: &str = r#"
    [log]
    kind = "embedded"
    dir = "/l"
    [push]
    timeout = "1.5s"
    inline_max = "128KiB"
    [[site]]
    name = "ams"
    repos = "/r"
    state = "/s"
"#;

fn parse(text: &str) -> Result<File> {
    parse_with(text, &[])
}

fn parse_with(text: &str, env: &[(&str, &str)]) -> Result<File> {
    let env = env.iter().map(|(key, value)| ((*key).into(), (*value).into()));
    let loaded = super::parse(text, ours(env)?, Path::new("refrain.toml"))?;
    judge(&loaded.file)?;
    Ok(loaded.file)
}

#[test]
fn the_file_of_the_interface_parses() {
    let file = parse(GOOD).expect("good");
    assert_eq!(file.push.timeout.0, Duration::from_millis(1_500));
    assert_eq!(file.push.inline_max, Size(128 << 10));
    assert_eq!(file.log.partitions, 8);
    assert_eq!(file.site[0].socket(), PathBuf::from("/s/refrain.sock"));
}

#[test]
fn every_mistake_names_its_key() {
    for (from, to, word) in [
        ("timeout", "timout", "timout"),
        ("\"ams\"", "\"AMS\"", "AMS"),
        ("\"1.5s\"", "\"soon\"", "soon"),
        ("timeout = \"1.5s\"", "packdata_max = \"3GiB\"", "packdata_max"),
        ("\"128KiB\"", "\"1MiB\"", "inline_max"),
        ("timeout = \"1.5s\"", "ack = \"sites:1\"", "sites:1"),
        ("state =", "http = \"0.0.0.0:80\"\nstate =", "loopback"),
        ("state =", "http = \"[::]:80\"\nstate =", "loopback"),
        ("state =", "http = \"here\"\nstate =", "http"),
        ("state =", "url = \"ftp://a\"\nstate =", "url"),
        ("timeout = \"1.5s\"", "timeout = \"0s\"", "push.timeout = \"0s\""),
        ("timeout = \"1.5s\"", "timeout = \"3601s\"", "push.timeout = \"3601s\""),
        ("timeout = \"1.5s\"", "flip_timeout = \"0s\"", "push.flip_timeout"),
        ("timeout = \"1.5s\"", "updates_max = 0", "push.updates_max = 0"),
        ("timeout = \"1.5s\"", "updates_max = 10001", "push.updates_max = 10001"),
        ("dir = \"/l\"", "dir = \"/s\"", "log.dir and state of site \"ams\""),
        ("repos = \"/r\"", "repos = \"/s\"", "repos of site \"ams\" and state of site \"ams\""),
    ] {
        let error = parse(&GOOD.replace(from, to)).expect_err(to);
        assert!(format!("{error:#}").contains(word), "{error:#}");
    }
}

#[test]
fn two_sites_share_neither_directories_nor_socket_nor_address() {
    let both = |one: &str, other: &str| {
        let site = |name: &str, keys: &str| format!("[[site]]\nname = \"{name}\"\n{keys}\n");
        let apart = |keys: &str, number: u8| {
            let or = |key: &str| if keys.contains(key) { String::new() } else { format!("{key}\"/{key}{number}\"\n") };
            format!("{}{}{keys}", or("repos = "), or("state = "))
        };
        parse(&format!("{}{}", GOOD, site("sfo", &apart(one, 1)) + &site("syd", &apart(other, 2))))
    };
    assert!(both("", "").is_ok(), "they can be apart");
    for (one, other, word) in [
        ("repos = \"/one\"", "repos = \"/one\"", "share repos"),
        ("repos = \"/one\"", "repos = \"/one/b\"", "share repos"),
        ("repos = \"/one/b\"", "repos = \"/one\"", "share repos"),
        ("state = \"/one\"\nsocket = \"/a\"", "state = \"/one\"\nsocket = \"/b\"", "the same directory /one"),
        ("state = \"/l\"", "", "log.dir and state of site \"sfo\""),
        ("socket = \"/one\"", "socket = \"/one\"", "share socket"),
        ("state = \"/one\"", "socket = \"/one/refrain.sock\"", "share socket"),
        ("http = \"127.0.0.1:81\"", "http = \"127.0.0.1:81\"", "share http"),
    ] {
        let error = format!("{:#}", both(one, other).expect_err(word));
        assert!(error.contains(word), "{one} and {other}: {error}");
    }
    for (one, other) in [
        ("repos = \"/one\"", "repos = \"/one-b\""),
        ("http = \"127.0.0.1:0\"", "http = \"127.0.0.1:0\""),
        ("http = \"127.0.0.1:81\"", "http = \"127.0.0.1:82\""),
    ] {
        both(one, other).expect("they are apart");
    }
}

#[test]
fn relative_paths_are_taken_from_the_files_own_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = GOOD.replace("\"/l\"", "\"l\"").replace("\"/r\"", "\"./a//r/\"");
    std::fs::write(dir.path().join("refrain.toml"), text + "socket = \"s.sock\"\n").expect("written");
    let file = read(&dir.path().join("refrain.toml")).expect("good").file;
    let site = &file.site[0];
    assert_eq!((&file.log.dir, &site.repos), (&dir.path().join("l"), &dir.path().join("a/r")));
    assert_eq!((&site.state, site.socket()), (&PathBuf::from("/s"), dir.path().join("s.sock")));
    assert_eq!(site.repos.as_os_str(), dir.path().join("a/r").as_os_str(), "without what means nothing");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    for (from, to, said) in [
        ("timeout =", "timout =", "refrain.toml line 6: unknown key `timout`; the nearest known one is `timeout`"),
        ("[push]", "[psuh]", "refrain.toml line 5: unknown key `psuh`; the nearest known one is `push`"),
        ("state =", "stat =", "refrain.toml line 11: unknown key `stat`; the nearest known one is `state`"),
    ] {
        let error = parse(&GOOD.replace(from, to)).expect_err(to);
        assert_eq!(format!("{error:#}"), said);
    }
}

#[test]
fn the_environment_goes_over_the_file_and_its_mistakes_name_the_variable() {
    let file = parse_with(GOOD, &[("REFRAIN_PUSH__TIMEOUT", "4s"), ("REFRAIN_LOG__PARTITIONS", "3")]).expect("good");
    assert_eq!((file.push.timeout.0, file.log.partitions), (Duration::from_secs(4), 3));
    let error = parse_with(GOOD, &[("REFRAIN_PUSH__TIMOUT", "4s")]).expect_err("no such key");
    assert!(format!("{error:#}").contains("REFRAIN_PUSH__TIMOUT: unknown key `timout`"), "{error:#}");
    let odd = |key: &str| [(OsString::from(key), std::os::unix::ffi::OsStringExt::from_vec(b"\xff".to_vec()))];
    let error = ours(odd("REFRAIN_PUSH__ACK").into_iter()).expect_err("no text");
    assert!(error.to_string().contains("REFRAIN_PUSH__ACK"), "{error}");
    // What is no key of a section is none of ours.
    assert!(ours(odd("HOME").into_iter()).expect("not read").is_empty());
    assert!(parse_with(GOOD, &[("REFRAIN_LOG", "debug"), ("REFRAIN_TEST_STOP", "x"), ("HOME", "/")]).is_ok());
}

#[test]
fn the_template_parses_and_so_does_every_line_that_it_leaves_out() {
    let file = parse(TEMPLATE).expect("the template is good");
    assert_eq!(file.site.len(), 2);
    let all: Vec<&str> = TEMPLATE.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line)).collect();
    parse(&all.join("\n")).expect("the template is good with all its keys");
    let known = toml::Table::try_from(parse(&all.join("\n")).expect("good")).expect("it is TOML");
    let named = |table: &toml::Value| table.as_table().expect("a table").keys().cloned().collect::<Vec<_>>();
    for key in named(&known["log"]).into_iter().chain(named(&known["push"])).chain(named(&known["site"][0])) {
        assert!(all.iter().any(|line| line.starts_with(&format!("{key} "))), "the template does not name {key}");
    }
}

#[test]
fn sizes_and_times_are_written_as_they_are_read() {
    for text in ["256KiB", "1GiB", "1000B"] {
        assert_eq!(String::from(Size::try_from(text.to_string()).expect("a size")), text);
    }
    for text in ["10s", "1.5s", "0.05s"] {
        assert_eq!(String::from(Seconds::try_from(text.to_string()).expect("a time")), text);
    }
}

#[test]
fn a_map_of_repositories_to_partitions_is_read_and_its_mistakes_name_the_rule() {
    let with = |map: &str| parse(&GOOD.replace("[push]", &format!("map = {map}\n[push]")));
    let file = with(r#"[{ names = "^a/", partitions = [1, 2] }, { names = "b", partitions = [0] }]"#).expect("good");
    assert_eq!(file.log.map.to_string(), "^a/ -> [1, 2], b -> [0]");
    for (map, said) in [
        (r#"[{ names = "^a/", partitions = [9] }]"#, "log.map rule 0: a partition that the log does not have"),
        (r#"[{ names = "(", partitions = [0] }]"#, "map rule 0: no regular expression"),
        (r#"[{ names = "a", partition = [0] }]"#, "unknown key `partition`; the nearest known one is `partitions`"),
    ] {
        let error = with(map).expect_err(map);
        assert!(format!("{error:#}").contains(said), "{error:#}");
    }
}

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
    let env = env.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string()));
    let loaded = super::parse(text, env, Path::new("refrain.toml"))?;
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
    ] {
        let error = parse(&GOOD.replace(from, to)).expect_err(to);
        assert!(format!("{error:#}").contains(word), "{error:#}");
    }
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
    // What is no key of a section is none of ours.
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

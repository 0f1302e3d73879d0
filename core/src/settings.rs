//! The Git settings of a repository that the log carries, so that all sites serve it alike.
//!
//! Owns the list of keys and what their values may be: frozen, like the names of refs. Promises that none of them runs
//! a program, refuses what the log accepted, or concerns what refrain sets itself. Verdicts read none of them.

use alloc::collections::BTreeMap;
use alloc::string::String;

/// Settings by key, as Git spells it. In a record `""` takes one away; a table has no such.
pub type Settings = BTreeMap<String, String>;

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// `true` or `false`.
    Switch,
    /// One line of text.
    Text,
}

/// What fetching may ask for (git-config(1), `uploadpack.*`), and what web viewers show (gitweb.conf(5)). Not among
/// them: `allowTipSHA1InWant` and `allowAnySHA1InWant`, by which clients get what only `refs/refrain/` holds.
const KEYS: [(&str, Takes); 6] = [
    ("gitweb.category", Takes::Text),
    ("gitweb.description", Takes::Text),
    ("gitweb.owner", Takes::Text),
    ("gitweb.url", Takes::Text),
    ("uploadpack.allowFilter", Takes::Switch),
    ("uploadpack.allowReachableSHA1InWant", Takes::Switch),
];

/// The keys there are.
pub fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(key, _)| *key)
}

/// Whether a record may ask for it.
///
/// # Errors
/// Says what is wrong, without the key.
pub fn check(key: &str, value: &str) -> Result<(), &'static str> {
    let (_, takes) = KEYS.iter().find(|(known, _)| *known == key).ok_or("a Git setting that is not carried")?;
    match takes {
        _ if value.is_empty() => Ok(()),
        Takes::Switch if ["true", "false"].contains(&value) => Ok(()),
        Takes::Switch => Err("a Git setting that is either true or false"),
        Takes::Text if value.chars().any(char::is_control) => Err("a Git setting of more than one line"),
        Takes::Text if value.len() > crate::record::TEXT_MAX => Err("a Git setting of more than 1,024 bytes"),
        Takes::Text => Ok(()),
    }
}

/// What was set, and what a record changes of it.
pub(crate) fn merged(was: &Settings, wish: &Settings) -> Settings {
    let mut settings = was.clone();
    settings.extend(wish.iter().map(|(key, value)| (key.clone(), value.clone())));
    settings.retain(|_, value| !value.is_empty());
    settings
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn nothing_is_carried_but_what_is_listed_with_values_that_are_its() {
        let long = "v".repeat(crate::record::TEXT_MAX);
        for (key, value, good) in [
            ("uploadpack.allowFilter", "true", true),
            ("uploadpack.allowFilter", "", true),
            ("uploadpack.allowFilter", "yes", false),
            ("uploadpack.allowfilter", "true", false),
            ("uploadpack.packObjectsHook", "/bin/sh", false),
            ("core.hooksPath", "", false),
            ("gitweb.owner", "\"Ada\" \\ \u{e9}", true),
            ("gitweb.owner", "Ada\n[core]", false),
            ("gitweb.owner", &long, true),
            ("gitweb.owner", &(long.clone() + "v"), false),
        ] {
            assert_eq!(check(key, value).is_ok(), good, "{key} = {value:?}");
        }
        assert!(KEYS.is_sorted_by_key(|(key, _)| *key));
    }

    #[test]
    fn what_a_record_leaves_out_stays_and_what_it_empties_goes() {
        let settings = |pairs: &[(&str, &str)]| -> Settings {
            pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        };
        let was = settings(&[("a", "1"), ("b", "2")]);
        assert_eq!(merged(&was, &settings(&[])), was);
        assert_eq!(merged(&was, &settings(&[("a", ""), ("c", "3")])), settings(&[("b", "2"), ("c", "3")]));
    }
}

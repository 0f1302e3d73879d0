//! Names that arrive from outside, each parsed once into a type that cannot hold a bad one.
//!
//! Owns the frozen naming rules that every site applies alike. They are stricter than any store (Git on any file
//! system, embedded or Kafka logs), so that no site-local opinion can refuse a name that the log has accepted.
//! Parsing never allocates for a name it refuses.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a name was refused; the text is for the person who typed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadName(pub &'static str);

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for BadName {}

/// Longest site name in bytes.
pub const SITE_NAME_MAX: usize = 63;
/// Longest repository name in bytes, all segments and slashes.
pub const REPO_NAME_MAX: usize = 200;
/// Most segments in a repository name.
pub const REPO_SEGMENTS_MAX: usize = 8;
/// Longest ref name in bytes. Below every store's limit, `PATH_MAX` (4,096) with a repository in front included.
pub const REF_NAME_MAX: usize = 1_000;
/// Longest component of a ref name in bytes; file systems stop at 255 and `.lock` must still fit behind it.
pub const REF_COMPONENT_MAX: usize = 200;

/// Most components of a ref name, `refs` among them. One with n needs n - 2 directories, so a judgement reads at most
/// 2 + 2 x (n - 2) = 62 entries for it (itself and a ref of each directory's name, and how many refs are below each),
/// and may write as many: a push of 10,000 updates needs 620,000 at most, where one slash every second byte would make
/// 10 millions of them.
pub const REF_COMPONENTS_MAX: usize = 32;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses `text`; the error says which rule it breaks.
            pub fn parse(text: &str) -> Result<Self, BadName> {
                $check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl core::str::FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// A site: `[a-z0-9-]`, 1 to 63 bytes, not starting with `-`.
    SiteId,
    check_site
);
name_type!(
    /// A repository: 1 to 8 segments of `[A-Za-z0-9._-]+` joined by `/`, at most 200 bytes; no segment starts with
    /// `.` or `-` or ends in `.git` or `.lock`.
    RepoName,
    check_repo
);
name_type!(
    /// A ref below `refs/` by Git's own rules, at most 1,000 bytes, each component at most 200, and 32 components.
    /// `refs/refrain/` is ours and refused here.
    RefName,
    check_ref
);

fn check_site(text: &str) -> Result<(), BadName> {
    if text.is_empty() || text.len() > SITE_NAME_MAX {
        return Err(BadName("a site name has 1 to 63 characters"));
    }
    if text.starts_with('-') || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err(BadName("a site name is made of a-z, 0-9 and -, and does not start with -"));
    }
    Ok(())
}

fn check_repo(text: &str) -> Result<(), BadName> {
    if text.is_empty() || text.len() > REPO_NAME_MAX {
        return Err(BadName("a repository name has 1 to 200 bytes"));
    }
    let mut segments = 0;
    for segment in text.split('/') {
        segments += 1;
        if segments > REPO_SEGMENTS_MAX {
            return Err(BadName("a repository name has at most 8 segments"));
        }
        if segment.is_empty() {
            return Err(BadName("a repository name has no empty segment, and no slash at either end"));
        }
        if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(BadName("a repository name is made of letters, digits, '.', '_', '-' and '/'"));
        }
        if segment.starts_with(['.', '-']) {
            return Err(BadName("no segment of a repository name starts with '.' or '-'"));
        }
        if segment.ends_with(".git") || segment.ends_with(".lock") {
            return Err(BadName("no segment of a repository name ends in .git or .lock"));
        }
    }
    Ok(())
}

fn check_ref(text: &str) -> Result<(), BadName> {
    if text.len() > REF_NAME_MAX {
        return Err(BadName("a ref name has at most 1,000 bytes"));
    }
    let Some(rest) = text.strip_prefix("refs/") else {
        return Err(BadName("a ref name starts with refs/"));
    };
    if !rest.contains('/') {
        return Err(BadName("a ref name has at least three components, as in refs/heads/main"));
    }
    if rest.starts_with("refrain/") {
        return Err(BadName("refs/refrain/ is reserved"));
    }
    if text.ends_with('.') || text.contains("..") || text.contains("@{") {
        return Err(BadName("a ref name has no '..' or '@{' in it and no '.' at its end"));
    }
    if text.bytes().any(|b| b <= b' ' || b == 0x7f || matches!(b, b'~' | b'^' | b':' | b'?' | b'*' | b'[' | b'\\')) {
        return Err(BadName("a ref name has no blank, control character or any of ~^:?*[\\"));
    }
    // With the one before the first slash.
    if rest.split('/').count() + 1 > REF_COMPONENTS_MAX {
        return Err(BadName("a ref name has at most 32 components, refs/ among them"));
    }
    for component in rest.split('/') {
        if component.is_empty() || component.starts_with('.') || component.ends_with(".lock") {
            return Err(BadName("no component of a ref name is empty, starts with '.' or ends in .lock"));
        }
        if component.len() > REF_COMPONENT_MAX {
            return Err(BadName("a component of a ref name has at most 200 bytes"));
        }
    }
    Ok(())
}

impl RefName {
    /// The names that would have to be directories for this ref to exist, shortest first: for `refs/heads/a/b` these
    /// are `refs/heads` and `refs/heads/a`. `refs` itself is left out: everything lies below it.
    pub fn directories(&self) -> impl Iterator<Item = &str> {
        let text = self.as_str();
        text.match_indices('/').skip(1).map(move |(at, _)| &text[..at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ref_names_follow_gits_rules_and_ours() {
        for good in ["refs/heads/main", "refs/heads/a/b", "refs/tags/v1.0", "refs/heads/ünï", "refs/changes/01/1/2"] {
            assert!(RefName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "HEAD",
            "refs/heads",
            "refs/heads/",
            "refs/heads/a..b",
            "refs/heads/.a",
            "refs/heads/a.lock",
            "refs/heads/a b",
            "refs/heads/a.",
            "refs/heads//a",
            "refs/heads/a@{1",
            "refs/refrain/keep/1",
            "refs/heads/a\u{7f}",
            "refs/heads/a*",
        ] {
            assert!(RefName::parse(bad).is_err(), "{bad}");
        }
        assert!(RefName::parse(&alloc::format!("refs/heads/{}", "x".repeat(201))).is_err());
        assert!(RefName::parse(&alloc::format!("refs/heads/{}", "x/".repeat(600))).is_err());
    }

    #[test]
    fn ref_names_are_bounded_in_bytes_and_in_components() {
        let padded = |bytes: usize| (11..bytes).map(|at| if at % 150 == 0 { '/' } else { 'x' }).collect::<String>();
        let bytes = |bytes: usize| alloc::format!("refs/heads/{}", padded(bytes));
        let last = |bytes: usize| alloc::format!("refs/heads/{}", "x".repeat(bytes));
        let deep = |components: usize| alloc::format!("refs/heads{}", "/a".repeat(components - 2));
        for (what, most, above) in [
            ("bytes", bytes(REF_NAME_MAX), bytes(REF_NAME_MAX + 1)),
            ("component", last(REF_COMPONENT_MAX), last(REF_COMPONENT_MAX + 1)),
            ("components", deep(REF_COMPONENTS_MAX), deep(REF_COMPONENTS_MAX + 1)),
        ] {
            assert!(RefName::parse(&most).is_ok(), "{what}: {most}");
            assert!(RefName::parse(&above).is_err(), "{what}");
        }
        let deepest = RefName::parse(&deep(REF_COMPONENTS_MAX)).expect("valid");
        assert_eq!(2 + 2 * deepest.directories().count(), 62);
    }

    #[test]
    fn repository_names_cannot_escape_their_directory() {
        for good in ["demo", "a/b/c", "A.b_c-1", "1/2/3/4/5/6/7/8"] {
            assert!(RepoName::parse(good).is_ok(), "{good}");
        }
        for bad in
            ["", "/a", "a/", "a//b", "..", "a/../b", ".a", "-a", "a.git", "a.lock/b", "a b", "1/2/3/4/5/6/7/8/9", "a\0"]
        {
            assert!(RepoName::parse(bad).is_err(), "{bad}");
        }
        assert!(RepoName::parse(&"x".repeat(201)).is_err());
    }

    #[test]
    fn directories_of_a_ref_start_below_refs() {
        let name = RefName::parse("refs/heads/a/b").expect("valid");
        let dirs: alloc::vec::Vec<&str> = name.directories().collect();
        assert_eq!(dirs, ["refs/heads", "refs/heads/a"]);
    }
}

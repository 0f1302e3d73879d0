//! Identities and positions: plain numbers with a type each, so that no two can be mixed up.

use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::names::BadName;

/// A SHA-1 object id. SHA-256 repositories are refused before they reach the core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(pub [u8; 20]);

impl Oid {
    /// Parses 40 lower-case hexadecimal digits. All zeros is not an object: Git writes it for "absent", which is
    /// `None` here, and it is refused.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let bytes = parse_hex::<20>(text).ok_or(BadName("an object id has 40 lower-case hexadecimal digits"))?;
        if bytes == [0; 20] {
            return Err(BadName("the zero id names no object"));
        }
        Ok(Self(bytes))
    }

    /// The first seven digits, for messages to people.
    pub fn short(&self) -> alloc::string::String {
        let mut full = alloc::format!("{self}");
        full.truncate(7);
        full
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0[..6])
    }
}

impl Serialize for Oid {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Oid {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <alloc::borrow::Cow<'de, str>>::deserialize(d)?;
        Oid::parse(&text).map_err(serde::de::Error::custom)
    }
}

macro_rules! hex128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:08x}", self.0 >> 96)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <alloc::borrow::Cow<'de, str>>::deserialize(d)?;
                let bytes = parse_hex::<16>(&text).ok_or_else(|| serde::de::Error::custom("32 hexadecimal digits"))?;
                Ok(Self(u128::from_be_bytes(bytes)))
            }
        }
    };
}

hex128!(
    /// One start of one daemon: fresh and random each time, stored before it is used.
    Instance
);
hex128!(
    /// The log itself: drawn when it is created, so that a re-created log is noticed.
    LogId
);
hex128!(
    /// A sum of keyed hashes modulo 2^128, or a link of the chain hash.
    Digest
);

impl Digest {
    /// Adds an entry's hash; order does not matter.
    pub fn add(&mut self, other: Digest) {
        self.0 = self.0.wrapping_add(other.0);
    }

    /// Takes an entry's hash out again.
    pub fn remove(&mut self, other: Digest) {
        self.0 = self.0.wrapping_sub(other.0);
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl $name {
            /// The number after this one.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

number!(
    /// A partition of `pushdata`, from 0.
    Partition(u32)
);
number!(
    /// A record's place in its partition. Offsets grow and may have gaps.
    Offset(u64)
);
number!(
    /// How often a site has started, in the log's eyes; 0 is before the first start.
    Epoch(u64)
);
number!(
    /// A record's number among those of its (epoch, instance) pair.
    Seq(u64)
);
number!(
    /// The offset of the `RepoCreated` that a repository lives by: a name created again is another repository.
    Incarnation(u64)
);
number!(
    /// A question that the core asked outside; the answer carries it back.
    Op(u64)
);
number!(
    /// A push that waits at this site, from `ClientInput::Push` to `ClientEffect::Reply`; numbered by the adapter.
    PushId(u64)
);

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for byte in bytes {
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

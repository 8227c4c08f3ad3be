//! Names of namespaces, services and instances.
//!
//! A name begins and ends with a letter or digit and holds letters, digits, `-`, `.`, `_`; 1 to 253 characters, all
//! ASCII; case counts. An instance's id also takes `:`, so that `10.0.0.7:8080` and `[::1]`-less IPv6 fit.

use std::{
    cmp::Ordering,
    fmt,
    str::FromStr,
    sync::{Arc, LazyLock},
};

use super::{Text, limits::NAME_MAX_BYTES};

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text is longer than [`NAME_MAX_BYTES`].
    #[error("is {0} bytes long; at most {NAME_MAX_BYTES} are allowed")]
    TooLong(usize),
    /// A character that no name holds.
    #[error("holds {0:?}; only letters, digits, '-', '.', '_' are allowed{1}")]
    Character(char, &'static str),
    /// It begins or ends with something else than a letter or digit.
    #[error("must begin and end with a letter or digit")]
    Edge,
}

fn check(text: &str, colon: bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_MAX_BYTES {
        return Err(NameError::TooLong(text.len()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_') || (colon && c == ':');
    if let Some(c) = text.chars().find(|&c| !allowed(c)) {
        return Err(NameError::Character(c, if colon { " (and ':' in an id)" } else { "" }));
    }
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    if edge(text.bytes().next()) && edge(text.bytes().last()) {
        Ok(())
    } else {
        Err(NameError::Edge)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident($held:ty), colon: $colon:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $name($held);

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// Checks the text against the rules of names.
            ///
            /// # Errors
            /// Says which rule it breaks.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check(text, $colon)?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
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
    };
}

name! {
    /// A namespace: services of the same name in two namespaces have nothing to do with each other.
    Namespace(Arc<str>), colon: false
}
name! {
    /// A service's name.
    ServiceName(Arc<str>), colon: false
}
name! {
    /// An instance's name within its service.
    InstanceId(Text), colon: true
}

// Instances of one service share the texts of its name, so that most comparisons need not read them. (Shared texts are
// found equal without being read anyway.)
macro_rules! ordered_as_shared {
    ($name:ident) => {
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                if Arc::ptr_eq(&self.0, &other.0) {
                    return Ordering::Equal;
                }
                self.0.cmp(&other.0)
            }
        }
    };
}

ordered_as_shared!(Namespace);
ordered_as_shared!(ServiceName);

impl Ord for InstanceId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl Default for Namespace {
    /// The namespace that is meant when none is named. One text for all: most keys are of it.
    fn default() -> Self {
        static DEFAULT: LazyLock<Namespace> = LazyLock::new(|| Namespace("default".into()));
        DEFAULT.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_services_have_are_names() {
        for text in ["a", "helloworld.Greeter", "api-v2", "a_b", "0", &"x".repeat(253)] {
            assert!(ServiceName::parse(text).is_ok(), "{text}");
        }
        assert!(InstanceId::parse("10.0.0.7:8080").is_ok());
    }

    #[test]
    fn each_broken_rule_is_named() {
        assert_eq!(ServiceName::parse(""), Err(NameError::Empty));
        assert_eq!(ServiceName::parse(&"x".repeat(254)), Err(NameError::TooLong(254)));
        assert_eq!(ServiceName::parse("-a"), Err(NameError::Edge));
        assert_eq!(ServiceName::parse("a."), Err(NameError::Edge));
        for text in ["a/b", "a b", "a:b", "ä", "a\0b", "a\nb", "ａ"] {
            assert!(
                matches!(ServiceName::parse(text), Err(NameError::Character(..))),
                "{text:?}"
            );
        }
    }
}

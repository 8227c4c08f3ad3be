//! Checking a message's fields: where a value stands (its path), what is wrong with it, all of it at once.
//!
//! A reader takes a field and a [`Path`], answers `Some` value of the model or notes a violation and answers `None`.
//! A path is built on the stack and becomes text only when there is something to say, so a valid request pays
//! nothing for it.

use std::{fmt, net::IpAddr};

use crate::model::limits::ADDRESS_MAX_BYTES;

/// Violations that one answer carries; the others are counted.
pub const VIOLATIONS_MAX: usize = 32;
/// Their texts together: they travel in a trailer, and some gRPC libraries take no more than 8 KiB of those.
pub const VIOLATIONS_MAX_BYTES: usize = 4 << 10;
/// Characters of a caller's own text that a path or problem repeats.
const QUOTE_MAX_CHARS: usize = 64;

/// Where a field stands in a request: `instance.ports[2].number`.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// The message itself.
    Root,
    /// A field of a message.
    Field(&'a Path<'a>, &'a str),
    /// An element of a list.
    Item(&'a Path<'a>, usize),
    /// A value of a map.
    Entry(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    /// A field of the message that stands here.
    #[must_use]
    pub fn field(&'a self, name: &'a str) -> Self {
        Self::Field(self, name)
    }

    /// An element of the list that stands here.
    #[must_use]
    pub fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }

    /// The value of a key of the map that stands here.
    #[must_use]
    pub fn entry(&'a self, key: &'a str) -> Self {
        Self::Entry(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Path::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Entry(parent, key) => write!(f, "{parent}[{}]", quote(key)),
        }
    }
}

/// A caller's text, escaped and cut, fit for a message.
pub(crate) fn quote(text: &str) -> String {
    let mut cut: String = text.chars().take(QUOTE_MAX_CHARS).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// One field that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which field: `instance.ports[2].number`.
    pub path: String,
    /// What is wrong with it, to be read after the path.
    pub problem: String,
}

/// Everything that is wrong with a message; never empty once it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors {
    violations: Vec<Violation>,
    bytes: usize,
    left_out: usize,
}

impl FieldErrors {
    /// One violation.
    #[must_use]
    pub fn one(path: &Path<'_>, problem: impl fmt::Display) -> Self {
        let mut errors = Self::default();
        errors.push(path, problem);
        errors
    }

    /// The violations, at most [`VIOLATIONS_MAX`].
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How many more there are than it names.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn is_empty(&self) -> bool {
        self.violations.is_empty()
    }

    fn push(&mut self, path: &Path<'_>, problem: impl fmt::Display) {
        // The cap is looked at first: a request of a million broken fields makes 32 texts, not a million.
        if self.violations.len() >= VIOLATIONS_MAX || self.bytes >= VIOLATIONS_MAX_BYTES {
            self.left_out += 1;
            return;
        }
        let violation = Violation {
            path: path.to_string(),
            problem: problem.to_string(),
        };
        self.bytes += violation.path.len() + violation.problem.len();
        self.violations.push(violation);
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.violations.first() else {
            return f.write_str("a field is not valid");
        };
        write!(f, "{}: {}", first.path, first.problem)?;
        match self.violations.len() - 1 + self.left_out {
            0 => Ok(()),
            others => write!(f, " (and {others} more)"),
        }
    }
}

impl std::error::Error for FieldErrors {}

/// Notes what is wrong while a message is read.
#[derive(Debug, Default)]
pub struct Fields {
    errors: FieldErrors,
}

impl Fields {
    /// Reads a message to its end and answers with its value, or with everything that was wrong.
    pub(crate) fn check<T>(read: impl FnOnce(&mut Self) -> Option<T>) -> Result<T, FieldErrors> {
        let mut fields = Self::default();
        let value = read(&mut fields);
        match value {
            Some(value) if fields.errors.is_empty() => Ok(value),
            _ => Err(fields.errors),
        }
    }

    /// Notes a violation.
    pub(crate) fn refuse<T>(&mut self, path: &Path<'_>, problem: impl fmt::Display) -> Option<T> {
        self.errors.push(path, problem);
        None
    }

    /// The value, or its problem noted.
    pub(crate) fn accept<T, E: fmt::Display>(&mut self, path: &Path<'_>, value: Result<T, E>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(problem) => self.refuse(path, problem),
        }
    }

    /// A message that must be there.
    pub(crate) fn required<T>(&mut self, path: &Path<'_>, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.refuse::<T>(path, "must be set");
        }
        value
    }

    /// A number that is never negative.
    pub(crate) fn number(&mut self, path: &Path<'_>, value: i64) -> Option<u64> {
        self.accept(
            path,
            u64::try_from(value).map_err(|_| format!("is {value}; it must not be negative")),
        )
    }

    /// An optional number that is never negative: outer `None` = refused, inner `None` = not sent.
    pub(crate) fn optional_number(&mut self, path: &Path<'_>, value: Option<i64>) -> Option<Option<u64>> {
        match value {
            None => Some(None),
            Some(value) => self.number(path, value).map(Some),
        }
    }

    /// A `bool` inside a `oneof`, which means something only when it is true.
    pub(crate) fn chosen(&mut self, path: &Path<'_>, value: bool) -> Option<()> {
        if value {
            Some(())
        } else {
            self.refuse(path, "must be true when it is set")
        }
    }

    /// A list of at most so many.
    pub(crate) fn at_most(&mut self, path: &Path<'_>, count: usize, limit: usize) -> Option<()> {
        if count <= limit {
            Some(())
        } else {
            self.refuse(path, format_args!("has {count} elements; at most {limit} are allowed"))
        }
    }

    /// Free text of at most so many bytes, without control characters; may be empty.
    pub(crate) fn text(&mut self, path: &Path<'_>, text: String, max_bytes: usize) -> Option<String> {
        match text_problem(&text, max_bytes) {
            None => Some(text),
            Some(problem) => self.refuse(path, problem),
        }
    }

    /// Free text that must not be empty.
    pub(crate) fn word(&mut self, path: &Path<'_>, text: String, max_bytes: usize) -> Option<String> {
        if text.is_empty() {
            self.refuse(path, "must not be empty")
        } else {
            self.text(path, text, max_bytes)
        }
    }

    /// IPv4, IPv6 or a host name.
    pub(crate) fn address(&mut self, path: &Path<'_>, text: String) -> Option<String> {
        match address_problem(&text) {
            None => Some(text),
            Some(problem) => self.refuse(path, problem),
        }
    }
}

fn text_problem(text: &str, max_bytes: usize) -> Option<String> {
    if text.len() > max_bytes {
        return Some(format!("is {} bytes long; at most {max_bytes} are allowed", text.len()));
    }
    let control = text.chars().find(|c| c.is_control())?;
    Some(format!("holds the control character {control:?}"))
}

/// What keeps a text from being an address; host names as in RFC 1123, and `_`, which container names have.
fn address_problem(text: &str) -> Option<&'static str> {
    const WANTED: &str = "must be an IPv4 address, an IPv6 address or a host name, without port or brackets";
    if text.is_empty() {
        return Some("must not be empty");
    }
    if text.len() > ADDRESS_MAX_BYTES {
        return Some("is too long; at most 253 bytes are allowed");
    }
    if text.parse::<IpAddr>().is_ok() {
        return None;
    }
    let label_is_fine = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits alone belongs to no host name: `10.0.0.256` is a mistyped IPv4 address.
    let last_is_number = text
        .rsplit('.')
        .next()
        .is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
    if text.split('.').all(label_is_fine) && !last_is_number {
        None
    } else {
        Some(WANTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_a_reader_would_write_them() {
        let root = Path::Root;
        assert_eq!(
            root.field("instance")
                .field("ports")
                .item(2)
                .field("number")
                .to_string(),
            "instance.ports[2].number"
        );
        assert_eq!(root.field("metadata").entry("a\nb").to_string(), r#"metadata["a\nb"]"#);
        let long = "x".repeat(100);
        assert_eq!(
            root.field("m").entry(&long).to_string(),
            format!("m[\"{}…\"]", "x".repeat(64))
        );
    }

    #[test]
    fn addresses_are_ips_and_host_names() {
        for text in [
            "127.0.0.1",
            "::1",
            "2001:db8::7",
            "localhost",
            "node-1.example.org",
            "my_db",
            "a.b.c9",
            "9p.net",
        ] {
            assert_eq!(address_problem(text), None, "{text}");
        }
        let long_label = format!("{}.org", "x".repeat(64));
        let long = "a.".repeat(126) + "ab";
        for text in [
            "",
            " ",
            "1.2.3",
            "10.0.0.256",
            "10.0.0.1:80",
            "[::1]",
            "fe80::1%eth0",
            "a..b",
            ".a",
            "a.",
            "-a",
            "a-",
            "a/b",
            "http://a",
            "ä.de",
            "a\0",
            "a b",
            "1",
            &long_label,
            &long,
        ] {
            assert!(address_problem(text).is_some(), "{text:?}");
        }
    }

    #[test]
    fn a_flood_of_violations_is_counted_and_not_kept() {
        let errors = Fields::check::<()>(|fields| {
            for index in 0..10_000 {
                fields.refuse::<()>(&Path::Root.field("tags").item(index), "is wrong");
            }
            None
        })
        .unwrap_err();
        assert_eq!(errors.violations().len(), VIOLATIONS_MAX);
        assert_eq!(errors.left_out(), 10_000 - VIOLATIONS_MAX);
        assert_eq!(errors.to_string(), "tags[0]: is wrong (and 9999 more)");
    }
}

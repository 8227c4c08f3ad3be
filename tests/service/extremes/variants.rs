//! From a good message to bad ones: each field of it, and of what it holds, at its limits and beyond, as the descriptor
//! tells.

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value};

/// Messages nest this deep at most.
const DEPTH_MAX: usize = 6;
/// Stands where bytes are put in afterwards that are no UTF-8, as many.
const MARK: &str = "QZXQZX";
const NO_UTF8: &[u8; MARK.len()] = b"\xff\xfe\x80\xc0\xed\xa0";

/// One changed message.
#[derive(Debug)]
pub(crate) struct Variant {
    /// The field that was changed, as a refusal would name it.
    pub(crate) path: String,
    /// How.
    pub(crate) what: String,
    /// The message.
    pub(crate) bytes: Vec<u8>,
    /// Whether it is a protobuf message at all.
    pub(crate) readable: bool,
}

/// The way to a field.
#[derive(Clone)]
enum Step {
    Field(FieldDescriptor),
    /// The first element of a list.
    First(FieldDescriptor),
}

/// What is done to it.
enum Edit {
    Clear,
    Set(Value),
    NoUtf8,
}

/// Every change of one field, and changes of the whole.
pub(crate) fn variants(base: &DynamicMessage) -> Vec<Variant> {
    let mut found = Vec::new();
    walk(base, &base.descriptor(), &mut Vec::new(), &mut found);
    found.extend(of_the_whole(&base.encode_to_vec()));
    found
}

fn walk(base: &DynamicMessage, at: &MessageDescriptor, way: &mut Vec<Step>, found: &mut Vec<Variant>) {
    for field in at.fields() {
        way.push(Step::Field(field.clone()));
        for (what, edit) in edits(&field) {
            let mut message = base.clone();
            found.push(match edit {
                Edit::NoUtf8 => {
                    change(&mut message, way, Some(marked(&field)));
                    Variant {
                        path: path(way),
                        what,
                        bytes: unmark(message.encode_to_vec()),
                        readable: false,
                    }
                }
                Edit::Clear => changed(message, way, what, None),
                Edit::Set(value) => changed(message, way, what, Some(value)),
            });
        }
        if let Kind::Message(inner) = field.kind()
            && !field.is_map()
            && way.len() < DEPTH_MAX
        {
            if field.is_list() {
                way.pop();
                way.push(Step::First(field.clone()));
            }
            walk(base, &inner, way, found);
        }
        way.pop();
    }
}

fn changed(mut message: DynamicMessage, way: &[Step], what: String, value: Option<Value>) -> Variant {
    change(&mut message, way, value);
    Variant {
        path: path(way),
        what,
        bytes: message.encode_to_vec(),
        readable: true,
    }
}

/// Sets, or clears, the field at the end of the way; what stands on the way is made.
fn change(message: &mut DynamicMessage, way: &[Step], value: Option<Value>) {
    let (step, rest) = way.split_first().expect("a way leads somewhere");
    match (step, rest.is_empty()) {
        (Step::Field(field), true) => match value {
            Some(value) => message.set_field(field, value),
            None => message.clear_field(field),
        },
        (Step::Field(field), false) => {
            let inner = message.get_field_mut(field).as_message_mut().expect("a message");
            change(inner, rest, value);
        }
        (Step::First(field), _) => {
            let list = message.get_field_mut(field).as_list_mut().expect("a list");
            if list.is_empty() {
                list.push(default_of(&field.kind()));
            }
            change(list[0].as_message_mut().expect("a message"), rest, value);
        }
    }
}

fn path(way: &[Step]) -> String {
    let names: Vec<String> = way
        .iter()
        .map(|step| match step {
            Step::Field(field) => field.name().to_owned(),
            Step::First(field) => format!("{}[0]", field.name()),
        })
        .collect();
    names.join(".")
}

fn default_of(kind: &Kind) -> Value {
    Value::default_value(kind)
}

fn edits(field: &FieldDescriptor) -> Vec<(String, Edit)> {
    let mut edits = vec![("not set".to_owned(), Edit::Clear)];
    let mut set = |what: &str, value: Value| edits.push((what.to_owned(), Edit::Set(value)));
    let kind = field.kind();
    if field.is_map() {
        let entries = |entries: Vec<(String, String)>| {
            let pairs = entries
                .into_iter()
                .map(|(key, value)| (MapKey::String(key), Value::String(value)));
            Value::Map(pairs.collect())
        };
        set("an entry", entries(vec![("k".into(), "v".into())]));
        set("an empty key", entries(vec![(String::new(), "v".into())]));
        set("a key with a line break", entries(vec![("a\nb".into(), "v".into())]));
        set("a long key", entries(vec![("k".repeat(10_000), "v".into())]));
        set("a long value", entries(vec![("k".into(), "v".repeat(10_000))]));
        set(
            "many entries",
            entries((0..1_000).map(|n| (format!("k{n}"), "v".into())).collect()),
        );
        set(
            "too many bytes",
            entries((0..64).map(|n| (format!("k{n}"), "v".repeat(4_096))).collect()),
        );
    } else if field.is_list() {
        set("empty", Value::List(Vec::new()));
        for (what, count) in [
            ("one default element", 1),
            ("two equal elements", 2),
            ("10,001 elements", 10_001),
        ] {
            set(what, Value::List(vec![default_of(&kind); count]));
        }
        for (what, value) in values(&kind) {
            set(&format!("with {what}"), Value::List(vec![value]));
        }
    } else {
        for (what, value) in values(&kind) {
            set(&what, value);
        }
        set("its default", default_of(&kind));
    }
    if matches!(kind, Kind::String) && !field.is_map() {
        edits.push(("no UTF-8".to_owned(), Edit::NoUtf8));
    }
    edits
}

/// Telling values of a kind.
fn values(kind: &Kind) -> Vec<(String, Value)> {
    let named = |value: Value| (format!("{value:?}"), value);
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            [0, 1, -1, i32::MIN, i32::MAX].map(|n| named(Value::I32(n))).into()
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => [0, 1, -1, 1 << 62, i64::MIN, i64::MAX]
            .map(|n| named(Value::I64(n)))
            .into(),
        Kind::Uint32 | Kind::Fixed32 => [0, 1, 65_536, u32::MAX].map(|n| named(Value::U32(n))).into(),
        Kind::Uint64 | Kind::Fixed64 => [0, 1, 1 << 62, u64::MAX].map(|n| named(Value::U64(n))).into(),
        Kind::Bool => [false, true].map(|yes| named(Value::Bool(yes))).into(),
        Kind::Enum(_) => [0, 1, 2, 99, -1, i32::MIN, i32::MAX]
            .map(|n| named(Value::EnumNumber(n)))
            .into(),
        Kind::String => strings()
            .into_iter()
            .map(|(what, text)| (what.to_owned(), Value::String(text)))
            .collect(),
        Kind::Bytes => [0, 1, 10_000]
            .map(|length| (format!("{length} bytes"), Value::Bytes(vec![0xa5; length].into())))
            .into(),
        Kind::Message(_) | Kind::Float | Kind::Double => Vec::new(),
    }
}

fn strings() -> Vec<(&'static str, String)> {
    vec![
        ("one letter", "a".into()),
        ("300 letters", "y".repeat(300)),
        ("10,000 letters", "x".repeat(10_000)),
        ("1,000,000 letters", "x".repeat(1_000_000)),
        ("a NUL", "a\0b".into()),
        ("a line break", "a\r\nb".into()),
        ("a terminal's command", "\u{1b}[2J".into()),
        ("a path", "../../etc/passwd".into()),
        ("a full-width letter", "ａ".into()),
        ("a joiner", "a\u{200d}b".into()),
        ("an override of direction", "a\u{202e}b".into()),
        ("a space", " ".into()),
    ]
}

fn marked(field: &FieldDescriptor) -> Value {
    let mark = Value::String(MARK.to_owned());
    if field.is_list() { Value::List(vec![mark]) } else { mark }
}

fn unmark(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = bytes.windows(MARK.len()).position(|part| part == MARK.as_bytes());
    let at = at.expect("the mark is in the message");
    bytes[at..at + MARK.len()].copy_from_slice(NO_UTF8);
    bytes
}

/// Fields that nobody knows, and bytes that are no message.
fn of_the_whole(base: &[u8]) -> Vec<Variant> {
    // Field 19,999: a number, a text; and groups in groups, which the format still has.
    let number = [0xf8, 0xe1, 0x09, 0x07];
    let text = [0xfa, 0xe1, 0x09, 0x02, b'h', b'i'];
    let groups = |depth: usize| [[0xfb, 0xe1, 0x09].repeat(depth), [0xfc, 0xe1, 0x09].repeat(depth)].concat();
    let whole = |what: &str, tail: &[u8], readable| Variant {
        path: String::new(),
        what: what.to_owned(),
        bytes: [base, tail].concat(),
        readable,
    };
    vec![
        whole("an unknown number", &number, true),
        whole("an unknown text", &text, true),
        whole("100,000 unknown fields", &number.repeat(100_000), true),
        whole("unknown groups, 20 deep", &groups(20), true),
        whole("unknown groups, 10,000 deep", &groups(10_000), false),
        whole("a group that never ends", &groups(1)[..3], false),
        whole("a length beyond the end", &[0xfa, 0xe1, 0x09, 0x7f], false),
        whole(
            "the longest length",
            &[
                0xfa, 0xe1, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ],
            false,
        ),
        whole(
            "a number that never ends",
            &[
                0xf8, 0xe1, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
            false,
        ),
        whole("field 0", &[0x00, 0x00], false),
        whole("more than a message may have", &vec![0; 3 << 20], false),
    ]
}

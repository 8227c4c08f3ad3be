//! Messages of the API in proto3's JSON mapping, every field present.
//!
//! Names in lowerCamelCase, 64-bit numbers as strings, enum values by name, spans and instants as the mapping writes
//! them; a field that is not set and has presence is `null`, so that a script can rely on each key.

use std::sync::OnceLock;

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, SerializeOptions, Value,
};
use serde::{
    Serialize,
    ser::{Error as _, SerializeMap as _, SerializeSeq as _, Serializer},
};

use crate::wire::DESCRIPTOR_SET;

/// Messages nest this deep at most; the deepest of the API has six levels.
const DEPTH_MAX: usize = 32;

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTOR_SET).expect("the build has written the descriptor set"))
}

/// A message of `roster.v1` as one line of JSON.
pub(super) fn message(name: &str, message: &impl prost::Message) -> Result<String, String> {
    serde_json::to_string(&dynamic(name, message)?).map_err(|error| error.to_string())
}

/// The same as a value, to which more can be added.
pub(super) fn value(name: &str, message: &impl prost::Message) -> Result<serde_json::Value, String> {
    serde_json::to_value(dynamic(name, message)?).map_err(|error| error.to_string())
}

fn dynamic(name: &str, message: &impl prost::Message) -> Result<Whole, String> {
    let descriptor = pool()
        .get_message_by_name(&format!("roster.v1.{name}"))
        .ok_or_else(|| format!("there is no message roster.v1.{name}"))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).map_err(|error| error.to_string())?;
    Ok(Whole(dynamic))
}

/// A message with all its fields.
struct Whole(DynamicMessage);

impl Serialize for Whole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Part::Message(&self.0, DEPTH_MAX).serialize(serializer)
    }
}

/// A value on its way into JSON, and how deep it may still go.
enum Part<'a> {
    Message(&'a DynamicMessage, usize),
    Value(&'a Value, &'a Kind, usize),
    List(&'a [Value], &'a Kind, usize),
}

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Message(message, depth) => serialize_message(message, depth, serializer),
            Self::Value(value, kind, depth) => serialize_value(value, kind, depth, serializer),
            Self::List(items, kind, depth) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&Part::Value(item, kind, depth))?;
                }
                list.end()
            }
        }
    }
}

fn serialize_message<S: Serializer>(message: &DynamicMessage, depth: usize, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(S::Error::custom("the message nests too deep"));
    };
    let descriptor = message.descriptor();
    let name = descriptor.full_name();
    // Spans and instants have a form of their own. `Any` has one too, but what it holds is not described here; it
    // is shown as the message that it is.
    if name.starts_with("google.protobuf.") && name != "google.protobuf.Any" {
        return message.serialize_with_options(serializer, &SerializeOptions::new());
    }
    let mut map = serializer.serialize_map(None)?;
    for field in descriptor.fields() {
        map.serialize_key(field.json_name())?;
        if field.supports_presence() && !message.has_field(&field) {
            map.serialize_value(&())?;
            continue;
        }
        serialize_field(&mut map, message, &field, depth)?;
    }
    map.end()
}

fn serialize_field<M: serde::ser::SerializeMap>(
    map: &mut M,
    message: &DynamicMessage,
    field: &FieldDescriptor,
    depth: usize,
) -> Result<(), M::Error> {
    let value = message.get_field(field);
    let kind = field.kind();
    match value.as_ref() {
        Value::List(items) => map.serialize_value(&Part::List(items, &kind, depth)),
        Value::Map(entries) => {
            // By key, so that equal messages are equal lines.
            let ordered: std::collections::BTreeMap<String, &Value> =
                entries.iter().map(|(key, value)| (map_key(key), value)).collect();
            let value_kind = match &kind {
                Kind::Message(entry) => entry.map_entry_value_field().kind(),
                other => other.clone(),
            };
            let parts: std::collections::BTreeMap<&String, Part<'_>> = ordered
                .iter()
                .map(|(key, value)| (key, Part::Value(value, &value_kind, depth)))
                .collect();
            map.serialize_value(&parts)
        }
        single => map.serialize_value(&Part::Value(single, &kind, depth)),
    }
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn serialize_value<S: Serializer>(value: &Value, kind: &Kind, depth: usize, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Value::Bool(value) => serializer.serialize_bool(*value),
        Value::I32(value) => serializer.serialize_i32(*value),
        Value::U32(value) => serializer.serialize_u32(*value),
        Value::I64(value) => serializer.collect_str(value),
        Value::U64(value) => serializer.collect_str(value),
        Value::F32(value) => serializer.serialize_f32(*value),
        Value::F64(value) => serializer.serialize_f64(*value),
        Value::String(value) => serializer.serialize_str(value),
        Value::Bytes(value) => serializer.collect_str(&Base64(value)),
        Value::EnumNumber(number) => {
            let named = kind.as_enum().and_then(|kind| kind.get_value(*number));
            match named {
                Some(named) => serializer.serialize_str(named.name()),
                // A value of a later version.
                None => serializer.serialize_i32(*number),
            }
        }
        Value::Message(message) => serialize_message(message, depth, serializer),
        Value::List(_) | Value::Map(_) => Err(S::Error::custom("a list within a list")),
    }
}

/// Bytes in the standard alphabet of RFC 4648, padded.
struct Base64<'a>(&'a [u8]);

impl std::fmt::Display for Base64<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write as _;
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for chunk in self.0.chunks(3) {
            let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for position in 0..4_usize {
                if position <= chunk.len() {
                    let index = (bits >> (18 - 6 * position)) & 63;
                    f.write_char(char::from(ALPHABET[index as usize]))?;
                } else {
                    f.write_char('=')?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::v1;

    #[test]
    fn every_field_is_present() {
        let json = message("RegisterResponse", &v1::RegisterResponse::default()).expect("describable");
        assert_eq!(
            json,
            r#"{"header":null,"instance":null,"outcome":"OUTCOME_UNSPECIFIED","renewAfter":null}"#
        );
        let json = message("Header", &v1::Header::default()).expect("describable");
        assert_eq!(
            json,
            r#"{"clusterId":"","node":"","term":"0","revision":"0","stale":false,"age":null,"leader":""}"#
        );
    }

    #[test]
    fn numbers_enums_spans_and_maps_are_written_as_the_mapping_says() {
        let instance = v1::Instance {
            weight: Some(0),
            status: v1::instance::Status::Draining.into(),
            incarnation: 9_007_199_254_740_993,
            ttl: Some(prost_types::Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
            metadata: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
            tags: vec!["x".into()],
            ..Default::default()
        };
        let json = value("Instance", &instance).expect("describable");
        assert_eq!(json["weight"], 0);
        assert_eq!(json["status"], "DRAINING");
        assert_eq!(json["incarnation"], "9007199254740993");
        assert_eq!(json["ttl"], "1.500s");
        assert_eq!(json["tags"][0], "x");
        assert_eq!(json["registeredAt"], serde_json::Value::Null);
        let line = message("Instance", &instance).expect("describable");
        assert!(line.contains(r#""metadata":{"a":"1","b":"2"}"#), "{line}");
    }

    #[test]
    fn bytes_are_base64() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (&[0xfb, 0xff, 0xfe, 0x00], "+//+AA=="),
        ] {
            assert_eq!(Base64(bytes).to_string(), text);
        }
    }

    #[test]
    fn an_end_of_a_watch_with_details_can_be_printed() {
        let canceled = v1::WatchResponse {
            status: Some(
                crate::wire::error::ErrorDetail::new(crate::wire::error::Reason::NoQuorum, "alone").into_proto(),
            ),
            ..Default::default()
        };
        let json = value("WatchResponse", &canceled).expect("describable");
        assert_eq!(json["status"]["message"], "alone");
        assert_eq!(
            json["status"]["details"][0]["typeUrl"],
            "type.googleapis.com/google.rpc.ErrorInfo"
        );
    }
}

//! The API's contract, as text, compared with the one that is committed: a change that breaks clients can't happen by
//! accident.
//!
//! The descriptor that the server shows by reflection is written down in `tests/golden/roster_v1.txt`: every service,
//! message, field (number, name, label, type, oneof), enum value and reserved number, and nothing that clients don't
//! depend on (comments, files, order). To change it on purpose:
//!
//! ```sh
//! UPDATE_GOLDEN=1 cargo test --no-default-features --test descriptor          # additions
//! UPDATE_GOLDEN=breaking cargo test --no-default-features --test descriptor   # removals and changes: before a release only
//! ```

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

const PACKAGE: &str = "roster.v1";
const HOW: &str = "If that is meant: UPDATE_GOLDEN=1 for additions, UPDATE_GOLDEN=breaking for removals and changes \
                   (see the top of tests/descriptor.rs).";

#[test]
fn the_api_is_the_committed_one() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/roster_v1.txt");
    let built = contract(roster::wire::DESCRIPTOR_SET);
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let difference = Difference::between(&committed, &built);
    let update = env::var("UPDATE_GOLDEN").unwrap_or_default();
    if update == "breaking" || (update == "1" && difference.lost.is_empty()) {
        fs::write(&path, &built).expect("the golden file can be written");
        return;
    }
    assert!(
        difference.lost.is_empty(),
        "This breaks clients:\n{}\n{HOW}",
        difference.text()
    );
    assert!(
        difference.new.is_empty(),
        "The API has grown:\n{}\n{HOW}",
        difference.text()
    );
    assert_eq!(built, committed, "The golden file was edited by hand. {HOW}");
}

#[test]
fn a_changed_field_is_lost_and_new() {
    let before = "message A\nmessage A.1 = x: int64\nmessage A.2 = y: string\n";
    let changed = Difference::between(before, "message A\nmessage A.1 = x: int32\nmessage A.2 = y: string\n");
    assert_eq!((changed.lost.len(), changed.new.len()), (1, 1));
    let grown = Difference::between(before, &format!("{before}message A.3 = z: bool\n"));
    assert_eq!((grown.lost.len(), grown.new.len()), (0, 1));
    let shrunk = Difference::between(before, "message A\nmessage A.1 = x: int64\n");
    assert_eq!((shrunk.lost.len(), shrunk.new.len()), (1, 0));
}

#[test]
fn the_contract_notices_what_clients_depend_on() {
    let set = FileDescriptorSet::decode(roster::wire::DESCRIPTOR_SET).expect("a descriptor set");
    let before = contract(roster::wire::DESCRIPTOR_SET);
    let differs = |change: fn(&mut FileDescriptorProto)| {
        let mut changed = set.clone();
        let file = changed
            .file
            .iter_mut()
            .find(|file| file.name().ends_with("writes.proto"));
        change(file.expect("the writes have a file"));
        !Difference::between(&before, &contract(&changed.encode_to_vec()))
            .lost
            .is_empty()
    };
    assert!(
        differs(|file| file.message_type[0].field[0].number = Some(77)),
        "a number"
    );
    assert!(
        differs(|file| file.message_type[0].field[0].name = Some("other".into())),
        "a name"
    );
    assert!(
        differs(|file| file.message_type[0].field[0].set_label(Label::Repeated)),
        "a label"
    );
    assert!(
        differs(|file| file.message_type[0].field[1].oneof_index = None),
        "a oneof"
    );
    assert!(
        differs(|file| file.message_type[1].enum_type[0].value[1].number = Some(9)),
        "an enum's value"
    );
    assert!(differs(|file| drop(file.message_type.pop())), "a message");
    assert!(
        !differs(|file| file.name = Some("roster/v1/else.proto".into())),
        "files are nobody's concern"
    );
}

#[test]
fn every_part_of_the_api_is_documented() {
    let proto = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto/roster/v1");
    let mut bare = Vec::new();
    for entry in fs::read_dir(proto).expect("the API's files are there") {
        let path = entry.expect("a readable folder").path();
        let text = fs::read_to_string(&path).expect("a readable file");
        let mut documented = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let begins = |words: &[&str]| words.iter().any(|word| line.starts_with(word));
            let plain = line.is_empty()
                || line.starts_with('}')
                || begins(&["syntax ", "package ", "import ", "option ", "reserved "]);
            if line.starts_with("//") {
                documented = true;
            } else {
                if !plain && !documented {
                    bare.push(format!("{}:{}: {line}", path.display(), number + 1));
                }
                documented = false;
            }
        }
    }
    assert!(
        bare.is_empty(),
        "these have no comment before them:\n{}",
        bare.join("\n")
    );
}

struct Difference {
    lost: Vec<String>,
    new: Vec<String>,
}

impl Difference {
    fn between(before: &str, after: &str) -> Self {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let (before, after) = (lines(before), lines(after));
        Self {
            lost: before.difference(&after).cloned().collect(),
            new: after.difference(&before).cloned().collect(),
        }
    }

    fn text(&self) -> String {
        let lost = self.lost.iter().map(|line| format!("- {line}\n"));
        lost.chain(self.new.iter().map(|line| format!("+ {line}\n"))).collect()
    }
}

/// One line for each thing that a client can depend on, in an order that has nothing to do with files.
fn contract(descriptor_set: &[u8]) -> String {
    let set = FileDescriptorSet::decode(descriptor_set).expect("a descriptor set");
    let mut lines = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package() == PACKAGE) {
        let options = file.options.clone().unwrap_or_default();
        lines.insert(format!("option go_package = {}", options.go_package()));
        lines.insert(format!("option java_package = {}", options.java_package()));
        lines.insert(format!(
            "option java_multiple_files = {}",
            options.java_multiple_files()
        ));
        lines.insert(format!("option csharp_namespace = {}", options.csharp_namespace()));
        lines.insert(format!("option ruby_package = {}", options.ruby_package()));
        file.service.iter().for_each(|service| put_service(&mut lines, service));
        file.message_type
            .iter()
            .for_each(|message| put_message(&mut lines, "", message));
        file.enum_type
            .iter()
            .for_each(|an_enum| put_enum(&mut lines, "", an_enum));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

fn put_service(lines: &mut BTreeSet<String>, service: &ServiceDescriptorProto) {
    for method in &service.method {
        let stream = |yes: bool| if yes { "stream " } else { "" };
        lines.insert(format!(
            "service {}: {}({}{}) returns ({}{})",
            service.name(),
            method.name(),
            stream(method.client_streaming()),
            local(method.input_type()),
            stream(method.server_streaming()),
            local(method.output_type()),
        ));
    }
}

fn put_message(lines: &mut BTreeSet<String>, outer: &str, message: &DescriptorProto) {
    let name = format!("{outer}{}", message.name());
    lines.insert(format!("message {name}"));
    for field in &message.field {
        lines.insert(format!(
            "message {name}.{:02} = {}",
            field.number(),
            field_text(message, field)
        ));
    }
    for range in &message.reserved_range {
        for number in range.start()..range.end() {
            lines.insert(format!("message {name}.{number:02} is reserved"));
        }
    }
    for nested in message.nested_type.iter().filter(|nested| !is_map_entry(nested)) {
        put_message(lines, &format!("{name}."), nested);
    }
    message
        .enum_type
        .iter()
        .for_each(|an_enum| put_enum(lines, &format!("{name}."), an_enum));
}

fn put_enum(lines: &mut BTreeSet<String>, outer: &str, an_enum: &EnumDescriptorProto) {
    for value in &an_enum.value {
        lines.insert(format!(
            "enum {outer}{}: {} = {}",
            an_enum.name(),
            value.number(),
            value.name()
        ));
    }
}

fn field_text(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let entry = message
        .nested_type
        .iter()
        .find(|nested| is_map_entry(nested) && field.type_name().ends_with(nested.name()));
    let of_oneof = field.oneof_index.and_then(|index| usize::try_from(index).ok());
    let oneof = of_oneof.and_then(|index| message.oneof_decl.get(index));
    let kind = match entry {
        Some(entry) => format!("map<{}, {}>", type_text(&entry.field[0]), type_text(&entry.field[1])),
        None if field.proto3_optional() => format!("optional {}", type_text(field)),
        None if field.label() == Label::Repeated => format!("repeated {}", type_text(field)),
        None => type_text(field),
    };
    match oneof {
        Some(oneof) if !field.proto3_optional() => format!("{}: {kind} in oneof {}", field.name(), oneof.name()),
        _ => format!("{}: {kind}", field.name()),
    }
}

fn type_text(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => local(field.type_name()).to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn local(type_name: &str) -> &str {
    type_name.strip_prefix(".roster.v1.").unwrap_or(type_name)
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message
        .options
        .as_ref()
        .is_some_and(prost_types::MessageOptions::map_entry)
}

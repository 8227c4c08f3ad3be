//! Requests of clients. The first byte says which. A refusal names its fields, in bounded words; what is taken survives
//! the log: it is the same command when a follower, or the next process, reads it back.

use prost::Message;
use roster::{
    model::{
        InstanceId,
        limits::{MESSAGE_MAX_BYTES, PAGE_MAX, RECORD_MAX_BYTES, RENEWAL_IDS_MAX},
    },
    registry::Command,
    wire::{
        ErrorDetail, FieldErrors, Path,
        field::{VIOLATIONS_MAX, VIOLATIONS_MAX_BYTES},
        log::{command_from_proto, command_to_proto},
        request, v1,
    },
};

use super::{Verdict, sample};

/// One violation may be this much longer than what its list had room for.
const VIOLATION_MAX_BYTES: usize = 4 << 10;

type Reader = fn(&[u8]) -> Option<Result<(), FieldErrors>>;

/// In the order of the first byte: new ones at the end, or the corpus loses its meaning.
const READERS: &[Reader] = &[
    |bytes| {
        read(
            bytes,
            |message| request::register(message, made_up),
            |register| command(&Command::Register(register)),
        )
    },
    |bytes| {
        read(
            bytes,
            |message| request::batch_register(message, made_up),
            |read| {
                assert_eq!(read.ids.len(), read.batch.instances.len());
                command(&Command::BatchRegister(read.batch));
            },
        )
    },
    |bytes| read(bytes, request::update, |update| command(&Command::Update(update))),
    |bytes| {
        read(bytes, request::deregister, |deregister| {
            command(&Command::Deregister(deregister));
        })
    },
    |bytes| read(bytes, request::get, drop),
    |bytes| {
        read(bytes, request::list, |list| {
            assert!((1..=PAGE_MAX).contains(&list.page.size));
        })
    },
    |bytes| read(bytes, |message| request::list_services(&message), drop),
    |bytes| read(bytes, |message| request::list_namespaces(&message), drop),
    |bytes| {
        read(
            bytes,
            |message| request::watch(message, &Path::Root),
            |watch| check_watch(&watch),
        )
    },
    |bytes| read(bytes, request::watch_many, check_watch_many),
    |bytes| read(bytes, request::grant_lease, |grant| command(&grant)),
    |bytes| {
        read(
            bytes,
            |message| request::revoke_lease(&message),
            |revoke| command(&revoke),
        )
    },
    |bytes| read(bytes, |message| request::get_lease(&message), drop),
    |bytes| read(bytes, |message| request::list_leases(&message), drop),
    |bytes| {
        read(bytes, request::renew, |renew| {
            assert!(renew.lease_ids.len() <= RENEWAL_IDS_MAX && renew.lease_ids.len() == renew.asked.len());
        })
    },
    |bytes| read(bytes, |message| request::get_state_hash(&message), drop),
];

pub(crate) fn run(bytes: &[u8]) -> Verdict {
    let Some((&which, bytes)) = bytes.split_first() else {
        return Verdict::Refused;
    };
    match READERS[usize::from(which) % READERS.len()](bytes) {
        Some(Ok(())) => Verdict::Taken,
        Some(Err(errors)) => {
            check_errors(&errors);
            Verdict::Refused
        }
        None => Verdict::Refused,
    }
}

/// `None`: no such message.
fn read<M: Message + Default, T>(
    bytes: &[u8],
    convert: impl FnOnce(M) -> Result<T, FieldErrors>,
    check: impl FnOnce(T),
) -> Option<Result<(), FieldErrors>> {
    Some(convert(M::decode(bytes).ok()?).map(check))
}

fn made_up() -> InstanceId {
    InstanceId::parse("made-up").expect("a name")
}

/// What a client was told to be taken must be readable wherever the log is read.
fn command(command: &Command) {
    let specs = match command {
        Command::Register(register) => std::slice::from_ref(&register.instance),
        Command::BatchRegister(batch) => &batch.instances,
        _ => &[],
    };
    for spec in specs {
        assert!(
            spec.encoded_bytes() <= RECORD_MAX_BYTES,
            "{} bytes",
            spec.encoded_bytes()
        );
    }
    let sent = command_to_proto(command);
    assert_eq!(command_from_proto(sent).expect("a command reads back"), *command);
}

fn check_watch(watch: &request::Watch) {
    let range = request::PROGRESS_MIN..=request::PROGRESS_MAX;
    assert!(range.contains(&watch.progress_interval));
    assert!(watch.max_age.is_none_or(|age| age >= request::MAX_AGE_MIN));
}

fn check_watch_many(asked: request::WatchMany) {
    if let request::WatchMany::Create { watch_id, watch } = asked {
        match watch {
            Ok(watch) => {
                assert!(watch_id > 0);
                check_watch(&watch);
            }
            Err(errors) => check_errors(&errors),
        }
    }
}

/// A refusal says what is wrong and where, and never more than an answer can hold.
pub(crate) fn check_errors(errors: &FieldErrors) {
    let violations = errors.violations();
    assert!((1..=VIOLATIONS_MAX).contains(&violations.len()), "{errors:?}");
    let bytes: usize = violations.iter().map(|v| v.path.len() + v.problem.len()).sum();
    assert!(
        bytes <= VIOLATIONS_MAX_BYTES + VIOLATION_MAX_BYTES,
        "{bytes} bytes of violations"
    );
    for violation in violations {
        assert!(
            !violation.path.is_empty() && !violation.problem.is_empty(),
            "{violation:?}"
        );
        let printable = |text: &str| !text.chars().any(char::is_control);
        assert!(
            printable(&violation.path) && printable(&violation.problem),
            "{violation:?}"
        );
    }
    let told = ErrorDetail::from(errors.clone()).into_status();
    assert!(
        told.details().len() <= MESSAGE_MAX_BYTES / 64,
        "{} bytes of details",
        told.details().len()
    );
    assert!(ErrorDetail::from_status(&told).is_some());
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let messages = [writes(), reads(), watches(), leases()];
    messages
        .into_iter()
        .flatten()
        .map(|(which, message)| [vec![which], message].concat())
        .collect()
}

fn instance() -> Option<v1::Instance> {
    Some(roster::wire::instance::spec_to_proto(&sample::spec(
        "web",
        "10.0.0.7:80",
    )))
}

fn writes() -> Vec<(u8, Vec<u8>)> {
    let register = |hold| v1::RegisterRequest {
        instance: instance(),
        hold,
        expected_mod_revision: Some(3),
    };
    let own = v1::register_request::Hold::OwnLease(v1::OwnLease { ttl: sample::span(5) });
    let batch = v1::BatchRegisterRequest {
        instances: instance().into_iter().collect(),
        hold: Some(v1::batch_register_request::Hold::LeaseId(7)),
    };
    let update = v1::UpdateRequest {
        key: Some(sample::key_message()),
        status: 2,
        weight: Some(65_535),
        version: Some("v".into()),
        add_tags: vec!["t".into()],
        remove_tags: vec!["u".into()],
        set_metadata: [("k".to_owned(), "v".to_owned())].into(),
        remove_metadata: vec!["l".into()],
        expected_mod_revision: Some(0),
        incarnation: 9,
    };
    let deregister = v1::DeregisterRequest {
        key: Some(sample::key_message()),
        expected_mod_revision: Some(1),
        incarnation: 2,
        lease_id: 3,
    };
    vec![
        (0, register(Some(own)).encode_to_vec()),
        (
            0,
            register(Some(v1::register_request::Hold::LeaseId(4))).encode_to_vec(),
        ),
        (
            0,
            register(Some(v1::register_request::Hold::Permanent(true))).encode_to_vec(),
        ),
        (1, batch.encode_to_vec()),
        (2, update.encode_to_vec()),
        (3, deregister.encode_to_vec()),
    ]
}

fn reads() -> Vec<(u8, Vec<u8>)> {
    let read = Some(v1::ReadOptions {
        consistency: v1::read_options::Consistency::Stale.into(),
        max_age: sample::span(2),
        min_revision: 5,
    });
    let get = v1::GetRequest {
        key: Some(sample::key_message()),
        read,
    };
    let list = v1::ListRequest {
        selector: Some(sample::selector_message()),
        read,
        page_size: 5_000,
        page_token: String::new(),
    };
    let services = v1::ListServicesRequest {
        namespace: "default".into(),
        read,
        page_size: 1,
        ..v1::ListServicesRequest::default()
    };
    let namespaces = v1::ListNamespacesRequest {
        read,
        page_size: 1,
        ..v1::ListNamespacesRequest::default()
    };
    let hash = v1::GetStateHashRequest { at_index: 44 };
    vec![
        (4, get.encode_to_vec()),
        (5, list.encode_to_vec()),
        (6, services.encode_to_vec()),
        (7, namespaces.encode_to_vec()),
        (15, hash.encode_to_vec()),
    ]
}

fn watches() -> Vec<(u8, Vec<u8>)> {
    use v1::watch_many_request::Request;
    let watch = v1::WatchRequest {
        selector: Some(sample::selector_message()),
        start: Some(v1::watch_request::Start::After(v1::Position {
            cluster_id: "00c0ffee00c0ffee".into(),
            revision: 9,
        })),
        progress_interval: sample::span(3),
        max_age: sample::span(4),
    };
    let create = Request::Create(v1::CreateWatch {
        watch_id: 3,
        watch: Some(watch.clone()),
    });
    let cancel = Request::Cancel(v1::CancelWatch { watch_id: 3 });
    let many = |request| v1::WatchManyRequest { request: Some(request) }.encode_to_vec();
    vec![(8, watch.encode_to_vec()), (9, many(create)), (9, many(cancel))]
}

fn leases() -> Vec<(u8, Vec<u8>)> {
    let grant = v1::GrantLeaseRequest {
        lease_id: (1 << 62) + 1,
        ttl: sample::span(86_400),
    };
    let revoke = v1::RevokeLeaseRequest { lease_id: 5 };
    let get = v1::GetLeaseRequest {
        lease_id: 5,
        page_size: 9,
        ..v1::GetLeaseRequest::default()
    };
    let list = v1::ListLeasesRequest {
        page_size: 9,
        ..v1::ListLeasesRequest::default()
    };
    let renew = v1::RenewRequest {
        seq: -1,
        lease_ids: vec![1, 0, -5, i64::MAX],
    };
    vec![
        (10, grant.encode_to_vec()),
        (11, revoke.encode_to_vec()),
        (12, get.encode_to_vec()),
        (13, list.encode_to_vec()),
        (14, renew.encode_to_vec()),
    ]
}

//! What is encoded is read back as it was; and no bytes, whatever they are, make a decoder panic.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use proptest::{collection, option, prelude::*, sample::select};
use prost::Message as _;
use roster::{
    model::{
        ClusterId, Hold, Incarnation, Instance, InstanceId, InstanceKey, InstanceSpec, LeaseId, LeaseInfo, LeaseTime,
        LogIndex, Match, MatchField, MatchOp, Member, Namespace, NodeId, NodeName, Port, Position, Revision, Scope,
        Selector, ServiceName, Status, Term, Ttl,
    },
    registry::{
        BatchRegister, Command, Deregister, Entry, Outcome, Register, Registered, Rejection, Renewal, Reply, Settings,
        SnapshotItem, Update,
    },
    wire::{
        ErrorDetail, Path, Reason, WriteOutcome, deltas,
        header::Header,
        instance, internal, log, member,
        page_token::{After, PageToken},
        raw, reply, request, selector, snapshot, v1,
    },
};

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9]([a-zA-Z0-9._-]{0,12}[a-zA-Z0-9])?"
}

fn key() -> impl Strategy<Value = InstanceKey> {
    (name(), name(), name()).prop_map(|(namespace, service, id)| {
        InstanceKey::new(
            Namespace::parse(&namespace).expect("a name"),
            ServiceName::parse(&service).expect("a name"),
            InstanceId::parse(&id).expect("a name"),
        )
    })
}

fn text() -> impl Strategy<Value = String> {
    "[a-zäß -~]{0,12}"
}

fn word() -> impl Strategy<Value = String> {
    "[a-zäß!-~]{1,12}"
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..1_000_u64, 0..=i64::MAX.unsigned_abs()]
}

fn lease_id() -> impl Strategy<Value = LeaseId> {
    number().prop_map(|id| LeaseId(id.max(1)))
}

fn ttl() -> impl Strategy<Value = Ttl> {
    (1_000..=86_400_000_u64).prop_map(|ms| Ttl::from_ms(ms).expect("in range"))
}

fn address() -> impl Strategy<Value = String> {
    select(vec!["127.0.0.1", "::1", "node-1.example.org", "db_1"]).prop_map(str::to_owned)
}

fn port() -> impl Strategy<Value = Port> {
    let address = prop_oneof![Just(String::new()), address()];
    (text(), 1..=u16::MAX, text(), address).prop_map(|(name, number, protocol, address)| Port {
        name: name.into(),
        number,
        protocol: protocol.into(),
        address: address.into(),
    })
}

fn status() -> impl Strategy<Value = Status> {
    select(vec![Status::Starting, Status::Up, Status::Draining, Status::Down])
}

fn words() -> impl Strategy<Value = BTreeSet<String>> {
    collection::btree_set(word(), 0..5)
}

fn metadata() -> impl Strategy<Value = BTreeMap<String, String>> {
    collection::btree_map(word(), text(), 0..5)
}

prop_compose! {
    fn spec()(
        key in key(),
        address in address(),
        ports in collection::vec(port(), 0..4),
        weight in 0..=65_535_u32,
        (region, zone, version) in (text(), text(), text()),
        tags in words(),
        metadata in metadata(),
        status in status(),
        incarnation in number(),
    ) -> InstanceSpec {
        let incarnation = Incarnation(incarnation);
        InstanceSpec {
            key, address: address.into(), ports: ports.into(), weight, region: region.into(), zone: zone.into(),
            version: version.into(), tags: tags.into(), metadata: metadata.into(), status, incarnation,
        }
    }
}

prop_compose! {
    fn record()(
        spec in spec(),
        lease in option::of((lease_id(), ttl())),
        create_revision in number(),
        mod_revision in number(),
        registered_at_ms in 0..1_u64 << 45,
        updated_at_ms in 0..1_u64 << 45,
    ) -> Arc<Instance> {
        Arc::new(Instance {
            spec,
            lease,
            create_revision: Revision(create_revision),
            mod_revision: Revision(mod_revision),
            registered_at_ms,
            updated_at_ms,
            encoded: OnceLock::new(),
        })
    }
}

fn hold() -> impl Strategy<Value = Hold> {
    prop_oneof![
        ttl().prop_map(|ttl| Hold::Own { ttl }),
        lease_id().prop_map(|lease_id| Hold::Shared { lease_id }),
        Just(Hold::Permanent),
    ]
}

fn expected() -> impl Strategy<Value = Option<Revision>> {
    option::of(number().prop_map(Revision))
}

prop_compose! {
    fn update()(
        key in key(),
        status in option::of(status()),
        weight in option::of(0..=65_535_u32),
        version in option::of(text()),
        (add_tags, remove_tags, remove_metadata) in (words(), words(), words()),
        set_metadata in metadata(),
        expected_mod_revision in expected(),
        incarnation in number(),
    ) -> Update {
        let incarnation = Incarnation(incarnation);
        Update {
            key, status, weight, version, add_tags, remove_tags, set_metadata, remove_metadata, expected_mod_revision,
            incarnation,
        }
    }
}

fn command() -> impl Strategy<Value = Command> {
    let shared = prop_oneof![
        lease_id().prop_map(|lease_id| Hold::Shared { lease_id }),
        Just(Hold::Permanent)
    ];
    prop_oneof![
        (spec(), hold(), expected()).prop_map(|(instance, hold, expected_mod_revision)| {
            Command::Register(Register {
                instance,
                hold,
                expected_mod_revision,
            })
        }),
        (collection::vec(spec(), 0..4), shared)
            .prop_map(|(instances, hold)| Command::BatchRegister(BatchRegister { instances, hold })),
        update().prop_map(Command::Update),
        (key(), expected(), number(), option::of(lease_id())).prop_map(
            |(key, expected_mod_revision, incarnation, lease_id)| {
                let incarnation = Incarnation(incarnation);
                Command::Deregister(Deregister {
                    key,
                    expected_mod_revision,
                    incarnation,
                    lease_id,
                })
            }
        ),
        (option::of(lease_id()), ttl()).prop_map(|(lease_id, ttl)| Command::GrantLease { lease_id, ttl }),
        lease_id().prop_map(|lease_id| Command::RevokeLease { lease_id }),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let renewals = collection::btree_set(lease_id(), 0..20);
    (any::<u64>(), any::<u64>(), renewals, collection::vec(command(), 0..4)).prop_map(
        |(stamp, wall_ms, renewals, commands)| Entry {
            stamp: LeaseTime(stamp),
            wall_ms,
            renewals: renewals.into_iter().collect(),
            commands,
        },
    )
}

fn payload() -> impl Strategy<Value = log::LogPayload> {
    prop_oneof![
        Just(log::LogPayload::Blank),
        entry().prop_map(log::LogPayload::Entry),
        collection::vec(any::<u64>(), 0..4).prop_map(|node_ids| {
            let configs = vec![internal::VoterSet { node_ids }];
            log::LogPayload::Membership(internal::Membership {
                configs,
                nodes: Vec::new(),
            })
        }),
    ]
}

fn snapshot_item() -> impl Strategy<Value = SnapshotItem> {
    let settings = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
        |(max_instances, max_leases, max_instances_per_lease, max_fences)| Settings {
            max_instances,
            max_leases,
            max_instances_per_lease,
            max_fences,
        },
    );
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<u64>(), settings).prop_map(|(revision, clock, next, settings)| {
            SnapshotItem::State {
                revision: Revision(revision),
                clock: LeaseTime(clock),
                next_lease_id: LeaseId(next),
                settings,
            }
        }),
        (lease_id(), ttl(), any::<bool>(), any::<u64>()).prop_map(|(lease_id, ttl, own, deadline)| {
            SnapshotItem::Lease {
                lease_id,
                ttl,
                own,
                deadline: LeaseTime(deadline),
            }
        }),
        record().prop_map(SnapshotItem::Instance),
        (key(), any::<u64>(), any::<u64>()).prop_map(|(key, incarnation, until)| SnapshotItem::Fence {
            key,
            incarnation: Incarnation(incarnation),
            until: LeaseTime(until),
        }),
    ]
}

fn rejection() -> impl Strategy<Value = Rejection> {
    prop_oneof![
        key().prop_map(Rejection::InstanceNotFound),
        lease_id().prop_map(Rejection::LeaseNotFound),
        (lease_id(), ttl()).prop_map(|(lease_id, ttl)| Rejection::LeaseExists { lease_id, ttl }),
        (key(), any::<u64>()).prop_map(|(key, current)| {
            Rejection::RevisionMismatch {
                key,
                current: Revision(current),
            }
        }),
        (key(), any::<u64>()).prop_map(|(key, current)| Rejection::Fenced {
            key,
            current: Incarnation(current)
        }),
        (text(), any::<u64>()).prop_map(|(subject, limit)| Rejection::TooManyInstances { subject, limit }),
        any::<u64>().prop_map(|limit| Rejection::TooManyLeases { limit }),
        (text(), text()).prop_map(|(path, problem)| Rejection::InvalidField { path, problem }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let how = select(vec![
        Registered::Created,
        Registered::Changed,
        Registered::Unchanged,
        Registered::TookOver,
    ]);
    prop_oneof![
        (record(), how).prop_map(|(instance, how)| Outcome::Registered { instance, how }),
        any::<bool>().prop_map(|changed| Outcome::BatchRegistered { changed }),
        (record(), any::<bool>()).prop_map(|(instance, changed)| Outcome::Updated { instance, changed }),
        any::<bool>().prop_map(|existed| Outcome::Deregistered { existed }),
        (lease_id(), ttl(), any::<u32>(), any::<u32>(), any::<bool>()).prop_map(
            |(lease_id, ttl, remaining_ms, instances, own)| {
                let remaining = Duration::from_millis(remaining_ms.into());
                Outcome::Granted(LeaseInfo {
                    lease_id,
                    ttl,
                    remaining,
                    instances,
                    own,
                })
            }
        ),
        (any::<bool>(), any::<u32>()).prop_map(|(existed, removed)| Outcome::Revoked { existed, removed }),
    ]
}

fn replied() -> impl Strategy<Value = Reply> {
    let result = prop_oneof![outcome().prop_map(Ok), rejection().prop_map(Err)];
    (any::<u64>(), result).prop_map(|(revision, result)| Reply {
        revision: Revision(revision),
        result,
    })
}

fn selected() -> impl Strategy<Value = Selector> {
    let scope = prop_oneof![
        collection::btree_set(name().prop_map(|name| ServiceName::parse(&name).expect("a name")), 1..4)
            .prop_map(Scope::Services),
        "[a-z.]{1,5}".prop_map(Scope::Prefix),
        Just(Scope::All),
    ];
    let values = || collection::btree_set(text(), 1..4);
    let op = prop_oneof![
        values().prop_map(MatchOp::In),
        values().prop_map(MatchOp::NotIn),
        Just(MatchOp::Exists)
    ];
    let field = prop_oneof![
        select(vec![
            MatchField::Zone,
            MatchField::Region,
            MatchField::Version,
            MatchField::Tag,
            MatchField::Port
        ]),
        word().prop_map(MatchField::Metadata),
    ];
    let names = collection::btree_set(status().prop_map(|status| status.name().to_owned()), 1..3);
    let condition = prop_oneof![
        (field, op).prop_map(|(field, op)| Match { field, op }),
        names.prop_map(|names| Match {
            field: MatchField::Status,
            op: MatchOp::NotIn(names)
        }),
    ];
    let namespace = option::of(name().prop_map(|name| Namespace::parse(&name).expect("a name")));
    (namespace, scope, any::<bool>(), collection::vec(condition, 0..4)).prop_map(
        |(namespace, scope, serving, matches)| Selector {
            namespace,
            scope,
            serving,
            matches,
        },
    )
}

fn told() -> impl Strategy<Value = ErrorDetail> {
    let pair = || (text(), text());
    let outcome = option::of(select(vec![WriteOutcome::NotApplied, WriteOutcome::Unknown]));
    let metadata = collection::btree_map("x-[a-z]{1,5}", text(), 0..3);
    (
        select(Reason::ALL),
        text(),
        outcome,
        option::of(text()),
        option::of(any::<u64>().prop_map(Revision)),
        metadata,
        collection::vec(pair(), 0..4),
        option::of(any::<u32>().prop_map(|ms| Duration::from_millis(ms.into()))),
        option::of(pair()),
        option::of(pair()),
    )
        .prop_map(
            |(reason, message, outcome, leader, revision, metadata, violations, retry_after, quota, resource)| {
                ErrorDetail {
                    reason,
                    message,
                    outcome,
                    leader,
                    revision,
                    metadata,
                    violations,
                    retry_after,
                    quota,
                    resource,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_log_record_is_read_back(payload in payload(), term: u64, leader: u64, index: u64) {
        let record = log::LogRecord { term: Term(term), leader_id: NodeId(leader), index: LogIndex(index), payload };
        prop_assert_eq!(log::decode_record(&log::encode_record(&record)).unwrap(), record);
    }

    #[test]
    fn a_command_is_read_back(command in command()) {
        prop_assert_eq!(log::command_from_proto(log::command_to_proto(&command)).unwrap(), command);
    }

    /// What is written without a message has the bytes that the message has.
    #[test]
    fn a_command_written_at_once_is_its_message(command in command()) {
        let bytes = log::command_to_bytes(&command);
        prop_assert_eq!(&bytes, &log::command_to_proto(&command).encode_to_vec());
        prop_assert_eq!(log::command_from_bytes(&bytes).unwrap(), command);
    }

    #[test]
    fn an_entrys_record_written_at_once_is_its_message(entry in entry(), term: u64, index: u64) {
        let commands: Vec<_> = entry.commands.iter().map(log::command_to_bytes).collect();
        let record = log::LogRecord {
            term: Term(term),
            leader_id: NodeId(0),
            index: LogIndex(index),
            payload: log::LogPayload::Entry(entry.clone()),
        };
        prop_assert_eq!(log::entry_record(Term(term), LogIndex(index), &entry, &commands), log::encode_record(&record));
    }

    #[test]
    fn a_snapshots_body_is_read_back(items in collection::vec(snapshot_item(), 0..6), encode_first: bool) {
        let mut body = Vec::new();
        for item in &items {
            if let (SnapshotItem::Instance(record), true) = (item, encode_first) {
                let _kept = instance::encoded(record);
            }
            snapshot::write_item(&mut body, item).unwrap();
        }
        let read: Result<Vec<_>, _> = snapshot::ItemReader::new(body.as_slice()).collect();
        prop_assert_eq!(read.unwrap(), items);
    }

    #[test]
    fn a_records_short_cut_writes_the_same_bytes(item in snapshot_item()) {
        let mut framed = Vec::new();
        snapshot::write_item(&mut framed, &item).unwrap();
        prop_assert_eq!(framed, snapshot::item_to_proto(&item).encode_length_delimited_to_vec());
    }

    #[test]
    fn a_body_that_was_cut_ends_with_an_error_or_between_items(items in collection::vec(snapshot_item(), 1..4), at: prop::sample::Index) {
        let (mut body, mut ends) = (Vec::new(), vec![0]);
        for item in &items {
            snapshot::write_item(&mut body, item).unwrap();
            ends.push(body.len());
        }
        let cut = at.index(body.len());
        let read: Vec<_> = snapshot::ItemReader::new(&body[..cut]).collect();
        let whole = ends.iter().rposition(|&end| end <= cut).unwrap();
        prop_assert!(read.iter().take(whole).all(Result::is_ok));
        prop_assert_eq!(read.get(whole).is_some_and(Result::is_err), !ends.contains(&cut));
    }

    #[test]
    fn a_reply_is_read_back(reply in replied(), index: u64) {
        let sent = reply::reply_to_proto(LogIndex(index), &reply);
        prop_assert_eq!(reply::reply_from_proto(sent).unwrap(), (LogIndex(index), reply));
    }

    #[test]
    fn renewals_are_read_back(results in collection::vec(option::of((ttl(), any::<u32>())), 0..9), revision: u64) {
        let renewal = |result: Option<(Ttl, u32)>| {
            result.map_or(Renewal::NotFound, |(ttl, instances)| Renewal::Renewed { ttl, instances })
        };
        let renewals: Vec<_> = results.into_iter().map(renewal).collect();
        let sent = reply::renewals_to_proto(&renewals, Revision(revision));
        prop_assert_eq!(reply::renewals_from_proto(&sent).unwrap(), (renewals, Revision(revision)));
    }

    #[test]
    fn a_record_is_read_back(record in record()) {
        let bytes = instance::encoded(&record);
        let read = instance::instance_from_proto(v1::Instance::decode(bytes).unwrap()).unwrap();
        prop_assert_eq!(&read, &*record);
    }

    #[test]
    fn a_spec_that_a_client_sends_is_read_as_it_was(spec in spec()) {
        let sent = instance::spec_to_proto(&spec);
        prop_assert_eq!(instance::spec_from_proto(sent, &Path::Root).unwrap(), spec);
    }

    #[test]
    fn a_selector_is_read_back(wanted in selected()) {
        let sent = selector::selector_to_proto(&wanted);
        prop_assert_eq!(selector::selector_from_proto(sent, &Path::Root).unwrap(), wanted);
    }

    #[test]
    fn a_member_is_read_back(node_id in 1..u64::MAX, name in name(), peer in word(), client in word(), voter: bool) {
        let name = NodeName::parse(&name).unwrap();
        let wanted = Member { node_id: NodeId(node_id), name, peer_address: peer, client_address: client, voter };
        let info = member::member_to_node_info(&wanted);
        prop_assert_eq!(member::member_from_node_info(info, voter).unwrap(), wanted);
    }

    #[test]
    fn a_page_token_is_read_back(key in key(), node: u64, pin_id: u64, revision: u64, request: u32) {
        let token = PageToken {
            cluster_id: ClusterId::new(u64::from(request) + 1).unwrap(), node_id: NodeId(node), pin_id, revision: Revision(revision), request, after: After::Instance(key),
        };
        prop_assert_eq!(PageToken::decode(&token.encode()).unwrap(), token);
    }

    #[test]
    fn an_error_is_read_back(detail in told()) {
        prop_assert_eq!(ErrorDetail::from_status(&detail.clone().into_status()), Some(detail.clone()));
        prop_assert_eq!(ErrorDetail::from_proto(&detail.clone().into_proto()), Some(detail));
    }

    /// What the server sends in place of the messages that hold records has the same bytes.
    #[test]
    fn a_twin_is_its_message(records in collection::vec(record(), 0..4), token in text(), header: bool, code: i32) {
        let header = header.then(|| v1::Header { node: "n1".into(), term: 3, ..Default::default() });
        let position = Some(v1::Position { cluster_id: token.clone(), revision: 9 });
        let twin = raw::ListResponse {
            header: header.as_ref().map(|header| header.encode_to_vec().into()).unwrap_or_default(),
            instances: records.iter().map(|record| instance::encoded(record)).collect(),
            next_page_token: token.clone(),
            position: position.as_ref().map(|position| position.encode_to_vec().into()).unwrap_or_default(),
        };
        let message = v1::ListResponse {
            header: header.clone(),
            instances: records.iter().map(|record| instance::instance_to_proto(record)).collect(),
            next_page_token: token,
            position: position.clone(),
        };
        prop_assert_eq!(twin.encode_to_vec(), message.encode_to_vec());
        let change = |record: &Arc<Instance>| v1::Change {
            kind: 1,
            instance: Some(instance::instance_to_proto(record)),
            removed: Some(instance::key_to_proto(record.key())),
            reason: 4,
            revision: 7,
        };
        let status = Some(tonic_types::pb::Status { code, message: "m".into(), details: Vec::new() });
        let message = v1::WatchResponse {
            watch_id: 5,
            header: header.clone(),
            kind: 2,
            changes: records.iter().map(change).collect(),
            position,
            more: true,
            reset: Some(v1::Reset { reason: 2 }),
            status,
        };
        let twin = raw::WatchResponse::decode(message.encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(twin.encode_to_vec(), message.encode_to_vec());
        let sent = raw::WatchMessage {
            changes: raw::changes_field(&twin.changes),
            rest: raw::WatchResponse { changes: Vec::new(), ..twin },
        };
        prop_assert_eq!(sent.encoded_len(), message.encoded_len());
        prop_assert_eq!(v1::WatchResponse::decode(sent.encode_to_vec().as_slice()).unwrap(), message);
        for record in &records {
            let put = |revision| v1::Change {
                kind: v1::change::Kind::Put.into(),
                instance: Some(instance::instance_to_proto(record)),
                revision,
                ..Default::default()
            };
            let own = record.mod_revision.as_i64();
            prop_assert_eq!(instance::encoded_put(record), put(own).encode_to_vec());
            prop_assert_eq!(instance::encoded_put_at(record, Revision(7)), put(7).encode_to_vec());
            let reason = v1::change::Reason::Expired;
            let removal = v1::Change {
                kind: v1::change::Kind::Remove.into(),
                removed: Some(instance::key_to_proto(record.key())),
                reason: reason.into(),
                revision: 7,
                ..Default::default()
            };
            prop_assert_eq!(instance::encoded_removal(record.key(), reason, Revision(7)), removal.encode_to_vec());
        }
        for record in &records {
            let instance = Some(instance::instance_to_proto(record));
            let renew_after = Some(prost_types::Duration { seconds: 5, nanos: 0 });
            let put = v1::RegisterResponse { header: header.clone(), instance: instance.clone(), outcome: 2, renew_after };
            let twin = raw::RegisterResponse::decode(put.encode_to_vec().as_slice()).unwrap();
            prop_assert_eq!(twin.encode_to_vec(), put.encode_to_vec());
            let updated = v1::UpdateResponse { header: header.clone(), instance: instance.clone(), changed: true };
            let twin = raw::UpdateResponse::decode(updated.encode_to_vec().as_slice()).unwrap();
            prop_assert_eq!(twin.encode_to_vec(), updated.encode_to_vec());
            let got = v1::GetResponse { header: header.clone(), instance };
            let twin = raw::GetResponse::decode(got.encode_to_vec().as_slice()).unwrap();
            prop_assert_eq!(twin.encode_to_vec(), got.encode_to_vec());
        }
        let result = v1::RenewResult { lease_id: 7, outcome: 1, ttl: Some(prost_types::Duration { seconds: 5, nanos: 0 }), instances: 3 };
        let renewed = v1::RenewResponse {
            header,
            seq: code.into(),
            results: vec![result; records.len()],
            renew_after: Some(prost_types::Duration { seconds: 1, nanos: 7 }),
        };
        let twin = raw::RenewResponse::decode(renewed.encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(twin.encode_to_vec(), renewed.encode_to_vec());
    }

    /// A header and a position are written as the bytes that their messages have.
    #[test]
    fn a_header_is_its_message(
        node in name(), leader in option::of(name()), cluster in 1_u64.., term in number(), revision in number(),
        stale: bool, age in option::of((0..u64::from(u32::MAX), 0..1_000_000_000_u32)),
    ) {
        let node = NodeName::parse(&node).expect("a name");
        let cluster_id = ClusterId::new(cluster).expect("not 0");
        let (term, revision) = (Term(term), Revision(revision));
        let header = Header {
            cluster_id, node: &node, term, revision, stale,
            age: age.map(|(seconds, nanos)| Duration::new(seconds, nanos)),
            leader: leader.map(|leader| NodeName::parse(&leader).expect("a name")),
        };
        prop_assert_eq!(header.encoded(), header.to_proto().encode_to_vec());
        let position = Position { cluster_id, revision };
        prop_assert_eq!(member::encoded_position(position), member::position_to_proto(position).encode_to_vec());
    }
}

/// Every decoder there is, fed with the same bytes.
fn decode_all(bytes: &[u8]) {
    let made_up = || InstanceId::parse("x").expect("a name");
    fn read<M: prost::Message + Default, T>(bytes: &[u8], convert: impl FnOnce(M) -> T) {
        if let Ok(message) = M::decode(bytes) {
            let _any_answer = convert(message);
        }
    }
    let _any_answer = log::decode_record(bytes);
    read(bytes, log::entry_from_proto);
    let _any_answer = log::command_from_bytes(bytes);
    read(bytes, snapshot::item_from_proto);
    read(bytes, reply::reply_from_proto);
    read(bytes, |replies: internal::RenewalReplies| {
        reply::renewals_from_proto(&replies)
    });
    read(bytes, |info| member::member_from_node_info(info, true));
    read(bytes, |renewals: internal::ForwardRenewals| {
        deltas::ids_from_deltas(&renewals.lease_id_deltas)
    });
    read(bytes, |request| request::register(request, made_up));
    read(bytes, |request| request::batch_register(request, made_up));
    read(bytes, request::update);
    read(bytes, request::deregister);
    read(bytes, request::get);
    read(bytes, request::list);
    read(bytes, |request| request::list_services(&request));
    read(bytes, |request| request::list_namespaces(&request));
    read(bytes, |request| request::watch(request, &Path::Root));
    read(bytes, request::watch_many);
    read(bytes, request::grant_lease);
    read(bytes, |request| request::revoke_lease(&request));
    read(bytes, |request| request::get_lease(&request));
    read(bytes, |request| request::list_leases(&request));
    read(bytes, request::renew);
    read(bytes, |request| request::get_state_hash(&request));
    read(bytes, |status| ErrorDetail::from_proto(&status));
    read(bytes, |position| {
        member::position_from_proto(&position, &Path::Root).is_ok()
    });
    let status = tonic::Status::with_details(tonic::Code::Aborted, "", bytes.to_vec().into());
    let _any_answer = ErrorDetail::from_status(&status);
    let _any_answer = PageToken::decode(&String::from_utf8_lossy(bytes));
    for item in snapshot::ItemReader::new(bytes) {
        let _any_answer = item;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_make_a_decoder_panic(bytes in collection::vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }

    /// Bytes that begin well: a message with some of its bytes changed.
    #[test]
    fn damaged_messages_never_make_a_decoder_panic(
        entry in entry(),
        reply in replied(),
        item in snapshot_item(),
        damage in collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let messages = [
            log::entry_to_proto(&entry).encode_to_vec(),
            entry.commands.first().map(|command| log::command_to_proto(command).encode_to_vec()).unwrap_or_default(),
            reply::reply_to_proto(LogIndex(1), &reply).encode_to_vec(),
            snapshot::item_to_proto(&item).encode_length_delimited_to_vec(),
        ];
        for mut bytes in messages.into_iter().filter(|bytes| !bytes.is_empty()) {
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            decode_all(&bytes);
        }
    }
}

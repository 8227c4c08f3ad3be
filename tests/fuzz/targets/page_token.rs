//! Page tokens: what is taken is printed as it was, whichever kind it is. The checksum keeps most mutations out, so the
//! first byte may ask for a right one.

use roster::{
    model::{ClusterId, LeaseId, Namespace, NodeId, Revision, ServiceName},
    wire::page_token::{After, PageToken},
};

use super::{Verdict, sample};

/// The first byte of input that is to be summed and written in hex before it is read.
const RAW: u8 = 0;

pub(crate) fn run(bytes: &[u8]) -> Verdict {
    let text = match bytes.split_first() {
        Some((&RAW, said)) => {
            let sum = crc32c::crc32c(said).to_be_bytes();
            said.iter().chain(&sum).map(|byte| format!("{byte:02x}")).collect()
        }
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    let token = PageToken::decode(&text);
    if let Ok(token) = &token {
        assert_eq!(token.encode(), text.to_ascii_lowercase());
    }
    Verdict::of(&token)
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let token = |after| {
        let token = PageToken {
            cluster_id: ClusterId::new(9).expect("not 0"),
            node_id: NodeId(3),
            pin_id: 77,
            revision: Revision(12),
            request: 5,
            after,
        };
        token.encode()
    };
    let key = sample::key("web", "10.0.0.7:80");
    let service = ServiceName::parse("web").expect("a name");
    [
        After::Instance(key.clone()),
        After::Service(Namespace::default(), service),
        After::Namespace(Namespace::default()),
        After::Lease(LeaseId(1 << 62)),
        After::Held(key),
    ]
    .into_iter()
    .flat_map(|after| {
        let text = token(after);
        let said = (0..text.len() / 2 - 4).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).expect("hex"));
        let raw = std::iter::once(RAW).chain(said).collect();
        [text.clone().into_bytes(), raw]
    })
    .collect()
}

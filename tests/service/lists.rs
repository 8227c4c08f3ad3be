//! Lists page by page, and requests that can't be read.

use std::{collections::BTreeSet, time::Duration};

use roster::wire::{
    Reason, WriteOutcome,
    v1::{
        BatchRegisterRequest, GetLeaseRequest, GetStateHashRequest, GrantLeaseRequest, InstanceKey, ListLeasesRequest,
        ListNamespacesRequest, ListRequest, ListServicesRequest, RegisterRequest,
        batch_register_request::Hold as BatchHold, cluster_client::ClusterClient, leases_client::LeasesClient,
        registry_client::RegistryClient,
    },
};
use tonic::transport::Channel;

use crate::{
    harness::Cluster,
    support::{of, put, record, span, told},
};

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_show_one_revision_whichever_node_is_asked() {
    let cluster = Cluster::start(3).await;
    let mut clients = Vec::new();
    for node in &cluster.nodes {
        clients.push(node.registry().await);
    }
    let instances = (0..50)
        .map(|number| record("paged", &format!("i{number:02}"), 0))
        .collect();
    let hold = Some(BatchHold::Permanent(true));
    clients[0]
        .batch_register(BatchRegisterRequest { instances, hold })
        .await
        .expect("a batch");
    let mut request = ListRequest {
        selector: Some(of("paged")),
        page_size: 7,
        ..ListRequest::default()
    };
    let (mut ids, mut revisions) = (Vec::new(), BTreeSet::new());
    for turn in 0.. {
        let page = clients[turn % 3]
            .list(request.clone())
            .await
            .expect("a page")
            .into_inner();
        revisions.insert(page.header.expect("a header").revision);
        ids.extend(
            page.instances
                .into_iter()
                .map(|instance| instance.key.expect("a key").id),
        );
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        put(&mut clients[turn % 3], record("paged", &format!("i{turn:02}-new"), 0)).await;
    }
    assert_eq!(ids, (0..50).map(|number| format!("i{number:02}")).collect::<Vec<_>>());
    assert_eq!(revisions.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_goes_on_where_its_page_ended() {
    let cluster = Cluster::start(1).await;
    let mut registry = cluster.nodes[0].registry().await;
    let mut leases = cluster.nodes[0].leases().await;
    let ttl = Some(span(Duration::from_secs(60)));
    let mut granted = Vec::new();
    for _ in 0..5 {
        let lease = leases
            .grant_lease(GrantLeaseRequest { ttl, lease_id: 0 })
            .await
            .expect("a grant");
        granted.push(lease.into_inner().lease.expect("a lease").lease_id);
    }
    let mut instances = Vec::new();
    for number in 0..5 {
        let mut instance = record(&format!("s{number}"), "a", 0);
        instance.key.as_mut().expect("a key").namespace = format!("n{number}");
        instances.push(instance);
        instances.push(record(&format!("s{number}"), "a", 0));
    }
    let hold = Some(BatchHold::LeaseId(granted[0]));
    registry
        .batch_register(BatchRegisterRequest { instances, hold })
        .await
        .expect("a batch");

    let services = all_services(&mut registry).await;
    assert_eq!(services.len(), 10);
    assert!(services.is_sorted() && services.iter().all(|(_, _, up)| *up == 1));
    let namespaces = all_namespaces(&mut registry).await;
    assert_eq!(namespaces[0], ("default".to_owned(), 5));
    assert_eq!(namespaces.len(), 6);
    assert_eq!(all_held(&mut leases, granted[0]).await.len(), 10);
    assert_eq!(all_leases(&mut leases).await, granted);
}

async fn all_services(client: &mut RegistryClient<Channel>) -> Vec<(String, String, i32)> {
    let mut request = ListServicesRequest {
        page_size: 2,
        all_namespaces: true,
        ..Default::default()
    };
    let mut services = Vec::new();
    loop {
        let page = client
            .list_services(request.clone())
            .await
            .expect("a page")
            .into_inner();
        services.extend(
            page.services
                .into_iter()
                .map(|service| (service.namespace, service.service, service.up)),
        );
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return services;
        }
    }
}

async fn all_namespaces(client: &mut RegistryClient<Channel>) -> Vec<(String, i32)> {
    let mut request = ListNamespacesRequest {
        page_size: 4,
        ..Default::default()
    };
    let mut namespaces = Vec::new();
    loop {
        let page = client
            .list_namespaces(request.clone())
            .await
            .expect("a page")
            .into_inner();
        namespaces.extend(
            page.namespaces
                .into_iter()
                .map(|namespace| (namespace.namespace, namespace.instances)),
        );
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return namespaces;
        }
    }
}

async fn all_held(client: &mut LeasesClient<Channel>, lease_id: i64) -> Vec<InstanceKey> {
    let mut request = GetLeaseRequest {
        lease_id,
        page_size: 3,
        ..Default::default()
    };
    let mut held = Vec::new();
    loop {
        let page = client.get_lease(request.clone()).await.expect("a page").into_inner();
        assert_eq!(page.lease.expect("the lease").instances, 10);
        held.extend(page.instances);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return held;
        }
    }
}

async fn all_leases(client: &mut LeasesClient<Channel>) -> Vec<i64> {
    let mut request = ListLeasesRequest {
        page_size: 1,
        ..Default::default()
    };
    let mut leases = Vec::new();
    loop {
        let page = client.list_leases(request.clone()).await.expect("a page").into_inner();
        leases.extend(page.leases.into_iter().map(|lease| lease.lease_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return leases;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_serves_its_own_list_for_as_long_as_its_version_is_held() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].registry().await;
    for id in ["a", "b", "c"] {
        put(&mut client, record("web", id, 0)).await;
    }
    let request = ListRequest {
        selector: Some(of("web")),
        page_size: 1,
        ..ListRequest::default()
    };
    let token = client
        .list(request.clone())
        .await
        .expect("a page")
        .into_inner()
        .next_page_token;
    for (page_token, selector) in [("garbage".to_owned(), of("web")), (token.clone(), of("other"))] {
        let request = ListRequest {
            page_token,
            selector: Some(selector),
            ..request.clone()
        };
        let refused = client.list(request).await.expect_err("no such page");
        assert_eq!(told(&refused).violations[0].0, "page_token");
    }
    // A node pins 64 versions; the oldest give way.
    for _ in 0..70 {
        client.list(request.clone()).await.expect("a page");
    }
    let refused = client
        .list(ListRequest {
            page_token: token,
            ..request
        })
        .await
        .expect_err("gone");
    assert_eq!(
        (refused.code(), told(&refused).reason),
        (tonic::Code::Aborted, Reason::PageExpired)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_before_the_limit_of_a_message() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].registry().await;
    for number in 0..60 {
        put(&mut client, record("large", &format!("i{number}"), 60_000)).await;
    }
    let mut request = ListRequest {
        selector: Some(of("large")),
        page_size: 5_000,
        ..ListRequest::default()
    };
    let (mut count, mut pages) = (0, 0);
    loop {
        // The client takes no longer message than the server may send.
        let page = client.list(request.clone()).await.expect("a page").into_inner();
        (count, pages) = (count + page.instances.len(), pages + 1);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((count, pages), (60, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_beyond_its_limit_is_refused_with_details() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].registry().await;
    let request = RegisterRequest {
        instance: Some(record("web", "a", 3 << 20)),
        ..Default::default()
    };
    let refused = client.register(request).await.expect_err("3 MiB");
    let detail = told(&refused);
    assert_eq!(
        (detail.reason, detail.outcome),
        (Reason::InvalidField, Some(WriteOutcome::NotApplied))
    );
    put(&mut client, record("web", "b", 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hash_of_a_state_that_has_passed_is_refused() {
    let cluster = Cluster::start(1).await;
    let mut client = ClusterClient::connect(cluster.nodes[0].url())
        .await
        .expect("a connection");
    let mut registry = cluster.nodes[0].registry().await;
    for id in ["a", "b", "c"] {
        put(&mut registry, record("web", id, 0)).await;
    }
    let now = client
        .get_state_hash(GetStateHashRequest::default())
        .await
        .expect("a hash")
        .into_inner();
    assert_eq!(now.hash.len(), 32);
    let refused = client
        .get_state_hash(GetStateHashRequest { at_index: 1 })
        .await
        .expect_err("passed");
    assert_eq!(told(&refused).violations[0].0, "at_index");
}

//! The calls of the `Registry` service, but for watches.

use super::{call::Answered, error::Error, handle::Client, retry::Safety};
use crate::wire::{
    error::Reason,
    v1::{self, registry_client::RegistryClient},
};

/// How often a list whose pages expired is begun again.
const LIST_ATTEMPTS_MAX: u32 = 5;
/// Pages of one list: more than the cluster's instances fill.
const PAGES_MAX: usize = 100_000;

impl Client {
    /// Registers an instance. Repeated by itself when that is harmless: with an id and without an expected revision.
    ///
    /// # Errors
    /// As the API's table says; [`Error::outcome`] tells whether it may have been applied.
    pub async fn register(&self, request: v1::RegisterRequest) -> Result<v1::RegisterResponse, Error> {
        self.register_timed(request).await.map(|answered| answered.response)
    }

    pub(super) async fn register_timed(
        &self,
        request: v1::RegisterRequest,
    ) -> Result<Answered<v1::RegisterResponse>, Error> {
        let safety = repeatable(request.expected_mod_revision, request.instance.as_ref().into_iter());
        self.call_timed(safety, request, |channel, request| async move {
            RegistryClient::new(channel).register(request).await
        })
        .await
    }

    /// Registers many instances at one revision, all or none, held by one shared lease or by nothing.
    ///
    /// # Errors
    /// As [`Client::register`].
    pub async fn batch_register(&self, request: v1::BatchRegisterRequest) -> Result<v1::BatchRegisterResponse, Error> {
        let safety = repeatable(None, request.instances.iter());
        self.call(safety, request, |channel, request| async move {
            RegistryClient::new(channel).batch_register(request).await
        })
        .await
    }

    /// Changes some fields of an instance. Not repeated when its outcome is unknown: a change that another has made
    /// in between would be undone.
    ///
    /// # Errors
    /// As [`Client::register`]; `INSTANCE_NOT_FOUND`.
    pub async fn update(&self, request: v1::UpdateRequest) -> Result<v1::UpdateResponse, Error> {
        self.call(Safety::Once, request, |channel, request| async move {
            RegistryClient::new(channel).update(request).await
        })
        .await
    }

    /// Removes an instance. That there was none is no error; the answer says so.
    ///
    /// # Errors
    /// As [`Client::register`].
    pub async fn deregister(&self, request: v1::DeregisterRequest) -> Result<v1::DeregisterResponse, Error> {
        let safety = match request.expected_mod_revision {
            None => Safety::Repeatable,
            Some(_) => Safety::Once,
        };
        self.call(safety, request, |channel, request| async move {
            RegistryClient::new(channel).deregister(request).await
        })
        .await
    }

    /// Reads one instance.
    ///
    /// # Errors
    /// As the API's table says; `INSTANCE_NOT_FOUND`.
    pub async fn get(&self, request: v1::GetRequest) -> Result<v1::GetResponse, Error> {
        self.call(Safety::Read, request, |channel, request| async move {
            RegistryClient::new(channel).get(request).await
        })
        .await
    }

    /// Reads one page of a list.
    ///
    /// # Errors
    /// As the API's table says; `PAGE_EXPIRED` when the token is too old.
    pub async fn list(&self, request: v1::ListRequest) -> Result<v1::ListResponse, Error> {
        self.call(Safety::Read, request, |channel, request| async move {
            RegistryClient::new(channel).list(request).await
        })
        .await
    }

    /// Reads a whole list, page after page, all of one revision, as one answer. Begins again when its pages expire.
    ///
    /// # Errors
    /// As [`Client::list`]; [`Error::PagesExpired`] when they do again and again.
    pub async fn list_all(&self, request: v1::ListRequest) -> Result<v1::ListResponse, Error> {
        self.all_pages(request, Self::list).await
    }

    /// Reads one page of the services.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub async fn list_services(&self, request: v1::ListServicesRequest) -> Result<v1::ListServicesResponse, Error> {
        self.call(Safety::Read, request, |channel, request| async move {
            RegistryClient::new(channel).list_services(request).await
        })
        .await
    }

    /// Reads all services, as [`Client::list_all`] does.
    ///
    /// # Errors
    /// As [`Client::list_all`].
    pub async fn list_all_services(&self, request: v1::ListServicesRequest) -> Result<v1::ListServicesResponse, Error> {
        self.all_pages(request, Self::list_services).await
    }

    /// Reads one page of the namespaces.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub async fn list_namespaces(
        &self,
        request: v1::ListNamespacesRequest,
    ) -> Result<v1::ListNamespacesResponse, Error> {
        self.call(Safety::Read, request, |channel, request| async move {
            RegistryClient::new(channel).list_namespaces(request).await
        })
        .await
    }

    /// Reads all namespaces, as [`Client::list_all`] does.
    ///
    /// # Errors
    /// As [`Client::list_all`].
    pub async fn list_all_namespaces(
        &self,
        request: v1::ListNamespacesRequest,
    ) -> Result<v1::ListNamespacesResponse, Error> {
        self.all_pages(request, Self::list_namespaces).await
    }

    /// Reads page after page until the last, and joins them.
    pub(super) async fn all_pages<Q, R>(
        &self,
        request: Q,
        read: impl AsyncFn(&Self, Q) -> Result<R, Error>,
    ) -> Result<R, Error>
    where
        Q: PageRequest,
        R: Page,
    {
        'again: for _ in 0..LIST_ATTEMPTS_MAX {
            let mut whole = read(self, request.clone()).await?;
            for _ in 0..PAGES_MAX {
                let token = whole.take_token();
                if token.is_empty() {
                    return Ok(whole);
                }
                match read(self, request.clone().after(token)).await {
                    Ok(page) => whole.append(page),
                    Err(error) if error.reason() == Some(Reason::PageExpired) => continue 'again,
                    Err(error) => return Err(error),
                }
            }
        }
        Err(Error::PagesExpired {
            attempts: LIST_ATTEMPTS_MAX,
        })
    }
}

/// A register of these may be repeated blindly when each has an id and no revision is expected.
fn repeatable<'a>(expected: Option<i64>, mut instances: impl Iterator<Item = &'a v1::Instance>) -> Safety {
    let named = instances.all(|instance| instance.key.as_ref().is_some_and(|key| !key.id.is_empty()));
    if named && expected.is_none() {
        Safety::Repeatable
    } else {
        Safety::Once
    }
}

/// A request that asks for one page.
pub(super) trait PageRequest: Clone {
    /// The same request for the page that the token names.
    fn after(self, token: String) -> Self;
}

/// An answer that is one page.
pub(super) trait Page {
    /// The next page's token, taken out.
    fn take_token(&mut self) -> String;
    /// Puts the next page behind this one.
    fn append(&mut self, next: Self);
}

macro_rules! paged {
    ($request:ident, $response:ident, $items:ident) => {
        impl PageRequest for v1::$request {
            fn after(self, page_token: String) -> Self {
                Self { page_token, ..self }
            }
        }

        impl Page for v1::$response {
            fn take_token(&mut self) -> String {
                std::mem::take(&mut self.next_page_token)
            }

            fn append(&mut self, next: Self) {
                self.$items.extend(next.$items);
                self.next_page_token = next.next_page_token;
            }
        }
    };
}

paged!(ListRequest, ListResponse, instances);
paged!(ListServicesRequest, ListServicesResponse, services);
paged!(ListNamespacesRequest, ListNamespacesResponse, namespaces);
paged!(GetLeaseRequest, GetLeaseResponse, instances);
paged!(ListLeasesRequest, ListLeasesResponse, leases);

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: &str) -> v1::Instance {
        v1::Instance {
            key: Some(v1::InstanceKey {
                id: id.into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn only_a_register_with_an_id_and_without_an_expected_revision_is_repeated() {
        assert_eq!(repeatable(None, [named("1"), named("2")].iter()), Safety::Repeatable);
        assert_eq!(repeatable(None, [named("1"), named("")].iter()), Safety::Once);
        assert_eq!(repeatable(Some(0), [named("1")].iter()), Safety::Once);
        assert_eq!(repeatable(None, [v1::Instance::default()].iter()), Safety::Once);
    }

    #[test]
    fn pages_join_in_order_and_keep_the_last_token() {
        let page = |id: &str, token: &str| v1::ListResponse {
            instances: vec![named(id)],
            next_page_token: token.into(),
            ..Default::default()
        };
        let mut whole = page("1", "a");
        assert_eq!(whole.take_token(), "a");
        whole.append(page("2", ""));
        assert_eq!(whole.instances, vec![named("1"), named("2")]);
        assert_eq!(whole.take_token(), "");
    }
}

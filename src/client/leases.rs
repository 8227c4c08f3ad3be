//! The calls of the `Leases` service, but for the stream.

use std::time::Duration;

use tokio::time::Instant;

use super::{error::Error, handle::Client, retry::Safety};
use crate::wire::v1::{self, leases_client::LeasesClient, renew_result::Outcome};

/// The longest pause between two askings for leases that a node could not confirm.
const PAUSE_MAX: Duration = Duration::from_millis(400);

impl Client {
    /// Grants a lease. Repeated by itself only with an id of the caller's own.
    ///
    /// # Errors
    /// As the API's table says; [`Error::outcome`] tells whether it may have been granted.
    pub async fn grant_lease(&self, request: v1::GrantLeaseRequest) -> Result<v1::GrantLeaseResponse, Error> {
        let safety = if request.lease_id == 0 {
            Safety::Once
        } else {
            Safety::Repeatable
        };
        self.call(safety, request, |channel, request| async move {
            LeasesClient::new(channel).grant_lease(request).await
        })
        .await
    }

    /// Ends a lease and removes its instances. That there was none is no error; the answer says so.
    ///
    /// # Errors
    /// As [`Client::grant_lease`].
    pub async fn revoke_lease(&self, lease_id: i64) -> Result<v1::RevokeLeaseResponse, Error> {
        let request = v1::RevokeLeaseRequest { lease_id };
        self.call(Safety::Repeatable, request, |channel, request| async move {
            LeasesClient::new(channel).revoke_lease(request).await
        })
        .await
    }

    /// Reads a lease and one page of the keys of its instances.
    ///
    /// # Errors
    /// As the API's table says; `LEASE_NOT_FOUND`.
    pub async fn lease(&self, request: v1::GetLeaseRequest) -> Result<v1::GetLeaseResponse, Error> {
        self.call(Safety::Read, request, |channel, request| async move {
            LeasesClient::new(channel).get_lease(request).await
        })
        .await
    }

    /// Reads a lease and the keys of all its instances, as [`Client::list_all`] does.
    ///
    /// # Errors
    /// As [`Client::lease`].
    pub async fn whole_lease(&self, request: v1::GetLeaseRequest) -> Result<v1::GetLeaseResponse, Error> {
        self.all_pages(request, Self::lease).await
    }

    /// Reads one page of the leases.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub async fn list_leases(&self, request: v1::ListLeasesRequest) -> Result<v1::ListLeasesResponse, Error> {
        self.call(Safety::Read, request, |channel, request| async move {
            LeasesClient::new(channel).list_leases(request).await
        })
        .await
    }

    /// Reads all leases, as [`Client::list_all`] does.
    ///
    /// # Errors
    /// As [`Client::list_all`].
    pub async fn list_all_leases(&self, request: v1::ListLeasesRequest) -> Result<v1::ListLeasesResponse, Error> {
        self.all_pages(request, Self::list_leases).await
    }

    /// Renews leases once. A node that can't confirm some of them is left, and the next one is asked for all, until
    /// patience ends; what is unconfirmed then is so in the answer.
    ///
    /// # Errors
    /// As the API's table says. That a lease is not there is a result, not an error.
    pub async fn renew(&self, lease_ids: Vec<i64>) -> Result<v1::RenewResponse, Error> {
        let began = Instant::now();
        let mut pauses = self.pauses(PAUSE_MAX);
        let mut asked = 0_usize;
        loop {
            let request = v1::RenewRequest {
                seq: i64::try_from(asked).unwrap_or(i64::MAX),
                lease_ids: lease_ids.clone(),
            };
            let node = self.nodes().current();
            let response = self
                .call(Safety::Repeatable, request, |channel, request| async move {
                    LeasesClient::new(channel).renew(request).await
                })
                .await?;
            let unconfirmed = response
                .results
                .iter()
                .any(|result| result.outcome() == Outcome::Unconfirmed);
            let patience = self.options().timeout.min(self.options().unavailable_patience);
            if !unconfirmed || began.elapsed() >= patience {
                return Ok(response);
            }
            self.nodes().leave(node);
            asked += 1;
            if asked.is_multiple_of(self.nodes().count()) {
                tokio::time::sleep(pauses.next().unwrap_or(PAUSE_MAX)).await;
            }
        }
    }
}

//! `roster deregister`, `update` and `get`: one instance that is there.

use std::time::SystemTime;

use clap::Args;

use super::{
    failure::Failure,
    instance,
    select::ReadArgs,
    session::Session,
    values::{EntryChange, TagChange, lease_id, status, whole_place},
};
use crate::wire::v1;

/// Which instance.
#[derive(Args, Clone, Debug)]
struct Which {
    /// The service, or SERVICE/ID
    #[arg(value_name = "SERVICE[/ID]")]
    service: String,
    /// The instance's name within the service
    id: Option<String>,
}

impl Which {
    fn key(&self, session: &Session, command: &str) -> Result<v1::InstanceKey, Failure> {
        whole_place(session.namespace.as_deref(), &self.service, self.id.as_deref(), command)
    }
}

/// Removes an instance
///
/// That there is none is no error.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster deregister web 10.0.0.7:8080
  roster deregister web/1 --incarnation 1700000000      only this life of it, or an earlier one")]
pub(super) struct DeregisterArgs {
    #[command(flatten)]
    which: Which,
    /// Refuse when the record's incarnation is greater
    #[arg(long, value_name = "N", default_value_t)]
    incarnation: i64,
    /// Only if this lease holds it
    #[arg(long, value_name = "LEASE", value_parser = lease_id)]
    lease: Option<i64>,
    /// Only if this revision changed it last
    #[arg(long, value_name = "REVISION")]
    expect: Option<i64>,
}

impl DeregisterArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let key = self.which.key(session, "deregister")?;
        let request = v1::DeregisterRequest {
            key: Some(key.clone()),
            expected_mod_revision: self.expect,
            incarnation: self.incarnation,
            lease_id: self.lease.unwrap_or_default(),
        };
        let response = session.client.deregister(request).await?;
        if session.output.is_json() {
            return session.output.message("DeregisterResponse", &response);
        }
        let key = instance::key_text(&key);
        session.output.line(&if response.existed {
            format!("deregistered {key}")
        } else {
            format!("{key} was not registered")
        })
    }
}

/// Changes some fields of an instance
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster update web/1 --status draining
  roster update web 1 --weight 0 --tag +canary --tag -stable
  roster update web/1 --meta build=42 --meta old-")]
pub(super) struct UpdateArgs {
    #[command(flatten)]
    which: Which,
    /// How it does: STARTING, UP, DRAINING or DOWN
    #[arg(long, value_parser = status)]
    status: Option<v1::instance::Status>,
    /// Its share of the traffic, 0 to 65535; 0 = none
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Its own version, free text
    #[arg(long)]
    version: Option<String>,
    /// +TAG adds, -TAG removes; may be repeated
    #[arg(long = "tag", value_name = "+TAG|-TAG", allow_hyphen_values = true)]
    tags: Vec<TagChange>,
    /// KEY=VALUE sets, KEY- removes; may be repeated
    #[arg(long = "meta", value_name = "KEY=VALUE|KEY-")]
    metadata: Vec<EntryChange>,
    /// Refuse when the record's incarnation is greater
    #[arg(long, value_name = "N", default_value_t)]
    incarnation: i64,
    /// Only if this revision changed it last
    #[arg(long, value_name = "REVISION")]
    expect: Option<i64>,
}

impl UpdateArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let key = self.which.key(session, "update")?;
        let request = self.request(key.clone())?;
        let response = session.client.update(request).await?;
        if session.output.is_json() {
            return session.output.message("UpdateResponse", &response);
        }
        let revision = response
            .instance
            .map(|instance| instance.mod_revision)
            .unwrap_or_default();
        let key = instance::key_text(&key);
        session.output.line(&if response.changed {
            format!("updated {key} (revision {revision})")
        } else {
            format!("{key} was like that already (revision {revision})")
        })
    }

    fn request(self, key: v1::InstanceKey) -> Result<v1::UpdateRequest, Failure> {
        let nothing = self.status.is_none()
            && self.weight.is_none()
            && self.version.is_none()
            && self.tags.is_empty()
            && self.metadata.is_empty();
        if nothing {
            return Err(Failure::Usage(
                "nothing to change; say --status, --weight, --version, --tag or --meta".into(),
            ));
        }
        let mut request = v1::UpdateRequest {
            key: Some(key),
            status: self.status.unwrap_or_default().into(),
            weight: self.weight,
            version: self.version,
            expected_mod_revision: self.expect,
            incarnation: self.incarnation,
            ..Default::default()
        };
        for change in self.tags {
            match change {
                TagChange::Add(tag) => request.add_tags.push(tag),
                TagChange::Remove(tag) => request.remove_tags.push(tag),
            }
        }
        for change in self.metadata {
            match change {
                EntryChange::Set(entry) => {
                    request.set_metadata.insert(entry.key, entry.value);
                }
                EntryChange::Remove(key) => request.remove_metadata.push(key),
            }
        }
        Ok(request)
    }
}

/// Shows one instance
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster get web 10.0.0.7:8080
  roster get web/1 -o json | jq -r .instance.status")]
pub(super) struct GetArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    read: ReadArgs,
}

impl GetArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let key = self.which.key(session, "get")?;
        let request = v1::GetRequest {
            key: Some(key),
            read: Some(self.read.options()?),
        };
        let response = session.client.get(request).await?;
        if session.output.is_json() {
            return session.output.message("GetResponse", &response);
        }
        let wide = session.output.is_wide();
        let table = instance::table(response.instance.iter(), true, wide, SystemTime::now());
        session.output.table(&table)?;
        super::select::tell_age(&mut session.output, response.header.as_ref());
        Ok(())
    }
}

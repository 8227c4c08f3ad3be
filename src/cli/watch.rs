//! `roster watch`: who comes, goes and changes, as it happens.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use tokio::time::Instant;

use super::{
    failure::Failure, instance, interrupt::Interrupts, select::SelectArgs, session::Session, table::Columns, values,
};
use crate::{
    client::{Error, Step, WatchEvent, Watcher},
    wire::{
        span::span_to_proto,
        v1::{self, change, watch_request::Start},
    },
};

/// How long is tried to begin; after that, interruptions are ridden out for ever.
const BEGIN_WITHIN: Duration = Duration::from_secs(5);
/// How long when nobody is there at all.
const NOBODY_THERE: Duration = Duration::from_secs(2);

/// Watches instances come, go and change
///
/// Begins with what there is. `+` is new, `-` is gone, `~` has changed. It goes on at another node when one fails; what
/// changed meanwhile is told then. With -o json it prints each message of the stream.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster watch web
  roster watch --all --serving -o json
  roster watch web --after 5f0c6d1e2a3b4c5d:1042     goes on where an earlier watch ended
  roster watch web --max-age 3s                      ends a view that is older, and looks for a fresher node")]
pub(super) struct WatchArgs {
    #[command(flatten)]
    select: SelectArgs,
}

impl WatchArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let mut interrupts = Interrupts::listen()?;
        let request = self.request(session).await?;
        let mut watcher = Watcher::new(session.client.clone(), request).without_view();
        let mut screen = Screen::new(self.select.all_namespaces);
        let mut beginning = Some(Beginning::new(session.timeout.unwrap_or(BEGIN_WITHIN)));
        let mut trouble = false;
        loop {
            let event = tokio::select! {
                () = interrupts.next() => break,
                event = watcher.next() => event?,
            };
            match event {
                WatchEvent::Step(step) => {
                    beginning = None;
                    screen.step(session, &step)?;
                    session.output.flush()?;
                }
                WatchEvent::Progress(message) => progress(session, &message)?,
                WatchEvent::Interrupted(error) => {
                    if let Some(beginning) = &mut beginning {
                        beginning.failed(error.clone())?;
                    }
                    if !std::mem::replace(&mut trouble, true) {
                        session.output.trouble("asking another node", &error);
                    }
                }
                WatchEvent::Resumed(endpoint) => {
                    trouble = false;
                    session.output.note(&format!("watching at {endpoint}"));
                }
            }
            session.output.check_reader()?;
        }
        if let Some(position) = watcher.position() {
            let position = values::position(position);
            session.output.note(&format!("go on with --after {position}"));
        }
        Ok(())
    }

    async fn request(&self, session: &Session) -> Result<v1::WatchRequest, Failure> {
        let start = match &self.select.after {
            None => Start::Snapshot(true),
            Some(after) => {
                let cluster_id = match &after.cluster_id {
                    Some(cluster_id) => cluster_id.clone(),
                    // A revision alone is one of the cluster that is asked.
                    None => {
                        let header = session.client.node_status().await?.header;
                        header.map(|header| header.cluster_id).unwrap_or_default()
                    }
                };
                Start::After(v1::Position {
                    cluster_id,
                    revision: after.revision,
                })
            }
        };
        let max_age = match self.select.read.max_age {
            Some(age) => Some(age),
            // However old.
            None if self.select.read.stale => Some(Duration::ZERO),
            None => None,
        };
        Ok(v1::WatchRequest {
            selector: Some(self.select.selector(session)?),
            max_age: max_age.map(span_to_proto),
            progress_interval: None,
            start: Some(start),
        })
    }
}

/// The time before the first step: then, and only then, a cluster that can't ends the watch.
#[derive(Debug)]
struct Beginning {
    began: Instant,
    patience: Duration,
    /// What a node said last.
    said: Option<Error>,
}

impl Beginning {
    fn new(patience: Duration) -> Self {
        Self {
            began: Instant::now(),
            patience,
            said: None,
        }
    }

    /// Another attempt has failed; an error when it was the last.
    fn failed(&mut self, error: Error) -> Result<(), Error> {
        let absent = matches!(error, Error::Unreachable { .. });
        if !absent {
            self.said = Some(error.clone());
        }
        let patience = if self.said.is_some() {
            self.patience
        } else {
            self.patience.min(NOBODY_THERE)
        };
        if self.began.elapsed() >= patience {
            return Err(self.said.take().unwrap_or(error));
        }
        Ok(())
    }
}

type Key = (String, String, String);

/// What was shown, so that the next lines can say what is new.
#[derive(Debug)]
struct Screen {
    with_namespace: bool,
    columns: Columns,
    shown: BTreeMap<Key, v1::Instance>,
    began: bool,
}

impl Screen {
    fn new(with_namespace: bool) -> Self {
        Self {
            with_namespace,
            columns: Columns::default(),
            shown: BTreeMap::new(),
            began: false,
        }
    }

    /// Shows a step.
    fn step(&mut self, session: &mut Session, step: &Step) -> Result<(), Failure> {
        if session.output.is_json() {
            for message in &step.messages {
                session.output.message("WatchResponse", message)?;
            }
            return Ok(());
        }
        if let Some(reason) = step.reset.filter(|_| self.began) {
            let why = match reason {
                v1::reset::Reason::Compacted => "the history since then is gone",
                v1::reset::Reason::Lagged => "this watch was too slow",
                v1::reset::Reason::OtherCluster => "this is another cluster, or one restored from a backup",
                v1::reset::Reason::Unspecified => "the node says so",
            };
            session.output.note(&format!(
                "reset: {why}; what follows is the difference to a fresh snapshot"
            ));
        }
        self.began = true;
        let rows = self.rows(step);
        for line in self.columns.lines(&rows) {
            session.output.line(&line)?;
        }
        Ok(())
    }

    fn rows(&mut self, step: &Step) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        if step.snapshot {
            let mut now = BTreeMap::new();
            for instance in step.changes().filter_map(|change| change.instance.clone()) {
                now.insert(key_of(instance.key.as_ref()), instance);
            }
            let before = std::mem::take(&mut self.shown);
            for (key, instance) in &before {
                if !now.contains_key(key) {
                    rows.push(self.row("-", instance, ""));
                }
            }
            for (key, instance) in &now {
                match before.get(key) {
                    None => rows.push(self.row("+", instance, "")),
                    Some(known) if known != instance => rows.push(self.row("~", instance, "")),
                    Some(_) => {}
                }
            }
            self.shown = now;
            return rows;
        }
        for change in step.changes() {
            match change.kind() {
                change::Kind::Put => {
                    let Some(instance) = &change.instance else { continue };
                    let known = self.shown.insert(key_of(instance.key.as_ref()), instance.clone());
                    rows.push(self.row(if known.is_some() { "~" } else { "+" }, instance, ""));
                }
                change::Kind::Remove => {
                    let key = change.removed.clone().unwrap_or_default();
                    let known = self.shown.remove(&key_of(Some(&key)));
                    let instance = known.unwrap_or(v1::Instance {
                        key: Some(key),
                        ..Default::default()
                    });
                    rows.push(self.row("-", &instance, why(change.reason())));
                }
                change::Kind::Unspecified => {}
            }
        }
        rows
    }

    fn row(&self, sign: &str, instance: &v1::Instance, why: &str) -> Vec<String> {
        let key = instance.key.clone().unwrap_or_default();
        let mut cells = vec![sign.to_owned()];
        if self.with_namespace {
            cells.push(key.namespace);
        }
        // What a removal does not tell is left out: it is not known how it stood.
        let known = !instance.address.is_empty() || !instance.ports.is_empty();
        let when_known = |text: String| if known { text } else { String::new() };
        cells.extend([
            key.service,
            key.id,
            when_known(instance::endpoint(instance)),
            if sign == "-" {
                why.to_owned()
            } else {
                instance::status_name(instance).into()
            },
            if sign == "-" {
                String::new()
            } else {
                format!(
                    "weight {}",
                    instance.weight.unwrap_or(crate::model::limits::WEIGHT_DEFAULT)
                )
            },
            when_known(instance.zone.clone()),
        ]);
        cells
    }
}

/// A sign of life, for scripts only.
fn progress(session: &mut Session, message: &v1::WatchResponse) -> Result<(), Failure> {
    if session.output.is_json() {
        session.output.message("WatchResponse", message)?;
        session.output.flush()?;
    }
    Ok(())
}

fn key_of(key: Option<&v1::InstanceKey>) -> Key {
    let key = key.cloned().unwrap_or_default();
    (key.namespace, key.service, key.id)
}

fn why(reason: change::Reason) -> &'static str {
    match reason {
        change::Reason::Unspecified => "",
        change::Reason::Deregistered => "deregistered",
        change::Reason::Expired => "expired",
        change::Reason::Revoked => "revoked",
        change::Reason::LeftSelector => "no longer selected",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(id: &str, weight: u32) -> v1::Change {
        v1::Change {
            kind: change::Kind::Put.into(),
            instance: Some(v1::Instance {
                key: Some(key(id)),
                address: format!("10.0.0.{id}"),
                weight: Some(weight),
                status: v1::instance::Status::Up.into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn key(id: &str) -> v1::InstanceKey {
        v1::InstanceKey {
            namespace: "default".into(),
            service: "web".into(),
            id: id.into(),
        }
    }

    fn remove(id: &str, reason: change::Reason) -> v1::Change {
        v1::Change {
            kind: change::Kind::Remove.into(),
            removed: Some(key(id)),
            reason: reason.into(),
            ..Default::default()
        }
    }

    fn step(snapshot: bool, changes: Vec<v1::Change>) -> Step {
        Step {
            snapshot,
            reset: None,
            messages: vec![v1::WatchResponse {
                changes,
                ..Default::default()
            }],
        }
    }

    fn lines(screen: &mut Screen, step: &Step) -> Vec<String> {
        let rows = screen.rows(step);
        screen.columns.lines(&rows)
    }

    #[test]
    fn lines_say_what_is_new_gone_and_changed() {
        let mut screen = Screen::new(false);
        assert_eq!(
            lines(&mut screen, &step(true, vec![put("1", 100), put("2", 100)])),
            [
                "+  web  1  10.0.0.1  UP  weight 100",
                "+  web  2  10.0.0.2  UP  weight 100"
            ]
        );
        let changes = vec![put("1", 50), remove("2", change::Reason::Expired), put("3", 100)];
        assert_eq!(
            lines(&mut screen, &step(false, changes)),
            [
                "~  web  1  10.0.0.1  UP       weight 50",
                "-  web  2  10.0.0.2  expired",
                "+  web  3  10.0.0.3  UP       weight 100"
            ]
        );
    }

    #[test]
    fn a_reset_shows_the_difference_only() {
        let mut screen = Screen::new(false);
        let _ = lines(
            &mut screen,
            &step(true, vec![put("1", 100), put("2", 100), put("3", 100)]),
        );
        let fresh = step(true, vec![put("1", 100), put("2", 7), put("4", 100)]);
        assert_eq!(
            lines(&mut screen, &fresh),
            [
                "-  web  3  10.0.0.3",
                "~  web  2  10.0.0.2  UP  weight 7",
                "+  web  4  10.0.0.4  UP  weight 100"
            ]
        );
    }
}

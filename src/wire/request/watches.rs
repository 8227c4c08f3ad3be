//! Watch and WatchMany.

use std::time::Duration;

use crate::{
    model::{Position, Selector},
    wire::{
        FieldErrors,
        field::{Fields, Path},
        v1,
    },
};

/// How often a quiet watch says that it is alive, when its owner names no interval.
pub const PROGRESS_DEFAULT: Duration = Duration::from_secs(2);
/// The shortest interval.
pub const PROGRESS_MIN: Duration = Duration::from_millis(100);
/// The longest.
pub const PROGRESS_MAX: Duration = Duration::from_secs(3_600);
/// The age at which a watch ends, when its owner names none.
pub const MAX_AGE_DEFAULT: Duration = Duration::from_secs(10);
/// The least age that a watch may end at: a node asks for the cluster's present about every 500 ms, so a smaller one
/// would end watches of healthy nodes.
pub const MAX_AGE_MIN: Duration = Duration::from_secs(1);

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchStart {
    /// With everything that is selected now.
    Snapshot,
    /// With what changes after a position; with everything, and the reason, where that can't be had.
    After(Position),
    /// With what changes from now on.
    Now,
}

/// One watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// What to watch.
    pub selector: Selector,
    /// From where.
    pub start: WatchStart,
    /// How often it says that it is alive while nothing changes.
    pub progress_interval: Duration,
    /// The age of the node's view at which it ends; `None` = never.
    pub max_age: Option<Duration>,
}

/// Reads a Watch; `path` is where it stands: [`Path::Root`], or `create.watch` of a WatchMany.
///
/// # Errors
/// Everything that is wrong with it.
pub fn watch(request: v1::WatchRequest, path: &Path<'_>) -> Result<Watch, FieldErrors> {
    Fields::check(|fields| fields.watch(path, request))
}

/// One request on a stream of many watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMany {
    /// Begin a watch.
    Create {
        /// Its number on the stream, never 0.
        watch_id: i64,
        /// What; or everything that is wrong with it, which ends this watch and no other.
        watch: Result<Watch, FieldErrors>,
    },
    /// End a watch.
    Cancel {
        /// Which.
        watch_id: i64,
    },
}

/// Reads a request on a stream of many watches.
///
/// # Errors
/// It asks for nothing that this node knows, or names no watch: there is none to answer for it, so the stream ends.
pub fn watch_many(request: v1::WatchManyRequest) -> Result<WatchMany, FieldErrors> {
    use v1::watch_many_request::Request;
    let root = Path::Root;
    match request.request {
        None => Err(FieldErrors::one(
            &root.field("request"),
            "is not set: one of create and cancel must be, and be known to this node",
        )),
        Some(Request::Cancel(cancel)) => Ok(WatchMany::Cancel {
            watch_id: cancel.watch_id,
        }),
        Some(Request::Create(create)) => {
            let path = root.field("create");
            let path = path.field("watch");
            let watch = match create.watch {
                _ if create.watch_id <= 0 => {
                    let path = root.field("create");
                    Err(FieldErrors::one(&path.field("watch_id"), "must be 1 or more"))
                }
                None => Err(FieldErrors::one(&path, "must be set")),
                Some(request) => watch(request, &path),
            };
            Ok(WatchMany::Create {
                watch_id: create.watch_id,
                watch,
            })
        }
    }
}

impl Fields {
    fn watch(&mut self, path: &Path<'_>, request: v1::WatchRequest) -> Option<Watch> {
        use v1::watch_request::Start;
        let selector = self.selector(&path.field("selector"), request.selector);
        let start = match &request.start {
            None => Some(WatchStart::Snapshot),
            Some(Start::Snapshot(yes)) => self
                .chosen(&path.field("snapshot"), *yes)
                .map(|()| WatchStart::Snapshot),
            Some(Start::After(position)) => self.position(&path.field("after"), position).map(WatchStart::After),
            Some(Start::Now(yes)) => self.chosen(&path.field("now"), *yes).map(|()| WatchStart::Now),
        };
        let progress_interval = self.progress_interval(&path.field("progress_interval"), request.progress_interval);
        let max_age = self.watch_max_age(&path.field("max_age"), request.max_age);
        Some(Watch {
            selector: selector?,
            start: start?,
            progress_interval: progress_interval?,
            max_age: max_age?,
        })
    }

    fn progress_interval(&mut self, path: &Path<'_>, sent: Option<prost_types::Duration>) -> Option<Duration> {
        let interval = self.span(path, sent)?.unwrap_or(PROGRESS_DEFAULT);
        if (PROGRESS_MIN..=PROGRESS_MAX).contains(&interval) {
            Some(interval)
        } else {
            self.refuse(path, "must be 100 ms to 1 h")
        }
    }

    /// Outer `None` = refused, inner `None` = the watch never ends for its age.
    fn watch_max_age(&mut self, path: &Path<'_>, sent: Option<prost_types::Duration>) -> Option<Option<Duration>> {
        match self.span(path, sent)?.unwrap_or(MAX_AGE_DEFAULT) {
            Duration::ZERO => Some(None),
            age if age >= MAX_AGE_MIN => Some(Some(age)),
            _ => self.refuse(path, "must be 0 s (never), or 1 s or more"),
        }
    }
}

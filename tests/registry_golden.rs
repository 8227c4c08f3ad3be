//! The stories of leases in `golden/leases/`: lease clocks of several leaders and the state machine, on a time that
//! is a number. After every command the invariants hold and both replicas agree; whatever a story tells, an expiry
//! that comes sooner than a TTL after the sending of an acknowledged renewal fails it.
//!
//! `UPDATE_GOLDENFILES=1` writes the outputs anew; read them before they are committed.

mod registry_support;

use std::{error::Error, fmt::Write as _, time::Duration};

use goldenscript::ArgumentConsumer;
use registry_support::{
    cluster::{Cluster, lease_seconds, seconds},
    key, spec,
};
use roster::{
    model::{Hold, Incarnation, LeaseId, LeaseTime, Scope, Selector, Ttl},
    registry::{Command, Deregister, Entry, Outcome, Register, Registered},
};

type Failure = Box<dyn Error>;

/// Most instances that `state` shows.
const SHOWN: usize = 5;

#[derive(Default)]
struct Story {
    cluster: Cluster,
}

fn span(text: &str) -> Result<Duration, Failure> {
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .ok_or("a span needs a unit")?;
    let number: f64 = text[..split].parse()?;
    match &text[split..] {
        "s" => Ok(Duration::from_secs_f64(number)),
        "ms" => Ok(Duration::from_secs_f64(number / 1_000.0)),
        unit => Err(format!("{unit:?} is no unit of time").into()),
    }
}

fn position<'a>(arguments: &mut ArgumentConsumer<'a>, what: &str) -> Result<&'a str, Failure> {
    let argument = arguments.next_pos().ok_or_else(|| format!("{what} is missing"))?;
    Ok(argument.value.as_str())
}

fn ttl(text: &str) -> Result<Ttl, Failure> {
    Ok(Ttl::from_ms(u64::try_from(span(text)?.as_millis())?)?)
}

impl Story {
    fn hold(arguments: &mut ArgumentConsumer<'_>) -> Result<Hold, Failure> {
        if let Some(lease_id) = arguments.lookup_parse("lease")? {
            let lease_id = LeaseId(lease_id);
            return Ok(Hold::Shared { lease_id });
        }
        match arguments.lookup("ttl") {
            Some(argument) => Ok(Hold::Own {
                ttl: ttl(&argument.value)?,
            }),
            None => Ok(Hold::Permanent),
        }
    }

    /// A lease's number, or that of the lease that holds an instance.
    fn lease(&self, text: &str) -> Result<LeaseId, Failure> {
        if let Ok(number) = text.parse() {
            return Ok(LeaseId(number));
        }
        let instance = self
            .cluster
            .registry
            .state()
            .instance(&key(text))
            .ok_or("no such instance")?;
        Ok(instance.lease_id().ok_or("it has no lease")?)
    }

    fn write(&mut self, command: Command) -> String {
        let what = match self.cluster.run(command) {
            Ok(Outcome::Registered { instance, how }) => {
                let how = match how {
                    Registered::Created => "created",
                    Registered::Changed => "changed",
                    Registered::Unchanged => "unchanged",
                    Registered::TookOver => "taken over",
                };
                let held = instance
                    .lease
                    .map_or("permanent".into(), |(id, _)| format!("lease {id}"));
                format!("{} is registered: {how}, {held}", instance.key())
            }
            Ok(Outcome::Granted(lease)) => format!("lease {} is granted", lease.lease_id),
            Ok(other) => format!("{other:?}"),
            Err(rejection) => format!("refused: {rejection}"),
        };
        format!("{} {what}", seconds(self.cluster.now))
    }

    fn state(&self) -> String {
        let state = self.cluster.registry.state();
        let mut text = String::new();
        let clock = lease_seconds(state.clock());
        let (instances, leases) = (state.instance_count(), state.lease_count());
        let _ = write!(
            text,
            "revision {}, lease time {clock}, instances {instances}, leases {leases}",
            state.revision()
        );
        let all = Selector {
            namespace: None,
            scope: Scope::All,
            serving: false,
            matches: Vec::new(),
        };
        for instance in state.select(&all, None).take(SHOWN) {
            let lease = instance.lease_id().and_then(|id| state.lease(id));
            let held = lease.map_or("permanent".into(), |lease| {
                format!("lease {}, {} left", lease.lease_id, seconds(lease.remaining))
            });
            let _ = write!(text, "\n  {}: {held}", instance.key());
        }
        if instances > SHOWN {
            text.push_str("\n  …");
        }
        text
    }

    /// How long an instance stayed after its last renewal, beside what is promised.
    fn bound(&self, name: &str) -> Result<String, Failure> {
        let gone = self.cluster.gone.get(&key(name)).ok_or("it is still there")?;
        let (took, allowed) = (gone.took(), gone.allowed());
        if took > allowed {
            return Err(format!("{} is longer than {}", seconds(took), seconds(allowed)).into());
        }
        Ok(format!(
            "gone {} after its last renewal was sent; allowed are {}: TTL {}, 1 s, {} unavailable, {} leader changes",
            seconds(took),
            seconds(allowed),
            seconds(gone.renewed.ttl.as_duration()),
            seconds(gone.renewed.unavailable),
            gone.renewed.leader_changes,
        ))
    }

    fn register_many(&mut self, count: usize, hold: Hold) {
        let register = |n: usize| {
            Command::Register(Register {
                instance: spec(key(&format!("many/i{n:06}"))),
                hold,
                expected_mod_revision: None,
            })
        };
        let names: Vec<usize> = (0..count).collect();
        for names in names.chunks(1_000) {
            let stamp = self.cluster.registry.state().clock();
            self.cluster.inject(Entry {
                stamp,
                wall_ms: 0,
                renewals: Vec::new(),
                commands: names.iter().map(|n| register(*n)).collect(),
            });
        }
    }

    /// Passes time until nothing is due, and says how many entries that took.
    fn until_nothing_is_due(&mut self) -> String {
        let (entries, begin) = (self.cluster.entries, self.cluster.now);
        self.cluster.most_removed = 0;
        let before = self.cluster.registry.state().instance_count();
        while let Some(next) = self.cluster.registry.next_deadline() {
            if self.cluster.reading().is_none_or(|reading| next >= reading) {
                break;
            }
            self.cluster.pass(registry_support::cluster::QUANTUM);
        }
        format!(
            "{} {} instances went with {} entries, at most {} with one, within {}",
            seconds(self.cluster.now),
            before - self.cluster.registry.state().instance_count(),
            self.cluster.entries - entries,
            self.cluster.most_removed,
            seconds(self.cluster.now - begin)
        )
    }

    /// A write, which time passes for until it is applied.
    fn write_command(&mut self, name: &str, arguments: &mut ArgumentConsumer<'_>) -> Result<String, Failure> {
        let command = match name {
            // register NAME [ttl=SPAN | lease=ID] [incarnation=N]
            "register" => {
                let mut instance = spec(key(position(arguments, "a name")?));
                instance.incarnation = Incarnation(arguments.lookup_parse("incarnation")?.unwrap_or(0));
                let hold = Self::hold(arguments)?;
                Command::Register(Register {
                    instance,
                    hold,
                    expected_mod_revision: None,
                })
            }
            "deregister" => {
                let key = key(position(arguments, "a name")?);
                let incarnation = Incarnation(arguments.lookup_parse("incarnation")?.unwrap_or(0));
                Command::Deregister(Deregister {
                    key,
                    expected_mod_revision: None,
                    incarnation,
                    lease_id: None,
                })
            }
            "grant" => {
                let ttl = ttl(position(arguments, "a TTL")?)?;
                Command::GrantLease { lease_id: None, ttl }
            }
            name => return Err(format!("{name:?} is no command").into()),
        };
        Ok(self.write(command))
    }

    fn command(&mut self, command: &goldenscript::Command) -> Result<String, Failure> {
        let mut arguments = command.consume_args();
        let mut said = String::new();
        match command.name.as_str() {
            // A node becomes the leader; what survived its predecessor is committed.
            "elect" => self.cluster.elect(position(&mut arguments, "a name")?),
            // The leader is gone, and what it had in flight with it.
            "crash" => {
                let survives = arguments.lookup_parse("in-flight-survives")?.unwrap_or(false);
                self.cluster.crash(survives);
            }
            // quorum lost | back
            "quorum" => self
                .cluster
                .set_quorum(position(&mut arguments, "lost or back")? == "back"),
            // The leader stands still.
            "pause" => self.cluster.pause(span(position(&mut arguments, "a span")?)?),
            "pass" => self.cluster.pass(span(position(&mut arguments, "a span")?)?),
            // A renewal is sent now, and goes with the next entry.
            "renew" => {
                let lease = self.lease(position(&mut arguments, "a lease or an instance")?)?;
                self.cluster.renew(lease);
            }
            // How long renewals wait for company.
            "company" => self.cluster.company = span(position(&mut arguments, "a span")?)?,
            // An entry from elsewhere: entry stamp=SPAN [renew=ID]
            "entry" => {
                let stamp = span(&arguments.lookup("stamp").ok_or("a stamp is missing")?.value)?;
                let renewals: Option<u64> = arguments.lookup_parse("renew")?;
                self.cluster.inject(Entry {
                    stamp: LeaseTime(u64::try_from(stamp.as_nanos())?),
                    wall_ms: 0,
                    renewals: renewals.map(LeaseId).into_iter().collect(),
                    commands: Vec::new(),
                });
            }
            // Every node starts from the snapshot of now; the log is purged.
            "purge" => {
                let items = self.cluster.restart_from_snapshot();
                said = format!("the log is purged to a snapshot of {items} items");
            }
            "register-many" => {
                let count = position(&mut arguments, "a count")?.parse()?;
                self.cluster.tells = false;
                let hold = Self::hold(&mut arguments)?;
                self.register_many(count, hold);
            }
            "until-nothing-is-due" => said = self.until_nothing_is_due(),
            "state" => said = self.state(),
            "clock" => {
                let reading = self.cluster.reading().ok_or("nobody leads")?;
                said = format!(
                    "{} the lease clock reads {}",
                    seconds(self.cluster.now),
                    lease_seconds(reading)
                );
            }
            "bound" => said = self.bound(position(&mut arguments, "a name")?)?,
            _ => said = self.write_command(&command.name, &mut arguments)?,
        }
        arguments.reject_rest()?;
        let mut lines = std::mem::take(&mut self.cluster.told);
        if !said.is_empty() {
            lines.push(said);
        }
        Ok(lines.join("\n"))
    }
}

impl goldenscript::Runner for Story {
    fn run(&mut self, command: &goldenscript::Command) -> Result<String, Failure> {
        let text = self.command(command)?;
        self.cluster.registry.state().check_invariants()?;
        Ok(text)
    }
}

fn tell(name: &str) {
    let path = format!("{}/tests/golden/leases/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut Story::default(), path).expect("the story runs");
}

macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                tell(stringify!($name));
            }
        )*

        #[test]
        fn every_story_is_told() {
            let folder = format!("{}/tests/golden/leases", env!("CARGO_MANIFEST_DIR"));
            let files = std::fs::read_dir(folder).unwrap();
            let mut files: Vec<_> = files
                .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            files.sort();
            let mut told = vec![$(stringify!($name)),*];
            told.sort_unstable();
            assert_eq!(files, told);
        }
    };
}

stories! {
    a_late_renewal,
    a_paused_leader,
    a_new_leader_with_a_lower_stamp,
    no_quorum_for_longer_than_a_ttl,
    five_leader_changes_with_a_dead_client,
    a_quorum_lost_while_the_leaders_timer_goes_on,
    a_stamp_that_waited_for_company,
    an_election_right_after_the_log_was_purged,
    two_leases_due_at_once,
    a_take_over_before_the_old_lease_ends,
    a_hundred_thousand_due_at_once,
    a_renewal_in_flight_when_the_leader_dies,
    a_leader_deposed_and_elected_again,
}

//! What is measured, and how: the same for every workload, and for whatever Roster is compared with.
//!
//! It knows no registry. `benches/etcd` measures etcd with it, so that both sides' clients, clocks and histograms are
//! one; that is why it is public, and it is nobody else's to build on.

mod caller;
mod figures;
mod gaps;
mod processes;
mod report;
mod schedule;
mod seen;
mod tally;
mod written;

pub use caller::{Called, Caller, client};
pub use figures::{bytes, per_second, rate, signed, time};
pub use gaps::Gaps;
pub use processes::{Processes, ServerUse, Used};
pub use report::{Fact, Measure, Report};
pub use schedule::{Live, Pace, Schedule};
pub use seen::{Faults, Mark, Seen};
pub use tally::{Errors, Tally, Trouble, micros};
pub use written::Written;

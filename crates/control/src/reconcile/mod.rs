//! Joins what users wish with what agents report.
//!
//! The doctrine, which every change here has to keep:
//!
//! * **A pass takes no input but the state.** Nobody hands it a message, an id or a "what to do". It reads the database,
//!   asks the gateway what is in flight and who is there, and looks at the clock.
//! * **A pass may run at any time, any number of times, and be cut off anywhere.** What it wrote stands; what it did not
//!   get to is planned again by the next one. Each service is written in one transaction or not at all.
//! * **Events only wake it.** A lost hint costs at most the period, or a rest. Correctness never depends on one.
//! * **No retry loops inside a pass.** The next pass is the retry. Waiting is a deadline in the state, never a sleep here.
//! * **Every wish that is not met carries its reason in words**, in `status_reason`.
//!
//! [`world`] reads the state, [`plan`] decides (purely) on [`change`]s, [`apply`] writes them down, [`desired`] tells the
//! agents, [`run`] is the loop around them, and [`rest`] says when a pass can be left out. [`placement`] and [`verdict`] are
//! parts of the planner: where an instance can go, and what is to be thought of one that is somewhere. [`sessions`] puts right
//! what lost events have left, [`team_end`] takes away what is left of deleted teams.

pub mod apply;
pub mod change;
pub mod desired;
pub mod limits;
pub(crate) mod placement;
pub mod plan;
mod rest;
pub mod run;
mod sessions;
pub(crate) mod team_end;
pub(crate) mod verdict;
pub mod world;

#[cfg(test)]
mod tests;

pub use desired::DesiredSets;
pub use limits::Limits;
pub use run::{Reconciler, Wake};

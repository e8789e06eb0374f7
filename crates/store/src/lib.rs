//! The state of Towline in a relational database: SQL and nothing else.
//!
//! There is one set of queries, in words that SQLite and PostgreSQL both understand, and one list of migrations; only the
//! module `engine` knows that there are two engines. Rules do not live here: a method says what is stored, found or
//! changed *if nobody else did meanwhile*, and its caller decides what that means.
//!
//! # How it is used
//! A [`Store`] is cheap to clone and opens transactions: [`Store::read`] for one consistent snapshot, [`Store::write`]
//! to change something. Every query is a method of [`Tx`], in one file per noun. Dropping a [`Tx`] rolls it back.
//!
//! # What holds
//! - Nothing that was read is written back without a check: a row that is changed as a whole carries a version
//!   ([`Tx::update_service`]); everything else is one conditional statement that tells whether it hit.
//! - After a failed statement the transaction can do nothing but end, on both engines alike
//!   ([`StoreError::Aborted`]). A method that merely answers "no" or [`StoreError::Concurrent`] has changed nothing
//!   and leaves the transaction usable.
//! - What gateways hold in memory and the reconciler decides by (services, placement and readiness of instances,
//!   credentials, memberships, agents' sessions, the state of their engines) changes together with [`Store::revision`],
//!   in the same transaction. Who has seen a revision has seen every change up to it.
//! - A text that holds NUL is stored with U+FFFD in its place, because PostgreSQL cannot store NUL.
//!
//! # What does not
//! A database runs in real time: a test in tokio's paused time must not wait for it, since paused time leaps to the
//! next timer while the engine's own thread is still working.

mod agent;
mod audit;
mod bootstrap;
mod credential;
mod device_pairing;
mod engine;
mod error;
mod event;
mod idempotency;
mod identity;
mod instance;
mod invitation;
mod membership;
mod migrate;
mod page;
mod query;
mod refresh_token;
mod revision;
mod secret;
mod service;
mod store;
mod team;
mod user;
mod value;

pub use agent::{AgentObservation, AgentRegistration, AgentRow};
pub use audit::{AuditFilter, AuditRow};
pub use credential::CredentialRow;
pub use device_pairing::{DevicePairingRow, PairedWith};
pub use error::{ConnectError, Constraint, StoreError};
pub use event::{EVENTS_KEPT_PER_SERVICE, EventRow};
pub use idempotency::IdempotencyRow;
pub use identity::IdentityRow;
pub use instance::{InstanceObservation, InstanceRow, ReportOutcome};
pub use invitation::InvitationRow;
pub use membership::{MemberRow, MembershipRow};
pub use page::{Page, Paged, Position};
pub use refresh_token::{RefreshTokenRow, RefreshTokenUse};
pub use secret::SecretRow;
pub use service::{ServiceRow, Unreadable};
pub use store::{Store, StoreOptions, Tx};
pub use team::{EndingTeam, TeamRow};
pub use user::UserRow;

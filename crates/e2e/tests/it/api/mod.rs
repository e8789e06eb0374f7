//! The management API over real HTTP: shapes, status codes, what is refused and how. No agent takes part.

mod database;
mod isolation;
mod keys;
mod services;
mod sign_in;
mod validation;

//! A statement with its arguments: what the nouns hand to the engine.

use crate::value::{Argument, ToArgument};

/// One SQL statement and the values for its `$1`, `$2`, ….
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) sql: &'static str,
    pub(crate) arguments: Vec<Argument>,
}

/// Begins a statement. The text is always a literal: values go through [`Query::bind`].
pub(crate) const fn query(sql: &'static str) -> Query {
    Query { sql, arguments: Vec::new() }
}

impl Query {
    /// Gives the next argument its value.
    pub(crate) fn bind(mut self, value: impl ToArgument) -> Self {
        self.arguments.push(value.to_argument());
        self
    }
}

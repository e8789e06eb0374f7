//! Identities: who a user is at an identity provider.

use towline_model::{Timestamp, UserId};

use crate::{
    StoreError, Tx,
    query::query,
    value::{FromRow, Row},
};

/// A user's identity at a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityRow {
    /// The provider.
    pub issuer: String,
    /// The provider's id of the person.
    pub subject: String,
    /// The user.
    pub user_id: UserId,
    /// When the user first signed in with it.
    pub created_at: Timestamp,
}

struct User(UserId);

impl FromRow for User {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        row.take("user_id").map(Self)
    }
}

impl Tx {
    /// Adds an identity.
    ///
    /// # Errors
    /// [`Constraint::Identity`](crate::Constraint::Identity) when somebody has it already, [`StoreError::NotFound`] when
    /// there is no such user.
    pub async fn insert_identity(&mut self, identity: &IdentityRow) -> Result<(), StoreError> {
        let insert =
            query("INSERT INTO user_identities (issuer, subject, user_id, created_at) VALUES ($1, $2, $3, $4)")
                .bind(&identity.issuer)
                .bind(&identity.subject)
                .bind(identity.user_id)
                .bind(identity.created_at);
        self.execute(insert).await.map(drop)
    }

    /// The user who has that identity.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_identity(&mut self, issuer: &str, subject: &str) -> Result<Option<UserId>, StoreError> {
        let select = query("SELECT user_id FROM user_identities WHERE issuer = $1 AND subject = $2");
        Ok(self.fetch_optional::<User>(select.bind(issuer).bind(subject)).await?.map(|user| user.0))
    }
}

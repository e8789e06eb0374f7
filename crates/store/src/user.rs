//! Users: people who sign in.

use towline_model::{Secret, Timestamp, UserId};

use crate::{
    StoreError, Tx,
    query::query,
    value::{FromRow, Row},
};

/// A user.
#[derive(Debug, Clone)]
pub struct UserRow {
    /// Its id.
    pub id: UserId,
    /// The e-mail address that the user signs in with. Stored in lower case, unique.
    pub email_address: String,
    /// The password's hash in PHC format; empty when the user has no password. Not a secret as such, but nothing to be seen in a log.
    pub password_hash: Secret<String>,
    /// The name for people.
    pub display_name: Option<String>,
    /// When the user was created.
    pub created_at: Timestamp,
}

impl FromRow for UserRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.take("id")?,
            email_address: row.take("email_address")?,
            password_hash: row.take("password_hash")?,
            display_name: row.take("display_name")?,
            created_at: row.take("created_at")?,
        })
    }
}

impl Tx {
    /// Adds a user. The e-mail address is stored in lower case, whatever the row has.
    ///
    /// # Errors
    /// [`Constraint::UserEmailAddress`](crate::Constraint::UserEmailAddress) when the address is taken.
    pub async fn insert_user(&mut self, user: &UserRow) -> Result<(), StoreError> {
        let insert = query(
            "INSERT INTO users (id, email_address, password_hash, display_name, created_at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(user.id)
        .bind(user.email_address.to_lowercase())
        .bind(&user.password_hash)
        .bind(user.display_name.as_ref())
        .bind(user.created_at);
        self.execute(insert).await.map(drop)
    }

    /// The user of that id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_user(&mut self, id: UserId) -> Result<Option<UserRow>, StoreError> {
        let select = "SELECT id, email_address, password_hash, display_name, created_at FROM users WHERE id = $1";
        self.fetch_optional(query(select).bind(id)).await
    }

    /// The user with that e-mail address, in any case.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_user_by_email_address(&mut self, email_address: &str) -> Result<Option<UserRow>, StoreError> {
        let select =
            "SELECT id, email_address, password_hash, display_name, created_at FROM users WHERE email_address = $1";
        self.fetch_optional(query(select).bind(email_address.to_lowercase())).await
    }

    /// The user of that id, whom nobody else can change until this transaction ends.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn lock_user(&mut self, id: UserId) -> Result<Option<UserRow>, StoreError> {
        // An update that changes nothing is the lock that both engines have.
        let lock = "UPDATE users SET display_name = display_name WHERE id = $1 \
             RETURNING id, email_address, password_hash, display_name, created_at";
        self.fetch_optional(query(lock).bind(id)).await
    }

    /// Gives the user another name for people. `false` when there is no such user.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_display_name(&mut self, id: UserId, display_name: Option<&str>) -> Result<bool, StoreError> {
        let update = query("UPDATE users SET display_name = $1 WHERE id = $2");
        Ok(self.execute(update.bind(display_name).bind(id)).await? > 0)
    }

    /// Replaces the password's hash, if it is still `before`. `false` when somebody else was faster, or there is no such
    /// user.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn replace_password_hash(
        &mut self,
        id: UserId,
        before: &Secret<String>,
        after: &Secret<String>,
    ) -> Result<bool, StoreError> {
        let update = query("UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = $3");
        Ok(self.execute(update.bind(after).bind(id).bind(before)).await? > 0)
    }
}

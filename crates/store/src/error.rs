//! What can go wrong with a database, in terms that do not depend on the engine.
//!
//! The texts are safe to show to an operator: they hold no SQL, no values and no password.

use std::path::PathBuf;

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL names no database that Towline can use.
    #[error("the database URL cannot be used: {0}")]
    InvalidUrl(String),
    /// The SQLite file or its directory cannot be created or opened.
    #[error("cannot open the database file {}: {cause}; check that its directory exists and is writable by this user", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system or SQLite said.
        cause: String,
    },
    /// The PostgreSQL server does not let us in.
    #[error(
        "cannot open the database {database}: {cause}; check that the server runs and that host, port, user, password and database name are right"
    )]
    Server {
        /// Host, port and name of the database, without user and password.
        database: String,
        /// What the network or the server said.
        cause: String,
    },
    /// The database has the schema of a newer Towline.
    #[error(
        "the database has schema version {found}, this program knows only up to {known}; run the newer version of Towline that has changed the database, or restore a backup from before"
    )]
    NewerSchema {
        /// The newest schema version in the database.
        found: i64,
        /// The newest schema version that this program knows.
        known: i64,
    },
    /// The database has tables that this program did not make.
    #[error(
        "the database's migration {version} is {found:?}, this program knows it as {expected:?}; it belongs to another program"
    )]
    ForeignSchema {
        /// The schema version.
        version: i64,
        /// Its name in the database.
        found: String,
        /// The name that this program has for it.
        expected: &'static str,
    },
    /// A migration failed; the database is as it was before.
    #[error("cannot bring the database to schema version {version}: {cause}; the database is unchanged")]
    Migration {
        /// The schema version that could not be reached; 0 is the list of migrations itself.
        version: i64,
        /// What the engine said.
        cause: String,
    },
}

/// Why a query or a transaction did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// What the new row refers to (its team, user, service or agent) is not there, or belongs to another team.
    #[error("what this refers to does not exist")]
    NotFound,
    /// Something with the same unique value exists.
    #[error("{constraint}")]
    Conflict {
        /// Which rule of uniqueness was broken.
        constraint: Constraint,
    },
    /// Somebody else changed the same thing meanwhile. Read it again and decide anew.
    #[error("somebody else changed this at the same time; try again")]
    Concurrent,
    /// An earlier statement of this transaction failed, so nothing of it can be kept. Begin a new one.
    #[error("the transaction has failed before; begin a new one")]
    Aborted,
    /// The database does not answer, or does not accept what this build sends.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database holds something that this build cannot have written.
    #[error("the database holds something unexpected: {0}")]
    Corrupt(String),
}

/// The rules of uniqueness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Constraint {
    /// A service's slug in its team.
    #[error("a service with this slug exists in the team")]
    ServiceSlug,
    /// A user's e-mail address.
    #[error("a user with this e-mail address exists")]
    UserEmailAddress,
    /// An agent's name in its team.
    #[error("an agent with this name exists in the team")]
    AgentName,
    /// A user has one role in a team.
    #[error("the user is a member of the team already")]
    Membership,
    /// A team has one owner.
    #[error("the team has an owner already")]
    TeamOwner,
    /// A key.
    #[error("this key exists")]
    CredentialHash,
    /// A secret's name in its team.
    #[error("a secret with this name exists in the team")]
    SecretName,
    /// A refresh token.
    #[error("this refresh token exists")]
    RefreshTokenHash,
    /// An invitation of an address to a team.
    #[error("this address is invited to the team already")]
    InvitationEmailAddress,
    /// An invitation's token.
    #[error("this invitation's token exists")]
    InvitationTokenHash,
    /// A pairing's code, the device's or the one for people.
    #[error("this pairing code exists")]
    PairingCode,
    /// An identity at a provider.
    #[error("somebody has this identity already")]
    Identity,
    /// An id.
    #[error("this id exists")]
    Id,
}

impl Constraint {
    /// Every rule but [`Constraint::Id`]: its name in the schema, and the columns by which SQLite reports it.
    const NAMES: [(Self, &'static str, &'static str); 13] = [
        (Self::ServiceSlug, "services_slug_unique", "services.team_id, services.slug"),
        (Self::UserEmailAddress, "users_email_address_unique", "users.email_address"),
        (Self::AgentName, "agents_name_unique", "agents.team_id, agents.name"),
        (Self::Membership, "memberships_pkey", "memberships.team_id, memberships.user_id"),
        (Self::TeamOwner, "memberships_one_owner", "memberships.team_id"),
        (Self::CredentialHash, "credentials_key_hash_unique", "credentials.key_hash"),
        (Self::SecretName, "secrets_name_unique", "secrets.team_id, secrets.name"),
        (Self::RefreshTokenHash, "refresh_tokens_token_hash_unique", "refresh_tokens.token_hash"),
        (
            Self::InvitationEmailAddress,
            "invitations_email_address_unique",
            "invitations.team_id, invitations.email_address",
        ),
        (Self::Identity, "user_identities_pkey", "user_identities.issuer, user_identities.subject"),
        (Self::PairingCode, "device_pairings_device_code_unique", "device_pairings.device_code_hash"),
        (Self::PairingCode, "device_pairings_user_code_unique", "device_pairings.user_code_hash"),
        (Self::InvitationTokenHash, "invitations_token_hash_unique", "invitations.token_hash"),
    ];

    /// The rule of that name in the schema.
    pub(crate) fn of_name(name: &str) -> Self {
        Self::NAMES.into_iter().find(|row| row.1 == name).map_or(Self::Id, |row| row.0)
    }

    /// The rule over these columns, written `table.column, table.column`.
    pub(crate) fn of_columns(columns: &str) -> Self {
        Self::NAMES.into_iter().find(|row| row.2 == columns).map_or(Self::Id, |row| row.0)
    }
}

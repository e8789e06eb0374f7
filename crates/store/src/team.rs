//! Teams: the tenants.
//!
//! A team ends in two steps. [`Tx::begin_team_end`] takes everything away that anybody can see or use; what is left is what
//! its agents need to hear that they should run nothing any more: their rows and keys. [`Tx::end_team`] takes the rest.

use towline_model::{Role, TeamId, Timestamp, UserId};

use crate::{
    Page, Paged, Position, StoreError, Tx,
    page::{Listed, Order, oldest_first},
    query::query,
    value::{FromRow, Row},
};

/// A team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamRow {
    /// Its id.
    pub id: TeamId,
    /// Its name, for people.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
}

/// A team whose end has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndingTeam {
    /// Its id.
    pub id: TeamId,
    /// When it was deleted.
    pub deleted_at: Timestamp,
}

impl FromRow for TeamRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self { id: row.take("id")?, name: row.take("name")?, created_at: row.take("created_at")? })
    }
}

impl FromRow for EndingTeam {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self { id: row.take("id")?, deleted_at: row.take("deleted_at")? })
    }
}

/// A team and somebody's role in it.
struct TeamAndRole(TeamRow, Role);

impl FromRow for TeamAndRole {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        let role = row.take("role")?;
        TeamRow::from_row(row).map(|team| Self(team, role))
    }
}

impl Listed for TeamAndRole {
    fn position(&self) -> Position {
        Position { at: self.0.created_at, id: self.0.id.as_uuid() }
    }
}

macro_rules! of_a_team {
    ($($table:literal),* $(,)?) => {
        &[$(($table, concat!("DELETE FROM ", $table, " WHERE team_id = $1"))),*]
    };
}

/// What belongs to a team and goes with it at once: the tables, in an order in which nothing refers to what is gone.
const AT_ONCE: &[(&str, &str)] = of_a_team![
    "service_events",
    "instances",
    "services",
    "invitations",
    "device_pairings",
    "memberships",
    "secrets",
    "audit_entries",
];

/// What goes last.
const AT_LAST: &[(&str, &str)] = of_a_team!["credentials", "agents"];

impl Tx {
    /// Adds a team.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn insert_team(&mut self, team: &TeamRow) -> Result<(), StoreError> {
        let insert = query("INSERT INTO teams (id, name, created_at) VALUES ($1, $2, $3)");
        self.execute(insert.bind(team.id).bind(&team.name).bind(team.created_at)).await.map(drop)
    }

    /// The team of that id, unless it is ending.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_team(&mut self, id: TeamId) -> Result<Option<TeamRow>, StoreError> {
        let select = query("SELECT id, name, created_at FROM teams WHERE id = $1 AND deleted_at IS NULL");
        self.fetch_optional(select.bind(id)).await
    }

    /// Keeps everybody else who calls this from changing who is in the team until this transaction ends, so that what
    /// is read of memberships and invitations from here on stays true. `false` when there is no such team, or it is
    /// ending.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn lock_team(&mut self, id: TeamId) -> Result<bool, StoreError> {
        let lock = query("UPDATE teams SET name = name WHERE id = $1 AND deleted_at IS NULL");
        Ok(self.execute(lock.bind(id)).await? > 0)
    }

    /// Gives the team another name. `false` when there is no such team, or it is ending.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn rename_team(&mut self, id: TeamId, name: &str) -> Result<bool, StoreError> {
        let rename = query("UPDATE teams SET name = $1 WHERE id = $2 AND deleted_at IS NULL");
        Ok(self.execute(rename.bind(name).bind(id)).await? > 0)
    }

    /// A page of the teams that the user is in, the oldest first, with the user's role in each.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_teams_of_user(
        &mut self,
        user_id: UserId,
        page: Page,
    ) -> Result<Paged<(TeamRow, Role)>, StoreError> {
        let count = query("SELECT COUNT(*) AS total FROM memberships WHERE user_id = $1");
        let select = query(concat!(
            "SELECT t.id, t.name, t.created_at, m.role FROM memberships m JOIN teams t ON t.id = m.team_id \
             WHERE m.user_id = $1",
            oldest_first!("t.created_at", "t.id", [2, 3, 4, 5])
        ));
        let both = (count.bind(user_id), select.bind(user_id));
        Ok(self.fetch_page::<TeamAndRole>(both, Order::OldestFirst, page).await?.map(|row| (row.0, row.1)))
    }

    /// Begins the end of a team: its people, invitations, services and keys are gone, all but its agents and their
    /// keys. `false` when there is no such team, or its end has begun before. Moves the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn begin_team_end(&mut self, id: TeamId, now: Timestamp) -> Result<bool, StoreError> {
        let begin = query("UPDATE teams SET deleted_at = $1 WHERE id = $2 AND deleted_at IS NULL");
        if self.execute(begin.bind(now).bind(id)).await? == 0 {
            return Ok(false);
        }
        for (_, delete) in AT_ONCE {
            self.execute(query(delete).bind(id)).await?;
        }
        self.execute(query("DELETE FROM credentials WHERE team_id = $1 AND kind <> 'agent'").bind(id)).await?;
        self.mark_changed();
        Ok(true)
    }

    /// The teams whose end has begun.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn ending_teams(&mut self) -> Result<Vec<EndingTeam>, StoreError> {
        self.fetch_all(query("SELECT id, deleted_at FROM teams WHERE deleted_at IS NOT NULL ORDER BY id")).await
    }

    /// Takes what is left of a team whose end has begun. What was added to it meanwhile, by somebody who had been let in
    /// before, goes too. Moves the revision on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when something is being added to it at this moment: try again.
    pub async fn end_team(&mut self, id: TeamId) -> Result<(), StoreError> {
        for (_, delete) in AT_ONCE.iter().chain(AT_LAST) {
            self.execute(query(delete).bind(id)).await?;
        }
        self.execute(query("DELETE FROM teams WHERE id = $1 AND deleted_at IS NOT NULL").bind(id)).await?;
        self.mark_changed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{AT_LAST, AT_ONCE};
    use crate::migrate::MIGRATIONS;

    #[test]
    fn everything_that_belongs_to_a_team_goes_with_it() {
        let text: String = MIGRATIONS.iter().map(|migration| migration.script).collect();
        let tables = text.split("CREATE TABLE ").skip(1).filter_map(|rest| {
            let (name, columns) = rest.split_once('(')?;
            let columns = columns.split("\n);").next()?;
            columns.contains(" team_id ").then(|| name.trim())
        });
        let tables: BTreeSet<_> = tables.collect();
        let listed: BTreeSet<_> = AT_ONCE.iter().chain(AT_LAST).map(|(table, _)| *table).collect();
        assert!(tables.len() > 5 && tables.contains("agents"), "{tables:?}");
        assert_eq!(tables, listed, "a table with a team_id is named in AT_ONCE or AT_LAST");
    }
}

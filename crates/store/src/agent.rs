//! Agents: the machines of a team, and which session each has now.

use towline_model::{AgentId, SessionId, TeamId, Timestamp};

use crate::{
    Page, Paged, Position, StoreError, Tx,
    page::{Listed, Order, oldest_first},
    query::query,
    value::{FromRow, Json, Row},
};

/// An agent as it was last heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    /// Its id.
    pub id: AgentId,
    /// Its team.
    pub team_id: TeamId,
    /// Its name, unique in the team.
    pub name: String,
    /// What stays the same for its machine.
    pub machine_id: String,
    /// The version of its program.
    pub agent_version: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// What it can do beyond running containers.
    pub capabilities: Vec<String>,
    /// How many GPUs its machine has.
    pub gpu_count: i32,
    /// Whether its container engine can be used.
    pub engine_ready: bool,
    /// Why the engine cannot be used, or which engine it is.
    pub engine_message: Option<String>,
    /// What the frames of its last session were wrapped in: `upgrade` or `websocket`. Unknown for who has not joined since
    /// this is written down.
    pub transport: Option<String>,
    /// Whether its last session led through a proxy.
    pub via_proxy: bool,
    /// Its session, while it has one.
    pub session_id: Option<SessionId>,
    /// When it was last heard of.
    pub last_seen_at: Option<Timestamp>,
    /// When it first joined.
    pub created_at: Timestamp,
}

macro_rules! columns {
    () => {
        "id, team_id, name, machine_id, agent_version, labels, capabilities, gpu_count, engine_ready, engine_message, transport, via_proxy, \
         session_id, last_seen_at, created_at"
    };
}

impl FromRow for AgentRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.take("id")?,
            team_id: row.take("team_id")?,
            name: row.take("name")?,
            machine_id: row.take("machine_id")?,
            agent_version: row.take("agent_version")?,
            labels: row.take::<Json<_>>("labels")?.0,
            capabilities: row.take::<Json<_>>("capabilities")?.0,
            gpu_count: row.take("gpu_count")?,
            engine_ready: row.take("engine_ready")?,
            engine_message: row.take("engine_message")?,
            transport: row.take("transport")?,
            via_proxy: row.take("via_proxy")?,
            session_id: row.take("session_id")?,
            last_seen_at: row.take("last_seen_at")?,
            created_at: row.take("created_at")?,
        })
    }
}

/// What an agent says of itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRegistration {
    /// What stays the same for its machine.
    pub machine_id: String,
    /// The version of its program.
    pub agent_version: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// What it can do beyond running containers.
    pub capabilities: Vec<String>,
    /// How many GPUs its machine has.
    pub gpu_count: i32,
    /// Whether its container engine can be used.
    pub engine_ready: bool,
    /// Why the engine cannot be used, or which engine it is.
    pub engine_message: Option<String>,
    /// What its frames are wrapped in.
    pub transport: String,
    /// Whether it comes through a proxy.
    pub via_proxy: bool,
}

/// What is heard of an agent while it has a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentObservation {
    /// When it was heard of.
    pub seen_at: Timestamp,
    /// Whether its container engine can be used.
    pub engine_ready: bool,
    /// Why the engine cannot be used, or which engine it is.
    pub engine_message: Option<String>,
}

impl Listed for AgentRow {
    fn position(&self) -> Position {
        Position { at: self.created_at, id: self.id.as_uuid() }
    }
}

impl Tx {
    /// Adds the team's agent of that name, or brings what is known of it up to date. Its session is left alone.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such team.
    pub async fn upsert_agent(
        &mut self,
        team_id: TeamId,
        name: &str,
        registration: &AgentRegistration,
        now: Timestamp,
    ) -> Result<AgentRow, StoreError> {
        let upsert = query(concat!(
            "INSERT INTO agents (id, team_id, name, machine_id, agent_version, labels, capabilities, gpu_count, \
             engine_ready, engine_message, transport, via_proxy, last_seen_at, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13) \
             ON CONFLICT (team_id, name) DO UPDATE SET machine_id = excluded.machine_id, \
             agent_version = excluded.agent_version, labels = excluded.labels, \
             capabilities = excluded.capabilities, gpu_count = excluded.gpu_count, \
             engine_ready = excluded.engine_ready, engine_message = excluded.engine_message, \
             transport = excluded.transport, via_proxy = excluded.via_proxy, \
             last_seen_at = excluded.last_seen_at RETURNING ",
            columns!()
        ))
        .bind(AgentId::generate())
        .bind(team_id)
        .bind(name)
        .bind(&registration.machine_id)
        .bind(&registration.agent_version)
        .bind(Json(&registration.labels))
        .bind(Json(&registration.capabilities))
        .bind(registration.gpu_count)
        .bind(registration.engine_ready)
        .bind(registration.engine_message.as_ref())
        .bind(&registration.transport)
        .bind(registration.via_proxy)
        .bind(now);
        self.fetch_one(upsert).await
    }

    /// Gives an agent a session; the one it had is its session no more. `false` when there is no such agent. Moves the
    /// revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_session(
        &mut self,
        agent_id: AgentId,
        session_id: SessionId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let set = query("UPDATE agents SET session_id = $1, last_seen_at = $2 WHERE id = $3");
        let done = self.execute(set.bind(session_id).bind(now).bind(agent_id)).await? > 0;
        self.mark_changed_if(done);
        Ok(done)
    }

    /// Takes an agent's session away, if it is still this one. Tells whether it was. Moves the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn clear_session(&mut self, agent_id: AgentId, session_id: SessionId) -> Result<bool, StoreError> {
        let clear = query("UPDATE agents SET session_id = NULL WHERE id = $1 AND session_id = $2");
        let done = self.execute(clear.bind(agent_id).bind(session_id)).await? > 0;
        self.mark_changed_if(done);
        Ok(done)
    }

    /// Takes every agent's session away: when the only server starts, nobody has one. Tells how many there were. Moves
    /// the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn clear_all_sessions(&mut self) -> Result<u64, StoreError> {
        let cleared = self.execute(query("UPDATE agents SET session_id = NULL WHERE session_id IS NOT NULL")).await?;
        self.mark_changed_if(cleared > 0);
        Ok(cleared)
    }

    /// Writes down what was heard of an agent in this session. `false` when the session is its session no more. Moves the
    /// revision on if its engine's state is news.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn touch_agent(
        &mut self,
        agent_id: AgentId,
        session_id: SessionId,
        observation: &AgentObservation,
    ) -> Result<bool, StoreError> {
        let change = query(
            "UPDATE agents SET engine_ready = $1, engine_message = $2 WHERE id = $3 AND session_id = $4 \
             AND (engine_ready <> $1 OR engine_message IS DISTINCT FROM $2)",
        )
        .bind(observation.engine_ready)
        .bind(observation.engine_message.as_ref())
        .bind(agent_id)
        .bind(session_id);
        let is_news = self.execute(change).await? > 0;
        self.mark_changed_if(is_news);
        let touch = query("UPDATE agents SET last_seen_at = $1 WHERE id = $2 AND session_id = $3");
        Ok(self.execute(touch.bind(observation.seen_at).bind(agent_id).bind(session_id)).await? > 0)
    }

    /// The team's agent of that id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_agent(&mut self, team_id: TeamId, id: AgentId) -> Result<Option<AgentRow>, StoreError> {
        let select = query(concat!("SELECT ", columns!(), " FROM agents WHERE team_id = $1 AND id = $2"));
        self.fetch_optional(select.bind(team_id).bind(id)).await
    }

    /// The team's agent of that name.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_agent_by_name(&mut self, team_id: TeamId, name: &str) -> Result<Option<AgentRow>, StoreError> {
        let select = query(concat!("SELECT ", columns!(), " FROM agents WHERE team_id = $1 AND name = $2"));
        self.fetch_optional(select.bind(team_id).bind(name)).await
    }

    /// A page of the team's agents, in the order in which they first joined.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_agents(&mut self, team_id: TeamId, page: Page) -> Result<Paged<AgentRow>, StoreError> {
        let count = query("SELECT COUNT(*) AS total FROM agents WHERE team_id = $1");
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM agents WHERE team_id = $1",
            oldest_first!("created_at", "id", [2, 3, 4, 5])
        ));
        self.fetch_page((count.bind(team_id), select.bind(team_id)), Order::OldestFirst, page).await
    }

    /// Every agent of the team, in the order in which they first joined.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn agents_of_team(&mut self, team_id: TeamId) -> Result<Vec<AgentRow>, StoreError> {
        let select = query(concat!("SELECT ", columns!(), " FROM agents WHERE team_id = $1 ORDER BY created_at, id"));
        self.fetch_all(select.bind(team_id)).await
    }

    /// Every agent of every team, in the order in which they first joined.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn all_agents(&mut self) -> Result<Vec<AgentRow>, StoreError> {
        self.fetch_all(query(concat!("SELECT ", columns!(), " FROM agents ORDER BY created_at, id"))).await
    }
}

-- One text for SQLite and PostgreSQL. Only TEXT and BIGINT are used, because both engines mean the same by them:
--   ids are UUIDs in their 36-character form, times are microseconds since 1970-01-01T00:00:00Z, hashes are lower-case
--   hexadecimal, truth values are 0 and 1, documents are JSON in TEXT.
-- Constraints are named, so that a violation can be told to the caller by name (see src/error.rs).
-- A pair of ids as a foreign key keeps things of one team from referring to things of another.

CREATE TABLE revision (
    only_row BIGINT NOT NULL CONSTRAINT revision_pkey PRIMARY KEY CHECK (only_row = 1),
    value    BIGINT NOT NULL
);
INSERT INTO revision (only_row, value) VALUES (1, 0);

CREATE TABLE bootstrap (
    only_row   BIGINT NOT NULL CONSTRAINT bootstrap_pkey PRIMARY KEY CHECK (only_row = 1),
    claimed_at BIGINT NOT NULL
);

CREATE TABLE teams (
    id         TEXT   NOT NULL CONSTRAINT teams_pkey PRIMARY KEY,
    name       TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE users (
    id            TEXT   NOT NULL CONSTRAINT users_pkey PRIMARY KEY,
    email_address TEXT   NOT NULL CONSTRAINT users_email_address_unique UNIQUE,
    password_hash TEXT   NOT NULL,
    display_name  TEXT,
    created_at    BIGINT NOT NULL
);

CREATE TABLE memberships (
    team_id TEXT NOT NULL REFERENCES teams (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    role    TEXT NOT NULL,
    CONSTRAINT memberships_pkey PRIMARY KEY (team_id, user_id)
);
CREATE UNIQUE INDEX memberships_one_owner ON memberships (team_id) WHERE role = 'owner';
CREATE INDEX memberships_by_user ON memberships (user_id);

-- The family is the unit that is revoked, and its row is the lock under which its tokens are rotated.
CREATE TABLE refresh_token_families (
    id           TEXT   NOT NULL CONSTRAINT refresh_token_families_pkey PRIMARY KEY,
    user_id      TEXT   NOT NULL REFERENCES users (id),
    last_used_at BIGINT,
    revoked_at   BIGINT
);
CREATE INDEX refresh_token_families_by_user ON refresh_token_families (user_id);

CREATE TABLE refresh_tokens (
    id         TEXT   NOT NULL CONSTRAINT refresh_tokens_pkey PRIMARY KEY,
    family_id  TEXT   NOT NULL REFERENCES refresh_token_families (id) ON DELETE CASCADE,
    token_hash TEXT   NOT NULL CONSTRAINT refresh_tokens_token_hash_unique UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at    BIGINT
);
CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family_id, expires_at);

CREATE TABLE credentials (
    id           TEXT   NOT NULL CONSTRAINT credentials_pkey PRIMARY KEY,
    team_id      TEXT   NOT NULL REFERENCES teams (id),
    user_id      TEXT            REFERENCES users (id),
    created_by   TEXT   NOT NULL REFERENCES users (id),
    kind         TEXT   NOT NULL,
    display_name TEXT   NOT NULL,
    key_prefix   TEXT   NOT NULL,
    key_hash     TEXT   NOT NULL CONSTRAINT credentials_key_hash_unique UNIQUE,
    scopes       TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    revoked_at   BIGINT,
    last_used_at BIGINT
);
CREATE INDEX credentials_by_team ON credentials (team_id, created_at, id);

CREATE TABLE agents (
    id             TEXT   NOT NULL CONSTRAINT agents_pkey PRIMARY KEY,
    team_id        TEXT   NOT NULL REFERENCES teams (id),
    name           TEXT   NOT NULL,
    machine_id     TEXT   NOT NULL,
    agent_version  TEXT   NOT NULL,
    labels         TEXT   NOT NULL,
    gpu_count      BIGINT NOT NULL,
    engine_ready   BIGINT NOT NULL,
    engine_message TEXT,
    session_id     TEXT,
    last_seen_at   BIGINT,
    created_at     BIGINT NOT NULL,
    CONSTRAINT agents_name_unique UNIQUE (team_id, name),
    CONSTRAINT agents_id_team_unique UNIQUE (id, team_id)
);
CREATE INDEX agents_by_team ON agents (team_id, created_at, id);

CREATE TABLE services (
    id                TEXT   NOT NULL CONSTRAINT services_pkey PRIMARY KEY,
    team_id           TEXT   NOT NULL REFERENCES teams (id),
    slug              TEXT   NOT NULL,
    spec              TEXT   NOT NULL,
    deployed_spec     TEXT,
    generation        BIGINT NOT NULL,
    status            TEXT   NOT NULL,
    status_reason     TEXT,
    deploy_started_at BIGINT,
    drain_until       BIGINT,
    rollout           TEXT,
    version           BIGINT NOT NULL,
    created_at        BIGINT NOT NULL,
    updated_at        BIGINT NOT NULL,
    CONSTRAINT services_slug_unique UNIQUE (team_id, slug),
    CONSTRAINT services_id_team_unique UNIQUE (id, team_id)
);
CREATE INDEX services_by_team ON services (team_id, created_at, id);
CREATE INDEX services_by_status ON services (status);

CREATE TABLE instances (
    id                TEXT   NOT NULL CONSTRAINT instances_pkey PRIMARY KEY,
    service_id        TEXT   NOT NULL,
    team_id           TEXT   NOT NULL,
    generation        BIGINT NOT NULL,
    agent_id          TEXT,
    stop_requested_at BIGINT,
    phase             TEXT   NOT NULL,
    reason_kind       TEXT,
    reason            TEXT,
    restart_count     BIGINT NOT NULL,
    container_id      TEXT,
    started_at        BIGINT,
    ready_since       BIGINT,
    reported_at       BIGINT,
    placed_at         BIGINT,
    created_at        BIGINT NOT NULL,
    FOREIGN KEY (service_id, team_id) REFERENCES services (id, team_id) ON DELETE CASCADE,
    FOREIGN KEY (agent_id, team_id) REFERENCES agents (id, team_id)
);
CREATE INDEX instances_by_service ON instances (service_id, team_id);
CREATE INDEX instances_by_agent ON instances (agent_id, team_id);

CREATE TABLE service_events (
    id          TEXT   NOT NULL CONSTRAINT service_events_pkey PRIMARY KEY,
    team_id     TEXT   NOT NULL,
    service_id  TEXT   NOT NULL,
    at          BIGINT NOT NULL,
    kind        TEXT   NOT NULL,
    message     TEXT   NOT NULL,
    instance_id TEXT,
    FOREIGN KEY (service_id, team_id) REFERENCES services (id, team_id) ON DELETE CASCADE
);
CREATE INDEX service_events_by_service ON service_events (service_id, at, id);

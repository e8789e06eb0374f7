-- Who did what. Nothing refers to users, keys or things by foreign key: an entry outlives what it tells of. It ends with its team.
CREATE TABLE audit_entries (
    id            TEXT   NOT NULL CONSTRAINT audit_entries_pkey PRIMARY KEY,
    team_id       TEXT   NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    at            BIGINT NOT NULL,
    action        TEXT   NOT NULL,
    actor_kind    TEXT   NOT NULL,
    actor_name    TEXT   NOT NULL,
    user_id       TEXT,
    credential_id TEXT,
    target_id     TEXT,
    target_name   TEXT   NOT NULL,
    address       TEXT,
    request_id    TEXT,
    details       TEXT
);
CREATE INDEX audit_entries_by_team ON audit_entries (team_id, at, id);

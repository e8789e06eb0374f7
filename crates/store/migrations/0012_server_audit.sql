-- Who did what that concerns no team: accounts that are made, what people do who are in no team, and teams that are deleted.
CREATE TABLE server_audit_entries (
    id            TEXT   NOT NULL CONSTRAINT server_audit_entries_pkey PRIMARY KEY,
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
CREATE INDEX server_audit_entries_by_time ON server_audit_entries (at, id);

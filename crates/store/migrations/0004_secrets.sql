-- Values that definitions refer to by id. They are sealed under a key that is not in the database; what is here opens
-- nothing. `told_bytes` is how long the value is in a message to an agent, so that messages can be planned without opening
-- it. `version` goes up with every change, so that what is sealed anew is never an older value.
CREATE TABLE secrets (
    id          TEXT   NOT NULL CONSTRAINT secrets_pkey PRIMARY KEY,
    team_id     TEXT   NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name        TEXT   NOT NULL,
    description TEXT   NOT NULL,
    key_id      TEXT   NOT NULL,
    sealed      TEXT   NOT NULL,
    told_bytes  BIGINT NOT NULL,
    version     BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    CONSTRAINT secrets_name_unique UNIQUE (team_id, name)
);
CREATE INDEX secrets_by_team ON secrets (team_id, created_at, id);
CREATE INDEX secrets_by_key ON secrets (key_id);

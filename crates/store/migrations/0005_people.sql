-- Invitations, and the end of a team.

-- A team whose deletion has begun: nobody is in it any more. It goes when its agents have ended what they run.
ALTER TABLE teams ADD COLUMN deleted_at BIGINT;

CREATE TABLE invitations (
    id            TEXT   NOT NULL CONSTRAINT invitations_pkey PRIMARY KEY,
    team_id       TEXT   NOT NULL REFERENCES teams (id),
    email_address TEXT   NOT NULL,
    role          TEXT   NOT NULL,
    token_hash    TEXT   NOT NULL CONSTRAINT invitations_token_hash_unique UNIQUE,
    invited_by    TEXT   NOT NULL REFERENCES users (id),
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    CONSTRAINT invitations_email_address_unique UNIQUE (team_id, email_address)
);
CREATE INDEX invitations_by_team ON invitations (team_id, created_at, id);

-- Devices that wait to be let in. Of the two codes only hashes are kept. Who has confirmed it, and for which team, is known
-- from the confirmation on.
CREATE TABLE device_pairings (
    id               TEXT   NOT NULL CONSTRAINT device_pairings_pkey PRIMARY KEY,
    device_code_hash TEXT   NOT NULL CONSTRAINT device_pairings_device_code_unique UNIQUE,
    user_code_hash   TEXT   NOT NULL CONSTRAINT device_pairings_user_code_unique UNIQUE,
    created_at       BIGINT NOT NULL,
    expires_at       BIGINT NOT NULL,
    team_id          TEXT            REFERENCES teams (id),
    user_id          TEXT            REFERENCES users (id),
    device_name      TEXT
);
CREATE INDEX device_pairings_by_expiry ON device_pairings (expires_at);

-- The agent's key that was made together with a device's key, and ends with it.
ALTER TABLE credentials ADD COLUMN companion_id TEXT REFERENCES credentials (id);
CREATE INDEX credentials_by_companion ON credentials (companion_id);

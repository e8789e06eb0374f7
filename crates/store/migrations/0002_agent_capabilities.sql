-- What an agent can do beyond running containers, as it says when it joins: a JSON list of words. Agents of earlier
-- versions say nothing.
ALTER TABLE agents ADD COLUMN capabilities TEXT NOT NULL DEFAULT '[]';

-- How an agent's session reaches the server: what its frames are wrapped in ('upgrade', 'websocket'), as the server saw, and
-- whether through a proxy, as the agent says. NULL for agents that have not joined since.
ALTER TABLE agents ADD COLUMN transport TEXT;
ALTER TABLE agents ADD COLUMN via_proxy BIGINT NOT NULL DEFAULT 0;

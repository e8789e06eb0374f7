-- The services that a key is limited to: a document, a list of ids in order. NULL for all services of its team.
ALTER TABLE credentials ADD COLUMN services TEXT;

-- Gateways refuse the access tokens of sign-ins that were revoked a short while ago.
CREATE INDEX refresh_token_families_by_revocation ON refresh_token_families (revoked_at) WHERE revoked_at IS NOT NULL;

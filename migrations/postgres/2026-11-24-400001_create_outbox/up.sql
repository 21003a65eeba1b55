-- Side effects, queued in the transaction of the fact that asks for them, and delivered at least once.
CREATE TABLE outbox (
    outbox_id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    -- What a failure delays beside the row itself: host and port, or '' where there is but one.
    destination TEXT NOT NULL,
    -- The client or the person that it is for.
    subject TEXT NOT NULL,
    session_id TEXT,
    payload BYTEA NOT NULL,
    -- The entry of the log of revocations that caused it.
    revocation BIGINT,
    attempts BIGINT NOT NULL,
    -- Not tried before this instant; a lease moves it past the lease's end.
    next_at BIGINT NOT NULL,
    leased_by TEXT,
    last_error TEXT,
    created_at BIGINT NOT NULL,
    -- Given up from then on; once delivered or given up, forgotten.
    expires_at BIGINT NOT NULL,
    delivered_at BIGINT,
    given_up_at BIGINT
);
CREATE INDEX outbox_due ON outbox (kind, destination, next_at) WHERE delivered_at IS NULL AND given_up_at IS NULL;
CREATE INDEX outbox_revocation ON outbox (revocation) WHERE revocation IS NOT NULL;
CREATE INDEX outbox_expires_at ON outbox (expires_at);

-- Which clients were given tokens in a session: whom its end concerns. Grants are forgotten earlier than long sessions.
CREATE TABLE session_clients (
    session_id TEXT NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
    client_id TEXT NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
    PRIMARY KEY (session_id, client_id)
);
CREATE INDEX session_clients_client_id ON session_clients (client_id);
INSERT INTO session_clients (session_id, client_id)
    SELECT DISTINCT grants.session_id, grants.client_id FROM grants
    JOIN sessions ON sessions.session_id = grants.session_id WHERE grants.code_consumed_at IS NOT NULL;

-- Host and port of `backchannel_logout_uri`; NULL for a client that is not told of sign-outs.
ALTER TABLE clients ADD COLUMN logout_destination TEXT;

-- Who ended it: 'owner', 'operator', 'system' or 'client:' and its identifier.
ALTER TABLE revocations ADD COLUMN actor TEXT NOT NULL DEFAULT 'system';
-- One seek answers whether anything ends what was issued at an instant.
DROP INDEX revocations_kind_target;
CREATE INDEX revocations_rule ON revocations (kind, target, not_before);

-- Instants are milliseconds since 1970; digests are SHA-256; identifiers and digests are made by the server.
CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
-- Grows with every change of what the server keeps in memory: clients, resources, signing keys.
INSERT INTO counters (name, value) VALUES ('registry', 1);

CREATE TABLE users (
    user_id TEXT NOT NULL PRIMARY KEY,
    normal_name TEXT NOT NULL UNIQUE,
    username TEXT NOT NULL,
    email TEXT,
    email_verified BOOLEAN NOT NULL,
    password_hash TEXT,
    is_admin BOOLEAN NOT NULL,
    claims TEXT NOT NULL,
    disabled_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE clients (
    client_id TEXT NOT NULL PRIMARY KEY,
    metadata TEXT NOT NULL,
    secret_digest BYTEA,
    previous_secret_digest BYTEA,
    previous_secret_until BIGINT,
    created_at BIGINT NOT NULL
);

CREATE TABLE resources (
    identifier TEXT NOT NULL PRIMARY KEY,
    name TEXT,
    scope TEXT NOT NULL,
    access_token_lifetime BIGINT,
    access_token_signing_alg TEXT,
    resource_server TEXT,
    created_at BIGINT NOT NULL
);

CREATE TABLE signing_keys (
    key_id TEXT NOT NULL PRIMARY KEY,
    algorithm TEXT NOT NULL,
    public_jwk TEXT NOT NULL,
    sealed_private BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    active_at BIGINT NOT NULL,
    expires_at BIGINT
);
CREATE INDEX signing_keys_expires_at ON signing_keys (expires_at);

CREATE TABLE sessions (
    session_id TEXT NOT NULL PRIMARY KEY,
    cookie_digest BYTEA NOT NULL UNIQUE,
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    auth_time BIGINT NOT NULL,
    acr TEXT NOT NULL,
    amr TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX sessions_user_id ON sessions (user_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

CREATE TABLE flows (
    flow_digest BYTEA NOT NULL PRIMARY KEY,
    browser_digest BYTEA NOT NULL,
    destination TEXT NOT NULL,
    progress TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX flows_expires_at ON flows (expires_at);

CREATE TABLE consents (
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    client_id TEXT NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
    scope TEXT NOT NULL,
    resources TEXT NOT NULL,
    claims TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, client_id)
);
CREATE INDEX consents_client_id ON consents (client_id);

CREATE TABLE grants (
    grant_id TEXT NOT NULL PRIMARY KEY,
    handle_digest BYTEA NOT NULL UNIQUE,
    client_id TEXT NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    session_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    is_offline BOOLEAN NOT NULL,
    details TEXT NOT NULL,
    auth_time BIGINT NOT NULL,
    acr TEXT NOT NULL,
    amr TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    code_digest BYTEA NOT NULL,
    code_binding BYTEA NOT NULL,
    code_expires_at BIGINT NOT NULL,
    code_consumed_at BIGINT,
    refresh_digest BYTEA,
    previous_refresh_digest BYTEA,
    rotated_at BIGINT,
    refresh_expires_at BIGINT,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX grants_client_id ON grants (client_id);
CREATE INDEX grants_user_id ON grants (user_id);
CREATE INDEX grants_session_id ON grants (session_id);
CREATE INDEX grants_expires_at ON grants (expires_at);

-- Append-only, in the order of commits: what ended, and everything of it issued before `not_before` with it.
CREATE TABLE revocations (
    sequence BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    not_before BIGINT NOT NULL,
    reason TEXT NOT NULL,
    recorded_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX revocations_kind_target ON revocations (kind, target);
CREATE INDEX revocations_expires_at ON revocations (expires_at);

CREATE TABLE assertion_ids (
    assertion_digest BYTEA NOT NULL PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
CREATE INDEX assertion_ids_expires_at ON assertion_ids (expires_at);

CREATE TABLE throttles (
    bucket TEXT NOT NULL PRIMARY KEY,
    failures BIGINT NOT NULL,
    retry_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX throttles_expires_at ON throttles (expires_at);

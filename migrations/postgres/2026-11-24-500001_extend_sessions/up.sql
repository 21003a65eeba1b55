-- Whether the person chose to stay signed in, and from where they last proved who they are.
ALTER TABLE sessions ADD COLUMN is_kept BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE sessions ADD COLUMN auth_address TEXT NOT NULL DEFAULT '';

-- The network that refresh tokens of a client bound to networks were first issued to.
ALTER TABLE grants ADD COLUMN network TEXT;

-- What a browser is told after signing out: at which applications, who could be told, and the way back.
CREATE TABLE sign_outs (
    sign_out_digest BYTEA NOT NULL PRIMARY KEY,
    browser_digest BYTEA NOT NULL,
    session_id TEXT NOT NULL,
    client_id TEXT,
    back TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX sign_outs_expires_at ON sign_outs (expires_at);

-- Links that mails carry, by the digest of their secret. One kind for one purpose; each is gone once it was used.
CREATE TABLE links (
    link_digest BYTEA NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    -- Whose account it is for; none where the link makes one.
    user_id TEXT REFERENCES users (user_id) ON DELETE CASCADE,
    sealed BYTEA,
    expires_at BIGINT NOT NULL
);
CREATE INDEX links_user_id ON links (user_id);
CREATE INDEX links_expires_at ON links (expires_at);

-- An address as it is looked up: in lower case.
ALTER TABLE users ADD COLUMN normal_email TEXT;
UPDATE users SET normal_email = lower(email);
CREATE INDEX users_normal_email ON users (normal_email);

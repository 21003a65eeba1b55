-- What happened to an account and from where, for its owner to look through. At most a fixed number per person and kind is
-- kept, and none for longer than 90 days.
CREATE TABLE activity (
    activity_id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    network TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX activity_user_id_kind_at ON activity (user_id, kind, at);
CREATE INDEX activity_at ON activity (at);

ALTER TABLE sessions ADD COLUMN created_address TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN last_address TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN user_agent TEXT NOT NULL DEFAULT '';

-- Whether the person has a factor beside the password; kept with the rows of totp_devices, in the same transactions.
ALTER TABLE users ADD COLUMN has_second_factor BOOLEAN NOT NULL DEFAULT FALSE;
-- When everything that the sign-in rests on was last proven; auth_time moves on when a part of it is.
ALTER TABLE sessions ADD COLUMN proven_at BIGINT NOT NULL DEFAULT 0;

CREATE TABLE totp_devices (
    device_id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    sealed_secret BYTEA NOT NULL,
    -- The newest time step whose code was taken; no code up to it is taken again.
    last_step BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT
);
CREATE INDEX totp_devices_user_id ON totp_devices (user_id);

-- Secrets that were shown and not yet confirmed, each for one session or one flow.
CREATE TABLE totp_enrolments (
    binding_digest BYTEA NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    sealed_secret BYTEA NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX totp_enrolments_user_id ON totp_enrolments (user_id);
CREATE INDEX totp_enrolments_expires_at ON totp_enrolments (expires_at);

CREATE TABLE recovery_codes (
    code_digest BYTEA NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    used_at BIGINT
);
CREATE INDEX recovery_codes_user_id ON recovery_codes (user_id);

CREATE TABLE trusted_browsers (
    token_digest BYTEA NOT NULL PRIMARY KEY,
    browser_id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    network TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX trusted_browsers_user_id ON trusted_browsers (user_id);
CREATE INDEX trusted_browsers_expires_at ON trusted_browsers (expires_at);

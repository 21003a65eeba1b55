-- What one server at a time does for all, and until when it is its; a server that is gone loses it by the clock.
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);

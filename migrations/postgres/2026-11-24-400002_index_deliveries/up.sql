-- Who was told of a session's end.
CREATE INDEX outbox_session ON outbox (session_id) WHERE session_id IS NOT NULL;

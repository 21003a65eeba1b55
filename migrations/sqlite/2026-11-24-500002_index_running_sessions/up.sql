-- Which sessions have run out and are not ended yet.
CREATE INDEX sessions_running ON sessions (expires_at) WHERE ended_at IS NULL;

-- Of which sign-outs a person's applications could not be told.
CREATE INDEX outbox_given_up ON outbox (payload) WHERE kind = 'logout' AND given_up_at IS NOT NULL;

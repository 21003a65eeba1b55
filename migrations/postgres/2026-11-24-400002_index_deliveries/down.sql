DROP INDEX outbox_session;

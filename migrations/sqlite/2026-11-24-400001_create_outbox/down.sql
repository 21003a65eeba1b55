DROP INDEX revocations_rule;
CREATE INDEX revocations_kind_target ON revocations (kind, target);
ALTER TABLE revocations DROP COLUMN actor;
ALTER TABLE clients DROP COLUMN logout_destination;
DROP TABLE session_clients;
DROP TABLE outbox;

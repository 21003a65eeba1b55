ALTER TABLE sessions DROP COLUMN user_agent;
ALTER TABLE sessions DROP COLUMN last_address;
ALTER TABLE sessions DROP COLUMN created_address;
DROP TABLE activity;

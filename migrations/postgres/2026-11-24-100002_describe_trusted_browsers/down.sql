ALTER TABLE trusted_browsers DROP COLUMN user_agent;

ALTER TABLE trusted_browsers ADD COLUMN user_agent TEXT NOT NULL DEFAULT '';

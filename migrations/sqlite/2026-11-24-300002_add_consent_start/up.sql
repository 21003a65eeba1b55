-- Since when an application may do something; `updated_at` is when it was last allowed more.
ALTER TABLE consents ADD COLUMN created_at BIGINT NOT NULL DEFAULT 0;
UPDATE consents SET created_at = updated_at;

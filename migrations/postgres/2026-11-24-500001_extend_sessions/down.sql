DROP TABLE sign_outs;
ALTER TABLE grants DROP COLUMN network;
ALTER TABLE sessions DROP COLUMN auth_address;
ALTER TABLE sessions DROP COLUMN is_kept;

DROP INDEX users_normal_email;
ALTER TABLE users DROP COLUMN normal_email;
DROP TABLE links;

DROP TABLE trusted_browsers;
DROP TABLE recovery_codes;
DROP TABLE totp_enrolments;
DROP TABLE totp_devices;
ALTER TABLE sessions DROP COLUMN proven_at;
ALTER TABLE users DROP COLUMN has_second_factor;

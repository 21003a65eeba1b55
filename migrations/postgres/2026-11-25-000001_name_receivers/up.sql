-- Deliveries wait for the receiver that they are for, and no longer for all that is behind its host.
UPDATE clients SET logout_destination = metadata::jsonb ->> 'backchannel_logout_uri' WHERE logout_destination IS NOT NULL;

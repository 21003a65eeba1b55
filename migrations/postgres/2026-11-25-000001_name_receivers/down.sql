-- An older version takes the name of a receiver as well as that of a host.
SELECT 1;

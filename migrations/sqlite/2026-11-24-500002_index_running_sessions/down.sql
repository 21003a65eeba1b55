DROP INDEX sessions_running;

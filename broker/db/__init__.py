"""The one door to SQL: the engine, the lock on the data folder, the group-committing writer, durable claims."""

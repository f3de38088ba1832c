"""What happened, provably: the closed catalogue of events, the log that is written before anything takes effect, its tree."""

"""What happened, provably: the catalogue of events, the log that is written before anything takes effect, its tree."""

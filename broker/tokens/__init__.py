"""The right to ask: evidence exchanged for short-lived tokens that are bound to the holder's key."""

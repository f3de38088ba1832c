"""Stand-ins for a platform and a provider, and the play in which the broker works between them."""

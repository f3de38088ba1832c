"""The broker: evidence in, short-lived bound credentials out, every decision on a verifiable record."""

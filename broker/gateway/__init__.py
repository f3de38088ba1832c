"""The model call: decided and recorded before a byte leaves, and sent with a key that the caller never sees."""

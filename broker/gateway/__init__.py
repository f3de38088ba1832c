"""The model call: who calls which model, decided and recorded before a byte leaves, with a key the caller never sees."""

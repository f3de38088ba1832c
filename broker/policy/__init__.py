"""What is allowed: Cedar policies over values that callers hand in. It knows no tables and no network."""

"""Who may ask: agents and clients, their instances, the attesters whose evidence counts, and the operators."""

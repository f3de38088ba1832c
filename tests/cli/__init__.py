"""The command line against a broker process of its own, over real HTTP."""

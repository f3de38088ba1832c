"""Checks of the tree itself: each a function over text, so that it is also seen to fail on a bad sample."""

"""How every test runs. Fixtures live beside the tests that use them."""

from __future__ import annotations

from hypothesis import settings

# The same examples every time, and no limit in wall time: a slow machine must not change an outcome.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
# make test ARGS="--hypothesis-profile=search" looks further, with new examples each time.
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
# make fuzz: rounds of a few seconds, repeated with new examples until their time is used up.
settings.register_profile("fuzz", deadline=None, max_examples=400, print_blob=True, database=None)
settings.load_profile("steady")

"""A training stage that compiles in a second, for the tests of the loop."""

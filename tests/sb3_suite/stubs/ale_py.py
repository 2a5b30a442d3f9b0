"""Stands in where the Atari games are not installed: test_utils.py imports them, the tests that are run do not use them."""

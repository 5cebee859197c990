"""Fuzzing of every door: structured values, changed at random, must be read as what they are or refused in one line."""

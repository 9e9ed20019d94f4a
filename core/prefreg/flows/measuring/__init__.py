"""Candidates measured in memory: the base and its vectors are loaded once, nothing is written."""

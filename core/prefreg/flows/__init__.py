"""The straight lines through the rooms: add an axis, resolve terms, compose, check the house."""

"""The first-party axes: one module each, reached only through entry points."""

from packages import site

__all__ = ["site"]  # a fixture of the tests in this folder

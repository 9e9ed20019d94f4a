from trained import surroundings, trained

__all__ = ["surroundings", "trained"]  # fixtures of every test in this folder

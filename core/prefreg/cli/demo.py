"""demo."""
COMMANDS = ()

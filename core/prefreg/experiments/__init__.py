"""The experiments of the paper, each a command: trained, measured, drawn and written down."""

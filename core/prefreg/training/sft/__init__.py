"""Fine-tuning a base model on instructions, before any axis."""

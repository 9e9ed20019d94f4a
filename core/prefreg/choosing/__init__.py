"""Which η: from effects that are wanted, or from a target under constraints."""

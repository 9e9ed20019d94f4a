"""Composing θ = θ_base + Σ ηᵢ·φᵢ: the plan, the arithmetic, and the folder it is written to.

Nothing here loads torch before a block needs it: the plain sum of dense vectors does without.
"""

"""What one could do instead of preference vectors, a module a family of methods.

`workshop` trains what they need, `policies` says what all of them are once trained, `placing`
measures a setting, `trade` compares methods at equal KL, `showing` writes tables and the picture.
"""

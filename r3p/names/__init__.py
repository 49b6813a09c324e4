"""Name tables from the official PyTorch checkpoints to our parameter trees, one file a network: `RULES`.

A rule is `Rule(pattern, path, kind)`; see `r3p.convert`.
"""

"""Questions about traced functions: what an equation does, needs and comes from."""

"""How fast a graph could be: its operations and bytes over what the machine can do at most."""

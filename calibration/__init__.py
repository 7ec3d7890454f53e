"""From measurements to server files: fit the simulator's parameters."""

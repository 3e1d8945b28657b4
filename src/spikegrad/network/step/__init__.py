"""One time step of a network."""

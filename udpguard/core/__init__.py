"""Pure logic: no socket, no clock, no event loop. Time and randomness come in as arguments."""

"""The commands, one module each: ``add`` says what a command takes, the rest does it. Only these files print."""

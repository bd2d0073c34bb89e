"""Where a user types: magics, the agent kernel, the command line."""

"""Values, tools, approval and permission: all that goes between a run and its user."""

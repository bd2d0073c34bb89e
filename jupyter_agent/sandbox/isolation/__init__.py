"""Confinement of a sandbox: bubblewrap or Landlock, shared files, limits."""

"""What confines a sandbox: bubblewrap or Landlock, which files are shared, how much memory."""

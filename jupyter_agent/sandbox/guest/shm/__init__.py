"""Semaphores and shared memory as private files, for where ``/dev/shm`` cannot be used.

``/dev/shm`` is there, but it holds what other programs share, and C's functions know no other
place: so the modules here stand in for the two of the standard library that call them.
"""

VARIABLE = "JUPYTER_AGENT_SHM"  # of the environment: the folder for these files

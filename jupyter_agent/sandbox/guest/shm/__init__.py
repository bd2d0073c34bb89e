"""Semaphores and shared memory in files of the private folder, for where there is no ``/dev/shm``.

``/dev/shm`` is there, but it holds what other programs share, and C's functions know no other
place: so the modules here stand in for the two of the standard library that call them.
"""

VARIABLE = "JUPYTER_AGENT_SHM"  # of the environment: the folder for these files

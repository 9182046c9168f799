"""Training runs that are killed, started again, and compared with undisturbed ones.

A *case* is one run: a method, a form of data, a network, and one or more ends before the last: each an instant and a
signal or a fault of the disk. Every start is a process of its own with the same command, as a scheduler gives it.

- ``cases``: what is drawn: configurations, and for each its cases;
- ``child``: what such a process does, with hooks at all instants at which it may have to die;
- ``recorder``: the system calls of a save, which are counted, checked for their order, and made to fail;
- ``worker``: forks the processes of a case one after the other, and looks at what they leave;
- ``mutants``: faults of checkpoints, by name, which the matrix must notice;
- ``matrix``: workers side by side, and tables of what they have killed.

``python -m python_tests.kills`` runs the whole matrix, ``test_kills.py`` a small part of it.
"""

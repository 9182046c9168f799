"""The check of the CUDA kernels on a GPU: builds them, tests them and times them, within a number of seconds.

``python -m benchmarks.gpu_check`` needs no virtual environment and no network; ``--help`` says more.

The parts run in processes of their own, since an error of the GPU lasts as long as the process that saw it. Such a
process says in a journal which case it begins and what came of it, so that a crash, a hang or a lost GPU is known by
the case it struck, and a new process goes on behind it.
"""

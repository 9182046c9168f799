"""Checkpoints: a model, its method and its history in one file, which is whole or not there.

A checkpoint is a safetensors file. Whoever knows that format finds the weights in it, under ``model.``, and no reader
ever runs code from it. Every bit is under a sha256, so that an altered file is refused. :func:`altmin_ext.train` writes
such files itself, with ``checkpoint=``; the functions here are for loops of one's own::

    method = altmin_ext.make_method("am-adam", model)
    for step, (x, y) in enumerate(batches, 1):
        method.step(x, y)
        if step % 1000 == 0:
            checkpoint.save("run.safetensors", model=model, method=method, keep=2, step=step)

    held = checkpoint.load("run.safetensors", model=model, method=method)
    held.extra["step"]
"""

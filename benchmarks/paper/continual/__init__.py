"""Does a memory of co-activations keep what was learnt before, and what does it cost beside its rivals?

    python -m benchmarks.paper.continual tune                           # every learner's options, on every stream
    python -m benchmarks.paper.continual run split-mnist --seeds 5      # every learner from five seeds
    python -m benchmarks.paper.continual table                          # what has been run, as tables
    python -m benchmarks.paper.continual figure                         # accuracy against bytes, and task by task

A stream of tasks passes once (each task ``--passes`` times before the next) in minibatches of 100, and at tests
nobody tells which task a sample belongs to. After every task a learner is tested on all tasks: over all classes
(class-incremental), and, where tasks have classes of their own, over those of the task alone (task-incremental).
From the accuracies a[t][k] on task k after task t of T (Lopez-Paz & Ranzato 2017; Chaudhry et al. 2018):

- average: the mean of a[T][k];
- forgetting: the mean over k < T of the best a[t][k] for k <= t < T minus a[T][k];
- forward transfer: the mean over k > 1 of a[k-1][k] minus the accuracy of the network before any training.

Until the last task at most 500 samples of a task's test set are asked, evenly spaced; after it all of them.

**Networks.** Learners of hidden layers have 784-100-100-10 (CIFAR-10: 3072-200-200-10); closed forms one linear layer
on the pixels, on 790 frozen random units, or on about as many averages over the maps of a frozen random convolution
(:func:`altmin_ext.models.random_features`).

**Task borders.** AM-mem, the closed forms, replay, SGD and Adam hear nothing of them. EWC and A-GEM do something at
the end of a task, and OWM has to know how long a task is.

**Bytes kept** are those of every tensor that a learner keeps from one minibatch to the next beside the parameters of
its network, as allocated: matrices and sums, stored samples with their labels, moments of an optimiser, earlier
weights and their importances. What lives for one minibatch does not count. **In all** adds the network's own
parameters and buffers, among them frozen random layers, which a seed could make again. Replay and A-GEM may store as
many samples as fill the bytes that AM-mem keeps on the same stream; Adam's moments come on top of that.

**Tuning.** Every learner gets its options per stream: the best average on a held-out tenth of the stream's own
training set, one pass, another seed, out of four to six values of one option; EWC (strength and rate) and OWM (alpha
and rate) have grids of 12 and 16. Long streams are shortened for it: Split-CIFAR-10 to a half of each task's samples,
Permuted-MNIST to a third.

Every run has a single thread; times are of its processor, over all steps, with what happens at the ends of tasks.
Results are JSON lines under benchmarks/results/continual; what is recorded there already is not run again.
"""

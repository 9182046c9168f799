"""Seeds one fault at a time into the package and sees whether the tests notice.

    python -m python_tests.mutations [--only WORDS] [--jobs J] [--output python_tests/mutations.md]

Each fault is a replacement of text in a copy of the package and its tests. Python finds that copy first, with the
native module of the installed package; a fault in csrc is compiled anew. The named tests must then fail. A fault that
survives, or whose text is no longer found once, fails the run. Faults of the CUDA kernels are in native/mutations.py.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import altmin_ext._C as native_module

ROOT = Path(__file__).parents[1]
LEFT_OUT = (
    ".git",
    ".venv",
    "build",
    "dist",
    "runs",
    "__pycache__",
    ".*_cache",
    ".benchmarks",
    "*.so",
    "results",
)


@dataclasses.dataclass(frozen=True)
class Fault:
    """``before`` becomes ``after`` in a file, named from the root.

    Attributes:
        kind: what kind of trust it breaks.
        what: what is wrong with it, in a few words.
        tests: files or pytest's node ids, of which at least one must fail.
    """

    kind: str
    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    @property
    def is_compiled(self) -> bool:
        return self.file.startswith("csrc/") or self.file == "CMakeLists.txt"


# kind, what, file, before, after, tests
BUGS: list[tuple[str, str, str, str, str, Sequence[str]]] = [
    (
        "1",
        "a mask in a Subset is taken for the numbers 0 and 1",
        "altmin_ext/_batches.py",
        (
            "        if isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and valu"
            "e.dtype == torch.bool):\n"
            "            raise TypeError\n"
        ),
        "",
        [
            "python_tests/test_batches.py::test_other_wrong_data",
        ],
    ),
    (
        "2",
        "what a module keeps in lists is not held still within a step",
        "altmin_ext/network/module_state.py",
        "_sequences = (list, deque)",
        "_sequences = (deque,)",
        [
            "python_tests/network/test_local_pieces.py",
        ],
    ),
    (
        "2",
        "a module's own generators draw anew at every evaluation of a step",
        "altmin_ext/network/module_state.py",
        "sought = {*_containers, *generators}",
        "sought = {*_containers}",
        [
            "python_tests/network/test_local_pieces.py",
        ],
    ),
    (
        "1",
        "a subclass of TensorDataset is read past its __getitem__",
        "altmin_ext/_batches.py",
        "if type(source) is TensorDataset:",
        "if isinstance(source, TensorDataset):",
        [
            "python_tests/test_batches.py::test_samples_are_those_handed_out_and_nothing_is_written",
        ],
    ),
    (
        "1",
        "a subclass of Subset is read past its __getitem__",
        "altmin_ext/_batches.py",
        "if type(source) is not Subset:",
        "if not isinstance(source, Subset):",
        [
            "python_tests/test_batches.py::test_samples_are_those_handed_out_and_nothing_is_written",
        ],
    ),
    (
        "1",
        "a user's DataLoader draws the seed of its workers from torch's generator",
        "altmin_ext/_batches.py",
        "if not isinstance(source, DataLoader) or source.generator is not None:",
        "if True:",
        [
            "python_tests/test_batches.py::test_samples_are_those_handed_out_and_nothing_is_written",
        ],
    ),
    (
        "1",
        "workers draw the same numbers in every pass",
        "altmin_ext/_batches.py",
        "if source.num_workers > 0 and self.order is not None:",
        "if False:",
        [
            "python_tests/test_batches.py::test_workers_draw_new_numbers_in_every_pass",
        ],
    ),
    (
        "1",
        "a step lets the model write to x",
        "altmin_ext/methods/base.py",
        "return x.clone() if self._copies_x else x.contiguous(), y",
        "return x.contiguous(), y",
        [
            "python_tests/test_batches.py::test_samples_are_those_handed_out_and_nothing_is_written",
        ],
    ),
    (
        "1",
        "an evaluation lets the model write to x",
        "altmin_ext/evaluation.py",
        "x.clone() if copies else x",
        "x",
        [
            "python_tests/test_batches.py::test_samples_are_those_handed_out_and_nothing_is_written",
        ],
    ),
    (
        "1",
        "a trial lets the model write to the first sample",
        "altmin_ext/evaluation.py",
        "_logits(model, x[:1].clone())",
        "_logits(model, x[:1])",
        [
            "python_tests/test_batches.py::test_samples_are_those_handed_out_and_nothing_is_written",
        ],
    ),
    (
        "1",
        "hooks are not thought to write",
        "altmin_ext/network/inputs.py",
        "if module._forward_pre_hooks or module._forward_hooks:",
        "if False:",
        [
            "python_tests/network/test_inputs.py",
        ],
    ),
    (
        "1",
        "a user's module is not thought to write",
        "altmin_ext/network/inputs.py",
        'if not ours or getattr(module, "inplace", False)',
        'if getattr(module, "inplace", False)',
        [
            "python_tests/network/test_inputs.py",
        ],
    ),
    (
        "1",
        "a user's module within a stage is differentiated at a leaf",
        "altmin_ext/network/pieces.py",
        "self._in_place = may_write_input(module)",
        "self._in_place = False",
        [
            "python_tests/network/test_inputs.py",
        ],
    ),
    (
        "1",
        "a criterion may write to the targets",
        "altmin_ext/losses.py",
        "y if self._is_torch_s else y.clone()",
        "y",
        [
            "python_tests/test_batches.py::test_a_criterion_may_write_to_its_targets",
        ],
    ),
    (
        "1",
        "lazily negated tensors are taken as they lie in memory",
        "altmin_ext/_check.py",
        "value = value.resolve_conj().resolve_neg()",
        "pass",
        [
            "python_tests/test_check.py::test_other_tensors_become_ordinary",
        ],
    ),
    (
        "1",
        "tensors of inference mode are kept for autograd",
        "altmin_ext/_check.py",
        "if value.is_inference():",
        "if False:",
        [
            "python_tests/test_check.py::test_other_tensors_become_ordinary",
            "python_tests/test_batches.py::test_samples_are_those_handed_out_and_nothing_is_written",
        ],
    ),
    (
        "1",
        "NaN in targets in memory is not looked for",
        "altmin_ext/losses.py",
        "        else:\n            self.check_finite(y, n_out)",
        "",
        [
            "python_tests/test_batches.py::test_nan_in_targets_is_found_beforehand_and_y_is_blamed",
        ],
    ),
    (
        "1",
        "x is blamed for NaN in y",
        "altmin_ext/methods/base.py",
        'zip("xy", (x, y), strict=True)',
        'zip("x", (x,), strict=True)',
        [
            "python_tests/test_batches.py::test_nan_in_targets_is_found_beforehand_and_y_is_blamed",
        ],
    ),
    (
        "1",
        "a function that leaves out NaN is refused",
        "altmin_ext/losses.py",
        "if self._is_torch_s or not self.mean(",
        "if True or not self.mean(",
        [
            "python_tests/test_batches.py::test_a_function_may_leave_out_missing_targets",
        ],
    ),
    (
        "1",
        "negative labels are left to torch, which skips -100",
        "altmin_ext/losses.py",
        "if len(y) and int(y.min()) < 0:",
        "if False:",
        [
            "python_tests/test_batches.py::test_a_missing_label_is_refused_by_every_method",
        ],
    ),
    (
        "1",
        "labels of 64 unsigned bits wrap around",
        "altmin_ext/losses.py",
        "if y.dtype == torch.uint64 and (y.view(torch.int64) < 0).any():",
        "if False:",
        [
            "python_tests/test_batches.py::test_wrong_data_are_refused_in_a_sentence",
        ],
    ),
    (
        "1",
        "x and y of different lengths pass",
        "altmin_ext/_check.py",
        "if y.ndim == 0 or y.shape[0] != count:",
        "if y.ndim == 0:",
        [
            "python_tests/test_batches.py::test_lengths_are_not_broadcast",
            "python_tests/test_batches.py::test_wrong_data_are_refused_in_a_sentence",
        ],
    ),
    (
        "1",
        "a criterion broadcasts targets",
        "altmin_ext/losses.py",
        "if isinstance(self._function, self._elementwise) and y.shape != logits.shape:",
        "if False:",
        [
            "python_tests/test_batches.py::test_criteria_do_not_broadcast",
        ],
    ),
    (
        "1",
        "masked entries are taken",
        "altmin_ext/_batches.py",
        "if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):",
        "if False:",
        [
            "python_tests/test_batches.py::test_wrong_data_are_refused_in_a_sentence",
        ],
    ),
    (
        "1",
        "validation moves torch's generators",
        "altmin_ext/_generators.py",
        'set_torch_state(states["torch"])',
        "pass",
        [
            "python_tests/test_batches.py::test_validation_changes_nothing",
        ],
    ),
    (
        "1",
        "validation moves the model's buffers",
        "altmin_ext/evaluation.py",
        "buffers.recall(kept)",
        "pass",
        [
            "python_tests/test_batches.py::test_validation_changes_nothing",
        ],
    ),
    (
        "1",
        "validation moves NumPy's generator",
        "altmin_ext/_generators.py",
        'np.random.set_state(states["numpy"])',
        "pass",
        [
            "python_tests/test_batches.py::test_validation_changes_nothing",
        ],
    ),
    (
        "1",
        "validation of a full-batch method takes all samples at once",
        "altmin_ext/training.py",
        "at_once = EVALUATION_BATCH *",
        "at_once = 10**9 *",
        [
            "python_tests/test_batches.py::test_validation_goes_through_the_model_in_minibatches",
        ],
    ),
    (
        "5",
        "a last minibatch of one is met at the end of the epoch",
        "altmin_ext/_run.py",
        "if batches.last != 1 or len(x) < 2",
        "if True or len(x) < 2",
        [
            "python_tests/test_batches.py::test_a_last_minibatch_of_one_is_found_before_the_first_step",
        ],
    ),
    (
        "5",
        "outputs of NaN pass the trial",
        "altmin_ext/_run.py",
        'return None if bool(logits.isfinite().all()) else "its outputs are not finite"',
        "return None",
        [
            "python_tests/test_batches.py::test_a_last_minibatch_of_one_is_found_before_the_first_step",
        ],
    ),
    (
        "5",
        "a last minibatch that is never reached is refused",
        "altmin_ext/_run.py",
        " or (steps is not None and steps < (batches.steps or 0))",
        "",
        [
            "python_tests/test_batches.py::test_a_last_minibatch_of_one_is_found_before_the_first_step",
        ],
    ),
    (
        "5",
        "every call of train repeats the order of the first",
        "altmin_ext/_order.py",
        "if seed != self.seed:",
        "if True:",
        [
            "python_tests/test_batches.py::test_a_second_call_goes_on_with_the_order",
        ],
    ),
    (
        "5",
        "another seed goes on with the old order",
        "altmin_ext/_order.py",
        "if seed != self.seed:",
        "if self.seed is None:",
        [
            "python_tests/test_batches.py::test_another_seed_starts_a_new_order",
        ],
    ),
    (
        "5",
        "the order is not part of the state",
        "altmin_ext/methods/base.py",
        '            "data_order": self.data_order.state(),\n',
        "",
        [
            "python_tests/test_batches.py::test_a_second_call_goes_on_with_the_order",
        ],
    ),
    (
        "9",
        "errors of a validation stream do not say so",
        "altmin_ext/_run.py",
        'with naming("validation"), without_trace(method.model, method._like, source):',
        "with without_trace(method.model, method._like, source):",
        [
            (
                "python_tests/test_training.py::test_iterable_that_cannot_start_anew_is_named_when_it_"
                "is_found_empty"
            ),
        ],
    ),
    (
        "9",
        "a list of validation minibatches is checked after the first epoch",
        "altmin_ext/training.py",
        "if isinstance(held_out, (list, tuple)) and isinstance(validated, StreamBatches):",
        "if False:",
        [
            "python_tests/test_batches.py::test_wrong_data_are_refused_in_a_sentence",
        ],
    ),
    (
        "9",
        "a zip is thought to start anew",
        "altmin_ext/_batches.py",
        "isinstance(source, Iterator) and type(source).__module__ in iterators",
        "type(source).__name__ == 'generator'",
        [
            "python_tests/test_training.py::test_bad_input_is_one_sentence_and_leaves_the_model_as_it_was",
        ],
    ),
    (
        "5",
        "a history's seal is not compared",
        "altmin_ext/_files.py",
        'if document.pop("sha256", None) != _seal(document):',
        'if document.pop("sha256", None) is None:',
        [
            "python_tests/test_files.py",
            "python_tests/test_history.py",
        ],
    ),
    (
        "5",
        "an unfinished run is written over",
        "altmin_ext/command_line/output.py",
        'if is_over or run["step"] == 0:',
        "if True:",
        [
            "python_tests/test_command_line_checkpoints.py::test_an_unfinished_run_is_not_written_over",
        ],
    ),
    (
        "5",
        "arguments are not compared with those of the run that goes on",
        "altmin_ext/command_line/output.py",
        "        if value != earlier:\n",
        "        if False:\n",
        [
            "python_tests/test_command_line_checkpoints.py::test_another_run_is_refused_with_the_difference",
        ],
    ),
    (
        "5",
        "a run that is over is lost where another one cannot begin",
        "altmin_ext/_files.py",
        "                os.replace(aside, path)\n",
        "                aside.unlink()\n",
        [
            "python_tests/test_command_line_checkpoints.py::test_a_run_that_cannot_begin_leaves_an_earlier_one",
        ],
    ),
    (
        "5",
        "inspect looks at the header alone",
        "altmin_ext/command_line/inspect.py",
        "    _file.read(arguments.file)\n",
        "",
        [
            "python_tests/test_command_line_checkpoints.py::test_inspect_reads_every_byte",
        ],
    ),
    (
        "5",
        "an interrupted method is not written",
        "altmin_ext/command_line/train.py",
        "                if contestant.history.steps:\n",
        '                if contestant.ended == "completed":\n',
        [
            (
                "python_tests/test_command_line.py::test_what_was_trained_before_a_signal_is_written_t"
                "ested_and_reported"
            ),
        ],
    ),
    (
        "5",
        "a divergence ends the contest",
        "altmin_ext/command_line/train.py",
        '                contestant.ended = "diverged"\n',
        (
            '                contestant.ended = "diverged"\n'
            "                raise\n"
        ),
        [
            "python_tests/test_command_line.py::test_a_contestant_that_diverges_does_not_hide_the_others",
        ],
    ),
    (
        "5",
        "results are written without a rehearsal",
        "altmin_ext/command_line/train.py",
        "            self._output.rehearse(self._first.model)\n",
        "",
        [
            "python_tests/test_command_line.py::test_an_output_that_cannot_be_written_is_refused_beforehand",
        ],
    ),
    (
        "5",
        "a signal is not held back while results are written",
        "altmin_ext/command_line/train.py",
        "with HeldInterrupt(held=True):",
        "with HeldInterrupt():",
        [
            "python_tests/test_command_line.py::test_a_signal_while_results_are_written_waits",
        ],
    ),
    (
        "5",
        "a full disk later hides the results",
        "altmin_ext/command_line/train.py",
        (
            "            self._unwritten = error\n"
            "            return\n"
        ),
        "            raise\n",
        [
            "python_tests/test_command_line.py::test_a_disk_that_fills_later_costs_no_results",
        ],
    ),
    (
        "5",
        "a picture that fails hides the results",
        "altmin_ext/command_line/train.py",
        "except Exception as error:",
        "except ImportError as error:",
        [
            (
                "python_tests/test_command_line.py::test_a_picture_that_cannot_be_drawn_is_no_reason_t"
                "o_lose_results"
            ),
        ],
    ),
    (
        "5",
        "SIGTERM is not heard",
        "altmin_ext/_interrupt.py",
        (
            "                    signal.signal(number, handler)\n"
            "                    changed.append(number)\n"
        ),
        (
            "                    signal.signal(number, signal.SIG_IGN)\n"
            "                    changed.append(number)\n"
        ),
        [
            "python_tests/test_interrupt.py",
        ],
    ),
    (
        "5",
        "SIGTERM is raised within a step",
        "altmin_ext/_interrupt.py",
        "for number in (signal.SIGINT, *_terminations):",
        "for number in (signal.SIGINT,):",
        [
            "python_tests/test_interrupt.py",
        ],
    ),
    (
        "5",
        "a second termination is raised, too",
        "altmin_ext/_interrupt.py",
        "            self._told = True\n",
        "",
        [
            "python_tests/test_interrupt.py",
        ],
    ),
    (
        "5",
        "an interrupt is lost with a failed step",
        "altmin_ext/_interrupt.py",
        "if not isinstance(error, KeyboardInterrupt):",
        "if error is None:",
        [
            "python_tests/test_interrupt.py",
        ],
    ),
    (
        "5",
        "nohup is not respected",
        "altmin_ext/_interrupt.py",
        "if signal.getsignal(number) is signal.SIG_DFL:",
        "if True:",
        [
            "python_tests/test_interrupt.py",
        ],
    ),
    (
        "5",
        "the minibatch of the interrupt is not recorded",
        "altmin_ext/_run.py",
        "            self.is_between_minibatches = False\n            record.add(",
        (
            "            held.release()\n"
            "            record.add("
        ),
        [
            "python_tests/test_interrupt.py",
        ],
    ),
    (
        "5",
        "best weights are half put back",
        "altmin_ext/_run.py",
        "            held.held = True\n            for hook in self.hooks.on_end",
        "            for hook in self.hooks.on_end",
        [
            "python_tests/test_interrupt.py",
        ],
    ),
    (
        "5",
        "an epoch cut short has no row",
        "altmin_ext/_run.py",
        "                if self._record is not None:\n                    self._record.close()",
        "                pass",
        [
            "python_tests/test_interrupt.py",
        ],
    ),
    (
        "5",
        "a progress bar needs standard error",
        "altmin_ext/_run.py",
        "if not show or sys.stderr is None:",
        "if not show:",
        [
            "python_tests/test_interrupt.py",
        ],
    ),
    (
        "5",
        "a progress bar that cannot be drawn ends the run",
        "altmin_ext/_run.py",
        "file=Unfailing(sys.stderr)",
        "file=sys.stderr",
        [
            "python_tests/test_interrupt.py",
        ],
    ),
    (
        "5",
        "closed streams are left closed",
        "altmin_ext/_streams.py",
        "                setattr(sys, name, nowhere)\n",
        "                pass\n",
        [
            "python_tests/test_command_line.py::test_closed_streams",
        ],
    ),
    (
        "5",
        "a broken pipe is an ordinary error",
        "altmin_ext/command_line/__init__.py",
        "141 if error.reader_gone else 2",
        "2",
        [
            "python_tests/test_command_line.py::test_when_nobody_can_read_on_what_was_trained_is_written",
        ],
    ),
    (
        "5",
        "standard output that fails fails again at the end",
        "altmin_ext/_streams.py",
        "        os.dup2(nowhere, stream.fileno())\n",
        "",
        [
            "python_tests/test_command_line.py::test_a_reader_that_leaves_ends_the_run_quietly",
        ],
    ),
    (
        "7",
        "several files get their names one by one",
        "altmin_ext/_files.py",
        "                        os.fsync(unfinished.file.fileno())\n",
        (
            "                        os.fsync(unfinished.file.fileno())\n"
            "                        os.replace(unfinished.name, unfinished.target)\n"
            "                        unfinished.name.touch()\n"
        ),
        [
            "python_tests/test_files.py",
            (
                "python_tests/test_command_line.py::test_a_run_killed_while_it_writes_leaves_the_old_m"
                "odel_or_the_new"
            ),
        ],
    ),
    (
        "7",
        "left-over files stay",
        "altmin_ext/_files.py",
        "            _remove_abandoned(target.parent)\n",
        "",
        [
            "python_tests/test_files.py",
        ],
    ),
    (
        "7",
        "files of a live writer are removed",
        "altmin_ext/_files.py",
        "            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n            name.unlink()",
        "            name.unlink()",
        [
            "python_tests/test_files.py",
        ],
    ),
    (
        "7",
        "a link is replaced",
        "altmin_ext/_files.py",
        "    return Path(os.path.realpath(path)), earlier",
        "    return path, earlier",
        [
            "python_tests/test_files.py",
        ],
    ),
    (
        "7",
        "permissions are not kept",
        "altmin_ext/_files.py",
        "                os.fchmod(file.fileno(), stat.S_IMODE(earlier.st_mode))\n",
        "",
        [
            "python_tests/test_files.py",
        ],
    ),
    (
        "7",
        "a pipe is replaced",
        "altmin_ext/_files.py",
        "    if not stat.S_ISREG(earlier.st_mode):\n",
        "    if stat.S_ISDIR(earlier.st_mode):\n",
        [
            "python_tests/test_files.py",
        ],
    ),
    (
        "7",
        "a read-only file is replaced",
        "altmin_ext/_files.py",
        "    if not earlier.st_mode & 0o222 or not os.access(path, os.W_OK):",
        "    if False:",
        [
            "python_tests/test_files.py",
        ],
    ),
    (
        "7",
        "a pipe is waited for",
        "altmin_ext/_files.py",
        (
            "    if not stat.S_ISREG(mode):\n"
            "        _refuse(Path(path), mode)\n"
            "    return open"
        ),
        "    return open",
        [
            "python_tests/test_files.py",
        ],
    ),
    (
        "7",
        "a name twice in JSON passes",
        "altmin_ext/_files.py",
        "    if len(document) < len(pairs):",
        "    if False:",
        [
            "python_tests/test_files.py",
        ],
    ),
    (
        "7",
        "infinity in JSON passes",
        "altmin_ext/_files.py",
        "    if math.isinf(number):",
        "    if False:",
        [
            "python_tests/test_files.py",
        ],
    ),
    (
        "7",
        "null in a row stays None",
        "altmin_ext/history.py",
        (
            "    if value is None:\n"
            "        return math.nan\n"
        ),
        (
            "    if value is None:\n"
            "        return value\n"
        ),
        [
            "python_tests/test_history.py",
        ],
    ),
    (
        "7",
        "lengths of the step records are not compared",
        "altmin_ext/history.py",
        "                if len(record) != len(history.step_loss):",
        "                if False:",
        [
            "python_tests/test_history.py",
        ],
    ),
    (
        "7",
        "True is a number",
        "altmin_ext/history.py",
        "if isinstance(value, bool) or not isinstance(value, (int, float)):",
        "if not isinstance(value, (int, float)):",
        [
            "python_tests/test_history.py",
        ],
    ),
    (
        "7",
        "more steps recorded than there were",
        "altmin_ext/history.py",
        "        if len(history.step_loss) > history.steps:",
        "        if False:",
        [
            "python_tests/test_history.py",
        ],
    ),
    (
        "7",
        "accuracy over samples that are not classified",
        "altmin_ext/history.py",
        "sums.correct / classified,",
        "sums.correct / counted,",
        [
            "python_tests/test_history.py",
        ],
    ),
    (
        "7",
        "product of an IDX header's sizes wraps around",
        "altmin_ext/data/_formats.py",
        "        announced = math.prod(shape)\n",
        "        announced = int(np.prod(shape, dtype=np.int64))\n",
        [
            "python_tests/data/test_formats.py",
        ],
    ),
    (
        "7",
        "an IDX header's size is believed",
        "altmin_ext/data/_formats.py",
        "        if size > _MOST:\n",
        "        if False:\n",
        [
            "python_tests/data/test_formats.py",
        ],
    ),
    (
        "7",
        "links in an archive count as files",
        "altmin_ext/data/_formats.py",
        'if header[156:157] in (b"0", b"\\0") and name in wanted else None',
        "if name in wanted else None",
        [
            "python_tests/data/test_formats.py",
        ],
    ),
    (
        "7",
        "the second of two members wins",
        "altmin_ext/data/_formats.py",
        "            if name in members:\n",
        "            if False:\n",
        [
            "python_tests/data/test_formats.py",
        ],
    ),
    (
        "7",
        "NaN in a table passes",
        "altmin_ext/data/_formats.py",
        "    if not finite.all():",
        "    if False:",
        [
            "python_tests/data/test_formats.py",
        ],
    ),
    (
        "7",
        "a feature that never varies becomes NaN",
        "altmin_ext/data/_tensors.py",
        "    if not standardised.all():",
        "    if False:",
        [
            "python_tests/data/test_sources.py",
        ],
    ),
    (
        "7",
        "a graph's shape is believed",
        "altmin_ext/data/graphs.py",
        "    if len(values) != math.prod(shape) * kind.itemsize:",
        "    if False:",
        [
            "python_tests/data/test_graphs.py",
        ],
    ),
    (
        "7",
        "an edge twice passes",
        "altmin_ext/data/graphs.py",
        "    if len(np.unique(there)) < len(there):",
        "    if False:",
        [
            "python_tests/data/test_graphs.py",
        ],
    ),
    (
        "7",
        "training and test nodes overlap",
        "altmin_ext/data/graphs.py",
        "    if len(np.unique(split)) < len(split):",
        "    if False:",
        [
            "python_tests/data/test_graphs.py",
        ],
    ),
    (
        "7",
        "fractions are truncated to nodes",
        "altmin_ext/data/graphs.py",
        'if key != "x_data" and array.dtype.kind == "f":',
        "if False:",
        [
            "python_tests/data/test_graphs.py",
        ],
    ),
    (
        '7',
        'the rows held out are standardised with the others',
        'altmin_ext/data/_own_files.py',
        'standardising(found, x[rows], y[rows])',
        'standardising(found, x, y)',
        ['python_tests/data/test_own_files.py::test_a_table_of_numbers_and_words'],
    ),
    (
        '7',
        'columns of a further file are taken in its own order',
        'altmin_ext/data/_preprocessing.py',
        'for name in found.columns])',
        'for name in content.x if name in found.columns])',
        ['python_tests/data/test_own_files.py::test_a_test_file_is_standardised_by_the_training_file'],
    ),
    (
        '7',
        "pickled objects in one's own arrays are loaded",
        'altmin_ext/data/_contents.py',
        'np.load(file, allow_pickle=False) as loaded',
        'np.load(file, allow_pickle=True) as loaded',
        ['python_tests/data/test_own_files.py::test_arrays_that_cannot_be_taken_are_refused_in_one_sentence'],
    ),
    (
        '7',
        'rows of a table that are too long are cut',
        'altmin_ext/data/_contents.py',
        'warnings.simplefilter("error", pandas.errors.ParserWarning)',
        'warnings.simplefilter("ignore", pandas.errors.ParserWarning)',
        ['python_tests/data/test_own_files.py::test_a_table_that_cannot_be_taken_is_refused_in_one_sentence'],
    ),
    (
        '7',
        'transparent pixels are taken for opaque',
        'altmin_ext/data/_contents.py',
        'if transparent.getextrema()[3][0] < 255:',
        'if False:',
        ['python_tests/data/test_own_files.py::test_folders_that_cannot_be_taken_are_refused_in_one_sentence'],
    ),
    (
        '7',
        'predictions of a regression stay standardised',
        'altmin_ext/data/_preprocessing.py',
        '        numbers += torch.tensor(self.target_mean, dtype=torch.float64)\n',
        '',
        ['python_tests/test_command_line_files.py::test_predictions_of_a_regression_are_in_the_units_of_the_file'],
    ),
    (
        '7',
        'an exported graph leaves the standardisation out',
        'altmin_ext/command_line/export.py',
        'return (x - self.mean) / self.deviation',
        'return x',
        ['python_tests/test_command_line_files.py::test_a_graph_takes_the_numbers_of_the_file'],
    ),
    (
        '9',
        'tables are drawn where nobody looks on',
        'altmin_ext/command_line/tables.py',
        'if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":',
        'if os.environ.get("TERM") == "dumb":',
        ['python_tests/test_command_line_words.py::test_elsewhere_text_is_plain'],
    ),
    (
        '9',
        'words of other libraries are not known',
        'altmin_ext/_words.py',
        '    if meant:\n',
        '    if False:\n',
        ['python_tests/test_command_line_words.py'],
    ),
    (
        "9",
        "an empty history has no table",
        "altmin_ext/history.py",
        "columns = None if self.epochs else list(_row)",
        "columns = None",
        [
            "python_tests/test_history.py",
        ],
    ),
    (
        "9",
        "spellings are not recognised",
        "altmin_ext/_words.py",
        '.lower().removesuffix("s")',
        "",
        [
            "python_tests/test_check.py",
        ],
    ),
    (
        "9",
        "near words among the arguments are not found",
        "altmin_ext/methods/__init__.py",
        ", similar=_arguments",
        "",
        [
            "python_tests/test_check.py",
        ],
    ),
    (
        "9",
        "flags of other programs are not recognised",
        "altmin_ext/command_line/arguments.py",
        "in _other_flags.get(plain_spelling(option), ()):",
        "in ():",
        [
            "python_tests/test_command_line.py::test_wrong_arguments_are_one_sentence",
        ],
    ),
    (
        "1",
        "arrays backwards: a single sample is taken for contiguous",
        "altmin_ext/_batches.py",
        "array.copy() if min(array.strides, default=0) < 0 else array",
        "array",
        [
            "python_tests/test_batches.py::test_arrays_backwards",
        ],
    ),
    (
        "2",
        "images of other strides reach the kernels",
        "altmin_ext/codes/convolution.py",
        "rows.reshape(self._batch, -1).contiguous()",
        "rows.reshape(self._batch, -1)",
        [
            "python_tests/methods/test_any_chain.py::test_images_of_any_strides",
        ],
    ),
    (
        "2",
        "mean pooling between convolutions: the trial run's point",
        "altmin_ext/network/pieces.py",
        "v.new_zeros(len(v), *self._point.shape[1:])",
        "self._point[: len(v)]",
        [
            "python_tests/methods/test_any_chain.py",
        ],
    ),
    (
        "1",
        "fingerprint: contiguous() of a single number",
        "altmin_ext/_fingerprint.py",
        "part.clone(memory_format=torch.contiguous_format)",
        "part.contiguous()",
        [
            "python_tests/test_fingerprint.py::test_a_single_number_of_any_stride",
        ],
    ),
    (
        "closed forms",
        "a minibatch's deviations are from its own mean alone",
        "altmin_ext/updates/scatter.py",
        "        share = (before / safe).sqrt()\n",
        "        share = before * 0\n",
        [
            "python_tests/methods/test_closed_form.py::test_exact_after_every_step",
        ],
    ),
    (
        "closed forms",
        "samples that cannot have been learned are forgotten",
        "altmin_ext/updates/scatter.py",
        "<= 1.01 * (rows",
        "<= 1e9 * (rows",
        [
            "python_tests/methods/test_closed_form.py::test_samples_that_show_not_to_have_been_learned",
        ],
    ),
    (
        "closed forms",
        "a merge forgets what the means of two runs lie apart",
        "altmin_ext/updates/scatter.py",
        (
            "        self._sum_up(rows, targets, gram, cross, removes=False)\n"
            "        return self._factored(gram, cross, self._lost)"
        ),
        "        return self._factored(gram, cross, self._lost)",
        [
            "python_tests/methods/test_closed_form.py::test_merged_runs_equal_one",
        ],
    ),
    (
        "closed forms",
        "forgetting moves the class means by an inverse that still knows the samples",
        "altmin_ext/updates/scatter.py",
        "overlap, self._solution, alpha=1.0 if self._removes else -1.0",
        "overlap, self._solution, alpha=-1.0",
        [
            "python_tests/methods/test_closed_form.py::test_forgotten_is_never_seen",
        ],
    ),
    (
        "closed forms",
        "an inverse that was given up is taken up again as it was",
        "altmin_ext/updates/scatter.py",
        "(self._has_inverse or self.inverse.renew(self.gram, self.ridge))",
        "True",
        [
            "python_tests/methods/test_closed_form.py::test_both_forms_of_the_inverse_in_turn",
        ],
    ),
    (
        "closed forms",
        "features are those of training",
        "altmin_ext/_mode.py",
        "    model.eval()\n    try:",
        "    try:",
        [
            "python_tests/methods/test_closed_form.py::test_features_are_those_of_evaluation",
        ],
    ),
    (
        "closed forms",
        "the head's first weights count as learned",
        "altmin_ext/methods/recursive_least_squares.py",
        (
            "before = head.weight if float(self._inputs.counts) else head.weight.new_zeros(head.weight.shape)"
        ),
        "before = head.weight",
        [
            "python_tests/methods/test_closed_form.py::test_the_first_weights_have_no_effect",
        ],
    ),
    (
        "closed forms",
        "a class that has not been seen may be predicted",
        "altmin_ext/methods/discriminant.py",
        "        bias[counts == 0] = _never\n",
        "",
        [
            "python_tests/methods/test_closed_form.py::test_a_class_that_has_not_been_seen_is_never_predicted",
        ],
    ),
    (
        "closed forms",
        "the ridge is on the bias, too",
        "altmin_ext/methods/recursive_least_squares.py",
        "rows, wanted = (x.deviations, t.deviations) if self._centres else (features, targets)",
        "rows, wanted = features, targets",
        [
            "python_tests/methods/test_closed_form.py::test_ridge_of_scikit_learn",
        ],
    ),
    (
        "closed forms",
        "sums change before a step can fail no more",
        "altmin_ext/methods/recursive_least_squares.py",
        "        weight = change.weights(before, rows @ before.t() - wanted)\n",
        "        x.commit()\n        weight = change.weights(before, rows @ before.t() - wanted)\n",
        [
            "python_tests/methods/test_closed_form.py::test_what_can_fail_does_so_before_anything_changes",
        ],
    ),
    (
        "fuzzing",
        "mu is raised beyond mu_max at the end of an epoch",
        "altmin_ext/methods/online_am.py",
        "self.mu = min(self.mu * self.options.mu_multiplier, self.options.mu_max)",
        "self.mu = self.mu * self.options.mu_multiplier",
        [
            "python_tests/fuzz/test_fuzz.py::test_a_short_run[training]",
        ],
    ),
    (
        "fuzzing",
        "dladmm: a dual that does not know rho",
        "altmin_ext/methods/dladmm.py",
        "self.dual[rows] += self.rho * gap",
        "self.dual[rows] += gap",
        [
            "python_tests/fuzz/test_fuzz.py::test_a_short_run[training]",
        ],
    ),
    (
        "fuzzing",
        "mdlam: activations without momentum",
        "altmin_ext/methods/mdlam.py",
        "start = old + w * (old - before)",
        "start = old",
        [
            "python_tests/methods/test_mdlam.py::test_iterations_are_those_of_the_paper",
        ],
    ),
    (
        "fuzzing",
        "dtp: another decay of the first moment",
        "altmin_ext/methods/difference_target.py",
        "torch.lerp(before[0], g, 0.05, out=mean)",
        "torch.lerp(before[0], g, 0.1, out=mean)",
        [
            "python_tests/fuzz/test_fuzz.py::test_a_short_run[training]",
        ],
    ),
    (
        "fuzzing",
        "evaluate: minibatches are not weighed by their samples",
        "altmin_ext/evaluation.py",
        "loss.mean(logits, y).double() * labelled",
        "loss.mean(logits, y).double()",
        [
            "python_tests/fuzz/test_fuzz.py::test_a_short_run[training]",
        ],
    ),
    (
        "fuzzing",
        "IDX: the checksum is not compared",
        "altmin_ext/data/_formats.py",
        "    if actual != expected:",
        "    if False:",
        [
            "python_tests/fuzz/test_fuzz.py::test_a_short_run[files]",
        ],
    ),
    (
        "fuzzing",
        "an iteration of the frame loses a crash",
        "python_tests/fuzz/frame.py",
        "        if begun is not None:",
        "        if begun is None:",
        [
            "python_tests/fuzz/test_frame.py",
        ],
    ),
    (
        "3",
        "identities of modules and parameters are not compared",
        "csrc/bindings/held.cpp",
        "|| value != expected.ptr()) return false;",
        ") return false;",
        [
            "python_tests/test_composition.py",
            "python_tests/methods/test_methods_common.py::test_model_that_has_changed_since",
        ],
    ),
    (
        "3",
        "one entry more at the end goes unnoticed",
        "csrc/bindings/held.cpp",
        "return !PyDict_Next(place.dict.ptr(), &position, &key, &value);",
        "return true;",
        [
            "python_tests/test_composition.py",
            "python_tests/methods/test_methods_common.py::test_model_that_has_changed_since",
        ],
    ),
    (
        "3",
        "the layout in memory is not compared",
        "csrc/bindings/held.cpp",
        "if (a.data != b.data || ",
        "if (",
        [
            "python_tests/test_composition.py",
            "python_tests/methods/test_methods_common.py::test_model_that_has_changed_since",
        ],
    ),
    (
        "3",
        "other memory of the same layout is refused",
        "altmin_ext/_composition.py",
        "        return misplaced(self._named)",
        "        return misplaced(self._named) or 'lies elsewhere'",
        [
            "python_tests/methods/test_methods_common.py::test_the_same_values_elsewhere_are_trained_on",
        ],
    ),
    (
        "3",
        "a slope that changes is not seen",
        "csrc/bindings/held.cpp",
        "return same == 1;",
        "return same >= 0;",
        [
            "python_tests/test_composition.py",
            "python_tests/methods/test_methods_common.py::test_an_activation_that_has_changed_since",
        ],
    ),
    (
        "3",
        "parameters that overlap are taken",
        "altmin_ext/_composition.py",
        "if place == other_place and start < end:",
        "if False:",
        [
            "python_tests/methods/test_methods_common.py::test_parameters_that_cannot_be_written_one_by_one",
        ],
    ),
    (
        "3",
        "expanded parameters are taken",
        "altmin_ext/_composition.py",
        "if not parameter.is_contiguous():",
        "if False:",
        [
            "python_tests/methods/test_methods_common.py::test_parameters_that_cannot_be_written_one_by_one",
        ],
    ),
    (
        "3",
        "step sizes of codes keep an old rate of dropout",
        "altmin_ext/methods/online_am.py",
        "current = (batch, self.mu, self.step_factor, slopes)",
        "current = (batch, self.mu, self.step_factor)",
        [
            "python_tests/methods/test_methods_common.py::test_a_rate_of_dropout_that_changes",
        ],
    ),
    (
        "3",
        "block-admm keeps an old rate of dropout",
        "altmin_ext/methods/block_admm.py",
        "slopes != self._step_sizes_are_for",
        "False",
        [
            "python_tests/methods/test_methods_common.py::test_a_rate_of_dropout_that_changes",
        ],
    ),
    (
        "3",
        "weights put back are taken for a rise",
        "altmin_ext/methods/_lifted.py",
        "self._before = self._objective if untouched else None",
        "self._before = self._objective",
        [
            "python_tests/methods/test_mdlam.py::test_weights_that_are_put_back_are_no_rise_of_the_method_s",
        ],
    ),
    (
        "3",
        "frozen weights that change are overlooked",
        "altmin_ext/methods/_lifted.py",
        "return [digests(p.detach().reshape(len(p), -1)) for _, p in self._parameters]",
        "return [digests(p.detach().reshape(len(p), -1)) for _, p in self._parameters if p.requires_grad]",
        [
            "python_tests/methods/test_mdlam.py::test_weights_that_are_put_back_are_no_rise_of_the_method_s",
        ],
    ),
    (
        "3",
        "torch's versions are not asked",
        "altmin_ext/_fingerprint.py",
        "tensor.is_set_to(other) and version == earlier",
        "tensor.is_set_to(other)",
        [
            "python_tests/test_fingerprint.py::test_samples_that_are_changed_in_place",
        ],
    ),
    (
        "3",
        "always the same hundred samples",
        "altmin_ext/_fingerprint.py",
        "self._turn += 1",
        "self._turn += 0",
        [
            "python_tests/test_fingerprint.py::test_samples_that_are_changed_without_torch_s_knowledge",
        ],
    ),
    (
        "3",
        "samples that passed before a load count as passed",
        "altmin_ext/_fingerprint.py",
        "if digests_passed is self._kept and",
        "if",
        [
            (
                "python_tests/test_fingerprint.py::test_a_state_s_samples_are_not_taken_for_those_of_t"
                "he_last_step"
            ),
        ],
    ),
    (
        "3",
        "digests of even factors",
        "altmin_ext/_fingerprint.py",
        ".mul_(2).add_(1)",
        ".mul_(2**40)",
        [
            "python_tests/test_fingerprint.py::test_other_samples_are_refused",
        ],
    ),
    (
        "3",
        "stored codes of another sample are used",
        "altmin_ext/methods/block_admm.py",
        "        if bool(others.any()):",
        "        if False:",
        [
            (
                "python_tests/methods/test_block_admm.py::test_stored_codes_are_for_the_sample_that_th"
                "ey_were_stored_for"
            ),
        ],
    ),
    (
        "8",
        "expanded gradients reach fused optimisers",
        "altmin_ext/methods/backprop.py",
        "return [None if gradient is None else gradient.contiguous() for gradient in found]",
        "return list(found)",
        [
            "python_tests/methods/test_backprop.py::test_gradients_of_any_strides",
        ],
    ),
    (
        "8",
        "no gradient is too large",
        "altmin_ext/methods/backprop.py",
        "surely_finite = largest < self._limit",
        "surely_finite = True",
        [
            "python_tests/methods/test_backprop.py::test_gradients_of_any_size_are_all_or_nothing",
            "python_tests/methods/test_backprop.py::test_a_step_that_overflows_is_not_taken",
        ],
    ),
    (
        "8",
        "Adam's learning rate has no bound",
        "altmin_ext/methods/backprop.py",
        "10 * rate < self._longest_step and rate * self.options.weight_decay <= 1",
        "rate * self.options.weight_decay <= 1",
        [
            "python_tests/methods/test_backprop.py::test_a_step_that_overflows_is_not_taken",
        ],
    ),
    (
        "8",
        "a decay that overflows is not foreseen",
        "altmin_ext/methods/backprop.py",
        "10 * rate < self._longest_step and rate * self.options.weight_decay <= 1",
        "10 * rate < self._longest_step",
        [
            "python_tests/methods/test_backprop.py::test_a_decay_that_overflows_is_not_taken",
        ],
    ),
    (
        "8",
        "moments are not restored",
        "altmin_ext/methods/backprop.py",
        (
            "        for tensor, before in zip(self.tensors, copies, strict=True):\n"
            "            tensor.copy_(before)\n"
        ),
        "",
        [
            "python_tests/methods/test_backprop.py::test_a_step_that_overflows_is_not_taken",
        ],
    ),
    (
        "8",
        "a step counted is not taken back",
        "altmin_ext/methods/backprop.py",
        "                count.sub_(1)",
        "                pass",
        [
            (
                "python_tests/methods/test_backprop.py::test_an_optimiser_that_fails_before_it_moves_w"
                "eights_has_counted_nothing"
            ),
        ],
    ),
    (
        "8",
        "an update that overflows is left half done",
        "csrc/cpu/adam_update.cpp",
        "  if (stopped) return;\n",
        "",
        [
            "python_tests/ops/test_adam_update.py::test_a_gradient_that_overflows_moves_nothing",
        ],
    ),
    (
        "8",
        "gradients whose square overflows pass for safe",
        "csrc/ops/adam_update.h",
        "std::sqrt(largest) / 2",
        "std::sqrt(largest) * 50",
        [
            "python_tests/ops/test_adam_update.py::test_gradients_of_any_size_are_all_or_nothing",
        ],
    ),
    (
        "8",
        "a decay that lets weights grow passes for safe",
        "csrc/ops/update.h",
        "std::fabs(1 - s.learning_rate * s.decay) <= 1 && ",
        "",
        [
            "python_tests/ops/test_sgd_update.py::test_gradients_of_any_size_are_all_or_nothing",
        ],
    ),
    (
        "8",
        "a learning rate that overflows passes for safe",
        "csrc/ops/adam_update.h",
        "std::fabs(step) * first_moment <=",
        "first_moment <=",
        [
            "python_tests/ops/test_adam_update.py::test_gradients_of_any_size_are_all_or_nothing",
        ],
    ),
    (
        "8",
        "dtp: a rate beyond its dtype",
        "altmin_ext/methods/difference_target.py",
        "alpha=lr if lr <= torch.finfo(w.dtype).max else math.inf",
        "alpha=lr",
        [
            (
                "python_tests/methods/test_methods_common.py::test_a_learning_rate_that_overflows_is_a"
                "ll_or_nothing"
            ),
        ],
    ),
    (
        "8",
        "a squared gradient that overflows moves the other weights, off",
        "altmin_ext/methods/offline.py",
        "if not all(bool(gradient.square().sum().isfinite()) for gradient in stage.map.gradients):",
        "if False:",
        [
            "python_tests/methods/test_offline.py::test_a_gradient_whose_square_overflows_moves_nothing",
        ],
    ),
    (
        "2",
        "hooks are passed over",
        "altmin_ext/network/known.py",
        "    if any(own.get(table) for table in hook_tables):\n",
        "    if False:\n",
        [
            "python_tests/network/test_known.py",
        ],
    ),
    (
        "2",
        "backward hooks are passed over",
        "altmin_ext/network/known.py",
        '"_forward_hooks", "_backward_pre_hooks", "_backward_hooks")',
        '"_forward_hooks")',
        [
            "python_tests/network/test_known.py",
        ],
    ),
    (
        "2",
        "an instance's forward is passed over",
        "altmin_ext/network/known.py",
        '    if "forward" in own:\n',
        "    if False:\n",
        [
            "python_tests/network/test_known.py",
        ],
    ),
    (
        "2",
        "a subclass is its parent",
        "altmin_ext/network/known.py",
        "    return None if alteration(module) else type(module)",
        (
            "    return None if alteration(module) else next((b for b in type(module).__mro__ if b"
            ".__module__.startswith(('torch.', 'altmin_ext.'))), None)"
        ),
        [
            "python_tests/network/test_known.py",
        ],
    ),
    (
        "2",
        "a hook on a parameter is passed over",
        "altmin_ext/network/known.py",
        "parameter is not None and parameter._backward_hooks",
        "False",
        [
            "python_tests/network/test_known.py",
        ],
    ),
    (
        "2",
        "a container's own iteration is passed over",
        "altmin_ext/network/known.py",
        '("forward", "__call__", "__iter__")',
        '("forward", "__call__")',
        [
            "python_tests/network/test_known.py",
        ],
    ),
    (
        "2",
        "a Stage with a forward of its own is a Stage",
        "altmin_ext/network/splitting.py",
        "        if runs_as(module, Stage):\n            if stage.map:",
        "        if isinstance(module, Stage):\n            if stage.map:",
        [
            "python_tests/network/test_known.py",
        ],
    ),
    (
        "2",
        "global hooks are passed over",
        "altmin_ext/network/splitting.py",
        "    if any(_global_hooks()):",
        "    if False:",
        [
            "python_tests/network/test_known.py",
        ],
    ),
    (
        "2",
        "a hook that comes later is passed over",
        "altmin_ext/network/splitting.py",
        "        if not any(self._hooks) and not any(",
        "        if not any(",
        [
            "python_tests/methods/test_altered_models.py",
        ],
    ),
    (
        "2",
        "an Identity that computes something is left out at the end",
        "altmin_ext/network/splitting.py",
        "        if known_as(module) not in (nn.Identity, nn.Flatten):",
        "        if type(module) not in (nn.Identity, nn.Flatten):",
        [
            "python_tests/methods/test_any_chain.py",
        ],
    ),
    (
        "2",
        "pre-maps keep nothing",
        "altmin_ext/network/splitting.py",
        "        self.pre.commit()\n",
        "",
        [
            "python_tests/methods/test_any_chain.py",
        ],
    ),
    (
        "2",
        "in evaluation mode nothing is kept",
        "altmin_ext/network/pieces.py",
        "        self._state.keep(self._start_changes)\n",
        (
            "        if self._module.training:\n"
            "            self._state.keep(self._start_changes)\n"
        ),
        [
            "python_tests/network/test_local_pieces.py",
        ],
    ),
    (
        "2",
        "the last evaluation is kept, not the encode",
        "altmin_ext/network/pieces.py",
        "        self._state.keep(self._start_changes)\n",
        "        self._state.keep(self._changes)\n",
        [
            "python_tests/network/test_local_pieces.py",
        ],
    ),
    (
        "2",
        "batch normalisation with statistics switched off moves them",
        "altmin_ext/network/pieces.py",
        "if not m.training or not m.track_running_stats or m.running_mean is None:",
        "if not m.training or m.running_mean is None:",
        [
            "python_tests/methods/test_any_chain.py",
        ],
    ),
    (
        "2",
        "masks are drawn anew in each evaluation",
        "altmin_ext/network/pieces.py",
        "(cpu, gpu) if drew else None",
        "None",
        [
            "python_tests/network/test_local_pieces.py",
        ],
    ),
    (
        "2",
        "a backward pass that cannot be transposed is believed",
        "altmin_ext/network/pieces.py",
        "        self._is_transpose = agrees\n        return agrees",
        "        self._is_transpose = agrees\n        return True",
        [
            "python_tests/network/test_local_pieces.py",
        ],
    ),
    (
        "2",
        "float32 follows a surrogate",
        "altmin_ext/network/pieces.py",
        "        if self._follows_derivative is False:\n",
        "        if False:\n",
        [
            "python_tests/network/test_local_pieces.py",
        ],
    ),
    (
        "2",
        "the backward pass alone",
        "altmin_ext/network/pieces.py",
        "        product = self._jvp_by_forward_mode(a, v)\n",
        "        product = None\n",
        [
            "python_tests/network/test_local_pieces.py",
        ],
    ),
    (
        "2",
        "forward mode alone",
        "altmin_ext/network/pieces.py",
        "        product = self._jvp_by_double_vjp(a, v)\n",
        "        product = None\n",
        [
            "python_tests/network/test_local_pieces.py",
        ],
    ),
    (
        "2",
        "a tuple is an output",
        "altmin_ext/network/pieces.py",
        "        if problem:\n",
        "        if False:\n",
        [
            "python_tests/network/test_local_pieces.py",
        ],
    ),
    (
        "2",
        "a parameter used twice has two gradients",
        "altmin_ext/network/splitting.py",
        "    if len(set(parameters)) < len(parameters):",
        "    if False:",
        [
            "python_tests/methods/test_any_chain.py",
        ],
    ),
    (
        "2",
        "a compiled module runs compiled",
        "altmin_ext/network/pieces.py",
        '                stack.enter_context(torch.compiler.set_stance("force_eager"))\n',
        "                pass\n",
        [
            "python_tests/network/test_local_pieces.py",
        ],
    ),
    (
        "2",
        "autocast is passed over",
        "altmin_ext/methods/base.py",
        "        if torch.is_autocast_enabled(self._device_type):",
        "        if False:",
        [
            "python_tests/methods/test_altered_models.py",
        ],
    ),
    (
        "2",
        "inference mode is passed over",
        "altmin_ext/methods/base.py",
        "        elif torch.is_inference_mode_enabled():",
        "        elif False:",
        [
            "python_tests/methods/test_altered_models.py",
        ],
    ),
    (
        "2",
        "DistributedDataParallel is taken",
        "altmin_ext/methods/base.py",
        '        if name in ("DistributedDataParallel", ',
        '        if name in ("", ',
        [
            "python_tests/methods/test_altered_models.py",
        ],
    ),
    (
        "2",
        "lazy parameters are taken",
        "altmin_ext/methods/base.py",
        "    if lazy:\n",
        "    if False:\n",
        [
            "python_tests/methods/test_altered_models.py",
        ],
    ),
    (
        "2",
        "begin_epoch wakes what is in evaluation mode",
        "altmin_ext/methods/difference_target.py",
        (
            "        if not self.model.training:\n"
            "            self.model.train()\n"
        ),
        "        self.model.train()\n",
        [
            "python_tests/methods/test_altered_models.py",
        ],
    ),
    (
        "2",
        "Sign has no forward mode",
        "altmin_ext/nn/sign.py",
        "        return tangent * surrogates[context.surrogate](c)",
        "        return tangent",
        [
            "python_tests/nn/test_sign.py",
        ],
    ),
    (
        "2",
        "Sign has no vmap",
        "altmin_ext/nn/sign.py",
        "    generate_vmap_rule = True\n",
        "",
        [
            "python_tests/nn/test_sign.py",
        ],
    ),
    (
        "2",
        "vmap of factors mixes samples",
        "altmin_ext/nn/factors.py",
        "        rows = rows.movedim(dims[0], 0) if dims[0] is not None",
        "        rows = rows.flip(0) if dims[0] is not None",
        [
            "python_tests/nn/test_factors.py",
        ],
    ),
    (
        "2",
        "an altered layer of factors is taken",
        "altmin_ext/methods/deepfacto.py",
        "        if isinstance(module, NonNegativeFactors) and known_as(module) is NonNegativeFactors\n",
        "        if isinstance(module, NonNegativeFactors)\n",
        [
            "python_tests/methods/test_altered_models.py",
        ],
    ),
    (
        "6",
        "subclasses that interpret operations are read",
        "csrc/bindings/tensor.cpp",
        "if (!api || interprets_operations(type)) return nullptr;",
        "if (!api) return nullptr;",
        [
            "python_tests/ops/test_call.py::test_tensors_without_memory_are_refused",
        ],
    ),
    (
        "6",
        "views of released storages are read",
        "csrc/bindings/call.cpp",
        "address < lowest_address",
        "false",
        [
            "python_tests/ops/test_call.py::test_tensors_without_memory_are_refused",
        ],
    ),
    (
        "6",
        "misaligned tensors are taken",
        "csrc/bindings/call.cpp",
        "address % static_cast<uintptr_t>(element) != 0",
        "false",
        [
            "python_tests/ops/test_call.py::test_misaligned_tensors_are_refused",
        ],
    ),
    (
        "6",
        "lazily negated numbers are taken as they lie",
        "csrc/bindings/call.cpp",
        "tensor.size() == 1 && tensor.view.dtype.code",
        "false && tensor.view.dtype.code",
        [
            "python_tests/ops/test_call.py::test_a_lazily_negated_number_is_refused",
        ],
    ),
    (
        "6",
        "what a list raises is lost",
        "csrc/bindings/tensor.cpp",
        "if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_TypeError)) throw error_already_set();",
        "",
        [
            "python_tests/ops/test_call.py::test_what_a_list_raises_reaches_its_owner",
        ],
    ),
    (
        "6",
        "an entry of a list may be another's memory",
        "csrc/bindings/call.cpp",
        "if (!same || !(is_permitted(**a, **b) || is_permitted(**b, **a)))",
        "if (!same)",
        [
            "python_tests/ops/test_call.py::test_entries_that_share_memory_are_refused",
        ],
    ),
    (
        "6",
        "infinite parameters of activations are taken",
        "csrc/bindings/tensor.cpp",
        "if (!std::isfinite(slope))",
        "if (false)",
        [
            "python_tests/ops/test_call.py::test_parameters_of_activations",
        ],
    ),
    (
        "6",
        "a number too large for a float is of a wrong type",
        "csrc/bindings/call.cpp",
        "const bool too_large = PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError);",
        "const bool too_large = false;",
        [
            "python_tests/ops/test_call.py::test_positive_numbers",
        ],
    ),
    (
        "6",
        "memory is taken in a parallel region",
        "csrc/cpu/softmax_prox.cpp",
        "RowBlock<T> block(o, differences[thread]);",
        (
            "const std::unique_ptr<double[]> own(new double[static_cast<size_t>(classes * lanes)])"
            ";\n"
            "        RowBlock<T> block(o, own.get());\n"
            "        (void)thread;"
        ),
        [
            "python_tests/native/test_no_memory.py::test_every_allocation_may_fail",
        ],
    ),
    (
        "6",
        "memory is taken after the first matrix is written",
        "csrc/cpu/power_iteration.cpp",
        "iterate(matrix, sums[0]);",
        "iterate(matrix, Scratch<T, 1>(1, threads_for(matrix.rows * matrix.columns) * matrix.columns)[0]);",
        [
            "python_tests/native/test_no_memory.py::test_every_allocation_may_fail",
        ],
    ),
    (
        "6",
        "an empty batch takes memory",
        "csrc/cpu/softmax_prox.cpp",
        "o.batch > 0 ? classes * lanes : 0",
        "classes * lanes",
        [
            "python_tests/native/test_no_memory.py::test_an_empty_batch_takes_no_memory",
        ],
    ),
    (
        "6",
        "an empty convolution takes memory",
        "csrc/cpu/convolution_weight_gradient.cpp",
        "if (s.groups == 0 || s.outputs == 0 || (no_code && no_image)) {",
        "if (s.outputs == 0 || (no_code && no_image)) {",
        [
            "python_tests/ops/test_empty.py",
        ],
    ),
    (
        "6",
        "a guard without a flag is taken",
        "csrc/bindings/update.h",
        "if (guard && count == 0 && tensors > 0)",
        "if (false)",
        [
            "python_tests/ops/test_sgd_update.py::test_a_guard_without_a_flag_is_refused",
        ],
    ),
    (
        "6",
        "meta tensors go to the twin",
        "altmin_ext/ops/_declaration.py",
        "not (tensor.is_cpu or tensor.is_meta)",
        "not tensor.is_cpu",
        [
            "python_tests/ops/test_call.py::test_tensors_without_memory_are_refused",
        ],
    ),
    (
        "fuzz",
        "a threshold changes the unit of an Elman layer's codes",
        "csrc/ops/elman_code_step.h",
        "  return o.above->scale;",
        "  return o.scalars->threshold > 0 ? 1.0 : o.above->scale;",
        [
            "python_tests/ops/test_elman_code_step.py::test_a_threshold_has_no_meaning",
        ],
    ),
    (
        "fuzz",
        "the sigmoid's slope is lost far from zero",
        "csrc/ops/activation.h",
        "    return fall / ((T(1) + fall) * (T(1) + fall));",
        "    return (T(1) - fall / (T(1) + fall)) * (T(1) - T(1) / (T(1) + fall));",
        [
            "python_tests/ops/test_code_step.py::test_the_slope_far_from_zero",
        ],
    ),
    (
        "fuzz",
        "a wide row's squares are added up in float",
        "csrc/cpu/mse_residual.cpp",
        "constexpr int64_t most_columns = 256;",
        "constexpr int64_t most_columns = int64_t{1} << 40;",
        [
            "python_tests/ops/test_mse_residual.py::test_the_mean_of_wide_rows",
        ],
    ),
    (
        "fuzz",
        "a sign reads what has been added up",
        "altmin_ext/network/chain.py",
        "point if number == 0 else self.pieces[number - 1].here",
        "point",
        [
            "python_tests/network/test_chain.py::"
            "test_rounding_does_not_decide_on_which_side_of_a_jump_an_exact_number_is",
        ],
    ),
    (
        "fuzz",
        "a map reads what has been added up",
        "altmin_ext/network/maps.py",
        "self._chain.move(displacement, unit, activation)",
        "self._chain.move(displacement, unit)",
        [
            "python_tests/methods/test_any_chain.py::test_step",
        ],
    ),
    (
        "fuzz",
        "the vector of a spectral norm stays zero",
        "altmin_ext/network/spectral_norms.py",
        "        if not v.any():",
        "        if False:",
        [
            "python_tests/network/test_spectral_norms.py::"
            "test_it_begins_anew_where_only_samples_of_a_larger_minibatch_are_left",
        ],
    ),
    (
        "fuzz",
        "a stopped update's twin raises flags",
        "altmin_ext/ops/_twins.py",
        "(~own & go).to(guard.dtype)",
        "(~own).to(guard.dtype)",
        [
            "python_tests/ops/test_sgd_update.py::test_a_stopped_update_raises_no_flag",
        ],
    ),
    (
        "fuzz",
        "the twin's objectives absorb what differs",
        "altmin_ext/ops/relu_prox.py",
        "gain = beta * (right - center) ** 2",
        "gain = ((activation ** 2 + beta * (right - center) ** 2) - activation ** 2)",
        [
            "python_tests/ops/test_relu_prox.py::test_the_twin_where_a_square_absorbs_the_difference",
        ],
    ),
    (
        "fuzz",
        "the fuzzer does not look beside the outputs",
        "python_tests/fuzz/ops.py",
        'assert not changed.any(), f"it wrote beside',
        'assert True, f"it wrote beside',
        [
            "python_tests/fuzz/test_ops.py",
        ],
    ),
    (
        "fuzz",
        "the fuzzer excuses every number",
        "python_tests/fuzz/ops.py",
        (
            "        if not suspects:\n"
            "            return\n"
            "    for (name, i)"
        ),
        "        return\n    for (name, i)",
        [
            "python_tests/fuzz/test_ops.py",
        ],
    ),
    (
        "4",
        "weights keep their versions",
        "altmin_ext/methods/base.py",
        "        increment_version(self._weights.tensors)\n",
        "",
        [
            "python_tests/methods/test_methods_common.py::test_a_graph_held_across_a_step_is_refused",
        ],
    ),
    (
        "4",
        "buffers keep their versions",
        "altmin_ext/methods/base.py",
        "            increment_version(self._buffers.tensors)\n",
        "            pass\n",
        [
            "python_tests/methods/test_methods_common.py::test_a_graph_held_across_a_step_is_refused",
        ],
    ),
    (
        "4",
        "ops leave versions",
        "altmin_ext/ops/_declaration.py",
        "source.format(raise_versions=raising)",
        'source.format(raise_versions="")',
        [
            "python_tests/ops/test_declaration.py::test_what_an_op_overwrites_is_lost_to_autograd",
        ],
    ),
    (
        "4",
        "lists of outputs leave versions",
        "altmin_ext/ops/_declaration.py",
        '        return f"\\n        increment_version({every})"',
        '        return ""',
        [
            "python_tests/ops/test_declaration.py::test_what_an_op_overwrites_is_lost_to_autograd",
        ],
    ),
    (
        "4",
        "a copy begins anew",
        "altmin_ext/methods/base.py",
        '        self.load_state_dict(kept["state"])\n',
        "",
        [
            "python_tests/methods/test_copies.py::test_a_copy_goes_on_to_the_same_bits",
        ],
    ),
    (
        "4",
        "another process trains the sender's model",
        "altmin_ext/methods/base.py",
        "        tensor.data = tensor.data.clone()\n",
        "        pass\n",
        [
            "python_tests/methods/test_copies.py::test_another_process_goes_on_to_the_same_bits",
        ],
    ),
    (
        "4",
        "a model that has changed is copied",
        "altmin_ext/methods/base.py",
        (
            "    def __getstate__(self) -> dict[str, Any]:\n"
            "        self.check_model()\n"
        ),
        "    def __getstate__(self) -> dict[str, Any]:\n",
        [
            "python_tests/methods/test_copies.py::test_a_model_that_has_changed_is_not_copied",
        ],
    ),
    (
        "4",
        "a state is loaded before it is checked as a whole",
        "altmin_ext/methods/base.py",
        "            self._check_state(read)\n",
        (
            "            own.load(read)\n"
            "            self._check_state(read)\n"
        ),
        [
            "python_tests/test_state.py",
        ],
    ),
    (
        "4",
        "loaded in inference mode",
        "altmin_ext/methods/base.py",
        "with torch.inference_mode(False), torch.no_grad():\n            read =",
        "with torch.no_grad():\n            read =",
        [
            "python_tests/test_state.py::test_saving_and_loading_copy",
        ],
    ),
    (
        "4",
        "a saved state moves with the method",
        "altmin_ext/_state.py",
        "    return tensor.detach() if _shares.get() else tensor.detach().clone()\n",
        "    return tensor.detach()\n",
        [
            "python_tests/test_state.py::test_saving_and_loading_copy",
        ],
    ),
    (
        "4",
        "NaN is loaded",
        "altmin_ext/_state.py",
        "    if finite and not is_finite(copy):\n",
        "    if False:\n",
        [
            "python_tests/test_state.py",
        ],
    ),
    (
        "4",
        "any shape is loaded",
        "altmin_ext/_state.py",
        "    if not _fits(tuple(value.shape), shape, sizes):\n",
        "    if False:\n",
        [
            "python_tests/test_state.py",
        ],
    ),
    (
        "4",
        "sizes need not agree",
        "altmin_ext/_state.py",
        "sizes.setdefault(own, size) if isinstance(own, str) else own",
        "size if isinstance(own, str) else own",
        [
            "python_tests/test_state.py",
        ],
    ),
    (
        "4",
        "any dtype is loaded",
        "altmin_ext/_state.py",
        "    if value.dtype != like.dtype:\n",
        "    if False:\n",
        [
            "python_tests/test_state.py",
        ],
    ),
    (
        "4",
        "unknown entries are ignored",
        "altmin_ext/_state.py",
        "    if unknown := [_check.shown(key) for key in found if key not in keys]:\n",
        "    if unknown := []:\n",
        [
            "python_tests/test_state.py::test_entries_that_nobody_knows_are_refused",
        ],
    ),
    (
        "4",
        "negative squares are loaded",
        "altmin_ext/_state.py",
        "    if tensor.numel() and not bool(tensor.min() >= 0):\n",
        "    if False:\n",
        [
            "python_tests/test_state.py",
        ],
    ),
    (
        "4",
        "the optimiser's moments are the caller's",
        "altmin_ext/_state.py",
        "    if copies:\n",
        "    if False:\n",
        [
            "python_tests/test_state.py::test_saving_and_loading_copy",
        ],
    ),
    (
        "4",
        "momentum of some parameters only",
        "altmin_ext/methods/backprop.py",
        'if "momentum" in read and len(value["state"]) !=',
        'if False and len(value["state"]) !=',
        [
            "python_tests/test_state.py",
        ],
    ),
    (
        "4",
        "a used-up prior is added again",
        "altmin_ext/methods/am_mem.py",
        (
            '            "await_prior": Listed(Attribute(memory, "awaits_prior", boolean) for memo'
            "ry in self._memories),\n"
        ),
        "",
        [
            "python_tests/methods/test_copies.py::test_what_a_model_cannot_tell_is_copied_too",
        ],
    ),
    (
        "4",
        'P is never compared with A',
        "altmin_ext/updates/kept_inverse.py",
        'if sound and self._looks % _probe_interval == 0:',
        'if False:',
        [
            "python_tests/methods/test_am_mem.py::test_an_inverse_that_has_parted_from_its_memory_is_noticed",
        ],
    ),
    (
        "4",
        'what is added to A may fade away',
        "altmin_ext/updates/kept_inverse.py",
        'return nominal / 2 <= added <= 2 * nominal',
        'return True',
        [
            "python_tests/methods/test_am_mem.py::test_the_damping_of_an_inverse_is_about_what_it_should_be",
        ],
    ),
    (
        "4",
        'an inverse is made for a single small minibatch',
        "altmin_ext/updates/kept_inverse.py",
        'turns = debt >= self._renewal',
        'turns = debt > 0',
        [
            "python_tests/methods/test_am_mem.py::test_a_small_minibatch_among_large_ones_has_no_inverse_made",
        ],
    ),
    (
        "4",
        'a failed step is remembered',
        "altmin_ext/updates/memory.py",
        'self._next_count = self._hold(inputs, self._count)',
        'self._next_count = self._count = self._hold(inputs, self._count)',
        [
            "python_tests/methods/test_am_mem.py::test_a_step_that_fails_leaves_no_trace",
        ],
    ),
    (
        "4",
        'the samples that are held are missing from A',
        "altmin_ext/updates/memory.py",
        '        gram = self.gram.clone()\n        self._add_held(gram)\n        return gram, self.cross',
        '        gram = self.gram.clone()\n        return gram, self.cross',
        [
            "python_tests/methods/test_am_mem.py::test_steps_by_the_inverse",
        ],
    ),
    (
        "4",
        'the prior of a kept inverse is not in A',
        "altmin_ext/updates/memory.py",
        'self.gram.diagonal().add_(self._owed_prior)',
        'pass',
        [
            "python_tests/methods/test_am_mem.py::test_steps_by_the_inverse",
        ],
    ),
    (
        "4",
        "A's lower triangle is not made",
        "altmin_ext/updates/memory.py",
        '        if self._is_upper:\n            self.gram.copy_',
        '        if False:\n            self.gram.copy_',
        [
            "python_tests/methods/test_am_mem.py::test_refreshed_memory",
        ],
    ),
    (
        "4",
        'further weight iterations measure targets anew',
        "altmin_ext/methods/am_mem.py",
        'if iteration == 0 and (self.options.weight_iterations or 1) > 1',
        'if False',
        [
            "python_tests/methods/test_am_mem.py::test_step",
        ],
    ),
    (
        "4",
        "stored codes of another model",
        "altmin_ext/methods/block_admm.py",
        "        if not self._fit_together(shapes[0]):\n",
        "        if False:\n",
        [
            "python_tests/test_state.py",
        ],
    ),
    (
        "6",
        "strides of parameters are not compared",
        "csrc/bindings/held.cpp",
        " || !same(own.strides, a.strides))",
        ")",
        [
            "python_tests/test_composition.py",
        ],
    ),
    (
        "6",
        "whether a parameter is trained is not compared",
        "csrc/bindings/held.cpp",
        "return trained.ptr() == own.requires_grad.ptr();",
        "return true;",
        [
            "python_tests/test_composition.py",
        ],
    ),
    (
        "6",
        "a comparison of the model keeps its layers alive",
        "csrc/bindings/held.cpp",
        "own.dict = place;",
        "own.dict = place.inc_ref();",
        [
            "python_tests/test_composition.py",
        ],
    ),
    (
        "6",
        "a plan keeps reading where its minibatch was",
        "csrc/bindings/recording.cpp",
        "for (const Input& input : inputs_) *input.pointer = source + input.offset;",
        "",
        [
            "python_tests/test_plan.py::test_options",
        ],
    ),
    (
        "6",
        "a plan does not copy what it cannot read in place",
        "csrc/bindings/recording.cpp",
        "      copies_x_ = true;\n",
        "      copies_x_ = false;\n",
        [
            "python_tests/test_plan.py::test_networks",
        ],
    ),
    (
        "6",
        "a plan keeps the labels that it was recorded with",
        "csrc/bindings/recording.cpp",
        "  std::memcpy(y_.memory, y, y_.bytes);\n",
        "",
        [
            "python_tests/test_plan.py::test_options",
        ],
    ),
    (
        "6",
        "a replay does not stop at a raised flag",
        "csrc/bindings/recording.cpp",
        "    if (flags[i] != 0) return flagged;\n",
        "",
        [
            "python_tests/test_plan.py::test_steps_that_fail",
        ],
    ),
    (
        "6",
        "a replay does not stop at a label out of range",
        "csrc/bindings/recording.h",
        "return op(arguments) < 0 ? completed : refused;",
        "return op(arguments), completed;",
        [
            "python_tests/test_plan.py::test_steps_that_fail",
        ],
    ),
    (
        "6",
        "a plan takes labels of any width",
        "csrc/bindings/recording.cpp",
        "view.dtype.bits == source.dtype.bits && ",
        "",
        [
            "python_tests/test_plan.py::test_forms_of_the_labels",
        ],
    ),
    (
        "6",
        "a plan reads tensors without memory",
        "csrc/bindings/recording.cpp",
        "if (!reads(x) || !reads(y)) return {0, refused};",
        "",
        [
            "python_tests/test_plan.py::test_a_transform_of_torch_func_around_a_step",
        ],
    ),
    (
        "6",
        "a stream takes the same minibatch again and again",
        "csrc/bindings/recording.cpp",
        "const auto number = static_cast<size_t>(first + i);",
        "const auto number = static_cast<size_t>(first);",
        [
            "python_tests/test_stream.py::test_learn_is_a_step_on_each_minibatch",
        ],
    ),
    (
        "6",
        "a recording goes on after its step",
        "altmin_ext/_plan.py",
        (
            "        finally:\n"
            "            self._parts[-1].pause()\n"
        ),
        (
            "        finally:\n"
            "            pass\n"
        ),
        [
            "python_tests/test_plan.py",
        ],
    ),
    (
        "6",
        "a plan outlives a move of the weights",
        "altmin_ext/_plan.py",
        (
            "            if self._steps.addresses() != self._addresses:\n"
            "                return False\n"
        ),
        "",
        [
            "python_tests/test_plan.py::test_changes_between_steps",
        ],
    ),
    (
        "6",
        "recordings are known by the shapes alone",
        "altmin_ext/_plan.py",
        "return (x.shape, y.shape, self.addresses(), self._baked())",
        "return (x.shape, y.shape, self._baked())",
        [
            "python_tests/test_plan.py::test_changes_between_steps",
        ],
    ),
    (
        "6",
        "a plan keeps an old rate of dropout",
        "altmin_ext/methods/online_am.py",
        "return tuple(pre.lipschitz for pre in self._dropping)",
        "return ()",
        [
            "python_tests/test_plan.py::test_changes_between_steps",
        ],
    ),
    (
        "6",
        "the rate of a dropout in front is not looked at",
        "altmin_ext/methods/online_am.py",
        "for stage in self._stages if stage.pre.drops]",
        "for stage in self._stages[1:] if stage.pre.drops]",
        [
            "python_tests/test_plan.py::test_the_rate_of_a_dropout_in_front",
        ],
    ),
    (
        "6",
        "a skipped first step counts as the first of its shape",
        "altmin_ext/_plan.py",
        "if self._is_taken:",
        "if True:",
        [
            "python_tests/test_plan.py::test_steps_that_fail",
        ],
    ),
    (
        "6",
        "a refused minibatch draws its masks twice",
        "altmin_ext/_plan.py",
        (
            "                set_torch_state(generator)\n"
            "            with torch.no_grad():"
        ),
        (
            "                pass\n"
            "            with torch.no_grad():"
        ),
        [
            "python_tests/test_plan.py::test_steps_with_dropout_that_fail",
        ],
    ),
    (
        "6",
        "a label out of range ends all recording",
        "altmin_ext/_plan.py",
        (
            "            report = self._ordinary(x, y)\n"
            "            self.reason = str(error)\n"
        ),
        (
            "            self.reason = str(error)\n"
            "            report = self._ordinary(x, y)\n"
        ),
        [
            "python_tests/test_plan.py::test_steps_that_fail",
        ],
    ),
    (
        "6",
        "a step that is undone leaves the singular vectors to a plan that does not know them",
        "altmin_ext/network/spectral_norms.py",
        "own.copy_(kept) if own.shape == kept.shape else kept.clone()",
        "kept.clone()",
        [
            "python_tests/test_plan.py::test_steps_that_fail",
        ],
    ),
    (
        "6",
        "a plan records on memory that begins elsewhere",
        "altmin_ext/_plan.py",
        "    first = (tensor.data_ptr() - memory.data_ptr()) % 64 // size\n",
        "    first = -memory.data_ptr() % 64 // size\n",
        [
            "python_tests/test_plan.py::test_anywhere_in_memory",
        ],
    ),
    (
        "6",
        "a step is undone where autograd sees it",
        "altmin_ext/_undo.py",
        (
            "        with torch.no_grad():\n"
            "            for part, kept"
        ),
        (
            "        with torch.enable_grad():\n"
            "            for part, kept"
        ),
        [
            "python_tests/test_plan.py::test_steps_that_fail",
        ],
    ),
    (
        "6",
        "reports share their memory",
        "altmin_ext/_plan.py",
        "row, loss, correct = self._rows.pop()",
        "row, loss, correct = self._rows[-1]",
        [
            "python_tests/test_plan.py::test_reports_do_not_change_later",
        ],
    ),
    (
        "6",
        "a plan works on in the backend of reference",
        "altmin_ext/_plan.py",
        (
            "        if not _declaration.takes_kernels:\n"
            "            return self._steps._ordinary(x, y)\n"
        ),
        "",
        [
            "python_tests/test_plan.py::test_contexts_around_steps",
        ],
    ),
    (
        "6",
        "a stream raises the penalty once for many steps",
        "altmin_ext/methods/online_am.py",
        "return min(self.mu + self.options.mu_increment, self.options.mu_max) == self.mu",
        "return True",
        [
            "python_tests/test_stream.py::test_learn_is_a_step_on_each_minibatch",
        ],
    ),
    (
        "6",
        "a stream counts the steps of a call as one",
        "altmin_ext/methods/base.py",
        "            self.steps += made\n",
        "            self.steps += 1\n",
        [
            "python_tests/test_stream.py",
        ],
    ),
    (
        "6",
        "a stream forgets its last minibatch",
        "altmin_ext/_stream.py",
        "steps = -(-x.shape[0] // size)",
        "steps = x.shape[0] // size or 1",
        [
            "python_tests/test_stream.py::test_learn_is_a_step_on_each_minibatch",
        ],
    ),
    (
        "6",
        "Ctrl-C ends a stream within a step",
        "altmin_ext/_stream.py",
        "                interrupt.held = True\n",
        "",
        [
            "python_tests/test_stream.py::test_an_interrupt_at_each_phase",
        ],
    ),
    (
        "6",
        "Ctrl-C waits for the end of a stream",
        "altmin_ext/_stream.py",
        "                interrupt.release()\n",
        "",
        [
            "python_tests/test_stream.py",
        ],
    ),
    (
        "6",
        "native calls of a stream grow without end",
        "altmin_ext/_stream.py",
        " and time.perf_counter() - begun < _longest_call / 2",
        "",
        [
            "python_tests/test_stream.py::test_an_interrupt_does_not_wait_for_a_long_stream",
        ],
    ),
    (
        "6",
        "a flag that ended a native call stays raised",
        "altmin_ext/_plan.py",
        (
            "            if outcome == _flagged:\n"
            "                self._method._guard.lower()\n"
        ),
        "            pass\n",
        [
            "python_tests/test_stream.py::test_a_native_call_that_ends_early_leaves_no_flag",
        ],
    ),
    (
        "6",
        "learn accepts a method of all samples at once",
        "altmin_ext/methods/base.py",
        "if self.full_batch or self.per_sample:",
        "if self.per_sample:",
        [
            "python_tests/test_stream.py::test_methods_of_all_samples_at_once_are_refused",
        ],
    ),
    (
        "6",
        "how far the codes of an Elman layer moved is read from the latest buffers",
        "altmin_ext/codes/elman.py",
        "self._displacements.setdefault(batch, like.new_empty(shape))",
        "like.new_empty(shape)",
        [
            "python_tests/test_plan.py::test_elman_iterations",
        ],
    ),
    (
        "6",
        "calls that share memory run side by side",
        "csrc/bindings/recording.cpp",
        "if ((a.written || b.written) && ",
        "if (false && ",
        [
            "python_tests/test_plan.py::test_networks_whose_stages_are_fitted_side_by_side",
        ],
    ),
    (
        "6",
        "a BLAS that is chosen later runs side by side with itself",
        "csrc/bindings/recording.cpp",
        " if (!cpu::may_use_blas())",
        "",
        [
            "python_tests/test_plan.py::test_networks_whose_stages_are_fitted_side_by_side",
        ],
    ),
    (
        "kept products",
        "a product outlives its weights",
        "altmin_ext/methods/_lifted.py",
        "        layer.product.forget()\n",
        "",
        [
            "python_tests/methods/test_lifted.py::test_every_kept_product_is_that_of_the_weights_and_inputs",
        ],
    ),
    (
        "kept products",
        "a product outlives its inputs",
        "altmin_ext/methods/_lifted.py",
        "        self._layers[l + 1].product.forget(rows)\n",
        "",
        [
            "python_tests/methods/test_lifted.py::test_every_kept_product_is_that_of_the_weights_and_inputs",
        ],
    ),
    (
        "kept products",
        "without a bias, callers write into the kept product",
        "altmin_ext/methods/_lifted.py",
        "return product.clone() if self.bias is None else product + self.bias",
        "return product if self.bias is None else product + self.bias",
        [
            "python_tests/methods/test_lifted.py::test_every_kept_product_is_that_of_the_weights_and_inputs",
        ],
    ),
    (
        "kept products",
        "a step that failed leaves its products",
        "altmin_ext/methods/_lifted.py",
        "        super()._put_back(undo)\n        self._release_products()\n",
        "        super()._put_back(undo)\n",
        [
            "python_tests/methods/test_lifted.py::test_weights_that_were_wrong_for_a_step_leave_nothing_behind",
        ],
    ),
    (
        "kept products",
        "weights that the user changed are overlooked",
        "altmin_ext/methods/_lifted.py",
        "        if not (same and before and untouched):\n            self._release_products()\n",
        "        if not (same and before):\n            self._release_products()\n",
        [
            "python_tests/methods/test_lifted.py::test_weights_that_the_user_changes_are_seen",
        ],
    ),
    (
        "kept products",
        "samples are not looked at again while their product is kept",
        "altmin_ext/methods/_lifted.py",
        "                sums[0] += torch.stack(torch.aminmax(a)).mul_(0).sum()  # what has become of x since\n",
        "                pass\n",
        [
            "python_tests/methods/test_lifted.py::test_samples_that_are_not_finite_any_more_are_found",
        ],
    ),
    (
        "products",
        "a column times a row takes one entry of the column for all",
        "csrc/cpu/matmul.cpp",
        "const T factor = column[i];",
        "const T factor = column[0];",
        [
            "python_tests/ops/test_matmul.py::test_products_of_integers_are_exact",
        ],
    ),
    (
        "products",
        "times a column, a matrix is taken for its transpose",
        "csrc/cpu/matmul.cpp",
        "return multiply_row(o.b, o.a, o.m, o.k, !o.transpose_a, o.out);",
        "return multiply_row(o.b, o.a, o.m, o.k, o.transpose_a, o.out);",
        [
            "python_tests/ops/test_matmul.py::test_products_of_integers_are_exact",
        ],
    ),
    (
        "products",
        "numbers shared by the last two vectors of a sum count twice",
        "csrc/cpu/matmul.cpp",
        "kept[i] = i >= width - (size - l);",
        "kept[i] = 1;",
        [
            "python_tests/ops/test_matmul.py::test_products_of_integers_are_exact",
        ],
    ),
    (
        "products",
        "of a last panel of two vectors only one is computed",
        "csrc/cpu/matmul.cpp",
        "    if (rest > width) panel<1>(column, width);\n",
        "",
        [
            "python_tests/ops/test_matmul.py::test_products_of_integers_are_exact",
        ],
    ),
    (
        "products",
        "of a long sum only the last block is kept",
        "csrc/cpu/matmul.cpp",
        "depth, begin > 0, to",
        "depth, false, to",
        [
            "python_tests/ops/test_matmul.py::test_products_of_integers_are_exact",
        ],
    ),
    (
        "products",
        "rows that threads cannot share evenly are left out",
        "csrc/cpu/matmul.cpp",
        "o.rows * (i + 1) / down - row,",
        "o.rows / down,",
        [
            "python_tests/ops/test_matmul.py::test_threads_change_nothing",
        ],
    ),
    (
        "optimizer",
        "the rate of the group does not move the method's",
        "altmin_ext/optimizer.py",
        "method.learning_rate_factor = method.learning_rate_factor, factor\n",
        "method.learning_rate_factor = method.learning_rate_factor, method.learning_rate_factor\n",
        [
            "python_tests/test_optimizer.py::test_a_scheduled_run_is_the_method_s_own_with_adam_s_rates",
        ],
    ),
    (
        "optimizer",
        "the group is loaded before the method's state is refused",
        "altmin_ext/optimizer.py",
        (
            '        self.method.load_state_dict(loaded["state"]["method"])\n'
            "        group.clear()\n"
            "        group.update(changed)\n"
        ),
        (
            "        group.clear()\n"
            "        group.update(changed)\n"
            '        self.method.load_state_dict(loaded["state"]["method"])\n'
        ),
        [
            "python_tests/test_optimizer.py::test_a_state_is_loaded_whole_or_not_at_all",
        ],
    ),
    (
        "optimizer",
        "a schedule of a method without a learning rate is ignored",
        "altmin_ext/optimizer.py",
        "        if name is None:\n            raise",
        "        if name is None:\n            return factor\n            raise",
        [
            "python_tests/test_optimizer.py::test_a_method_without_a_rate_refuses_a_schedule",
        ],
    ),
    (
        "checkpoint",
        'a file gets its name before it is on disk',
        'altmin_ext/_files.py',
        '                        os.fsync(unfinished.file.fileno())\n',
        '',
        ['python_tests/checkpoint/test_writing.py'],
    ),
    (
        "checkpoint",
        'a file is brought to disk while a part is in a buffer',
        'altmin_ext/_files.py',
        '                        unfinished.file.flush()\n',
        '',
        ['python_tests/checkpoint/test_writing.py'],
    ),
    (
        "checkpoint",
        'the name of a file is not brought to disk',
        'altmin_ext/_files.py',
        '                    _sync_folder(folder)\n',
        '                    pass\n',
        ['python_tests/checkpoint/test_writing.py'],
    ),
    (
        "checkpoint",
        'the earlier file is removed before the new one has its name',
        'altmin_ext/_files.py',
        '                        os.replace(unfinished.name, unfinished.target)\n',
        (
            '                        unfinished.target.unlink(missing_ok=True)\n'
            '                        os.replace(unfinished.name, unfinished.target)\n'
        ),
        ['python_tests/checkpoint/test_writing.py'],
    ),
    (
        "checkpoint",
        'a former file is kept by moving it',
        'altmin_ext/_files.py',
        '        os.link(path, former)\n',
        '        os.replace(path, former)\n',
        ['python_tests/checkpoint/test_writing.py'],
    ),
    (
        "checkpoint",
        'a file of the user is taken for a former checkpoint',
        'altmin_ext/checkpoint/_file.py',
        'if match is not None and _has_steps(former, int(match[1])):',
        'if match is not None:',
        ['python_tests/checkpoint/test_writing.py'],
    ),
    (
        "checkpoint",
        'the oldest former files stay',
        'altmin_ext/checkpoint/_file.py',
        'sorted(found)[:-keep]',
        'sorted(found, reverse=True)[:-keep]',
        ['python_tests/checkpoint/test_writing.py'],
    ),
    (
        "checkpoint",
        'a full disk is told after the tensors',
        'altmin_ext/checkpoint/_file.py',
        'files.open(path, size=size, keep_as',
        'files.open(path, keep_as',
        ['python_tests/checkpoint/test_writing.py'],
    ),
    (
        "checkpoint",
        "the header's seal is not compared",
        'altmin_ext/checkpoint/_file.py',
        '    if _seal(header[:begin] + _NO_SEAL.encode() + header[end:]) != found[2].decode():',
        '    if False:',
        ['python_tests/checkpoint/test_alterations.py'],
    ),
    (
        "checkpoint",
        "the tensors' sha256 are not compared",
        'altmin_ext/checkpoint/_file.py',
        '    if found.hexdigest() != digest:',
        '    if False:',
        ['python_tests/checkpoint/test_alterations.py'],
    ),
    (
        "checkpoint",
        'a header may have any form',
        'altmin_ext/checkpoint/_file.py',
        '    if head[8:] != content:',
        '    if False:',
        ['python_tests/checkpoint/test_alterations.py'],
    ),
    (
        "checkpoint",
        'a newer format is read',
        'altmin_ext/checkpoint/_file.py',
        '    if version != _VERSION:',
        '    if version < _VERSION:',
        ['python_tests/checkpoint/test_alterations.py'],
    ),
    (
        "checkpoint",
        'a bool may be neither true nor false',
        'altmin_ext/checkpoint/_file.py',
        '    if tensor.dtype == torch.bool and bool(',
        '    if False and bool(',
        ['python_tests/checkpoint/test_alterations.py'],
    ),
    (
        "checkpoint",
        'memory is taken for what a header claims',
        'altmin_ext/checkpoint/_file.py',
        '    if size < 8 or length > min(size - 8, _LONGEST_HEADER):',
        '    bytearray(min(length, 10**9))\n    if size < 8 or length > min(size - 8, _LONGEST_HEADER):',
        ['python_tests/checkpoint/test_alterations.py'],
    ),
    (
        "checkpoint",
        'two places have one name',
        'altmin_ext/checkpoint/_tree.py',
        '        while name in self.tensors or name == "__metadata__":',
        '        while name == "__metadata__":',
        ['python_tests/checkpoint/test_round_trip.py'],
    ),
    (
        "checkpoint",
        'integers become strings as keys',
        'altmin_ext/checkpoint/_tree.py',
        '        if all(type(key) is str for key in value):',
        '        if True:',
        ['python_tests/checkpoint/test_round_trip.py'],
    ),
    (
        "checkpoint",
        'NaN is NaN, whatever its bits',
        'altmin_ext/checkpoint/_tree.py',
        'struct.pack(">d", value).hex()}',
        'struct.pack(">d", math.nan if value != value else value).hex()}',
        ['python_tests/checkpoint/test_round_trip.py'],
    ),
    (
        "checkpoint",
        'a tuple is read as a list',
        'altmin_ext/checkpoint/_tree.py',
        '                return tuple(self.decode(item) for item in items)\n',
        '                return [self.decode(item) for item in items]\n',
        ['python_tests/checkpoint/test_round_trip.py'],
    ),
    (
        "checkpoint",
        'a tensor without a place is left out',
        'altmin_ext/checkpoint/_tree.py',
        '    if decoder.left:',
        '    if False:',
        ['python_tests/checkpoint/test_alterations.py'],
    ),
    (
        "checkpoint",
        'the model is restored before the method is checked',
        'altmin_ext/checkpoint/__init__.py',
        '    return restoring(state)\n',
        '    restore = restoring(state)\n    restore()\n    return restore\n',
        ['python_tests/checkpoint/test_checkpoint.py'],
    ),
    (
        "checkpoint",
        'Ctrl-C comes between the model and the method',
        'altmin_ext/checkpoint/__init__.py',
        'with HeldInterrupt(held=True):',
        'with HeldInterrupt():',
        ['python_tests/checkpoint/test_checkpoint.py'],
    ),
    (
        "checkpoint",
        'buffers that torch does not save are left out',
        'altmin_ext/checkpoint/_model.py',
        'model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)',
        (
            'model.named_parameters(remove_duplicate=False),\n'
            '        ((name, own) for name, own in model.named_buffers() if name in model.state_dict()),'
        ),
        ['python_tests/checkpoint/test_checkpoint.py'],
    ),
    (
        "checkpoint",
        'extra states are half restored',
        'altmin_ext/checkpoint/_model.py',
        '                modules[earlier].set_extra_state(kept)\n',
        '                pass\n',
        ['python_tests/checkpoint/test_checkpoint.py'],
    ),
    (
        "checkpoint",
        'recordings outlive a loaded state',
        'altmin_ext/methods/base.py',
        '            self._replayed = self._new_replays()  # recordings know their tensors by address\n',
        '',
        ['python_tests/test_plan.py', 'python_tests/test_state.py', 'python_tests/methods/test_copies.py'],
    ),
    (
        "restore",
        "the second restore goes no further back",
        "altmin_ext/_restore.py",
        "            self.kept.pop()\n",
        "            pass\n",
        [
            "python_tests/methods/test_restore.py::test_the_older_copy_is_restored_the_second_time",
        ],
    ),
    (
        "restore",
        "steps do not become smaller",
        "altmin_ext/_restore.py",
        "return 0.5**self.restores",
        "return 1.0",
        [
            "python_tests/methods/test_restore.py::test_model_and_method_are_the_copy_and_go_on_from_it",
        ],
    ),
    (
        "restore",
        "a copy is used up by its first restore",
        "altmin_ext/_restore.py",
        "copy.deepcopy(self.kept[-1])",
        "self.kept[-1]",
        [
            "python_tests/methods/test_restore.py::test_the_older_copy_is_restored_the_second_time",
        ],
    ),
    (
        "restore",
        "restores never end",
        "altmin_ext/_restore.py",
        "if self._in_a_row >= _most_in_a_row or not self.kept:",
        "if not self.kept:",
        [
            "python_tests/methods/test_restore.py::test_ten_restores_without_a_new_copy_are_all",
        ],
    ),
    (
        "restore",
        "buffers stay",
        "altmin_ext/_restore.py",
        "named = {**self._parameters, **dict(self._model.named_buffers())}",
        "named = self._parameters",
        [
            "python_tests/methods/test_restore.py::test_buffers_go_back",
        ],
    ),
    (
        "restore",
        "many steps at once pass over a copy",
        "altmin_ext/methods/base.py",
        "most = min(most, self._copies.keep(self))",
        "self._copies.keep(self)",
        [
            "python_tests/methods/test_restore.py::test_learn_is_one_step_after_the_other",
        ],
    ),
    (
        "restore",
        "data that are not finite are punished",
        "altmin_ext/methods/base.py",
        "if diverged and not self._is_at_fault(x, y):",
        "if diverged:",
        [
            "python_tests/methods/test_restore.py::test_data_that_are_not_finite_are_skipped",
        ],
    ),
    (
        "restore",
        "steps that are not looked at are not restored",
        "altmin_ext/methods/base.py",
        "diverged = self._diverged(x, y) if self._defers_guard else not self._step_taken",
        "diverged = not self._step_taken",
        [
            "python_tests/methods/test_restore.py::test_a_method_that_does_not_look_within_a_step_does_so_after_it",
        ],
    ),
    (
        "restore",
        "the step size of codes stays",
        "altmin_ext/methods/online_am.py",
        "float(o.lr_codes or 0.0) * self._copies.factor",
        "float(o.lr_codes or 0.0)",
        [
            "python_tests/methods/test_restore.py::test_a_step_size_of_codes_is_halved_with_the_rates",
        ],
    ),
    (
        "restore",
        "copies are no part of the state",
        "altmin_ext/_restore.py",
        "            \"copies\": _Kept(self, method),\n",
        "            \"copies\": _state.Same([], \"none\"),\n",
        [
            "python_tests/methods/test_restore.py::test_a_resumed_run_restores_what_the_undisturbed_one_does",
        ],
    ),
    (
        "restore",
        "workers decide by themselves whether to restore",
        "altmin_ext/methods/taylor_admm.py",
        "        self._sum(own)  # all workers restore, or none\n",
        "",
        [
            "python_tests/methods/test_taylor_admm.py::test_what_diverges_at_one_worker_stops_all",
        ],
    ),
    (
        "restore",
        "an endless stream stays in its pass",
        "altmin_ext/data/streams.py",
        "self._pass + 1, 0, None",
        "self._pass, 0, None",
        [
            "python_tests/data/test_streams.py::test_the_order_of_a_pass_follows_from_seed_and_number",
        ],
    ),
    (
        "restore",
        "a stream that goes on keeps the order of its own pass",
        "altmin_ext/data/streams.py",
        "self._seed, self._pass, self._position, self._order = seed, number, position, None",
        "self._seed, self._pass, self._position = seed, number, position",
        [
            "python_tests/data/test_streams.py::test_a_stream_goes_on_from_anywhere",
        ],
    ),
    (
        "estimators",
        "weights do not count in the scale of a stage",
        "altmin_ext/codes/matrix.py",
        "ratio = (square / weighted).sqrt() * self.row",
        "ratio = self.row",
        ["python_tests/methods/test_weighted.py"],
    ),
    (
        "estimators",
        "weights do not count in the damping of codes",
        "altmin_ext/codes/matrix.py",
        " * self.row[CodeScalar.damping] / damping",
        "",
        ["python_tests/methods/test_weighted.py"],
    ),
    (
        "estimators",
        "the bias of a hidden stage is fitted without weights",
        "altmin_ext/codes/matrix.py",
        "                torch.sum(residual, 0, out=self.map.bias_gradient)\n",
        "                pass\n",
        ["python_tests/methods/test_weighted.py"],
    ),
    (
        "estimators",
        "the last layer is fitted without weights",
        "altmin_ext/methods/online_am.py",
        "            self._output_residual *= self._sample_weights[:, None]\n",
        "",
        ["python_tests/methods/test_weighted.py"],
    ),
    (
        "estimators",
        "convolutions by kernels take weights",
        "altmin_ext/codes/convolution.py",
        "slot.once and not slot.weighs and convolves",
        "slot.once and convolves",
        ["python_tests/methods/test_weighted.py"],
    ),
    (
        "estimators",
        "a method that cannot weigh takes weights",
        "altmin_ext/methods/base.py",
        "if isinstance(loss, Weighted) and not self.weighs:",
        "if False:",
        ["python_tests/methods/test_weighted.py"],
    ),
    (
        "estimators",
        "predict leaves the model in evaluation mode",
        "altmin_ext/evaluation.py",
        "    with evaluation_mode(model):\n        parts = []",
        "    model.eval()\n    with torch.no_grad():\n        parts = []",
        ["python_tests/test_predict.py"],
    ),
    (
        "estimators",
        "partial_fit ends an epoch of the method",
        "altmin_ext/estimators/base.py",
        "            method.raise_if_diverged()\n        finally:",
        "            method.end_epoch()\n        finally:",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "samples without weight are learned",
        "altmin_ext/estimators/base.py",
        "            counts = weights > 0\n",
        "            counts = weights > -1\n",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "a fit that fails leaves half of its attributes",
        "altmin_ext/estimators/base.py",
        "            self.__dict__.update(before)\n",
        '            self.__dict__.update({**before, "classes_": None})\n',
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "a warm start begins anew",
        "altmin_ext/estimators/base.py",
        "self.warm_start) and self.__sklearn_is_fitted__()",
        "self.warm_start) and False",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "early stopping of partial_fit keeps the last weights",
        "altmin_ext/estimators/base.py",
        "                    self._stopping.on_end(state)\n",
        "",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "a sum of estimators changes the first",
        "altmin_ext/estimators/base.py",
        "        merged = copy.deepcopy(self)\n",
        "        merged = copy.copy(self)\n",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "a module that is passed is trained itself",
        "altmin_ext/estimators/base.py",
        "            return copy.deepcopy(self.module)\n",
        "            return self.module\n",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "balanced classes ignore the weights of samples",
        "altmin_ext/estimators/classifier.py",
        "np.bincount(y, weights, minlength",
        "np.bincount(y, None, minlength",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "options that are set reach the estimator that was cloned",
        "altmin_ext/estimators/base.py",
        "        self._method_options = {**self._method_options, **options}\n",
        "        self._method_options.update(options)\n",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "callbacks",
        "NaN is taken for the best so far",
        "altmin_ext/callbacks/monitoring.py",
        (
            "        if math.isnan(value):\n"
            "            return False\n"
        ),
        "",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "as good as the best is an improvement",
        "altmin_ext/callbacks/monitoring.py",
        "return gain > self.minimum_improvement",
        "return gain >= self.minimum_improvement",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "a small gain is an improvement",
        "altmin_ext/callbacks/monitoring.py",
        "return gain > self.minimum_improvement",
        "return gain > 0",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "every number is to rise",
        "altmin_ext/callbacks/monitoring.py",
        'gain = value - self.best if self.mode == "max" else self.best - value',
        "gain = value - self.best",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "the best weights move on with the model",
        "altmin_ext/callbacks/monitoring.py",
        "copy.deepcopy(state.model.state_dict())",
        "state.model.state_dict()",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "patience is an epoch longer",
        "altmin_ext/callbacks/monitoring.py",
        "state.epoch - self.best_epoch >= self.patience",
        "state.epoch - self.best_epoch > self.patience",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "a second run is compared with the best of the first",
        "altmin_ext/callbacks/monitoring.py",
        (
            "        self._check(state.metrics)\n"
            "        self._forget()\n"
        ),
        "        self._check(state.metrics)\n",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "what will not be recorded is found after the first epoch",
        "altmin_ext/callbacks/monitoring.py",
        (
            "        self._check(state.metrics)\n"
            "        self._forget()\n"
        ),
        "        self._forget()\n",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "an epoch without an accuracy breaks the run by a TypeError",
        "altmin_ext/callbacks/monitoring.py",
        "[name for name in state.metrics if row[name] is not None]",
        "list(state.metrics)",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "the best value of before is forgotten by a resumed run",
        "altmin_ext/callbacks/monitoring.py",
        '        self.best, self.best_epoch = state["best"], state["best_epoch"]\n',
        "        pass\n",
        ["python_tests/test_callbacks.py", "python_tests/test_resume.py"],
    ),
    (
        "callbacks",
        "the best weights of before are forgotten by a resumed run",
        "altmin_ext/callbacks/monitoring.py",
        '        self._best_weights = state["best_weights"]\n',
        "        pass\n",
        ["python_tests/test_callbacks.py", "python_tests/test_resume.py"],
    ),
    (
        "callbacks",
        "the best weights are not put back",
        "altmin_ext/callbacks/monitoring.py",
        "            state.model.load_state_dict(self._best_weights)\n",
        "            pass\n",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "a best model that could not be written counts as written",
        "altmin_ext/callbacks/monitoring.py",
        (
            "            self.load_state_dict(before)  # so that a resumed run writes it\n"
            "            raise\n"
        ),
        "            raise\n",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "a folder that cannot be written to is found after the first epoch",
        "altmin_ext/callbacks/monitoring.py",
        (
            "        with Replacement(rehearsal=True) as files:\n"
            "            files.open(self.path)\n"
        ),
        "",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "the file says another epoch",
        "altmin_ext/callbacks/monitoring.py",
        '{"epoch": self.best_epoch, self.monitor: self.best}',
        '{"epoch": state.epochs, self.monitor: self.best}',
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "earlier best models are dropped",
        "altmin_ext/callbacks/monitoring.py",
        "keep=self.keep, **found",
        "keep=0, **found",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "callbacks",
        "every model is the best",
        "altmin_ext/callbacks/monitoring.py",
        (
            "        if not self._is_best(state):\n"
            "            return\n"
        ),
        "        self._is_best(state)\n",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "loggers",
        "the first of so many losses is written, and not the last",
        "altmin_ext/callbacks/loggers.py",
        "state.step % self.every == 0",
        "state.step % self.every == 1",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "loggers",
        "epochs are plotted against their number",
        "altmin_ext/callbacks/loggers.py",
        "self.log(dict(_numbers(state.history.epochs[-1])), state.step)",
        "self.log(dict(_numbers(state.history.epochs[-1])), state.epoch)",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "loggers",
        "objectives of the stages are left out",
        "altmin_ext/callbacks/loggers.py",
        "            yield from _numbers(",
        "            _numbers(",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "loggers",
        "a run that failed is told to be complete",
        "altmin_ext/callbacks/loggers.py",
        "        self.close(error)\n",
        "        self.close(None)\n",
        [
            "python_tests/test_callbacks.py",
            "python_tests/clients/test_loggers.py::test_an_exception_ends_the_run_of_mlflow",
        ],
    ),
    (
        "loggers",
        "a number beyond the checkpoint stays in TensorBoard",
        "altmin_ext/callbacks/loggers.py",
        "purge_step=state.step + 1 if state.resumed else None",
        "purge_step=None",
        [
            "python_tests/clients/test_loggers.py::test_tensorboard_shows_the_history",
            "python_tests/clients/test_loggers.py::test_tensorboard_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "the last number before the checkpoint is hidden in TensorBoard",
        "altmin_ext/callbacks/loggers.py",
        "purge_step=state.step + 1 if",
        "purge_step=state.step if",
        [
            "python_tests/clients/test_loggers.py::test_tensorboard_shows_the_history",
            "python_tests/clients/test_loggers.py::test_tensorboard_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "TensorBoard does not get the settings",
        "altmin_ext/callbacks/loggers.py",
        "            self._writer.file_writer.add_summary(summary)\n",
        "            pass\n",
        [
            "python_tests/clients/test_loggers.py::test_tensorboard_shows_the_history",
            "python_tests/clients/test_loggers.py::test_tensorboard_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "TensorBoard plots against nothing",
        "altmin_ext/callbacks/loggers.py",
        "self._writer.add_scalar(name, value, step)",
        "self._writer.add_scalar(name, value)",
        [
            "python_tests/clients/test_loggers.py::test_tensorboard_shows_the_history",
            "python_tests/clients/test_loggers.py::test_tensorboard_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "TensorBoard's file stays open",
        "altmin_ext/callbacks/loggers.py",
        "            self._writer.close()\n",
        "            pass\n",
        [
            "python_tests/clients/test_loggers.py::test_tensorboard_shows_the_history",
            "python_tests/clients/test_loggers.py::test_the_file_of_tensorboard_is_closed",
        ],
    ),
    (
        "loggers",
        "an interrupt is a failure in MLflow",
        "altmin_ext/callbacks/loggers.py",
        '"FAILED" if isinstance(error, Exception) else "KILLED"',
        '"FAILED"',
        [
            "python_tests/clients/test_loggers.py::test_mlflow_holds_the_history",
            "python_tests/clients/test_loggers.py::test_an_exception_ends_the_run_of_mlflow",
            "python_tests/clients/test_loggers.py::test_mlflow_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "MLflow begins another run after a resume",
        "altmin_ext/callbacks/loggers.py",
        (
            "        self.run_id = None\n"
            "        if state.resumed:\n"
            "            return\n"
            "        found"
        ),
        (
            "        self.run_id = None\n"
            "        found"
        ),
        [
            "python_tests/clients/test_loggers.py::test_mlflow_holds_the_history",
            "python_tests/clients/test_loggers.py::test_an_exception_ends_the_run_of_mlflow",
            "python_tests/clients/test_loggers.py::test_mlflow_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "MLflow goes on with a run that has ended",
        "altmin_ext/callbacks/loggers.py",
        '        self._client.update_run(self.run_id, status="RUNNING")\n',
        "        pass\n",
        [
            "python_tests/clients/test_loggers.py::test_mlflow_holds_the_history",
            "python_tests/clients/test_loggers.py::test_an_exception_ends_the_run_of_mlflow",
            "python_tests/clients/test_loggers.py::test_mlflow_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "MLflow goes on with another run",
        "altmin_ext/callbacks/loggers.py",
        '        self.run_id = state["run_id"]\n',
        "        pass\n",
        [
            "python_tests/clients/test_loggers.py::test_mlflow_holds_the_history",
            "python_tests/clients/test_loggers.py::test_an_exception_ends_the_run_of_mlflow",
            "python_tests/clients/test_loggers.py::test_mlflow_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "MLflow does not get the settings",
        "altmin_ext/callbacks/loggers.py",
        "        self._client.log_batch(self.run_id, params=settings)\n",
        "",
        [
            "python_tests/clients/test_loggers.py::test_mlflow_holds_the_history",
            "python_tests/clients/test_loggers.py::test_an_exception_ends_the_run_of_mlflow",
            "python_tests/clients/test_loggers.py::test_mlflow_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "MLflow plots against nothing",
        "altmin_ext/callbacks/loggers.py",
        "metric(name, value, now, step)",
        "metric(name, value, now, 0)",
        [
            "python_tests/clients/test_loggers.py::test_mlflow_holds_the_history",
            "python_tests/clients/test_loggers.py::test_an_exception_ends_the_run_of_mlflow",
            "python_tests/clients/test_loggers.py::test_mlflow_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "a failure is a success in Weights & Biases",
        "altmin_ext/callbacks/loggers.py",
        "exit_code=0 if error is None else 1",
        "exit_code=0",
        [
            "python_tests/clients/test_loggers.py::test_wandb_holds_the_history",
            "python_tests/clients/test_loggers.py::test_wandb_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "Weights & Biases goes on with another run",
        "altmin_ext/callbacks/loggers.py",
        'self._open(id=state["id"], resume="allow")',
        "self._open()",
        [
            "python_tests/clients/test_loggers.py::test_wandb_holds_the_history",
            "python_tests/clients/test_loggers.py::test_wandb_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "Weights & Biases counts by itself",
        "altmin_ext/callbacks/loggers.py",
        "self.run.log(dict(numbers), step=step)",
        "self.run.log(dict(numbers))",
        [
            "python_tests/clients/test_loggers.py::test_wandb_holds_the_history",
            "python_tests/clients/test_loggers.py::test_wandb_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "Weights & Biases does not get the settings",
        "altmin_ext/callbacks/loggers.py",
        "config = {**self._settings, **self._init",
        "config = {**self._init",
        [
            "python_tests/clients/test_loggers.py::test_wandb_holds_the_history",
            "python_tests/clients/test_loggers.py::test_wandb_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "a run of Weights & Biases begins twice after a resume",
        "altmin_ext/callbacks/loggers.py",
        (
            "        if not state.resumed:\n"
            "            self._open()\n"
        ),
        "        self._open()\n",
        [
            "python_tests/clients/test_loggers.py::test_wandb_holds_the_history",
            "python_tests/clients/test_loggers.py::test_wandb_goes_on_with_a_resumed_run",
        ],
    ),
    (
        "loggers",
        "the settings leave out the options",
        "altmin_ext/callbacks/state.py",
        "            **options,\n",
        "",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "loggers",
        "settings are objects",
        "altmin_ext/callbacks/state.py",
        "own if type(own) in plain else _check.shown(own)",
        "own",
        ["python_tests/test_callbacks.py"],
    ),
    (
        "loggers",
        "trials are told of minibatches",
        "altmin_ext/callbacks/pruning.py",
        "self._trial.report(self._monitor.value(state), state.epoch)",
        "self._trial.report(self._monitor.value(state), state.step)",
        [
            "python_tests/clients/test_optuna.py::test_unpromising_trials_are_pruned",
            "python_tests/clients/test_optuna.py::test_what_the_run_does_not_record_is_found_before_training",
        ],
    ),
    (
        "loggers",
        "no trial is pruned",
        "altmin_ext/callbacks/pruning.py",
        "if self._trial.should_prune():",
        "if False:",
        [
            "python_tests/clients/test_optuna.py::test_unpromising_trials_are_pruned",
            "python_tests/clients/test_optuna.py::test_what_the_run_does_not_record_is_found_before_training",
        ],
    ),
    (
        "loggers",
        "what a trial will not record is found after the first epoch",
        "altmin_ext/callbacks/pruning.py",
        "        self._monitor.on_start(state)\n",
        "        pass\n",
        [
            "python_tests/clients/test_optuna.py::test_unpromising_trials_are_pruned",
            "python_tests/clients/test_optuna.py::test_what_the_run_does_not_record_is_found_before_training",
        ],
    ),
    (
        "metrics",
        "an object holds what the epoch before has left",
        "altmin_ext/_metrics.py",
        (
            "        self._reset()\n"
            "        try:\n"
        ),
        "        try:\n",
        ["python_tests/test_metrics.py"],
    ),
    (
        "metrics",
        "an object holds samples after the evaluation",
        "altmin_ext/_metrics.py",
        (
            "        finally:\n"
            "            self._reset()\n"
        ),
        (
            "        finally:\n"
            "            pass\n"
        ),
        ["python_tests/test_metrics.py"],
    ),
    (
        "metrics",
        "a metric may write to the outputs",
        "altmin_ext/_metrics.py",
        "metric.update(logits.clone(), y.clone())",
        "metric.update(logits, y)",
        ["python_tests/test_metrics.py"],
    ),
    (
        "metrics",
        "samples without a label count",
        "altmin_ext/_metrics.py",
        "            logits, y = logits[has_label], y[has_label]\n",
        "            pass\n",
        ["python_tests/test_metrics.py"],
    ),
    (
        "metrics",
        "outputs that are not finite are taken",
        "altmin_ext/_metrics.py",
        (
            "        if not self._finite:\n"
            "            return\n"
            "        for"
        ),
        "        for",
        ["python_tests/test_metrics.py"],
    ),
    (
        "metrics",
        "outputs that are not finite give a number",
        "altmin_ext/_metrics.py",
        (
            "        if not self._finite:\n"
            "            return dict.fromkeys(self._names, math.nan)\n"
        ),
        "",
        ["python_tests/test_metrics.py"],
    ),
    (
        "metrics",
        "a function is given the last minibatch",
        "altmin_ext/_metrics.py",
        "zip(*self._gathered, strict=True)",
        "zip(*self._gathered[-1:], strict=True)",
        ["python_tests/test_metrics.py"],
    ),
    (
        "metrics",
        "what a function is given may change later",
        "altmin_ext/_metrics.py",
        "self._gathered.append((logits.clone(), y.clone()))",
        "self._gathered.append((logits, y))",
        ["python_tests/test_metrics.py"],
    ),
    (
        "metrics",
        "a metric may be called loss",
        "altmin_ext/_metrics.py",
        "if not name or name in _TAKEN:",
        "if not name:",
        ["python_tests/test_metrics.py"],
    ),
    (
        "metrics",
        "metrics come in another order",
        "altmin_ext/_metrics.py",
        "return {name: _number(name, found[name]) for name in self._names}",
        "return {name: _number(name, found[name]) for name in sorted(self._names)}",
        ["python_tests/test_metrics.py"],
    ),
    (
        "metrics",
        "a criterion that writes to the outputs comes before the metrics",
        "altmin_ext/evaluation.py",
        (
            "            further.update(logits, y)  # first: a criterion may write to the logits\n"
            "            hits = loss.correct(logits, y)\n"
            "            total_loss = total_loss + loss.mean(logits, y).double() * labelled\n"
        ),
        (
            "            hits = loss.correct(logits, y)\n"
            "            total_loss = total_loss + loss.mean(logits, y).double() * labelled\n"
            "            further.update(logits, y)\n"
        ),
        ["python_tests/test_metrics.py", "python_tests/test_losses.py"],
    ),
    (
        "evaluation",
        "samples without a label weigh in the loss",
        "altmin_ext/evaluation.py",
        "loss.mean(logits, y).double() * labelled",
        "loss.mean(logits, y).double() * len(y)",
        [
            "python_tests/test_training.py",
            "python_tests/test_metrics.py",
            "python_tests/test_losses.py",
            "python_tests/nn",
        ],
    ),
    (
        "evaluation",
        "samples without a label count in the accuracy",
        "altmin_ext/evaluation.py",
        "            samples += labelled\n",
        "            samples += len(y)\n",
        ["python_tests/test_metrics.py", "python_tests/methods/test_deepfacto.py"],
    ),
    (
        "evaluation",
        "predict runs in the model's mode",
        "altmin_ext/evaluation.py",
        (
            "    with evaluation_mode(model):\n"
            "        parts = []"
        ),
        (
            "    with torch.no_grad():\n"
            "        parts = []"
        ),
        ["python_tests/test_predict.py"],
    ),
    (
        "evaluation",
        "predict lets the model write to x",
        "altmin_ext/evaluation.py",
        "own.clone() if copies else own.contiguous()",
        "own.contiguous()",
        ["python_tests/test_predict.py"],
    ),
    (
        "evaluation",
        "predict forgets all but the last minibatch",
        "altmin_ext/evaluation.py",
        "return torch.cat(parts)",
        "return parts[-1]",
        ["python_tests/test_predict.py"],
    ),
    (
        "evaluation",
        "modules stay in evaluation mode",
        "altmin_ext/evaluation.py",
        "            module.training = training\n",
        "            pass\n",
        ["python_tests/test_predict.py", "python_tests/test_training.py"],
    ),
    (
        "evaluation",
        "predict is handed x in its own dtype",
        "altmin_ext/evaluation.py",
        "own = part.to(weight.device, weight.dtype)",
        "own = part.to(weight.device)",
        ["python_tests/test_predict.py"],
    ),
    (
        "evaluation",
        "the accuracy of what is not classified is 0",
        "altmin_ext/evaluation.py",
        "correct = None if hits is None or correct is None else correct + hits",
        "correct = (correct or 0) + (hits or 0)",
        ["python_tests/test_training.py", "python_tests/test_metrics.py"],
    ),
    (
        "estimators",
        "samples that weigh nothing are learned",
        "altmin_ext/estimators/base.py",
        "            counts = weights > 0\n",
        "            counts = weights >= 0\n",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "initial weights follow from torch's generator",
        "altmin_ext/estimators/base.py",
        "            torch.manual_seed(seed)\n",
        "            pass\n",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "fitting moves torch's generator",
        "altmin_ext/estimators/base.py",
        (
            "        with torch_kept():\n"
            "            torch.manual_seed(seed)\n"
        ),
        (
            "        if True:\n"
            "            torch.manual_seed(seed)\n"
        ),
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "partial_fit goes on after it has stopped",
        "altmin_ext/estimators/base.py",
        (
            "            if self.stopped_:\n"
            "                return\n"
        ),
        "",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "weights of classes replace those of samples",
        "altmin_ext/estimators/classifier.py",
        "return factors[y] if weights is None else factors[y] * weights",
        "return factors[y]",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "an unknown label is learned as another",
        "altmin_ext/estimators/classifier.py",
        "        if unknown.any():\n",
        "        if False:\n",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "a fit that fails leaves half of the estimator",
        "altmin_ext/estimators/base.py",
        (
            "            self.__dict__.clear()\n"
            "            self.__dict__.update(before)\n"
            "            raise\n"
        ),
        "            raise\n",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "epochs of a later fit are counted from 1",
        "altmin_ext/estimators/base.py",
        '{**row, "epoch": row["epoch"] + before}',
        "{**row}",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "fractions of samples are rounded",
        "altmin_ext/estimators/base.py",
        "        if not np.array_equal(times, weights):\n",
        "        if False:\n",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "what is held out follows from NumPy's generator",
        "altmin_ext/estimators/base.py",
        (
            "random_state=self._seed)\n"
            "        return samples.rows"
        ),
        (
            "random_state=None)\n"
            "        return samples.rows"
        ),
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "later samples may have other features",
        "altmin_ext/estimators/base.py",
        "self, X, y, reset=first, dtype",
        "self, X, y, reset=True, dtype",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "probabilities that round to 0 have no logarithm",
        "altmin_ext/estimators/classifier.py",
        "outputs.log_softmax(1)",
        "outputs.softmax(1).log()",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "multilabel probabilities add up to 1",
        "altmin_ext/estimators/classifier.py",
        "outputs.softmax(1) if self._has_class_indices else outputs.sigmoid()",
        "outputs.softmax(1)",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "estimators of other classes are added",
        "altmin_ext/estimators/base.py",
        '        for name in ("n_features_in_", "feature_names_in_", "classes_"):\n',
        '        for name in ("n_features_in_",):\n',
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "the sum forgets the history of the second",
        "altmin_ext/estimators/base.py",
        "        merged._extend(other.history_)\n",
        "",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "float32 of polars becomes float64",
        "altmin_ext/estimators/base.py",
        'return (np.float32,) if kinds == {"Float32"} else',
        "return (np.float64,) if False else",
        ["python_tests/clients/test_tables.py"],
    ),
    (
        "estimators",
        "one target comes out as a column",
        "altmin_ext/estimators/regressor.py",
        "outputs[:, 0] if self._is_one_number else outputs",
        "outputs",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "held-out samples are checked as training samples",
        "altmin_ext/estimators/base.py",
        "            return self._samples(X, y, None, first=False)\n",
        "            return self._samples(X, y, None, first=True)\n",
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "estimators",
        "early stopping forgets the accuracy",
        "altmin_ext/estimators/base.py",
        '"accuracy" if self._has_class_indices and self.method_.loss.counts_correct else "loss"',
        '"loss"',
        ["python_tests/estimators/test_estimators.py"],
    ),
    (
        "tables",
        "missing integers are learned as NaN",
        "altmin_ext/_batches.py",
        '    if values.dtype.kind == "f" and "int" in kind.lower():\n',
        "    if False:\n",
        ["python_tests/clients/test_tables.py"],
    ),
    (
        "tables",
        "columns of one name are taken once",
        "altmin_ext/_batches.py",
        "(column for _, column in table.items())",
        "(table[name] for name in dict.fromkeys(table.columns))",
        ["python_tests/clients/test_tables.py", "python_tests/test_batches.py"],
    ),
    (
        "tables",
        "columns have the dtype of the first",
        "altmin_ext/_batches.py",
        "    return np.column_stack(columns) if columns",
        "    return np.column_stack([own.astype(columns[0].dtype) for own in columns]) if columns",
        ["python_tests/clients/test_tables.py"],
    ),
    (
        "tables",
        "a table of integers is refused",
        "altmin_ext/_batches.py",
        '        if name == "x" and value.dtype.kind != "f":\n',
        "        if False:\n",
        ["python_tests/clients/test_tables.py"],
    ),
    (
        "tables",
        "a dict is read in its order",
        "altmin_ext/_batches.py",
        '        source = source["x"], source["y"]\n',
        "        source = tuple(source.values())\n",
        ["python_tests/test_batches.py"],
    ),
    (
        "tables",
        "a minibatch of a dict is read in its order",
        "altmin_ext/_batches.py",
        '    return batch["x"], batch["y"]\n',
        "    return tuple(batch.values())\n",
        ["python_tests/test_batches.py"],
    ),
    (
        "tables",
        "a column beside x and y is ignored",
        "altmin_ext/_batches.py",
        'isinstance(source, Mapping) and set(source) == {"x", "y"}',
        'isinstance(source, Mapping) and set(source) >= {"x", "y"}',
        ["python_tests/test_batches.py"],
    ),
    (
        "tables",
        "samples of a data set that can be iterated over are taken for minibatches",
        "altmin_ext/_batches.py",
        ' or "__getitems__" in methods',
        "",
        ["python_tests/test_batches.py", "python_tests/clients/test_datasets.py"],
    ),
    (
        "tuning",
        "every trial draws the same values",
        "altmin_ext/tuning.py",
        "derived_seed(self._seed, done) % 2**32",
        "self._seed % 2**32",
        ["python_tests/clients/test_optuna.py"],
    ),
    (
        "tuning",
        "a contender has all its trials before the next",
        "altmin_ext/tuning.py",
        (
            "                if made[label] > done:\n"
            "                    continue\n"
        ),
        (
            "                if made[label] > done or (done == 0 and label != next(iter(self._studies))):\n"
            "                    continue\n"
        ),
        ["python_tests/clients/test_optuna.py"],
    ),
    (
        "tuning",
        "another budget is handed on",
        "altmin_ext/tuning.py",
        "value = float(objective(label, values, budget))",
        "value = float(objective(label, values, trials))",
        ["python_tests/clients/test_optuna.py"],
    ),
    (
        "tuning",
        "what diverges is the best",
        "altmin_ext/tuning.py",
        "worst = -math.inf if maximised else math.inf",
        "worst = math.inf if maximised else -math.inf",
        ["python_tests/clients/test_optuna.py"],
    ),
    (
        "tuning",
        "earlier trials are forgotten",
        "altmin_ext/tuning.py",
        "            studies[label].add_trial(before)\n",
        "            pass\n",
        ["python_tests/clients/test_optuna.py"],
    ),
    (
        "tuning",
        "a trial that diverged may be the best",
        "altmin_ext/tuning.py",
        '    complete = [trial for trial in trials if trial.ended == "completed"]\n',
        "    complete = list(trials)\n",
        ["python_tests/clients/test_optuna.py"],
    ),
    (
        "tuning",
        "the seed of the training draws the values",
        "altmin_ext/tuning.py",
        "    found = Trials(studies, spaces, seed)\n",
        "    found = Trials(studies, spaces, 0)\n",
        ["python_tests/clients/test_optuna.py"],
    ),
    (
        "parallel",
        "a rank divides by the displacement of its own samples",
        "altmin_ext/methods/online_am.py",
        "        if self.ranks is not None:\n            self._share_displacement(l, self.ranks)\n",
        "",
        ["python_tests/parallel/test_data.py"],
    ),
    (
        "parallel",
        "a rank takes its share for the whole minibatch",
        "altmin_ext/methods/online_am.py",
        "self._refresh_scalars(self.samples(x))",
        "self._refresh_scalars(x.shape[0])",
        ["python_tests/parallel/test_data.py"],
    ),
    (
        "parallel",
        "ranks drop the same units of other samples",
        "altmin_ext/network/pieces.py",
        "self.mask = whole[ranks.own].contiguous()",
        "self.mask = whole[: len(like)].contiguous()",
        ["python_tests/parallel/test_data.py"],
    ),
    (
        "parallel",
        "every rank estimates norms at its own samples",
        "altmin_ext/network/spectral_norms.py",
        "            self._ranks.broadcast([self._results[i]])\n",
        "            pass\n",
        ["python_tests/parallel/test_data.py"],
    ),
    (
        "parallel",
        "a strided tensor is handed to gloo",
        "altmin_ext/parallel/ranks.py",
        "if not tensor.is_contiguous():",
        "if False:",
        ["python_tests/parallel/test_data.py"],
    ),
]  # fmt: skip


def faults(entries: Sequence[Sequence[object]]) -> list[Fault]:
    """The faults that such entries describe; tests may be one string or several."""
    found = []
    for kind, what, file, before, after, tests in entries:
        named = (tests,) if isinstance(tests, str) else tuple(tests)  # type: ignore[arg-type]
        found.append(Fault(str(kind), str(what), str(file), str(before), str(after), named))
    return found


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """A copy of package and tests, with the native module of the installed package."""
    with tempfile.TemporaryDirectory(prefix="altmin-mutation-") as name:
        folder = Path(name) / "copy"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        module = Path(str(native_module.__file__))
        shutil.copy(module, folder / "altmin_ext" / module.name)
        yield folder


def environment_for(folder: Path) -> dict[str, str]:
    """An environment in which Python finds the copy and not the installed package, even if that is editable."""
    (folder.parent / "sitecustomize.py").write_text(
        "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
    )
    path = os.pathsep.join(map(str, (folder, folder.parent)))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "250",
    }


def compile_native(folder: Path) -> str:
    """Replace the copy's native module by one of its own sources; returns what the compiler said if it failed."""
    target, package = folder / "build" / "target", folder / "altmin_ext"
    environment = {**os.environ, "ALTMIN_CUDA": "OFF", "PYTHONPATH": ""}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    if shutil.which("ccache"):  # most files are as they were
        environment |= {
            "CMAKE_CXX_COMPILER_LAUNCHER": "ccache",
            "CCACHE_BASEDIR": str(folder),
            "CCACHE_NOHASHDIR": "1",
        }
    command = ["install", "--no-deps", "--no-build-isolation", "--target", str(target), str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *command],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        return done.stdout[-2000:] + done.stderr[-2000:]
    for module in package.glob("_C*.so"):
        module.unlink()
    for module in (target / "altmin_ext").glob("_C*.so"):
        shutil.copy(module, package)
    return ""


def outcome(fault: Fault) -> str:
    """How the tests noticed the fault; nothing if they did not.

    Raises:
        LookupError: its text is not found once.
        RuntimeError: it does not compile, or the tests could not be run.
    """
    with copied() as folder:
        source = folder / fault.file
        text = source.read_text()
        if text.count(fault.before) != 1:
            raise LookupError(
                f"{fault.what!r} must find its text once in {fault.file}, not {text.count(fault.before)} times."
            )
        source.write_text(text.replace(fault.before, fault.after))
        if fault.is_compiled and (complaint := compile_native(folder)):
            raise RuntimeError(f"{fault.what!r} does not compile: {complaint}")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *fault.tests],
            cwd=folder, env=environment_for(folder), capture_output=True, text=True, timeout=1800,
        )  # fmt: skip
    if (
        done.returncode == 0
        and " passed" not in done.stdout.rsplit("\n", 2)[-2]
        and " skipped" in done.stdout
    ):
        raise RuntimeError(f"{fault.what!r}: the tests are skipped here: {done.stdout[-2000:]}")
    if done.returncode == 0:
        return ""
    if done.returncode not in (1, 2) and done.returncode > 0:  # pytest's own: a wrong node id, no tests
        raise RuntimeError(
            f"{fault.what!r}: pytest stopped with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
        )
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", done.stdout, re.MULTILINE)
    if not failed:
        return f"pytest ended with {done.returncode}"
    test, reason = failed[0]
    report = f"{test.removeprefix('python_tests/')}: {reason}" if reason else test
    return report.replace(str(folder), "")


def line(fault: Fault, report: str) -> str:
    """The row of the table."""
    cells = (fault.kind, fault.what, f"`{fault.file}`", report or "**not caught**")
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="faults whose kind, name or file holds this")
    parser.add_argument("--jobs", type=int, default=1, help="faults at a time (default: 1)")
    parser.add_argument("--output", type=Path, help="write the table there")
    arguments = parser.parse_args()
    chosen = [f for f in faults(BUGS) if arguments.only in f"{f.kind} {f.what} {f.file}"]
    rows, survivors = [], []

    def tried(fault: Fault) -> str:
        try:
            return outcome(fault)
        except (LookupError, RuntimeError) as error:
            survivors.append(f"{fault.what} ({error})")
            return "**not tried**"

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for fault, report in zip(chosen, pool.map(tried, chosen), strict=True):
            if not report:
                survivors.append(fault.what)
            rows.append(line(fault, report))
            print(rows[-1], flush=True)
    if arguments.output:
        heading = "Faults seeded into the package, by `python -m python_tests.mutations`."
        table = ["| kind | seeded fault | file | how the tests report it |", "|---|---|---|---|", *rows]
        arguments.output.write_text("\n".join([heading, "", *table]) + "\n")
    print(
        f"{len(rows) - len(survivors)} of {len(rows)} caught" + "".join(f"; survived: {s}" for s in survivors)
    )
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()

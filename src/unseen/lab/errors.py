"""Mistakes that a person can mend: one clear sentence, no traceback."""


class UserError(ValueError):
    """A mistake in what the user asked for; its message is one sentence that names the field, what it got
    and what it takes. The command line prints the sentence and exits with code 2."""


class RunInterrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C after its checkpoints were written; the message says how to resume."""

"""The errors that a user can cause or mend: one line, no traceback."""


class VirnucError(Exception):
    """Something the user can mend. The message names the file, the record and the fix."""


class InputError(VirnucError):
    """A sequence file that cannot be used as it is."""


class ChunkError(VirnucError):
    """A chunk file or manifest that is missing, damaged, or not what it says it is."""


class ResultError(VirnucError):
    """An embedding file that is missing, damaged, or belongs to something else."""


class ModelError(VirnucError):
    """A model bundle that is missing, damaged or does not fit."""


class UnreachableError(ModelError):
    """A server that cannot be reached from here; another machine may have a network."""

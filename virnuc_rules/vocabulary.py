"""The terms of the field, each written once: tables and files hold the text, arrays the `code`."""

from enum import StrEnum

STANDARD_CODE = 1  # NCBI's number of the genetic code that VirNucPro knows
UPSTREAM_NON_VIRAL = "others"  # VirNucPro's word for non_viral, kept in the two files of its format


class _Term(StrEnum):
    @property
    def code(self) -> int:
        """Position among the terms of its kind; int8 in arrays."""
        return list(type(self)).index(self)


class Label(_Term):
    """The known class of a sequence. The code is the column of the class in the scores [N, 2].

    `Label("others")`, which older files hold, is NON_VIRAL.
    """

    NON_VIRAL = "non_viral"
    VIRUS = "virus"

    @classmethod
    def _missing_(cls, value: object) -> "Label | None":
        return cls.NON_VIRAL if value == UPSTREAM_NON_VIRAL else None


class Call(_Term):
    """The call of a window or contig; for an open frame, the class with the higher score."""

    VIRUS = "virus"
    NON_VIRAL = "non_viral"
    NO_CALL = "no_call"


class Reason(_Term):
    """Why there is no call; for a contig, the first of these that one of its windows has.

    First what the user can fix, then properties of the sequence: that which says most comes first.
    """

    EMBEDDING_FAILED = "embedding_failed"
    TOO_FEW_CALLED_WINDOWS = "too_few_called_windows"  # contigs only
    NO_OPEN_FRAME = "no_open_frame"
    TOO_AMBIGUOUS = "too_ambiguous"
    AMBIGUOUS = "ambiguous"
    TOO_SHORT = "too_short"


# Code of a window that has an open frame, or a call. The reason of a contig without a call is the
# smallest code of its windows: such a window means that too few windows have a call.
NO_REASON = Reason.TOO_FEW_CALLED_WINDOWS.code


class TerminalRepeat(_Term):
    """What a contig has at both ends: the same sequence (direct), or its reverse complement."""

    DTR = "DTR"
    ITR = "ITR"


class Frame(_Term):
    """A reading frame of a window, by its first base: F forward, R on the reverse complement."""

    F1 = "F1"
    F2 = "F2"
    F3 = "F3"
    R1 = "R1"
    R2 = "R2"
    R3 = "R3"

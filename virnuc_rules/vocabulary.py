"""The terms of the field, each written once: tables and files hold the text, arrays the `code`."""

from enum import StrEnum

GENETIC_CODE = 1  # NCBI's table by which frames are translated, the standard code as upstream's
UPSTREAM_NON_VIRAL = "others"  # what VirNucPro calls non_viral; its two files keep it


class _Term(StrEnum):
    @property
    def code(self) -> int:
        """Position among the terms of its kind; int8 in arrays."""
        return list(type(self)).index(self)


class Label(_Term):
    """What a sequence is known to be. The code is its class: the column of the scores [N, 2].

    `Label("others")`, as older files have it, is NON_VIRAL.
    """

    NON_VIRAL = "non_viral"
    VIRUS = "virus"

    @classmethod
    def _missing_(cls, value: object) -> "Label | None":
        return cls.NON_VIRAL if value == UPSTREAM_NON_VIRAL else None


class Call(_Term):
    """What a window or contig is called; of an open frame, the class with the higher score."""

    VIRUS = "virus"
    NON_VIRAL = "non_viral"
    NO_CALL = "no_call"


class Reason(_Term):
    """Why there is no call: of a contig, the first of these that is true of one of its windows.

    What can be mended comes first, then what was asked for, then what the sequence is like.
    """

    EMBEDDING_FAILED = "embedding_failed"
    SHORT_CONTIG = "short_contig"
    TOO_FEW_CALLED_WINDOWS = "too_few_called_windows"  # only of contigs
    NO_OPEN_FRAME = "no_open_frame"
    TOO_AMBIGUOUS = "too_ambiguous"
    AMBIGUOUS = "ambiguous"
    TOO_SHORT = "too_short"


# Code of a window that has an open frame, or a call. In a contig without a call such a window says
# that too few are called: the smallest code of the windows is that of the contig's reason.
NO_REASON = Reason.TOO_FEW_CALLED_WINDOWS.code


class Frame(_Term):
    """A reading frame of a window, by its first base: F forward, R on the reverse complement."""

    F1 = "F1"
    F2 = "F2"
    F3 = "F3"
    R1 = "R1"
    R2 = "R2"
    R3 = "R3"

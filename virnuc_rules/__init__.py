"""VirNuc: find viral sequences in metagenomes. The library behind the workflow."""

__version__ = "0.2.0"

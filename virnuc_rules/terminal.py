"""Tables on a terminal: names, ids and values of files are text there, never markup or commands."""

from typing import Any

from rich.console import Console
from rich.text import Text

from virnuc_rules.errors import printable


class Terminal(Console):
    """A console of rich that shows every `str` as it is, but for what a terminal might obey."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a text; rich does so with each `str` in a layout."""
        return super().render_str(printable(text, "\n\t"), **options)

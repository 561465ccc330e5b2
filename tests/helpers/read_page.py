"""Pages, read as a browser would: what is an element, and what is text."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input", "br"}


class Read(HTMLParser):
    """A page, read: its elements, and the text of each class and tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = {name: value or "" for name, value in attrs}
        self.elements.append((tag, held))
        if tag in VOID:
            return
        names = [tag, *held.get("class", "").split()]
        for name in names:
            self.texts.setdefault(name, []).append("")
        self._open.append((tag, names))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1][0] == tag, f"</{tag}> in {self._open[-1]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for _, names in self._open:
            for name in names:
                self.texts[name][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [held for name, held in self.elements if name == tag]

    def pictures(self) -> list[dict[str, str]]:
        """Those of the cards; the dialog has one, too, which the script fills."""
        return [held for held in self.all("img") if "id" not in held]

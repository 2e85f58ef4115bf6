"""Parses a form with a file as it arrives: only the latest chunk is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..errors import ApiError

_MOST_PARTS = 16
_MOST_FIELD = 1024
_MOST_NAME = 255


@dataclass(slots=True)
class Form:
    """A form's fields besides its file's contents."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


class FormReader:
    """Takes the bytes of a form and returns those of its file. `fields` are the names that other parts may have."""

    def __init__(self, content_type: str, file: str, fields: frozenset[str]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise ApiError(415, "unsupported_media_type", "the content type must be multipart/form-data")
        self.form = Form()
        self._file, self._fields = file, fields
        self._header, self._value, self._disposition = b"", b"", b""
        self._part: str | None = None
        self._text = bytearray()
        self._given: list[bytes] = []
        self._parts, self._over = 0, False
        with _as_api_error():
            self._parser = MultipartParser(options[b"boundary"], self._callbacks())  # type: ignore[arg-type]

    def feed(self, chunk: bytes) -> list[bytes]:
        """The parts of the file in a chunk. Raises `ApiError`."""
        with _as_api_error():
            self._parser.write(chunk)
        parts, self._given = self._given, []
        return parts

    def end(self) -> Form:
        """The complete form. Raises `ApiError` if it is incomplete."""
        if not self._over:
            raise ApiError(400, "incomplete_body", "the form ends before its last boundary")
        if self.form.filename is None:
            raise ApiError(400, "missing_parameter", f"{self._file}: a file is missing", self._file)
        return self.form

    def _callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all_over,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise ApiError(400, "invalid_form", f"a form has at most {_MOST_PARTS} parts")
        self._disposition, self._part, self._text = b"", None, bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == self._file:
            if self.form.filename is not None:
                raise ApiError(400, "invalid_form", "one file at a time", name)
            self.form.filename = label(options.get(b"filename", b""))
        elif name not in self._fields:
            raise ApiError(400, "unknown_parameter", f"unknown parameter: {name[:100]}", name[:100])
        elif name in self.form.fields:
            raise ApiError(400, "invalid_form", f"{name} is there twice", name)
        self._part = name

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part == self._file:
            self._given.append(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _MOST_FIELD:
            raise ApiError(400, "invalid_value", f"{self._part}: longer than {_MOST_FIELD} bytes", self._part)

    def _end(self) -> None:
        if self._part is not None and self._part != self._file:
            self.form.fields[self._part] = self._text.decode("utf-8", "replace")

    def _all_over(self) -> None:
        self._over = True


@contextmanager
def _as_api_error() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise ApiError(400, "invalid_form", "the body is no valid multipart/form-data") from error


def label(raw: bytes) -> str:
    """The file name that a client gave: shown to that client, and part of no path."""
    text = "".join(letter for letter in raw.decode("utf-8", "replace") if letter.isprintable())
    return text[:_MOST_NAME] or "upload"

"""Dimension expressions such as `2*sequence + 1`: whole numbers, names, `+ - * //`, parentheses."""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_LENGTH = 128
MAX_STEP = 2**53 - 1  # JavaScript computes the same
_TOKEN = re.compile(r" *(?:([0-9]+)|([A-Za-z_][A-Za-z0-9_.]*)|(//|[-+*()]))")


def evaluate(dimension: int | str, values: Mapping[str, int]) -> int:
    """The value of a dimension; raises `ValueError` on bad syntax, an unknown name or division by 0."""
    if isinstance(dimension, int):
        return dimension
    if len(dimension) > MAX_LENGTH:
        raise ValueError(f"is longer than {MAX_LENGTH} characters")
    return _Parser(dimension, values).parse()


class _Parser:
    def __init__(self, text: str, values: Mapping[str, int]) -> None:
        self.tokens = self._tokens(text.rstrip(" "))
        self.values = values

    @staticmethod
    def _tokens(text: str) -> list[str]:
        tokens, at = [], 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValueError(f"has an unexpected character at {at}")
            tokens.append(match.group(match.lastindex or 0))
            at = match.end()
        return tokens[::-1]  # popped from the end

    def parse(self) -> int:
        result = self._sum()
        if self.tokens:
            raise ValueError(f"has an unexpected `{self.tokens[-1]}`")
        return result

    def _next(self) -> str:
        if not self.tokens:
            raise ValueError("ends too early")
        return self.tokens.pop()

    def _at(self, *operators: str) -> bool:
        return bool(self.tokens) and self.tokens[-1] in operators

    def _sum(self) -> int:
        result = self._product()
        while self._at("+", "-"):
            if self._next() == "+":
                result = _checked(result + self._product())
            else:
                result = _checked(result - self._product())
        return result

    def _product(self) -> int:
        result = self._atom()
        while self._at("*", "//"):
            if self._next() == "*":
                result = _checked(result * self._atom())
            else:
                divisor = self._atom()
                if divisor == 0:
                    raise ValueError("divides by zero")
                result //= divisor
        return result

    def _atom(self) -> int:
        token = self._next()
        if token.isdigit():
            return _checked(int(token))
        if token == "(":
            result = self._sum()
            if self._next() != ")":
                raise ValueError("lacks a `)`")
            return result
        if token[0] not in "+-*/)":
            if token not in self.values:
                raise ValueError(f"uses the unknown dimension `{token}`")
            return self.values[token]
        raise ValueError(f"has an unexpected `{token}`")


def _checked(value: int) -> int:
    if abs(value) > MAX_STEP:
        raise ValueError("leaves the range of whole numbers")
    return value

"""How pictures of any size become images of one size."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Framing:
    """Which pictures are accepted, and what is made of them.

    Attributes:
        expected: Height and width that every picture must have; None accepts any.
        square: Side of the square that is cut from the centre; None cuts the largest.
        size: Height and width to which the square is resized; None takes whole pictures as they
            are, and then `expected` says what they are.
    """

    expected: tuple[int, int] | None = None
    square: int | None = None
    size: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result.

        Raises:
            ValueError: Neither `expected` nor `size` says it.
        """
        shape = self.expected if self.size is None else (self.size, self.size)
        if shape is None:
            raise ValueError("expected a framing with a size or an expected shape, got neither")
        return shape

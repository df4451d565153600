"""What a Wan model may be put together of, where it is not one folder."""

from dataclasses import dataclass, fields
from pathlib import Path

DTYPES = ("bfloat16", "float16", "float32")
FILES = ("high", "low", "vae", "text", "tokenizer", "clip")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Files and answers that go before what a folder says.

    high, low: the experts (either alone: a model of one); vae, text (umT5), tokenizer (its folder), clip: the other
    networks; family: which model it is, where its files do not tell; dtype: what the experts compute in. Raises
    ValueError where these do not fit one another.
    """

    high: Path | None = None
    low: Path | None = None
    vae: Path | None = None
    text: Path | None = None
    tokenizer: Path | None = None
    clip: Path | None = None
    family: str | None = None
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f'The dtype is "{self.dtype}"; it must be one of {", ".join(DTYPES)}.')
        for name in FILES:
            path = getattr(self, name)
            if path is not None and not path.exists():
                raise ValueError(f"There is no file or folder {path}, which --{name} names.")

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the parts that were given."""
        return tuple(f.name for f in fields(self) if f.name != "dtype" and getattr(self, f.name) is not None)

    def name_of(self, model: str | None) -> str | None:
        """The model to open: the one that was named, the built-in pair where nothing was, None for parts alone."""
        return "builtin" if model is None and self.high is None and self.low is None else model

    def refuse(self, name: str) -> None:
        """Raise ValueError if any were given to a model that has its own."""
        if self.given:
            raise ValueError(f'The model "{name}" is whole; it takes no {", ".join(self.given)}.')

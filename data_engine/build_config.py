"""What a pack is built from: a TOML file read and checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import TYPE_CHECKING, Any

from data_engine.catalogue import CATALOGUE
from rsvlm.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

ASKED = ("captions", "questions", "referring", "change")  # recipes run on every image
COUNTED = ("plans", "wording")  # recipes without images


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One source of a build: how many samples of each kind to ask of every image."""

    dataset: str  # name in the catalogue
    folder: str  # relative to the root
    captions: int = 5
    questions: int = 8
    referring: int = 6
    change: int = 6
    limit: int = 0  # of images; 0 for all
    without: tuple[str, ...] = ()  # ends of image paths to leave out, such as near-duplicates across the split


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """Everything a pack depends on."""

    name: str
    sources: tuple[SourceConfig, ...]
    seed: int = 0
    simulated: int = 0  # places to simulate
    counts: dict[str, int] = field(default_factory=dict)  # samples of recipes without images
    rewriter: str = ""  # folder or name of a chat model that says made sentences in other words; "" for none
    rewrite_share: float = 0.0  # of the made sentences

    @classmethod
    def load(cls, path: Path) -> BuildConfig:
        """Read a TOML file, or a shipped one by name; raises ConfigError naming unknown keys and datasets."""
        shipped = resources.files("data_engine").joinpath(f"configs/{path}.toml")
        try:
            text = shipped.read_text("utf-8") if not path.suffix and shipped.is_file() else path.read_text("utf-8")
            plain = tomllib.loads(text)
            sources = tuple(_source(each) for each in plain.pop("sources", []))
            unknown = sorted(set(plain) - {f.name for f in fields(cls)})
            if unknown:
                raise ConfigError(f"{path} has unknown keys {', '.join(unknown)}")
            config = cls(sources=sources, **plain)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no build config: {error}") from error
        config.check(path)
        return config

    def check(self, path: Path) -> None:
        """Raises ConfigError where a value is of the wrong kind, or nothing would be built."""
        _typed(self, {"name": str, "seed": int, "simulated": int, "rewriter": str, "counts": dict}, path)
        _typed(self, {"rewrite_share": (int, float)}, path)
        wrong = sorted(set(self.counts) - set(COUNTED))
        if wrong:
            raise ConfigError(f"{path} counts {', '.join(wrong)}; counts are of {', '.join(COUNTED)}")
        numbers = {"simulated": self.simulated, **{f"counts.{name}": count for name, count in self.counts.items()}}
        for source in self.sources:
            _typed(source, {"dataset": str, "folder": str}, path)
            numbers |= {f"{name} of {source.dataset}": getattr(source, name) for name in (*ASKED, "limit")}
        for name, number in numbers.items():
            if type(number) is not int or number < 0:
                raise ConfigError(f"{path} has {name} = {number!r}; it is a whole number, 0 or more")
        if not 0 <= self.rewrite_share <= 1:
            raise ConfigError(f"{path} has rewrite_share = {self.rewrite_share!r}; it is a share from 0 to 1")
        if not (self.sources or self.simulated or any(self.counts.values())):
            raise ConfigError(f"{path} asks for nothing; name sources, simulated places or counts")


def _typed(config: BuildConfig | SourceConfig, kinds: dict[str, type | tuple[type, ...]], path: Path) -> None:
    for name, kind in kinds.items():
        value = getattr(config, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = "a text" if kind is str else "a table" if kind is dict else "a number"
            raise ConfigError(f"{path} has {name} = {value!r}; it is {wanted}")


def _source(plain: dict[str, Any]) -> SourceConfig:
    if not isinstance(plain, dict):
        raise ConfigError(f"a source is a table with a dataset and a folder; got {plain!r}")
    unknown = sorted(set(plain) - {f.name for f in fields(SourceConfig)})
    if unknown:
        raise ConfigError(f"a source has no keys {', '.join(unknown)}")
    without = plain.get("without", [])
    if not isinstance(without, list) or not all(isinstance(end, str) for end in without):
        raise ConfigError(f"`without` is a list of ends of image paths; got {without!r}")
    config = SourceConfig(**{**plain, "without": tuple(without)})
    if config.dataset not in CATALOGUE:
        raise ConfigError(f"there is no dataset {config.dataset!r}; `rsvlm data list` names those there are")
    return config

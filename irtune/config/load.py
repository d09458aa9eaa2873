"""From YAML and dotted overrides to a checked configuration; every mistake of a file is reported at once."""

import copy
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from irtune.config.ablation_schema import AblationConfig
from irtune.config.method_settings import with_method
from irtune.config.mistakes import ConfigError as ConfigError
from irtune.config.mistakes import describe
from irtune.config.schema import VARIANTS, ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.config.tree import at, flatten, put
from irtune.methods import METHODS
from irtune.processor import num_cores
from irtune.redaction import public_address

Config = TypeVar("Config", bound=ExperimentConfig)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-4`` is a number (YAML 1.1 asks for ``1.0e-4``) and no key may stand twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands here twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: If the file cannot be read, is not YAML, or holds something other than a mapping.
    """
    try:
        tree = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [_yaml_mistake(error)]) from error
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else type(tree).__name__
        raise ConfigError(str(path), [f"must hold settings as key: value, found {found}"])
    return tree


def parse_overrides(arguments: Iterable[str]) -> dict[str, Any]:
    """Dotted overrides from ``key=value`` arguments; values are read as YAML.

    Raises:
        ConfigError: With every argument that is not of that form.
    """
    overrides: dict[str, Any] = {}
    mistakes = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            mistakes.append(f"{argument!r} is not of the form dotted.key=value")
            continue
        try:
            overrides[key] = _parse(value)
        except yaml.YAMLError:
            mistakes.append(f"{key}: the value {value!r} is not YAML; text with special characters goes in quotes")
    if mistakes:
        raise ConfigError("command line", mistakes)
    return overrides


def apply_overrides(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``tree`` with dotted keys set.

    Choosing another variant by name (``selection.policy.name=all``) drops the options of the variant that stood there,
    since they belong to it; overrides of the same section apply to the new variant. The key of a dimension is one key,
    dots and all: ``space.selection.policy.k.high=20``.

    Choosing another ``method`` does the same to the policy and the signal: where the new method has another one, the
    section that stood there goes, its name too; where it has the same one, what the tree says of it stays. Everything
    else that the tree says stays above the new method's settings, and what it owed to the former method is gone.
    ``method=null`` takes away the name only: the settings of the former method are written out, to be changed freely.
    Either way the other overrides apply last.

    Raises:
        ConfigError: With every key that leads through something that is not a section.
    """
    result: dict[str, Any] = copy.deepcopy(dict(tree))
    if "method" in overrides:
        result = _with_other_method(result, overrides["method"])
    for section in VARIANTS:
        name, node = overrides.get(f"{section}.name"), _section(result, section)
        if name is not None and node is not None and _variant(result, section) != name:
            node.clear()
    mistakes = []
    for key, value in overrides.items():
        if in_the_way := put(result, _parts(key, result), value):
            mistakes.append(f"{key}: {'.'.join(in_the_way)} is a setting, not a section")
    if mistakes:
        raise ConfigError("overrides", mistakes)
    return result


def dotted_keys(config: BaseModel) -> dict[str, Any]:
    """Every setting of a configuration as dotted key -> JSON-able value."""
    return flatten(config.model_dump(mode="json"))


def explicit(config: BaseModel) -> dict[str, Any]:
    """The settings that were given, and none that come from a method or a default; builds the same configuration."""
    return config.model_dump(mode="json", exclude_unset=True)


def build(config_type: type[Config], tree: Mapping[str, Any], source: str) -> Config:
    """Validate a tree.

    Raises:
        ConfigError: With every mistake, by dotted key.
    """
    try:
        return config_type.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(source, describe(config_type, with_method(tree), error)) from error


def load(config_type: type[Config], path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a file, apply dotted overrides and validate.

    Raises:
        ConfigError: With every mistake, by dotted key.
    """
    tree = read_yaml(path) if path else {}
    return build(config_type, apply_overrides(tree, overrides or {}), str(path or "command line"))


def load_any(path: Path, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """Load a file as the kind of configuration that it is.

    Raises:
        ConfigError: With every mistake, by dotted key.
    """
    tree = apply_overrides(read_yaml(path), overrides or {})
    of_sweeps = SweepConfig if "space" in tree or "tune" in tree else ExperimentConfig
    return build(AblationConfig if "ablation" in tree else of_sweeps, tree, str(path))


def with_overrides(config: ExperimentConfig, overrides: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment after dotted overrides, which apply to what was said explicitly; see ``apply_overrides``.

    Raises:
        ConfigError: If a key or value does not fit.
    """
    return build(ExperimentConfig, apply_overrides(explicit(config), overrides), "overrides")


def with_threads(config: ExperimentConfig, at_once: int | None, most: float = math.inf) -> ExperimentConfig:
    """The experiment with the number of threads that a worker has on this machine.

    Args:
        config: May leave it open.
        at_once: Workers on this machine at once; None: as many as fit.
        most: Cores of this machine that may be used.
    """
    threads = config.engine.threads(max(1, math.floor(min(num_cores(), most))), at_once)
    return config.model_copy(update={"engine": config.engine.model_copy(update={"threads_per_worker": threads})})


def without_login(config: Config) -> Config:
    """The configuration with MLflow's address as everybody may read it; whoever connects keeps the other one apart."""
    uri = config.tracking.uri
    if uri is None or uri == public_address(uri):
        return config
    return build(type(config), apply_overrides(explicit(config), {"tracking.uri": public_address(uri)}), "tracking")


def storage_path(config: ExperimentConfig) -> Path:
    """The absolute storage folder."""
    return Path(config.storage).expanduser().resolve()


def relative_paths(config: ExperimentConfig) -> dict[str, str | list[str]]:
    """Settings that name a place relative to the working directory, by dotted key; a list if any in it is relative."""
    candidates: dict[str, str | list[str]] = {"storage": config.storage}
    candidates |= {f"data.{name}": path for name, path in config.data.path_fields().items()}
    if config.tracking.uri and config.tracking.uri.startswith("sqlite:///"):
        candidates["tracking.uri"] = config.tracking.uri.removeprefix("sqlite:///")
    if config.model.name.endswith(".gguf") or config.model.name.startswith(".") or Path(config.model.name).is_dir():
        candidates["model.name"] = config.model.name
    if isinstance(config, SweepConfig) and config.tune.warm_start:
        candidates["tune.warm_start"] = config.tune.warm_start
    if isinstance(config, AblationConfig):
        candidates |= {
            f"ablation.corpora.{corpus}.{key}": path
            for corpus, settings in config.ablation.corpora.items()
            for key, path in settings.items()
            if key.endswith("path") and isinstance(path, str | list)
        }
    return {
        key: value
        for key, value in candidates.items()
        if not all(os.path.isabs(os.path.expanduser(path)) for path in (value if isinstance(value, list) else [value]))
    }


def _parse(text: str) -> Any:
    return yaml.load(text, _Loader)


def _yaml_mistake(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return f"is not YAML: {error}"


def _parts(key: str, tree: Mapping[str, Any]) -> list[str]:
    """The steps from the root to a dotted key; under ``space`` and ``ablation.factors`` a setting's key is one step."""
    for section in (["space"], ["ablation", "factors"], ["ablation", "tuning", "space"]):
        prefix = ".".join(section) + "."
        if key.startswith(prefix):
            rest, there = key.removeprefix(prefix), at(tree, section) or {}
            known = [one for one in there if rest == one or rest.startswith(f"{one}.")]
            setting = max(known, key=len, default=rest)
            return [*section, setting, *rest.removeprefix(setting).split(".")[1:]]
    return key.split(".")


def _with_other_method(tree: dict[str, Any], name: Any) -> dict[str, Any]:
    """``tree`` with its method replaced, without the sections that belong to another policy or signal."""
    if name == tree.get("method"):
        return tree
    if name is None:
        return {**with_method(tree), "method": None}
    former = {section: _variant(tree, section) for section in VARIANTS}
    result = {**tree, "method": name}
    identity = METHODS[name].identity if isinstance(name, str) and name in METHODS else {}
    for section in VARIANTS:
        node = _section(result, section)
        if node is not None and identity.get(section, _variant(result, section)) != former[section]:
            node.clear()
    return result


def _variant(tree: Mapping[str, Any], section: str) -> Any:
    """The name of the variant that a section of ``tree`` has: its own, its method's, or the default."""
    said = _section(with_method(tree), section) or {}
    return said.get("name", VARIANTS[section].default)


def _section(tree: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    node = at(tree, key.split("."))
    return node if isinstance(node, dict) else None

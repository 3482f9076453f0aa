"""YAML as configurations want it: what YAML's own loader takes in silence for something else is kept, or refused."""

import re
from typing import Any

import yaml

_INT = re.compile(r"^([-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^([-+]?([0-9][0-9_]*\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)


def read(content: bytes | str) -> Any:
    """The one document in a text. Raises ValueError, in one line."""
    try:
        return yaml.load(content, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a section: YAML's own loader takes the last one without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Called by YAML for each mapping."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                raise ValueError(
                    f"the key {key.value} stands twice, in lines {lines[key.value]} and {key.start_mark.line + 1}; "
                    "keep one of them"
                )
            lines[key.value] = key.start_mark.line + 1
        return node

    def day_or_text(self, node: yaml.ScalarNode) -> Any:
        """A date; the text where no calendar has it, so that the key's own error can say so."""
        try:
            return self.construct_yaml_timestamp(node)
        except ValueError:
            return self.construct_scalar(node)


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.day_or_text)
# Numbers as YAML 1.2 has them: 010 is not 8, 1:30 not 90, and 1e-3 is a number.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag.rpartition(":")[2] not in ("int", "float")]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))

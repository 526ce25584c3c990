"""Takes the schemas of kinds that are not part of Kubernetes from where their projects publish them.

    python3 tests/schemas/make.py          writes them anew; needs Go (its module proxy) and PyYAML

Of each, what a test can use is kept: the schema of `spec` in one version, without descriptions, defaults and
rules in CEL. Fields that are not listed are refused, as a cluster does with `kubectl --validate=strict`.
README.md beside this file says under which licence the schemas are.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
# File here, module, file there, version of the kind.
SOURCES = [
    ("gateway", "sigs.k8s.io/gateway-api@v1.4.0", "config/crd/standard/gateway.networking.k8s.io_gateways.yaml", "v1"),
    ("httproute", "sigs.k8s.io/gateway-api@v1.4.0", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml", "v1"),
    ("knative-service", "knative.dev/serving@v0.51.0", "config/core/300-resources/service.yaml", "v1"),
]
KEPT = {"type", "required", "enum", "format", "pattern", "items", "properties", "additionalProperties", "anyOf", "allOf", "oneOf", "not"}
KEPT |= {f"{side}{what}" for side in ("min", "max") for what in ("imum", "Length", "Items", "Properties")}


def reduced(schema):
    """What is kept of a schema, with every object closed that lists its fields."""
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key in KEPT}
    for key in ("items", "additionalProperties", "not"):
        if key in kept:
            kept[key] = reduced(kept[key])
    for key in ("anyOf", "allOf", "oneOf"):
        if key in kept:
            kept[key] = [reduced(one) for one in kept[key]]
    if "properties" in kept:
        kept["properties"] = {name: reduced(one) for name, one in kept["properties"].items()}
        # Parts of a choice say less than the whole, and those that keep what they do not know say so.
        if kept.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
    return kept


def folder(module):
    command = ["go", "mod", "download", "-json", module]
    return Path(json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout)["Dir"])


def main():
    for name, module, path, version in SOURCES:
        definition = yaml.safe_load((folder(module) / path).read_text())["spec"]
        [schema] = [one["schema"]["openAPIV3Schema"] for one in definition["versions"] if one["name"] == version]
        made = {"$comment": f"made by make.py from {path} of {module}", **reduced(schema["properties"]["spec"])}
        (HERE / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n")
        print(f"tests/schemas/{name}.json written", file=sys.stderr)


if __name__ == "__main__":
    main()

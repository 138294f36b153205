"""Validates rendered manifests by the schemas of Kubernetes, strictly: `kubernetes.py FILE...`.

The command kubernetes-validate only warns about kinds it does not know; here those are named. Exits 1 with every mistake.
"""

import sys

import kubernetes_validate
import yaml

# Validated by their own definitions.
CUSTOM = "monitoring.coreos.com/v1"
VERSION = "1.37"

mistakes, seen = [], 0
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        for manifest in filter(None, yaml.safe_load_all(file)):
            if manifest["apiVersion"] == CUSTOM:
                continue
            seen += 1
            try:
                kubernetes_validate.validate(manifest, VERSION, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                mistakes.append(f"{path}: {manifest['kind']} {manifest['metadata']['name']}: {error}")
print(f"{seen} manifests, {len(mistakes)} mistakes")
print(*mistakes, sep="\n")
sys.exit(bool(mistakes) or not seen)

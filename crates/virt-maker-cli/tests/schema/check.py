"""Checks YAML files against a JSON Schema: a line for each that does not fit, with its first error."""

import json
import sys

import jsonschema
import yaml

with open(sys.argv[1], encoding="utf-8") as file:
    schema = json.load(file)
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for name in sys.argv[2:]:
    with open(name, encoding="utf-8") as file:
        try:
            document = yaml.safe_load(file)
        except yaml.YAMLError as problem:
            print(f"{name}: $: {str(problem)!r}")
            continue
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        print(f"{name}: {error.json_path}: {error.message[:200]}")

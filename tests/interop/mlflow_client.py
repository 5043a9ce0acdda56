"""PyPI mlflow-skinny's own client against a running controller: lists, gets, searches, registers, tags, aliases, and is refused.

usage: MLFLOW_TRACKING_TOKEN=… python mlflow_client.py URL LINE NUMBER MANIFEST_DIGEST
Prints one JSON document of what the client saw; the story in tests/e2e/mlflow_client.rs compares it with what was published.
"""

import json
import sys

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException


def refused(call, *args, **kwargs):
    """The error code and the sentence of a call that must fail."""
    try:
        call(*args, **kwargs)
    except MlflowException as error:
        return {"code": error.error_code, "says": str(error)}
    raise SystemExit(f"{call.__name__}{args} was not refused")


def seen(version):
    """A version as the client shows it."""
    return {
        "version": version.version,
        "status": version.status,
        "message": version.status_message,
        "stage": version.current_stage,
        "source": version.source,
        "run": version.run_id,
        "description": version.description,
        "tags": dict(version.tags),
        "aliases": list(version.aliases),
        "created": version.creation_timestamp,
    }


def main(url, line, version, digest):
    mlflow.set_tracking_uri(url)
    mlflow.set_registry_uri(url)
    client = MlflowClient()
    out = {}

    model = client.get_registered_model(line)
    out["model"] = {"name": model.name, "latest": [v.version for v in model.latest_versions]}
    out["models"] = [m.name for m in client.search_registered_models()]
    out["like"] = [m.name for m in client.search_registered_models(f"name LIKE '{line[:2]}%'", order_by=["name DESC"])]
    out["signed"] = seen(client.get_model_version(line, version))
    out["by_digest"] = [v.version for v in client.search_model_versions(f"name = '{line}' AND tags.`leeway.manifest` = '{digest}'")]
    out["uri"] = client.get_model_version_download_uri(line, version)
    out["latest"] = [v.version for v in client.get_latest_versions(line)]

    # Registering what is not published here: an entry that nobody signed. By the function that notebooks use, and by the client.
    first = mlflow.register_model("s3://bucket/models/rain", line, tags={"team": "vision"})
    out["candidate"] = seen(client.get_model_version(line, first.version))
    named = client.create_model_version(line, "s3://bucket/models/other", run_id="r-17", tags={"leeway.version": "2.0.0"}, description="in snow")
    out["named"] = seen(named)
    # Registering what is published here, by its digest and by MLflow's own address, is that version.
    out["bound"] = [client.create_model_version(line, digest).version, client.create_model_version(line, f"models:/{line}/{version}").version]
    created = client.create_registered_model("wind", tags={"team": "wind"}, description="is it windy?")
    out["created"] = {"name": created.name, "description": created.description, "tags": created.tags}
    client.update_registered_model("wind", "how windy is it?")

    client.set_registered_model_tag(line, "owner", "ann")
    client.set_model_version_tag(line, version, "ticket", "A-7")
    client.set_model_version_tag(line, version, "draft", "yes")
    client.delete_model_version_tag(line, version, "draft")
    client.update_model_version(line, version, "the one of the first years")
    client.set_registered_model_alias(line, "staging", version)
    out["by_alias"] = client.get_model_version_by_alias(line, "staging").version
    client.set_registered_model_alias(line, "to-try", named.version)
    out["tagged"] = seen(client.get_model_version(line, version))
    out["line_tags"] = client.get_registered_model(line).tags
    out["line_aliases"] = client.get_registered_model(line).aliases
    out["by_tag"] = [m.name for m in client.search_registered_models("tags.owner = 'ann'")]
    out["by_run"] = [v.version for v in client.search_model_versions("run_id = 'r-17'")]
    pages, token = [], None
    while True:
        page = client.search_model_versions(f"name = '{line}'", max_results=1, order_by=["version_number ASC"], page_token=token)
        pages.append([v.version for v in page])
        token = page.token
        if not token:
            break
    out["pages"] = pages
    client.delete_model_version(line, first.version)
    client.delete_registered_model_alias(line, "staging")

    out["refused"] = {
        "absent": refused(client.get_registered_model, "no-such-line"),
        "absent_version": refused(client.get_model_version, line, "99"),
        "absent_alias": refused(client.get_model_version_by_alias, line, "staging"),
        "deleted": refused(client.get_model_version, line, first.version),
        "again": refused(client.create_registered_model, line),
        "name": refused(client.create_registered_model, "My Model"),
        "filter": refused(client.search_model_versions, "colour = 'red'"),
        "own_tag": refused(client.set_model_version_tag, line, version, "leeway.status", "signed"),
        "champion": refused(client.set_registered_model_alias, line, "champion", named.version),
        "challenger": refused(client.set_registered_model_alias, line, "challenger", version),
        "rename": refused(client.rename_registered_model, line, "other"),
        "delete": refused(client.delete_registered_model, line),
        "delete_version": refused(client.delete_model_version, line, version),
        "stage": refused(client.transition_model_version_stage, line, version, "Production"),
        "foreign": refused(client.create_model_version, "wind", digest),
        "runs": refused(client.search_experiments),
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main(*sys.argv[1:])

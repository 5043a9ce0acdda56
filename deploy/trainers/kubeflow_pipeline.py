"""A Kubeflow pipeline that trains for Leeway: `python kubeflow_pipeline.py` writes pipeline.yaml, to be uploaded once.

The worker (`leeway trainer work --remote kubeflow.toml`) creates a run whose display_name is its key, after having looked for one. IMAGE
holds `leeway`, Python and the training program; the secret `leeway` holds a publisher's token under `token`.
"""
from kfp import compiler, dsl, kubernetes

IMAGE = "registry.example/leeway-trainer:1"


@dsl.container_component
def retrain(leeway_job: str, leeway_url: str):
    # The values are arguments of the shell and not part of its text.
    script = (
        'export LEEWAY_URL="$1" && leeway trainer fetch "$0" --dir /tmp/job'
        ' && python /trainers/sklearn_train.py /tmp/job && leeway trainer deliver "$0" --dir /tmp/job'
    )
    return dsl.ContainerSpec(image=IMAGE, command=["sh", "-euc", script], args=[leeway_job, leeway_url])


@dsl.pipeline(name="leeway-retrain")
def pipeline(
    leeway_job: str,
    leeway_key: str,
    leeway_url: str,
    leeway_line: str,
    leeway_train: str,
    leeway_holdout: str,
    leeway_parent: str = "",
    leeway_reason: str = "",
):
    step = retrain(leeway_job=leeway_job, leeway_url=leeway_url)
    # The same job again is another attempt, not the same result.
    step.set_caching_options(False)
    kubernetes.use_secret_as_env(step, secret_name="leeway", secret_key_to_env={"token": "LEEWAY_TOKEN"})


if __name__ == "__main__":
    compiler.Compiler().compile(pipeline, "pipeline.yaml")

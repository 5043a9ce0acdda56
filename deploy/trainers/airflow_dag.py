"""An Airflow DAG that trains for Leeway: fetch what the job is made of, train, deliver what came out.

The worker (`leeway trainer work --remote airflow.toml`) starts a run with `dag_run_id` = its key and the parameters below in `conf`; asking
twice starts one run, because Airflow refuses a second run of that name (409). The run needs `leeway` on its path, a publisher's token in
LEEWAY_TOKEN and nothing else: the trainer's key stays with the worker.
"""
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from airflow.sdk import dag, get_current_context, task

PROGRAM = os.environ.get("LEEWAY_TRAIN", str(Path(__file__).with_name("sklearn_train.py")))


@dag(dag_id="leeway_retrain", schedule=None, catchup=False, max_active_runs=4, tags=["leeway"])
def leeway_retrain():
    # One task, so that the folder need not travel between machines. It may be retried: fetching and delivering again changes nothing.
    @task(retries=1)
    def retrain() -> None:
        conf = get_current_context()["dag_run"].conf
        environment = {**os.environ, "LEEWAY_URL": conf["leeway_url"]}
        with tempfile.TemporaryDirectory() as folder:
            for command in (
                ["leeway", "trainer", "fetch", conf["leeway_job"], "--dir", folder],
                [sys.executable, PROGRAM, folder],
                ["leeway", "trainer", "deliver", conf["leeway_job"], "--dir", folder],
            ):
                subprocess.run(command, check=True, env=environment)

    retrain()


leeway_retrain()

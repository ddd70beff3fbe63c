"""Running a job: prepare its data, plan its resources, run it here or on the cluster RAY_ADDRESS names."""

import os
import secrets

# Ray reads these when it is first imported or started and hands them to its processes. Values a user
# has set stay.
RAY_ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
for _name, _value in RAY_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

if not os.environ.get("RAY_ADDRESS") and "RAY_AUTH_MODE" not in os.environ:
    # A cluster started here is behind a token that only this process and its children know. (Left to
    # itself, Ray would write one into the home folder and change how later clusters start.)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

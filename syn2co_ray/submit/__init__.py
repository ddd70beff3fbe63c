"""Running a job: prepare its data, plan its resources, run it here or on the cluster RAY_ADDRESS names."""

import os

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

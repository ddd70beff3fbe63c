"""Running a job: prepare its data, plan its resources, run it here or on the cluster RAY_ADDRESS names."""

"""Many trainings of one base: points, early stopping, records, leaderboard.

Ray Tune's schedulers decide what is stopped; its Tuner does not run the trials. A Tuner gives each trial a
driver process of its own that has to be placed beside the workers (with its default resources a small cluster
deadlocks), ends stopped trials hard, and keeps its state as pickles. Here one driver runs all trials through
the entry that `syn2co run` uses: a trial that is stopped publishes a checkpoint and leaves a whole run
folder; all state is one JSON record a trial, from which schedulers and searchers are brought back by telling
them again what came.
"""

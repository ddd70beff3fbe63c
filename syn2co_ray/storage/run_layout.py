"""Names of the files in a run folder: what training writes and the report reads."""

SPEC_FILE = "spec.yaml"
PROVENANCE_FILE = "provenance.json"
INHERITED_FILE = "inherited_from.json"
INDEX_FOLDER = "index"
RESULTS_FILE = "results.json"
VIEWS_FILE = "views.png"
SAMPLES_FILE = "samples.png"
QUARANTINE_FILE = "quarantine.jsonl"
REPORT_FILE = "report.html"
DETECTION_SHEET_FILE = "detection.jpg"
CARD_FILE = "README.md"
METRICS_FOLDER = "metrics"
VIDEO_SHEET_FILE = "video_segmentation.jpg"
TRACK_FILE = "track.json"
"""What each tracker calls the run, and the last step that it has."""
TENSORBOARD_FOLDER = "tensorboard"
LOGS_FOLDER = "logs"


def steps_file(first_step: int) -> str:
    """Metrics of the steps from `first_step` on, one JSON object a line."""
    return f"{METRICS_FOLDER}/steps-{first_step:09d}.jsonl"


def eval_file(step: int) -> str:
    """k-NN accuracy measured after `step` steps."""
    return f"{METRICS_FOLDER}/eval-{step:09d}.json"

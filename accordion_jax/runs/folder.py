"""What lies in a run's folder, its workdir: the names of its files."""

CONFIG_FILE = "config.json"  # the resolved config, and the versions that made the run
MODEL_FILE = "model.json"  # what it takes to build the network, and to feed it
POLICY_FILE = "policy.json"  # what the policy was made of, and its probabilities
METRICS_FILE = "metrics.jsonl"
TABLE_FILE = "lookup_table.json"
TABLE_CSV_FILE = "lookup_table.csv"
CHECKPOINTS = "checkpoints"  # folder

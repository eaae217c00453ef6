"""One file per algorithm, each exporting a pure train step."""

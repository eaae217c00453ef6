"""Text tasks: prompts, texts, preference pairs and rewards. `make_task` builds one from its config."""
